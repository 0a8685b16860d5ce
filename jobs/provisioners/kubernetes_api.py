"""A cluster's API: the official client with calls that end in time, no retries, and errors by what may be done next."""

from __future__ import annotations

import re
import threading
import time
from collections.abc import Callable, Mapping
from typing import Any

import requests
from kubernetes import client, config
from kubernetes.client import CoreV1Api, SchedulingV1Api
from kubernetes.client.exceptions import ApiException
from urllib3.exceptions import HTTPError

from jobs import request_ids
from jobs.errors import OVER_QUOTA, UpstreamError, UpstreamKind
from jobs.provisioners.kubernetes_pods import UPSTREAM
from jobs.transport import Answer, is_loopback, read_in_time, retry_after_seconds, too_late, unanswered, unreadable

_KINDS = {
    400: UpstreamKind.PERMANENT,
    401: UpstreamKind.INVALID_CREDENTIAL,
    403: UpstreamKind.INVALID_CREDENTIAL,
    413: UpstreamKind.PERMANENT,
    422: UpstreamKind.PERMANENT,
    429: UpstreamKind.RATE_LIMITED,
}
# Of what one job asks for, a LimitRange speaks; a 403 of any other wording is about the pool.
_LIMIT_RANGE = re.compile(r"usage per (Container|Pod) is ")

# One of the client's operations, on a client that is logged in.
_Operation = Callable[[client.ApiClient], Callable[..., Any]]


class ClusterApi:
    """One cluster, as its options name it. Shared by threads; raises `UpstreamError` and nothing else.

    Options: `base_url` of an API server that asks for no credential; or `in_cluster`; or `kubeconfig` (a path; by
    default where kubectl looks) and `context`. They are read at the first call.
    """

    def __init__(self, options: dict[str, Any], *, connect_timeout: float) -> None:
        self._options = options
        self._connect_timeout = connect_timeout
        self._lock = threading.Lock()
        self._logged_in: client.ApiClient | None = None

    def list_pods(self, namespace: str, labels: Mapping[str, str], *, until: float) -> list[dict[str, Any]]:
        """All the pods that have all these labels, from one call. An empty value stands for any."""
        selector = ",".join(f"{label}={value}" if value else label for label, value in labels.items())
        answer = self._call(
            lambda of: CoreV1Api(of).list_namespaced_pod, namespace, label_selector=selector, until=until
        )
        items, metadata = answer.get("items"), answer.get("metadata")
        is_page = isinstance(metadata, dict) and metadata.get("continue")  # though none was asked for
        if is_page or not isinstance(items, list):
            raise unreadable(UPSTREAM, creates=False)
        return items

    def create_pod(self, namespace: str, body: dict[str, Any], *, until: float) -> dict[str, Any]:
        """The new pod. `CONFLICT` if there is one of its name."""
        return self._call(lambda of: CoreV1Api(of).create_namespaced_pod, namespace, body, until=until, creates=True)

    def delete_pod(self, namespace: str, name: str, uid: str, *, until: float) -> None:
        """Delete this very pod, at once. `NOT_FOUND` or `CONFLICT` if it is there no longer."""
        options = {
            "gracePeriodSeconds": 0,
            "propagationPolicy": "Background",
            "preconditions": {"uid": uid},
        }
        self._call(lambda of: CoreV1Api(of).delete_namespaced_pod, name, namespace, body=options, until=until)

    def create_priority_class(self, body: dict[str, Any], *, until: float) -> None:
        """A new PriorityClass. `CONFLICT` if there is one of its name."""
        self._call(lambda of: SchedulingV1Api(of).create_priority_class, body, until=until)

    def _call(
        self, operation: _Operation, *arguments: Any, until: float, creates: bool = False, **named: Any
    ) -> dict[str, Any]:
        """Send once, to be over at `until` (monotonic clock); the answer's object.

        Sent once more after a 401, with the credential as it is now: it may have been renewed since it was read.
        """
        logged_in = self._client()
        answer = self._answer(logged_in, operation, *arguments, until=until, creates=creates, **named)
        if answer.status_code == 401 and not self._options.get("base_url"):
            renewed = self._renewed(logged_in)
            answer = self._answer(renewed, operation, *arguments, until=until, creates=creates, **named)
        body = answer.json()
        if not 200 <= answer.status_code < 300:
            raise _refused(answer, body, creates=creates)
        if not isinstance(body, dict):
            raise unreadable(UPSTREAM, creates=creates)
        return body

    def _answer(
        self,
        logged_in: client.ApiClient,
        operation: _Operation,
        *arguments: Any,
        until: float,
        creates: bool,
        **named: Any,
    ) -> Answer:
        remaining = until - time.monotonic()
        if remaining <= 0:
            raise too_late(UPSTREAM)
        timeout = (min(self._connect_timeout, remaining), remaining)
        try:
            # the raw answer: a thousand pods made into the client's models would take seconds
            options = {"_request_timeout": timeout, "_preload_content": False, "_headers": request_ids.headers()}
            raw = operation(logged_in)(*arguments, **named, **options)
            try:
                return Answer(raw.status, raw.headers, read_in_time(raw, until))
            finally:
                raw.close()  # of no effect on a connection whose answer was read to its end
        except ApiException as error:
            if not error.status:  # the client's word for a failed TLS handshake, whose cause it swallows
                raise unanswered(HTTPError("TLS"), upstream=UPSTREAM, creates=creates) from error
            return Answer(error.status, error.headers or {}, _bytes(error.body))
        except ValueError as error:  # the client's own check of what was to be sent, most of which a pool's options say
            message = f"{UPSTREAM}: the pool's options make no pod that could be asked for: {error}"
            raise UpstreamError(UpstreamKind.INVALID_CREDENTIAL, message, code="wrong_options") from error
        except (requests.RequestException, HTTPError) as error:
            raise unanswered(error, upstream=UPSTREAM, creates=creates) from error

    def _client(self) -> client.ApiClient:
        with self._lock:
            if self._logged_in is None:
                self._logged_in = client.ApiClient(self._configuration())
            return self._logged_in

    def _renewed(self, refused: client.ApiClient) -> client.ApiClient:
        """A client with the credential as it is now, or was when another thread met the same."""
        with self._lock:
            if self._logged_in is None or self._logged_in is refused:
                self._logged_in = client.ApiClient(self._configuration())
            return self._logged_in

    def _configuration(self) -> client.Configuration:
        configuration = client.Configuration()
        try:
            if self._options.get("base_url"):
                configuration.host = self._options["base_url"]
            elif self._options.get("in_cluster"):
                config.load_incluster_config(client_configuration=configuration)  # type: ignore[no-untyped-call] # as shipped
            else:
                path, context = self._options.get("kubeconfig"), self._options.get("context")
                load: Callable[..., None] = config.load_kube_config
                load(path, context, client_configuration=configuration, persist_config=False)
        except Exception as error:  # whatever is wrong with a file that somebody else wrote
            message = f"{UPSTREAM}: the pool's credential cannot be used: {error}"
            raise UpstreamError(UpstreamKind.INVALID_CREDENTIAL, message, code="no_credential") from error
        if not (configuration.api_key or configuration.cert_file or self._options.get("base_url")):
            # a plugin that fails: the client goes on without, and whoever is nobody may nothing
            message = f"{UPSTREAM}: the kubeconfig gave no credential (an API server that asks for none is a base_url)"
            raise UpstreamError(UpstreamKind.TRANSIENT, message, code="no_credential")
        configuration.retries = False  # urllib3 would send again by itself, a create as well
        if is_loopback(configuration.host):
            configuration.proxy = None  # a proxy named in the environment cannot reach our own loopback
        return configuration


def _refused(answer: Answer, body: Any, *, creates: bool) -> UpstreamError:
    status, told = answer.status_code, body if isinstance(body, dict) else {}
    reason, message = str(told.get("reason") or f"http_{status}"), str(told.get("message") or "")
    broken = UpstreamKind.AMBIGUOUS if creates else UpstreamKind.TRANSIENT
    kind, code = _KINDS.get(status, broken), reason
    if status == 403 and "exceeded quota" in message:
        kind, code = UpstreamKind.CAPACITY, OVER_QUOTA
    elif status == 403 and _LIMIT_RANGE.search(message):
        kind = UpstreamKind.PERMANENT
    elif kind == UpstreamKind.PERMANENT and not told.get("reason"):
        kind = broken  # not the API server's word, which alone may fail a job
    elif status == 404 and reason == "NotFound":  # any other is not the API server's word
        # of a create: its namespace is not there
        kind = UpstreamKind.INVALID_CREDENTIAL if creates else UpstreamKind.NOT_FOUND
    elif status == 409:
        # any other conflict is between writers of the same thing, such as a quota: certainly not applied
        kind = UpstreamKind.CONFLICT if reason == "AlreadyExists" or not creates else UpstreamKind.TRANSIENT
    text = f"{UPSTREAM}: {message}" if message else f"{UPSTREAM} answered {status}"
    return UpstreamError(kind, text, code=code, retry_after_seconds=retry_after_seconds(answer))


def _bytes(body: str | bytes | None) -> bytes:
    return body.encode() if isinstance(body, str) else body or b""
