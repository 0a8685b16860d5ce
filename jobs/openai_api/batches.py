"""/batches: create, list, look at and cancel jobs in OpenAI's words."""

from __future__ import annotations

from rest_framework.request import Request
from rest_framework.response import Response

from jobs import planner
from jobs.api.base import user_of
from jobs.api.pagination import page, strict_limit
from jobs.errors import InvalidRequest
from jobs.openai_api import wire
from jobs.openai_api.base import OpenAIView
from jobs.openai_api.parsing import batch_request, renamed

DEFAULT_LIMIT = 20
MAX_LIMIT = 100


class BatchesView(OpenAIView):
    """All batches one may see."""

    def get(self, request: Request) -> Response:
        """One page, newest first."""
        visible = planner.visible_jobs(user_of(request))
        found = page(
            visible,
            among=visible,
            by="accepted_at",
            after=request.query_params.get("after", ""),
            limit=strict_limit(request, default=DEFAULT_LIMIT, most=MAX_LIMIT),
        )
        return Response(wire.list_json(found, [wire.batch_json(job) for job in found.rows]))

    def post(self, request: Request) -> Response:
        """Accept a batch: committed before the answer, whatever the provider or the MDS do."""
        asked = batch_request(request.data)
        key = request.headers.get("Idempotency-Key", "")
        try:
            job = planner.enqueue(user_of(request), asked, idempotency_key=key)
        except InvalidRequest as refused:
            raise renamed(refused) from refused
        return Response(wire.batch_json(job))


class BatchView(OpenAIView):
    """One batch."""

    def get(self, request: Request, batch_id: str) -> Response:
        """The batch as the planner knows it; nobody else is asked."""
        return Response(wire.batch_json(planner.get_job(user_of(request), batch_id)))


class BatchCancelView(OpenAIView):
    """The wish to cancel one batch."""

    def post(self, request: Request, batch_id: str) -> Response:
        """Record the wish; a batch that is over is a 409."""
        return Response(wire.batch_json(planner.cancel(user_of(request), batch_id)))
