"""Routes of the OpenAI-compatible API, mounted under /v1/. No trailing slashes; what is not here is a JSON 404."""

from __future__ import annotations

from django.urls import path, re_path

from jobs.openai_api import base, batches, files

urlpatterns = [
    path("batches", batches.BatchesView.as_view()),
    path("batches/<str:batch_id>", batches.BatchView.as_view()),
    path("batches/<str:batch_id>/cancel", batches.BatchCancelView.as_view()),
    path("files", files.FilesView.as_view()),
    path("files/<str:file_id>", files.FileView.as_view()),
    path("files/<str:file_id>/content", files.FileContentView.as_view()),
    re_path(r"", base.UnknownRoute.as_view()),
]
