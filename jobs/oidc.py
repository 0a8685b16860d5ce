"""Log-in by OpenID Connect: where people are sent, and what their provider says of them when they come back.

State, nonce, PKCE, the exchange of the code and the search for a key are mozilla-django-oidc's. Here are discovery, the
claims it leaves unchecked (issuer, audience, expiry), and one name for each way to fail. No rows are touched.
"""

from __future__ import annotations

import logging
import re
import time
from dataclasses import dataclass
from typing import Any, NamedTuple
from urllib.parse import urlencode

import jwt
import requests
from django.conf import settings
from django.core.exceptions import SuspiciousOperation
from django.http import HttpRequest
from django.urls import reverse
from django.utils.crypto import constant_time_compare, get_random_string
from mozilla_django_oidc.auth import OIDCAuthenticationBackend
from mozilla_django_oidc.utils import absolutify, import_from_settings
from mozilla_django_oidc.views import OIDCAuthenticationRequestView

from jobs.errors import InvalidRequest, Unavailable

logger = logging.getLogger(__name__)

CALLBACK = "oidc_callback"  # the name of the route people come back to
ALGORITHM = "RS256"  # every provider has it
_TIMEOUT = (3.0, 5.0)  # to connect, to answer
_WANTED = ("issuer", "authorization_endpoint", "token_endpoint", "jwks_uri")
_DISCOVERED_SECONDS = 3600.0
_FAILED_SECONDS = 5.0  # for so long nobody else waits for a provider that has just not answered
_LEEWAY_SECONDS = 30.0  # between the provider's clock and ours
_ROUND_TRIP_SECONDS = 600.0  # how long a log-in at the provider may take
_STATES, _RETURN_TO, _ID_TOKEN = "oidc_states", "oidc_login_next", "oidc_id_token"  # keys of a session


class ProviderFault(Exception):
    """The provider did not answer, or not in a way that can be read."""


class TokenRefused(Exception):
    """The ID token is not one that this provider signed for us and for now."""


@dataclass(frozen=True)
class SignIn:
    """Somebody the provider vouches for."""

    claims: dict[str, Any]
    id_token: str
    return_to: str


def begin(request: HttpRequest, return_to: str) -> str:
    """Start a log-in in this session; returns the provider's address to send the browser to."""
    response = _RequestView().get(request)
    request.session[_RETURN_TO] = return_to
    if not request.user.is_authenticated:
        request.session.set_expiry(int(_ROUND_TRIP_SECONDS))  # it is worth nothing once the log-in is over
    return str(response["Location"])


def finish(request: HttpRequest) -> SignIn:
    """Take the provider's answer. Raises `InvalidRequest`, `ProviderFault`, `TokenRefused` or `Unavailable`."""
    begun = _begun(request)
    if error := request.GET.get("error"):
        raise InvalidRequest("error", f"the identity provider refused: {error[:100]}")
    code = request.GET.get("code")
    if not code:
        raise InvalidRequest("code", "is missing")
    client = _Client()
    tokens = client.exchange(request, code, begun["code_verifier"])
    claims = client.claims_of(tokens["id_token"])
    if not constant_time_compare(str(claims.get("nonce")), begun["nonce"]):
        raise InvalidRequest("nonce", "does not belong to this log-in")
    return SignIn(client.completed(claims, tokens), tokens["id_token"], request.session.pop(_RETURN_TO, "/"))


def keep_id_token(request: HttpRequest, id_token: str) -> None:
    """Remember it in the session: the provider's log-out asks for it."""
    request.session[_ID_TOKEN] = id_token


def end_session_url(request: HttpRequest) -> str:
    """Where to send the browser so that the provider, too, logs out who is in this session; "" if nowhere."""
    id_token = request.session.get(_ID_TOKEN)
    if settings.PLANNER_AUTH_MODE != "oidc" or not id_token:
        return ""
    try:
        end_session = provider().get("end_session_endpoint")
    except Unavailable:
        return ""
    query = {
        "id_token_hint": id_token,
        "post_logout_redirect_uri": absolutify(request, "/"),
        "state": get_random_string(32),
    }
    return f"{end_session}?{urlencode(query)}" if end_session else ""


def provider() -> dict[str, Any]:
    """What the provider's discovery document says. Asked for when first needed; raises `Unavailable`."""
    issuer = settings.PLANNER_OIDC_ISSUER
    known = _known.get(issuer)
    if known is None or known.expires_at < time.monotonic():
        document = _discover(issuer)
        known = _Known(document, time.monotonic() + (_DISCOVERED_SECONDS if document else _FAILED_SECONDS))
        _known[issuer] = known
    if known.document is None:
        raise Unavailable("the identity provider does not answer; please try again")
    return known.document


class _Known(NamedTuple):
    document: dict[str, Any] | None
    expires_at: float


_known: dict[str, _Known] = {}  # by issuer


def _discover(issuer: str) -> dict[str, Any] | None:
    try:
        answer = requests.get(f"{issuer.rstrip('/')}/.well-known/openid-configuration", timeout=_TIMEOUT)
        answer.raise_for_status()
        document = answer.json()
        missing = [name for name in _WANTED if not document.get(name)]
        if missing:
            raise ValueError(f"its discovery document lacks {', '.join(missing)}")
        if document["issuer"].rstrip("/") != issuer.rstrip("/"):
            raise ValueError(f"it calls itself {document['issuer']}")
    except (requests.RequestException, ValueError, AttributeError) as error:
        logger.warning("identity provider %s: %s", issuer, error)
        return None
    return dict(document)


def _begun(request: HttpRequest) -> dict[str, Any]:
    """What was noted when this log-in began. It serves once, and not for ever."""
    state = request.GET.get("state", "")
    begun: dict[str, Any] | None = request.session.get(_STATES, {}).pop(state, None)
    request.session.modified = True
    if begun is None or time.time() - begun["added_on"] > _ROUND_TRIP_SECONDS:
        raise InvalidRequest("state", "belongs to no log-in that was begun here; please log in again")
    return begun


def _setting(name: str, *default: Any) -> Any:
    """mozilla-django-oidc's settings, of which we have only what cannot be discovered."""
    document = provider()
    ways = document.get("token_endpoint_auth_methods_supported", ["client_secret_basic"])
    ours = {
        "OIDC_OP_AUTHORIZATION_ENDPOINT": document["authorization_endpoint"],
        "OIDC_OP_TOKEN_ENDPOINT": document["token_endpoint"],
        "OIDC_OP_USER_ENDPOINT": document.get("userinfo_endpoint", ""),
        "OIDC_OP_JWKS_ENDPOINT": document["jwks_uri"],
        "OIDC_RP_CLIENT_ID": settings.PLANNER_OIDC_CLIENT_ID,
        "OIDC_RP_CLIENT_SECRET": settings.PLANNER_OIDC_CLIENT_SECRET,
        "OIDC_RP_SCOPES": settings.PLANNER_OIDC_SCOPES,
        "OIDC_RP_SIGN_ALGO": ALGORITHM,
        "OIDC_AUTHENTICATION_CALLBACK_URL": CALLBACK,
        "OIDC_TOKEN_USE_BASIC_AUTH": "client_secret_post" not in ways,
        "OIDC_USE_PKCE": True,
        "OIDC_TIMEOUT": _TIMEOUT,
    }
    return ours[name] if name in ours else import_from_settings(name, *default)


class _RequestView(OIDCAuthenticationRequestView):  # type: ignore[misc] # the library has no types
    get_settings = staticmethod(_setting)


class _Client(OIDCAuthenticationBackend):  # type: ignore[misc] # the library has no types
    """The library's calls to the provider. Its users, matched by e-mail, are not ours: see `accounts`."""

    get_settings = staticmethod(_setting)

    def exchange(self, request: HttpRequest, code: str, code_verifier: str) -> dict[str, Any]:
        """The provider's tokens for a code; there is an ID token among them."""
        payload = {
            "client_id": self.OIDC_RP_CLIENT_ID,
            "client_secret": self.OIDC_RP_CLIENT_SECRET,
            "grant_type": "authorization_code",
            "code": code,
            "redirect_uri": absolutify(request, reverse(CALLBACK)),
            "code_verifier": code_verifier,
        }
        try:
            tokens = self.get_token(payload)
        except requests.RequestException as error:
            raise ProviderFault("the exchange of the code failed") from error
        if not isinstance(tokens, dict) or not isinstance(tokens.get("id_token"), str):
            raise ProviderFault("the answer has no ID token")
        return tokens

    def claims_of(self, id_token: str) -> dict[str, Any]:
        """The claims of a token that the provider signed."""
        try:
            claims = dict(self.get_payload_data(id_token, self.retrieve_matching_jwk(id_token)))
        except requests.RequestException as error:
            raise ProviderFault("the signing keys cannot be read") from error
        except (jwt.PyJWTError, SuspiciousOperation, KeyError, TypeError) as error:
            raise TokenRefused(f"{type(error).__name__}: {error}") from error
        if not re.fullmatch(r"[ -~]{1,255}", claims["sub"]):
            raise TokenRefused("its subject is no subject")
        return claims

    def get_payload_data(self, token: str, key: Any) -> Any:
        """The library checks the signature and the expiry; issuer and audience matter as much."""
        return jwt.decode(
            token,
            key,
            algorithms=[ALGORITHM],
            audience=self.OIDC_RP_CLIENT_ID,
            issuer=provider()["issuer"],
            leeway=_LEEWAY_SECONDS,
            options={"require": ["iss", "sub", "aud", "exp", "iat"]},
        )

    def completed(self, claims: dict[str, Any], tokens: dict[str, Any]) -> dict[str, Any]:
        """With what the provider says at its userinfo endpoint, if the token leaves out groups or e-mail."""
        if {"email", settings.PLANNER_OIDC_GROUPS_CLAIM} <= claims.keys() or not self.OIDC_OP_USER_ENDPOINT:
            return claims
        try:
            info = dict(self.get_userinfo(tokens.get("access_token"), tokens["id_token"], claims))
        except (requests.RequestException, jwt.PyJWTError, SuspiciousOperation, ValueError, TypeError) as error:
            raise ProviderFault("the user's data cannot be read") from error
        if info.get("sub") != claims["sub"]:
            raise ProviderFault("the user's data are somebody else's")
        return {**info, **claims}
