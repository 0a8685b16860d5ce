"""How the two fakes are told to misbehave: by name, the script posted to one of them. The name begins with whom."""

from __future__ import annotations

from typing import Any

from jobs.conf import Times

# Faults without a script: they are done to something that is there at the moment.
VANISH = "provider: a resource vanishes"
BREAK = "provider: a resource breaks"
CANCEL_UNASKED = "mds: a batch is cancelled by somebody else"
SEND_AGAIN = "mds: a batch is sent again"  # as by a worker that was stopped between its last check and its send
UNSCRIPTED = (VANISH, BREAK, CANCEL_UNASKED, SEND_AGAIN)

_APPLIED: dict[str, Any] = {"is_applied": True}
# A batch that may become a duplicate runs, once it is listed, longer than the 60 s in which it is to be cancelled.
LONG_RUN_SECONDS = 65.0


def scripts(times: Times) -> dict[str, dict[str, Any]]:
    """Every misbehaviour. Each passes: after so many calls the fake behaves again."""
    rules = _provider(times) | _mds(times) | _unknown_creates(times)
    return {name: {"rules": given} for name, given in rules.items()} | {name: {} for name in UNSCRIPTED}


def _rule(verb: str, count: int, **fields: Any) -> dict[str, Any]:
    return {"on": verb, "times": count, **fields}


def _provider(times: Times) -> dict[str, list[dict[str, Any]]]:
    too_long = times.call_timeout * 1.5
    return {
        "provider: create applied, answered 500": [_rule("create", 3, status=500, **_APPLIED)],
        "provider: create applied, answer lost": [_rule("create", 3, drop=True, **_APPLIED)],
        "provider: create not applied, answer lost": [_rule("create", 3, drop=True)],
        "provider: create answered too late": [_rule("create", 3, answer_delay_seconds=too_long)],
        "provider: create lands after the caller gave up": [_rule("create", 2, delay_seconds=too_long)],
        "provider: 429": [
            _rule("create", 4, status=429, retry_after_seconds=2),
            _rule("delete", 2, status=429, retry_after_seconds=1),
            _rule("list", 1, status=429, retry_after_seconds=1),
        ],
        "provider: no capacity": [_rule("create", 3, status=409, code="capacity")],
        "provider: created, listed late": [_rule("create", 4, visible_after_seconds=times.lease / 4)],
        "provider: created, listed late, answer lost": [
            _rule("create", 3, visible_after_seconds=times.lease / 4, drop=True, **_APPLIED)
        ],
        "provider: slow to get ready": [_rule("create", 3, ready_seconds=8.0)],
        "provider: never ready": [_rule("create", 2, is_never_ready=True)],
        "provider: listing misses everything once": [_rule("list", 1, hides=True)],
        "provider: listing fails": [_rule("list", 3, status=503)],
        "provider: listing hangs": [_rule("list", 1, delay_seconds=too_long)],
        "provider: listing drips": [_rule("list", 1, drip_seconds=0.2)],
        "provider: delete fails": [_rule("delete", 4, status=500)],
        "provider: delete applied, answer lost": [_rule("delete", 4, drop=True, **_APPLIED)],
        "provider: deleted, still listed": [_rule("delete", 4, linger_seconds=3.0)],
        "provider: delete hangs": [_rule("delete", 3, delay_seconds=too_long)],
    }


def _mds(times: Times) -> dict[str, list[dict[str, Any]]]:
    too_long = times.call_timeout * 1.5
    return {
        "mds: 429": [
            _rule("create", 3, status=429, retry_after_seconds=2),
            _rule("get", 5, status=429, retry_after_seconds=1),
            _rule("cancel", 2, status=429, retry_after_seconds=1),
        ],
        "mds: get fails": [_rule("get", 8, status=503)],
        "mds: get misses a batch": [_rule("get", 3, hides=True)],
        "mds: get shows an unknown status": [_rule("get", 3, shows="pondering")],
        "mds: get shows an earlier status": [_rule("get", 5, shows="validating")],
        "mds: get hangs": [_rule("get", 4, delay_seconds=too_long)],
        "mds: get drips": [_rule("get", 2, drip_seconds=0.1)],
        "mds: list fails": [_rule("list", 3, status=500)],
        "mds: list hangs": [_rule("list", 1, delay_seconds=too_long)],
        "mds: list breaks off": [_rule("list", 2, drop=True)],
        "mds: cancel fails": [_rule("cancel", 3, status=500)],
        "mds: cancel applied, answer lost": [_rule("cancel", 3, drop=True, **_APPLIED)],
        "mds: cancel not applied, answer lost": [_rule("cancel", 3, drop=True)],
        "mds: a batch ends with lines missing": [_rule("create", 1, missing_lines=1, run_seconds=LONG_RUN_SECONDS)],
        "mds: a batch fails": [_rule("create", 1, ends="failed", run_seconds=LONG_RUN_SECONDS)],
    }


def _unknown_creates(times: Times) -> dict[str, list[dict[str, Any]]]:
    """Batches of which the planner cannot know whether they were made."""
    # as late as no conclusion may depend on it, and later
    settled, unsettled = times.create_batch_timeout + times.submit_settle / 2, times.lease * 2.5
    fates: dict[str, dict[str, Any]] = {
        "applied, answered 500": {"status": 500, **_APPLIED},
        "applied, answer lost": {"drop": True, **_APPLIED},
        "not applied, answer lost": {"drop": True},
        "not applied, answered 408": {"status": 408},
        "answered too late": {"answer_delay_seconds": times.create_batch_timeout + 1},
        "lands after the caller gave up": {"delay_seconds": settled},
        "lands after it was given up for good": {"delay_seconds": unsettled},
        "listed late, answer lost": {"visible_after_seconds": times.submit_settle / 2, "drop": True, **_APPLIED},
        "listed when given up for good, answer lost": {
            "visible_after_seconds": times.submit_settle * 3,
            "drop": True,
            **_APPLIED,
        },
    }
    return {
        f"mds: create {name}": [_rule("create", 2, run_seconds=_run_seconds(fields), **fields)]
        for name, fields in fates.items()
    }


def _run_seconds(fields: dict[str, Any]) -> float:
    return LONG_RUN_SECONDS + float(fields.get("visible_after_seconds", 0))
