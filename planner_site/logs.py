"""Logs: lines of JSON for machines, one readable line in a terminal, and no secrets in either."""

from __future__ import annotations

import logging
import os
import re
import sys
from typing import Any

from pythonjsonlogger.json import JsonFormatter

from jobs import request_ids

FORMS = ("plain", "json")
_HIDDEN = "[hidden]"
# What names itself: headers, fields of forms and JSON, parameters of URLs, settings of connections.
_NAMED = re.compile(
    r"""(?ix) ((?:authorization|cookie|password|passwd|secret|token|api[_-]?key|credential)[\w-]*)
    (["']?\s*[:=]\s*["']?) (?:(?:bearer|basic|token)\s+)? [^\s"'&,;}\])]+"""
)
# What is known by its looks: log-ins of headers and URLs, our own tokens, providers' keys, signed tokens, private keys.
_LOOKS = re.compile(
    r"""(?x) ((?i:bearer|basic)\s+)[A-Za-z0-9._~+/=-]{8,}
    | (://[^\s/:@]*:)[^\s/@]+(?=@)
    | \b(abp_|sk-|rpa_|hf_|eyJ)[A-Za-z0-9._-]{8,}
    | (-----BEGIN\ [A-Z\ ]*PRIVATE\ KEY-----)(?s:.*?)(?=-----END|\Z)"""
)


# One of these is in whatever the two find; most lines have none, and are looked at no further.
_SIGNS = (
    *("authorization", "cookie", "passw", "secret", "token", "api_key", "api-key", "apikey", "credential"),
    *("bearer", "basic", "://", "abp_", "sk-", "rpa_", "hf_", "eyj", "private key"),
)


def without_secrets(text: str) -> str:
    """The text with everything hidden that looks like a secret."""
    lower = text.lower()
    if not any(sign in lower for sign in _SIGNS):
        return text
    named = _NAMED.sub(rf"\1\2{_HIDDEN}", text)
    return _LOOKS.sub(lambda found: f"{''.join(filter(None, found.groups()))}{_HIDDEN}", named)


class WithRequestId(logging.Filter):
    """Every line bears the id of what it belongs to, "" if nothing."""

    def filter(self, record: logging.LogRecord) -> bool:
        """Add it, unless the line says itself what it belongs to."""
        if not hasattr(record, "request_id"):
            record.request_id = request_ids.current()
        return True


class PlainFormatter(logging.Formatter):
    """For people: time, level, who, and what."""

    def format(self, record: logging.LogRecord) -> str:
        """One line, and a traceback if there is one."""
        return without_secrets(super().format(record))


class SafeJsonFormatter(JsonFormatter):
    """For machines: the same, with each fact in a field of its own."""

    def format(self, record: logging.LogRecord) -> str:
        """One line, whatever is in it."""
        return without_secrets(super().format(record))


def logging_settings() -> dict[str, Any]:
    """What `logging.config.dictConfig` takes, for Django and for gunicorn."""
    form = os.environ.get("PLANNER_LOG_FORMAT") or ("plain" if sys.stderr.isatty() else "json")
    return {
        "version": 1,
        "disable_existing_loggers": False,
        "filters": {"request_id": {"()": WithRequestId}},
        "formatters": {
            "plain": {"()": PlainFormatter, "format": "%(asctime)s %(levelname)s %(name)s %(message)s"},
            "json": {
                "()": SafeJsonFormatter,
                "format": "%(asctime)s %(levelname)s %(name)s %(process)d %(message)s",
                "rename_fields": {"asctime": "at", "levelname": "level", "name": "logger"},
            },
        },
        "handlers": {
            "stderr": {
                "class": "logging.StreamHandler",
                "formatter": form if form in FORMS else "json",
                "filters": ["request_id"],
            },
        },
        "root": {"handlers": ["stderr"], "level": "INFO"},
        "loggers": {
            "django-q": {"level": "WARNING"},
            "gunicorn.error": {"level": "INFO", "propagate": True},  # gunicorn's own default has a form of its own
        },
    }
