"""A job and its timeline."""

from __future__ import annotations

import uuid
from datetime import datetime, timedelta
from typing import ClassVar

from django.conf import settings
from django.contrib.postgres.indexes import OpClass
from django.db import models
from django.db.models import F, Q
from django.db.models.functions import Coalesce, Now, Upper

from jobs.conf import MAX_PRIORITY
from jobs.statuses import IS_CANCELLING, JOB_BULKHEAD, TERMINAL, FailureStage, JobStatus, shown_status

# What no list shows of a job.
DOCUMENTS = ("metadata", "template_spec", "client", "provider_config", "batch_view", "usage")

# What stands in the queue: a held job is in nobody's way.
QUEUED = Q(status=JobStatus.PENDING.value, hold=False)


def new_job_id() -> str:
    """`job_` and a random uuid: unique across installations, safe in a path."""
    return f"job_{uuid.uuid4()}"


class Job(models.Model):
    """One batch-inference job: the request frozen at accept, where it is, and when to look at it next."""

    id = models.CharField(primary_key=True, max_length=64, default=new_job_id, editable=False)
    # The indexes of their lists begin with these two, and serve everything else that one of their own would.
    owner = models.ForeignKey(settings.AUTH_USER_MODEL, on_delete=models.PROTECT, related_name="jobs", db_index=False)
    created_by = models.CharField(max_length=254, help_text="The owner's e-mail or name as shown at accept.")
    name = models.CharField(max_length=255, blank=True)

    # The request, frozen at accept: a restart or a changed template changes nothing (G9).
    endpoint = models.CharField(max_length=64)
    input_file_id = models.CharField(max_length=128)
    completion_window = models.CharField(max_length=32, help_text="As the caller gave it.")
    completion_window_seconds = models.PositiveIntegerField()
    metadata = models.JSONField(default=dict, blank=True, help_text="The caller's own, never touched.")
    model_id = models.CharField(max_length=255, blank=True)
    model = models.CharField(max_length=255, blank=True, help_text="The name the engine serves.")
    template_name = models.CharField(max_length=255, blank=True)
    template_version = models.CharField(max_length=64, blank=True)
    template_spec = models.JSONField(default=dict, blank=True)
    client = models.JSONField(default=dict, blank=True)
    replicas = models.PositiveIntegerField(default=1)
    accelerator_type = models.CharField(max_length=64, blank=True)
    accelerator_count = models.PositiveIntegerField(default=0, help_text="Per replica, from the template.")
    provider_config = models.JSONField(default=dict, blank=True)
    accepts = models.JSONField(
        default=dict,
        blank=True,
        help_text="Names of the providers, pools and regions it may run at; what is not there may be any.",
    )
    queue_timeout_seconds = models.PositiveIntegerField(null=True, blank=True)
    idempotency_key = models.CharField(max_length=255, null=True, blank=True)  # noqa: DJ001 - NULLs are distinct in the unique constraint
    request_id = models.CharField(
        max_length=64,
        blank=True,
        default="",
        db_default="",  # a web of the version before goes on inserting while this one is rolled out
        help_text="Of the request that made it; sent along with its outside calls.",
    )
    request_digest = models.CharField(max_length=64, blank=True, help_text="Tells a repeat from a re-used key.")
    retry_of = models.CharField(max_length=64, blank=True, help_text="The job whose request this one repeats.")

    # Where it is.
    status = models.CharField(max_length=16, choices=JobStatus.choices, default=JobStatus.PENDING, editable=False)
    failure_stage = models.CharField(max_length=16, choices=FailureStage.choices, blank=True)
    error_code = models.CharField(max_length=64, blank=True)
    error_message = models.TextField(blank=True)
    pool = models.ForeignKey(
        "Pool", null=True, blank=True, on_delete=models.PROTECT, related_name="jobs", db_index=False
    )
    provision = models.ForeignKey(
        "Provision",
        null=True,
        blank=True,
        on_delete=models.PROTECT,
        related_name="+",
        help_text="The newest provision; live or not.",
    )
    deadline_at = models.DateTimeField(null=True, blank=True, help_text="From first admission; then the MDS's own.")

    imported_at = models.DateTimeField(
        null=True,
        blank=True,
        editable=False,
        help_text="When its batch, which somebody else had made, was found at the MDS: it is followed as it is.",
    )

    # The submission attempt and the MDS's last word on it.
    attempt = models.PositiveIntegerField(default=1)
    submit_started_at = models.DateTimeField(
        null=True, blank=True, help_text="Intent: this attempt may have been sent."
    )
    submit_ended_at = models.DateTimeField(null=True, blank=True, help_text="When the call is known to have ended.")
    batch_id = models.CharField(max_length=128, blank=True)
    batch_view = models.JSONField(null=True, blank=True)
    batch_seen_at = models.DateTimeField(null=True, blank=True)
    batch_missing_at = models.DateTimeField(null=True, blank=True)
    stop_sent_at = models.DateTimeField(
        null=True, blank=True, help_text="When this attempt's batch was last cancelled."
    )
    lost_attempts = models.PositiveSmallIntegerField(default=0, help_text="Ended by somebody else, unasked.")
    request_total = models.PositiveIntegerField(null=True, blank=True)
    request_completed = models.PositiveIntegerField(default=0)
    request_failed = models.PositiveIntegerField(default=0)
    usage = models.JSONField(null=True, blank=True)
    output_file_id = models.CharField(max_length=128, blank=True)
    error_file_id = models.CharField(max_length=128, blank=True)

    # One time per status: when it was last entered; the terminal ones are written once.
    accepted_at = models.DateTimeField(db_default=Now(), editable=False)
    pending_at = models.DateTimeField(null=True, blank=True, help_text="When it last went back to the queue.")
    provisioning_at = models.DateTimeField(null=True, blank=True)
    submitting_at = models.DateTimeField(null=True, blank=True)
    scheduling_at = models.DateTimeField(null=True, blank=True)
    validating_at = models.DateTimeField(null=True, blank=True)
    in_progress_at = models.DateTimeField(null=True, blank=True)
    finalizing_at = models.DateTimeField(null=True, blank=True)
    cancelling_at = models.DateTimeField(null=True, blank=True)
    completed_at = models.DateTimeField(null=True, blank=True)
    failed_at = models.DateTimeField(null=True, blank=True)
    expired_at = models.DateTimeField(null=True, blank=True)
    cancelled_at = models.DateTimeField(null=True, blank=True)

    # Intent: written by `planner` alone, in one UPDATE that touches neither `version` nor status.
    cancel_requested_at = models.DateTimeField(null=True, blank=True)
    cancel_requested_by = models.CharField(max_length=254, blank=True)
    hold = models.BooleanField(default=False, help_text="Not admitted while set.")
    hold_reason = models.TextField(blank=True)
    priority = models.PositiveSmallIntegerField(default=0, help_text="0 to 100; each point is worth some waiting.")
    ranked_at = models.DateTimeField(
        db_default=Now(),
        editable=False,
        help_text="Accept time less what the priority is worth: the priority queue's key.",
    )

    # Control: the engine's own.
    queue_class = models.CharField(max_length=255, help_text="Jobs that wait for the same pools; order holds within.")
    version = models.PositiveBigIntegerField(default=0, help_text="Fencing token, bumped by each claim.")
    due_at = models.DateTimeField(null=True, blank=True)
    lease_expires_at = models.DateTimeField(null=True, blank=True)
    crashes = models.PositiveSmallIntegerField(default=0)
    event_count = models.PositiveIntegerField(default=0)
    retry_count = models.PositiveIntegerField(default=0)
    retry_at = models.DateTimeField(null=True, blank=True, help_text="After an error: no call before then.")
    last_error_code = models.CharField(max_length=64, blank=True)
    last_error = models.TextField(blank=True)
    last_error_at = models.DateTimeField(null=True, blank=True)
    # Derived by the database: who may claim the row, and from when. A live lease hides `due_at`.
    bulkhead = models.GeneratedField(expression=JOB_BULKHEAD, output_field=models.BigIntegerField(), db_persist=True)
    claimable_at = models.GeneratedField(
        expression=Coalesce("lease_expires_at", "due_at"),
        output_field=models.DateTimeField(null=True),
        db_persist=True,
    )

    class Meta:
        constraints: ClassVar = [
            models.CheckConstraint(condition=Q(status__in=JobStatus.values), name="job_status_known"),
            models.CheckConstraint(
                condition=~Q(status=JobStatus.PROVISIONING.value) | Q(pool__isnull=False, provision__isnull=False),
                name="job_provisioning_has_pool",
            ),
            *(
                models.CheckConstraint(
                    condition=~Q(status=status.value) | Q(**{f"{status.value}_at__isnull": False}),
                    name=f"job_{status.value}_has_time",
                )
                for status in sorted(TERMINAL)
            ),
            models.CheckConstraint(condition=Q(priority__lte=MAX_PRIORITY), name="job_priority_range"),
            models.UniqueConstraint(fields=["owner", "idempotency_key"], name="job_idempotency_key"),
            models.UniqueConstraint(
                fields=["batch_id"], condition=Q(imported_at__isnull=False), name="job_imported_batch"
            ),
        ]
        indexes: ClassVar = [
            # lists, newest first: everybody's, and one owner's, and so on; each filter of a list has one of these
            models.Index(fields=["-accepted_at", "-id"], name="job_list"),
            models.Index(fields=["owner", "-accepted_at", "-id"], name="job_owner_list"),
            models.Index(fields=["status", "-accepted_at", "-id"], name="job_status_list"),
            models.Index(fields=["-accepted_at", "-id"], name="job_cancelling_list", condition=IS_CANCELLING),
            models.Index(
                fields=["-accepted_at", "-id"],
                name="job_held_list",
                condition=Q(status=JobStatus.PENDING.value, hold=True),
            ),
            models.Index(fields=["pool", "-accepted_at", "-id"], name="job_pool_list"),
            models.Index(
                OpClass(Upper("model"), name="text_pattern_ops"),
                F("accepted_at").desc(),
                F("id").desc(),
                name="job_model_list",
            ),
            # the search of lists, with the one before it and that of the primary key
            models.Index(OpClass(Upper("name"), name="text_pattern_ops"), name="job_name_prefix"),
            # admission: each owner's own queue within a class, in either order; and when an owner last had a turn
            models.Index(fields=["queue_class", "owner", "accepted_at", "id"], name="job_queue", condition=QUEUED),
            models.Index(fields=["queue_class", "owner", "ranked_at", "id"], name="job_queue_ranked", condition=QUEUED),
            models.Index(
                fields=["owner", "provisioning_at"], name="job_turn", condition=Q(provisioning_at__isnull=False)
            ),
            # who came back to the queue, and waits there for longest
            models.Index(
                fields=["pending_at"],
                name="job_returned",
                condition=Q(status=JobStatus.PENDING.value, pending_at__isnull=False),
            ),
            # claims, per bulkhead; and the earliest timer of all
            models.Index(
                fields=["bulkhead", "claimable_at"], name="job_claim", condition=Q(claimable_at__isnull=False)
            ),
            models.Index(fields=["claimable_at"], name="job_timer", condition=Q(claimable_at__isnull=False)),
            # claims of jobs that may have killed their worker
            models.Index(fields=["claimable_at"], name="job_suspect", condition=Q(crashes__gt=0)),
            # recovery and sweep
            models.Index(
                fields=["submit_started_at"],
                name="job_ambiguous",
                condition=Q(submit_started_at__isnull=False, batch_id="", status__in=["submitting", "cancelling"]),
            ),
            # a job by its batch; and what was made of a job that was retried
            models.Index(fields=["batch_id"], name="job_batch", condition=~Q(batch_id="")),
            models.Index(fields=["retry_of"], name="job_retries", condition=~Q(retry_of="")),
            # who may read a file a batch wrote
            models.Index(fields=["output_file_id"], name="job_output_file", condition=~Q(output_file_id="")),
            models.Index(fields=["error_file_id"], name="job_error_file", condition=~Q(error_file_id="")),
        ]
        permissions: ClassVar = [
            ("view_all_jobs", "Can see everybody's jobs"),
            ("submit_job", "Can submit jobs"),
            ("cancel_any_job", "Can cancel everybody's jobs"),
            ("hold_job", "Can hold and resume everybody's jobs"),
            ("prioritise_job", "Can change the priority of everybody's jobs"),
            ("retry_any_job", "Can retry everybody's jobs"),
            ("refresh_job", "Can have a job looked at again at once"),
        ]
        default_permissions = ("view",)

    def __str__(self) -> str:
        return self.name or self.id

    @property
    def is_terminal(self) -> bool:
        """Whether the job's own story has ended; its resources have a story of their own."""
        return self.status in TERMINAL

    @property
    def is_imported(self) -> bool:
        """Whether its batch is one that somebody else has made: it has no provision, and is not run again."""
        return self.imported_at is not None

    @property
    def has_deadline(self) -> bool:
        """Whether a deadline is before it, or was what ended it."""
        return self.deadline_at is not None and (not self.is_terminal or self.status == JobStatus.EXPIRED)

    @property
    def in_status_since(self) -> datetime | None:
        """The same as `statuses.IN_STATUS_SINCE`; None where a row was made by hand."""
        if self.status == JobStatus.PENDING:
            return self.pending_at or self.accepted_at
        since: datetime | None = getattr(self, f"{self.status}_at")
        return since

    @property
    def expires_at(self) -> datetime:
        """Its deadline; before the first admission, when the deadline would be if it were admitted at once."""
        return self.deadline_at or self.accepted_at + timedelta(seconds=self.completion_window_seconds)

    @property
    def shown_cancelling_at(self) -> datetime | None:
        """Since when it was shown as cancelling: from the request on, if there was one."""
        return self.cancel_requested_at or self.cancelling_at

    @property
    def shown_status(self) -> str:
        """What people are shown: `cancelling` from the moment it was asked for."""
        return shown_status(self.status, cancel_requested=self.cancel_requested_at is not None)


class JobEvent(models.Model):
    """One line of a job's timeline, written in the transaction of the change it tells of."""

    class Source(models.TextChoices):
        PLANNER = "planner"
        PROVIDER = "provider"
        MDS = "mds"
        OPERATOR = "operator"

    id = models.BigAutoField(primary_key=True)
    job = models.ForeignKey(Job, on_delete=models.CASCADE, related_name="events", db_index=False)  # `event_order`'s
    sequence = models.PositiveIntegerField(help_text="Order within the job; clocks do not decide it.")
    at = models.DateTimeField(db_default=Now())
    from_status = models.CharField(max_length=16, blank=True)
    to_status = models.CharField(max_length=16, blank=True, help_text="Empty for what changes no job status.")
    reason = models.CharField(max_length=64, help_text="A named reason, stable for machines.")
    message = models.TextField(blank=True)
    source = models.CharField(max_length=16, choices=Source.choices, default=Source.PLANNER)
    actor = models.CharField(max_length=254, blank=True)
    data = models.JSONField(default=dict, blank=True)

    class Meta:
        constraints: ClassVar = [models.UniqueConstraint(fields=["job", "sequence"], name="event_order")]
        ordering: ClassVar = ["job", "sequence"]
        default_permissions = ("view",)

    def __str__(self) -> str:
        return f"{self.sequence} {self.reason}"
