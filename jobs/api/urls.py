"""Routes of the console API, mounted under /api/. No trailing slashes; what is not here is a JSON 404."""

from __future__ import annotations

from django.urls import path, re_path

from jobs import oidc, planner
from jobs.api import auth, base, catalogue, files, jobs, provisions, queue, tokens, wire

_TEMPLATES = "v1/models/<str:model_id>/deployment-templates"

urlpatterns = [
    path("v1/health", base.HealthView.as_view()),
    path("v1/auth/config", auth.ConfigView.as_view()),
    path("v1/auth/login", auth.LoginView.as_view()),
    path("v1/auth/logout", auth.LogoutView.as_view()),
    path("v1/auth/userinfo", auth.UserInfoView.as_view()),
    path("v1/auth/callback", auth.CallbackView.as_view(), name=oidc.CALLBACK),
    path("v1/auth/tokens", tokens.TokensView.as_view()),
    path("v1/auth/tokens/<str:token_id>", tokens.TokenView.as_view()),
    path("v1/jobs", jobs.JobsView.as_view()),
    path("v1/jobs/<str:job_id>", jobs.JobView.as_view()),
    path("v1/jobs/<str:job_id>/cancel", jobs.JobCancelView.as_view()),
    path("v1/jobs/<str:job_id>/priority", queue.PriorityView.as_view()),
    path("v1/jobs/<str:job_id>/hold", queue.SteerView.as_view(steer=planner.hold_job, shown=wire.job_json)),
    path("v1/jobs/<str:job_id>/resume", queue.SteerView.as_view(steer=planner.resume_job, shown=wire.job_json)),
    path("v1/queue", queue.QueueView.as_view()),
    path("v1/queue/hold", queue.SteerView.as_view(steer=planner.hold_queue)),
    path("v1/queue/resume", queue.SteerView.as_view(steer=planner.resume_queue)),
    path("v1/owners/<str:username>/hold", queue.SteerView.as_view(steer=planner.hold_owner)),
    path("v1/owners/<str:username>/resume", queue.SteerView.as_view(steer=planner.resume_owner)),
    path("v1/pools/<str:name>/hold", queue.SteerView.as_view(steer=planner.hold_pool)),
    path("v1/pools/<str:name>/resume", queue.SteerView.as_view(steer=planner.resume_pool)),
    path("v1/provisions", provisions.ProvisionsView.as_view()),
    path("v1/provisions/<str:provision_id>", provisions.ProvisionView.as_view()),
    path("v1/provisions/<str:provision_id>/release", provisions.ProvisionReleaseView.as_view()),
    path("v1/files", files.FilesView.as_view()),
    path("v1/files/upload", files.UploadView.as_view()),
    path("v1/files/<str:file_id>", files.FileView.as_view()),
    path("v1/files/<str:file_id>/content", files.FileContentView.as_view()),
    path("v1/config/job-capabilities", catalogue.CapabilitiesView.as_view()),
    path("v1/models", catalogue.ModelsView.as_view()),
    path("v1/models/<str:model_id>", catalogue.ModelView.as_view()),
    path(_TEMPLATES, catalogue.TemplatesView.as_view()),
    path(f"{_TEMPLATES}/<str:template_id>", catalogue.TemplateView.as_view()),
    path(f"{_TEMPLATES}/by-name/<str:name>", catalogue.TemplateByNameView.as_view()),
    path("v1/deployments", catalogue.EmptyListView.as_view(key="deployments")),
    path("v1/model-adapters", catalogue.EmptyListView.as_view(key="model_adapters")),
    path("v1/model-adapter-targets", catalogue.EmptyListView.as_view(key="targets")),
    re_path(r"", base.UnknownRoute.as_view()),
]
