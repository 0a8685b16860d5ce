"""What every view of both APIs shares: who may call it, what no view has to look at itself."""

from __future__ import annotations

from typing import Any, NoReturn, cast

from django.contrib.auth.models import User
from django.http import HttpRequest, HttpResponse, HttpResponseBase
from rest_framework.exceptions import NotFound as RouteNotFound
from rest_framework.request import Request
from rest_framework.response import Response
from rest_framework.views import APIView

from jobs.api.authentication import CHALLENGE
from jobs.api.errors import LengthRequired
from jobs.errors import InvalidRequest


class ApiView(APIView):
    """A view of an API: JSON whatever `Accept` says, and an empty answer to OPTIONS."""

    def dispatch(self, request: HttpRequest, *args: Any, **kwargs: Any) -> HttpResponseBase:
        """OPTIONS is answered before anybody is asked who they are."""
        if request.method == "OPTIONS":
            return HttpResponse()
        return super().dispatch(request, *args, **kwargs)

    def initial(self, request: Request, *args: Any, **kwargs: Any) -> None:
        """Refuse what would be misread: a body of unknown length, and what PostgreSQL cannot even compare with."""
        super().initial(request, *args, **kwargs)
        if "Transfer-Encoding" in request.headers:
            raise LengthRequired
        if "\0" in request.path:
            raise RouteNotFound("Not Found")
        for name, values in request.query_params.lists():
            if any("\0" in value for value in values):
                raise InvalidRequest(name.replace("\0", ""), "must not contain NUL characters")


class PublicView(ApiView):
    """A view nobody has to log in for; so there is no user whose writes were to be counted."""

    authentication_classes = ()
    permission_classes = ()
    throttle_classes = ()

    def get_authenticate_header(self, request: Request) -> str:
        """A failed login is a 401 here too."""
        return CHALLENGE


class HealthView(PublicView):
    """For probes that know only the API's paths."""

    def get(self, request: Request) -> Response:
        """Always 200; touches nothing."""
        return Response({"status": "ok"})


class UnknownRoute(PublicView):
    """Every path below /api that has no view of its own."""

    def initial(self, request: Request, *args: Any, **kwargs: Any) -> NoReturn:
        """Before the method is looked at: it is the path that does not exist."""
        raise RouteNotFound("Not Found")


def user_of(request: Request) -> User:
    """The logged-in user; the permission classes have seen to it that there is one."""
    return cast(User, request.user)
