"""/jobs: create, list, look at and cancel jobs."""

from __future__ import annotations

from rest_framework.request import Request
from rest_framework.response import Response

from jobs import planner
from jobs.api import wire
from jobs.api.base import ApiView, user_of
from jobs.api.errors import conflict_with
from jobs.api.pagination import page, read_limit
from jobs.api.parsing import Body, job_request
from jobs.api.vocabulary import jobs_shown_as
from jobs.errors import Conflict


class JobsView(ApiView):
    """All jobs one may see."""

    def get(self, request: Request) -> Response:
        """One page of what the query asks for, newest first."""
        user, query = user_of(request), request.query_params
        wanted = planner.job_filter(query, shown=jobs_shown_as(query.get("status", "")))
        found = page(
            planner.find_jobs(user, wanted),
            among=planner.visible_jobs(user),
            by="accepted_at",
            after=query.get("after", ""),
            limit=read_limit(request),
        )
        return Response({"jobs": wire.job_list_json(found.rows), **found.edges()})

    def post(self, request: Request) -> Response:
        """Accept a job: committed before the answer, whatever the provider or the MDS do."""
        key = request.headers.get("Idempotency-Key", "")
        job = planner.enqueue(user_of(request), job_request(request.data), idempotency_key=key)
        return Response(wire.accepted_json(job))


class JobView(ApiView):
    """One job."""

    def get(self, request: Request, job_id: str) -> Response:
        """The job in full; `include_deployment` changes nothing, since no deployment is known here."""
        return Response(wire.job_json(planner.get_job(user_of(request), job_id)))


class JobCancelView(ApiView):
    """The wish to cancel one job."""

    def post(self, request: Request, job_id: str) -> Response:
        """Record the wish; a job that is over is a 409 with the job in it."""
        user = user_of(request)
        try:
            job = planner.cancel(user, job_id, reason=Body(request.data).text("reason"))
        except Conflict as conflict:
            return conflict_with(conflict, job=wire.job_json(planner.get_job(user, job_id)))
        return Response(wire.job_json(job))
