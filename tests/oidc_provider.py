"""An OpenID provider on loopback, with real signatures: it logs in whoever it is told to, and errs when told to."""

from __future__ import annotations

import base64
import hashlib
import json
import threading
import time
import uuid
from functools import cache
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any, Self
from urllib.parse import parse_qs, urlencode, urlsplit

import jwt
from cryptography.hazmat.primitives.asymmetric import rsa
from jwt.algorithms import RSAAlgorithm

CLIENT_ID = "planner"
CLIENT_SECRET = "between us"


@cache
def key(name: str) -> rsa.RSAPrivateKey:
    """One key by each name for all tests: making one takes a while."""
    return rsa.generate_private_key(public_exponent=65537, key_size=2048)


class OidcProvider:
    """Use it inside a `with`. `person` is who logs in; the other attributes say what goes wrong."""

    def __init__(self) -> None:
        self.person: dict[str, Any] = {}
        self.userinfo: dict[str, Any] = {}  # what the userinfo endpoint adds
        self.changed: dict[str, Any] = {}  # claims of the ID token that are not as they should be
        self.discovery: dict[str, Any] = {}  # the same for the discovery document
        self.signing_key = "provider"
        self.token_status = 200
        self.token_answer: dict[str, Any] | None = None  # instead of tokens
        self.calls: list[str] = []
        self._codes: dict[str, dict[str, str]] = {}
        self._server = ThreadingHTTPServer(("127.0.0.1", 0), _handler(self))
        self._thread = threading.Thread(target=self._server.serve_forever, args=(0.01,), daemon=True)
        self.issuer = f"http://127.0.0.1:{self._server.server_port}"

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.stop()

    def stop(self) -> None:
        """From now on it does not answer; again is no error."""
        if self._thread.is_alive():
            self._server.shutdown()
            self._thread.join()
        self._server.server_close()

    def authorize(self, address: str) -> dict[str, str]:
        """What the browser brings back from this address of the authorisation endpoint: `code` and `state`."""
        asked = {name: values[0] for name, values in parse_qs(urlsplit(address).query).items()}
        assert address.startswith(f"{self.issuer}/authorize?")
        assert (asked["client_id"], asked["response_type"]) == (CLIENT_ID, "code")
        assert asked["code_challenge_method"] == "S256"
        assert "openid" in asked["scope"].split()
        code = uuid.uuid4().hex
        self._codes[code] = asked
        return {"code": code, "state": asked["state"]}

    def answer(self, path: str, form: dict[str, str], authorization: str) -> tuple[int, Any]:
        """One request of the planner's."""
        self.calls.append(path)
        match path:
            case "/.well-known/openid-configuration":
                return 200, self._document()
            case "/jwks":
                public = json.loads(RSAAlgorithm.to_jwk(key("provider").public_key()))
                return 200, {"keys": [{**public, "kid": "one", "alg": "RS256", "use": "sig"}]}
            case "/token":
                return self._token(form, authorization)
            case "/userinfo" if authorization == "Bearer access":
                return 200, {"sub": self.person["sub"], **self.userinfo}
        return 404, {}

    def _document(self) -> dict[str, Any]:
        ways = {name: f"{self.issuer}/{name.split('_')[0]}" for name in ("token_endpoint", "userinfo_endpoint")}
        return {
            "issuer": self.issuer,
            "authorization_endpoint": f"{self.issuer}/authorize",
            "jwks_uri": f"{self.issuer}/jwks",
            "end_session_endpoint": f"{self.issuer}/logout",
            **ways,
            **self.discovery,
        }

    def _token(self, form: dict[str, str], authorization: str) -> tuple[int, Any]:
        asked = self._codes.pop(form.get("code", ""), None)
        challenge = base64.urlsafe_b64encode(hashlib.sha256(form.get("code_verifier", "").encode()).digest())
        if (
            asked is None
            or challenge.rstrip(b"=").decode() != asked["code_challenge"]
            or form.get("redirect_uri") != asked["redirect_uri"]
            or not self._is_client(form, authorization)
        ):
            return 400, {"error": "invalid_grant"}
        if self.token_status != 200 or self.token_answer is not None:
            return self.token_status, self.token_answer or {}
        now = int(time.time())
        claims = {"iss": self.issuer, "aud": CLIENT_ID, "iat": now, "exp": now + 300, "nonce": asked["nonce"]}
        claims = {name: value for name, value in {**claims, **self.person, **self.changed}.items() if value is not None}
        token = jwt.encode(claims, key(self.signing_key), algorithm="RS256", headers={"kid": "one"})
        return 200, {"id_token": token, "access_token": "access", "token_type": "Bearer"}

    def _is_client(self, form: dict[str, str], authorization: str) -> bool:
        if "token_endpoint_auth_methods_supported" in self.discovery:
            return (form.get("client_id"), form.get("client_secret")) == (CLIENT_ID, CLIENT_SECRET)
        credentials = base64.b64encode(f"{CLIENT_ID}:{CLIENT_SECRET}".encode()).decode()
        return authorization == f"Basic {credentials}" and "client_secret" not in form


def _handler(provider: OidcProvider) -> type[BaseHTTPRequestHandler]:
    class Handler(BaseHTTPRequestHandler):
        def _reply(self, form: dict[str, str]) -> None:
            status, content = provider.answer(self.path, form, self.headers.get("Authorization", ""))
            body = json.dumps(content).encode()
            self.send_response(status)
            self.send_header("Content-Type", "application/json")
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        def do_GET(self) -> None:
            self._reply({})

        def do_POST(self) -> None:
            body = self.rfile.read(int(self.headers["Content-Length"])).decode()
            self._reply({name: values[0] for name, values in parse_qs(body).items()})

        def log_message(self, *_: object) -> None:
            pass

    return Handler


def callback_address(answer: dict[str, str]) -> str:
    """Where the provider sends the browser with this."""
    return f"/api/v1/auth/callback?{urlencode(answer)}"
