"""/provisions: what is or was reserved for jobs, and its release by hand."""

from __future__ import annotations

import uuid
from typing import Any

from django.contrib.auth.models import User
from rest_framework.request import Request
from rest_framework.response import Response

from jobs import planner
from jobs.api import wire
from jobs.api.base import ApiView, user_of
from jobs.api.errors import conflict_with
from jobs.api.pagination import page, read_limit
from jobs.api.parsing import Body
from jobs.errors import Conflict, InvalidRequest
from jobs.models import Provision
from jobs.statuses import ProvisionStatus


class ProvisionsView(ApiView):
    """All provisions of the jobs one may see."""

    def get(self, request: Request) -> Response:
        """One page, newest first."""
        user = user_of(request)
        visible = planner.visible_provisions(user)
        status = request.query_params.get("status")
        if status and status not in ProvisionStatus.values:
            raise InvalidRequest("status", f"must be one of {', '.join(ProvisionStatus.values)}")
        found = page(
            visible.filter(status=status) if status else visible,
            among=visible,
            by="requested_at",
            after=_cursor(request.query_params.get("after", "")),
            limit=read_limit(request),
        )
        return Response({"provisions": [_json(user, provision) for provision in found.rows], **found.edges()})


class ProvisionView(ApiView):
    """One provision."""

    def get(self, request: Request, provision_id: str) -> Response:
        """The provision."""
        user = user_of(request)
        return Response(_json(user, planner.get_provision(user, provision_id)))


class ProvisionReleaseView(ApiView):
    """An operator's wish to give one provision back."""

    def post(self, request: Request, provision_id: str) -> Response:
        """Record the wish; a live job is provisioned again."""
        user = user_of(request)
        try:
            provision = planner.release(user, provision_id, reason=Body(request.data).text("reason"))
        except Conflict as conflict:
            return conflict_with(conflict, provision=_json(user, planner.get_provision(user, provision_id)))
        return Response(_json(user, provision))


def _cursor(given: str) -> str:
    """The cursor, or a uuid that no row has: PostgreSQL refuses to compare with anything else."""
    try:
        return str(uuid.UUID(given)) if given else ""
    except ValueError:
        return str(uuid.UUID(int=0))


def _json(user: User, provision: Provision) -> dict[str, Any]:
    return wire.provision_json(provision, with_errors=user.has_perm("jobs.release_provision"))
