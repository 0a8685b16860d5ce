"""Steering the queue: holds on a job, an owner, a pool or all of it, and a job's priority."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from rest_framework.request import Request
from rest_framework.response import Response

from jobs import planner
from jobs.api import wire
from jobs.api.base import ApiView, user_of
from jobs.api.parsing import Body


class QueueView(ApiView):
    """The queue as a whole."""

    def get(self, request: Request) -> Response:
        """Whether it is held, since when, by whom and why; with all holds that stand, its own among them."""
        holds = [wire.hold_json(row) for row in planner.standing_holds(user_of(request))]
        return Response(wire.hold_json(planner.the_queue()) | {"holds": holds})


class SteerView(ApiView):
    """One wish of an operator's: `steer` is the planner's call, `shown` what is answered."""

    steer: Callable[..., Any] = staticmethod(planner.hold_queue)
    shown: Callable[[Any], dict[str, Any]] = staticmethod(wire.hold_json)

    def post(self, request: Request, **which: str) -> Response:
        """Record the wish, with a reason."""
        reason = Body(request.data).text("reason")
        return Response(self.shown(self.steer(user_of(request), *which.values(), reason=reason)))


class PriorityView(ApiView):
    """One job's priority."""

    def post(self, request: Request, job_id: str) -> Response:
        """Change it while the job is pending."""
        body = Body(request.data)
        job = planner.prioritise(user_of(request), job_id, body.get("priority"), reason=body.text("reason"))
        return Response(wire.job_json(job))
