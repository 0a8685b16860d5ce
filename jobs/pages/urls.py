"""Routes of the pages, mounted under /jobs/."""

from __future__ import annotations

from django.urls import path

from jobs.pages import access, new_job, profile, queue, views

app_name = "pages"

urlpatterns = [
    path("", views.job_list, name="list"),
    path("new", new_job.new_job, name="new"),
    path("queue", queue.queue, name="queue"),
    path("profile", profile.profile, name="profile"),
    path("profile/tokens/<str:token_id>/revoke", profile.revoke, name="revoke"),
    path("logout", access.log_out, name="logout"),
    path("signed-out", access.signed_out, name="signed_out"),
    path("<str:job_id>", views.job_detail, name="detail"),
    path("<str:job_id>/cancel", views.job_cancel, name="cancel"),
]
