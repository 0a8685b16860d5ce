"""Providers of accelerators. One file each behind `base.Provisioner`, named in the setting PLANNER_PROVIDERS."""

from __future__ import annotations

import json
import threading
from typing import Any, Protocol

from django.conf import settings
from django.utils.module_loading import import_string

from jobs.conf import times
from jobs.errors import UpstreamError, UpstreamKind
from jobs.provisioners.base import Provisioner


class ProvisionerFactory(Protocol):
    """What a dotted path in PLANNER_PROVIDERS names: a class made like this, without any call."""

    def __call__(
        self, options: dict[str, Any], *, connect_timeout: float, call_timeout: float, installation: str
    ) -> Provisioner: ...


_instances: dict[tuple[str, str, str, float, float], Provisioner] = {}
_instances_lock = threading.Lock()


def get_provisioner(provider: str, options: dict[str, Any]) -> Provisioner:
    """The one instance for a provider and its options.

    Raises `UpstreamError`, of the kind of an invalid credential, if none can be made.
    """
    path = settings.PLANNER_PROVIDERS.get(provider)
    if path is None:
        known = ", ".join(sorted(settings.PLANNER_PROVIDERS))
        raise _unusable(f"unknown provider {provider!r}; PLANNER_PROVIDERS has: {known}")
    spans, installation = times(), settings.PLANNER_INSTALLATION
    canonical = json.dumps(options, sort_keys=True)
    key = (path, canonical, installation, spans.connect_timeout, spans.call_timeout)
    with _instances_lock:
        if key not in _instances:
            try:
                factory: ProvisionerFactory = import_string(path)
            except ImportError as error:
                raise _unusable(f"provider {provider!r} cannot be imported from {path}: {error}") from error
            try:
                _instances[key] = factory(
                    json.loads(canonical),
                    connect_timeout=spans.connect_timeout,
                    call_timeout=spans.call_timeout,
                    installation=installation,
                )
            except UpstreamError:
                raise
            except Exception as error:  # wrong options must stop this pool and nothing else
                raise _unusable(f"provider {provider!r} refuses its options: {error}") from error
        return _instances[key]


def _unusable(message: str) -> UpstreamError:
    # of this kind because it must fail no job: nothing works in that pool until an operator acts
    return UpstreamError(UpstreamKind.INVALID_CREDENTIAL, message, code="unknown_provider")
