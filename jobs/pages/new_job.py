"""The form for a new job: one file, one template, a few numbers. What is right is the planner's to say."""

from __future__ import annotations

import uuid
from collections import defaultdict
from typing import Any

from django import forms
from django.contrib import messages
from django.contrib.auth.models import User
from django.core.exceptions import PermissionDenied
from django.http import HttpRequest, HttpResponse
from django.shortcuts import render
from django.views.decorators.http import require_http_methods

from jobs import files, planner
from jobs.conf import ENDPOINTS, MAX_REPLICAS
from jobs.errors import (
    Conflict,
    FileTooLarge,
    Forbidden,
    InvalidFile,
    InvalidRequest,
    PlannerError,
    QueueFull,
    Unavailable,
)
from jobs.models import DeploymentTemplate, InputFile
from jobs.pages import live
from jobs.pages.access import signed_in

OFFERED_FILES = 50
BY_NAME = ("model__name", "name", "-created_at")
WINDOWS = ("1h", "2h", "6h", "12h", "24h", "2d", "7d")
REFUSALS = {
    InvalidRequest.code: 400,
    Conflict.code: 409,
    FileTooLarge.code: 413,
    QueueFull.code: 429,
    Unavailable.code: 503,
}
# The one conflict an enqueue knows: the form's key was used, and what it says has been changed since.
ALREADY_SENT = "This form was sent before and made a job: look for it in the list. Send it again to make another one."
# The planner names fields as its API does.
FORM_FIELDS = {
    "input_dataset": "upload",
    "file": "upload",
    "model_id": "template",
    "model_template_name": "template",
    "model_template_version": "template",
    "resource_request.replicas": "replicas",
}


def template_label(template: DeploymentTemplate) -> str:
    """`small @ v1.0.0`, and its accelerators: what a person chooses by."""
    accelerator = template.spec.get("accelerator") or {}
    kind, count = accelerator.get("type"), accelerator.get("count")
    return f"{template} ({count or 1} \N{MULTIPLICATION SIGN} {kind})" if kind else str(template)


def template_choices() -> list[Any]:
    """Active templates, grouped by their model."""
    by_model: dict[str, list[tuple[str, str]]] = defaultdict(list)
    active = DeploymentTemplate.objects.filter(status=DeploymentTemplate.Status.ACTIVE).select_related("model")
    for template in active.order_by(*BY_NAME):
        by_model[template.model.name].append((template.pk, template_label(template)))
    return [*by_model.items(), ("", "No template: any pool, engine chosen by the metadata service")]


def file_label(known: InputFile) -> str:
    """`requests.jsonl: 300 requests, 03 Nov 14:05 UTC`."""
    return f"{known.filename}: {known.request_count} requests, {known.created_at:%d %b %H:%M} UTC"


class NewJobForm(forms.Form):
    """What can be told to be wrong without asking anybody."""

    name = forms.CharField(max_length=255, required=False, help_text="Optional; shown in lists.")
    template = forms.ChoiceField(
        label="Model and template",
        required=False,
        choices=template_choices,
        help_text="In brackets what each replica runs on.",
    )
    upload = forms.FileField(
        label="Input file",
        required=False,
        help_text="One request per line (.jsonl), up to 100 MiB and 50 000 lines.",
        widget=forms.FileInput(attrs={"accept": ".jsonl,.json", "data-drop": ""}),
    )
    input_file = forms.ChoiceField(label="Or a file uploaded before", required=False)
    endpoint = forms.ChoiceField(choices=[(endpoint, endpoint) for endpoint in ENDPOINTS])
    completion_window = forms.CharField(
        max_length=32,
        initial="24h",
        help_text="How long the job may take once it has accelerators: 90m, 12h, 1d12h.",
        widget=forms.TextInput(attrs={"list": "windows", "autocomplete": "off"}),
    )
    replicas = forms.IntegerField(min_value=1, max_value=MAX_REPLICAS, initial=1)
    request_key = forms.CharField(max_length=64, widget=forms.HiddenInput)

    def __init__(self, *args: Any, offered: list[InputFile], **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.fields["input_file"] = forms.ChoiceField(
            label="Or a file uploaded before",
            required=False,
            choices=[("", "None"), *((known.pk, file_label(known)) for known in offered)],
        )

    def clean(self) -> dict[str, Any]:
        """One file, new or known."""
        given: dict[str, Any] = super().clean() or {}
        if not self.errors.get("upload") and not given.get("upload") and not given.get("input_file"):
            self.add_error("upload", "Choose a file, or one uploaded before.")
        return given

    def job_request(self, input_file_id: str) -> planner.JobRequest:
        """The planner's own words for what was filled in."""
        given = self.cleaned_data
        template = DeploymentTemplate.objects.filter(pk=given["template"]).first()
        return planner.JobRequest(
            input_file_id=input_file_id,
            endpoint=given["endpoint"],
            completion_window=given["completion_window"],
            name=given["name"],
            model_id=template.model_id if template else "",
            template_name=template.name if template else "",
            template_version=template.version if template else "",
            replicas=given["replicas"],
        )


def _blank_or_bound(request: HttpRequest, user: User, **changes: str) -> NewJobForm:
    offered = list(files.visible_files(user).filter(owner=user, deletion_requested_at=None)[:OFFERED_FILES])
    if request.method != "POST":
        first = DeploymentTemplate.objects.filter(status=DeploymentTemplate.Status.ACTIVE).order_by(*BY_NAME).first()
        return NewJobForm(
            offered=offered, initial={"request_key": uuid.uuid4().hex, "template": first.pk if first else ""}
        )
    given = request.POST.copy()
    given.update(changes)
    return NewJobForm(given, request.FILES, offered=offered)


@require_http_methods(["GET", "HEAD", "POST"])
@signed_in
def new_job(request: HttpRequest, user: User) -> HttpResponse:
    """Show the form; on POST upload the file, then enqueue."""
    if not user.has_perm("jobs.submit_job"):
        raise PermissionDenied("Your account can look at jobs but not submit them.")
    form = _blank_or_bound(request, user)
    if request.method != "POST" or not form.is_valid():
        return _page(request, form, status=400 if form.is_bound else 200)
    kept: InputFile | None = None
    try:
        if form.cleaned_data["upload"]:
            kept = files.upload(user, form.cleaned_data["upload"])
        job = planner.enqueue(
            user,
            form.job_request(kept.pk if kept else form.cleaned_data["input_file"]),
            idempotency_key=f"page-{form.cleaned_data['request_key']}",
        )
    except Forbidden as refused:
        raise PermissionDenied(str(refused)) from refused
    except (InvalidRequest, Conflict, QueueFull, Unavailable) as refused:
        return _refused(request, user, refused, kept)
    messages.success(request, "Job accepted.")
    return live.go_to(request, "pages:detail", job_id=job.pk)


def _refused(request: HttpRequest, user: User, refused: PlannerError, kept: InputFile | None) -> HttpResponse:
    """The form with everything chosen still in it; a file that got through is offered, not asked for again."""
    changes = {"input_file": kept.pk} if kept else {}
    if isinstance(refused, Conflict):
        changes["request_key"] = uuid.uuid4().hex
    form = _blank_or_bound(request, user, **changes)
    form.full_clean()
    match refused:
        case InvalidFile():
            form.add_error("upload", [problem[:1].upper() + problem[1:] for problem in refused.problems])
        case InvalidRequest():
            field = FORM_FIELDS.get(refused.field, refused.field)
            reason = refused.reason
            form.add_error(field if field in form.fields else None, reason[:1].upper() + reason[1:])
        case Conflict():
            form.add_error(None, ALREADY_SENT)
        case _:
            form.add_error(None, str(refused))
    response = _page(request, form, status=REFUSALS[refused.code], kept=kept)
    if isinstance(refused, QueueFull):
        response["Retry-After"] = str(refused.retry_after_seconds)
    return response


def _page(request: HttpRequest, form: NewJobForm, *, status: int = 200, kept: InputFile | None = None) -> HttpResponse:
    return render(request, "pages/new.html", {"form": form, "kept": kept, "windows": WINDOWS}, status=status)
