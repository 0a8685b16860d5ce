"""Turns at accounts that may be asked only so often, in the database: all workers of an installation share them."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import timedelta
from typing import Any

from django.db import connection

# One statement, so that no two workers get the same turn. The clock is read once the row is ours: another worker may
# have had it in hand meanwhile. A turn that is further away than `patience` is not taken, and nobody waits behind it.
_TAKE = """
INSERT INTO jobs_accountpace AS held (account, request_at, create_at)
VALUES (%(account)s, clock_timestamp() + %(span)s, clock_timestamp() + %(create_span)s)
ON CONFLICT (account) DO UPDATE SET
    request_at = GREATEST(clock_timestamp(), held.request_at, held.create_at - %(create_lead)s) + %(span)s,
    create_at = GREATEST(held.create_at,
        GREATEST(clock_timestamp(), held.request_at, held.create_at - %(create_lead)s) + %(create_span)s)
WHERE GREATEST(held.request_at, held.create_at - %(create_lead)s) <= clock_timestamp() + %(patience)s
RETURNING request_at - %(span)s - clock_timestamp()
"""
_WAIT = """
SELECT GREATEST(request_at, create_at - %(create_lead)s) - clock_timestamp() FROM jobs_accountpace
WHERE account = %(account)s
"""
_NO_CREATE = timedelta(days=-1)  # a call that creates nothing neither waits for the last create nor moves the next one


@dataclass(frozen=True)
class Turn:
    """How many seconds from now it is; and whether it was taken, or is only where one would have been."""

    seconds: float
    is_taken: bool


def take_turn(
    account: str, *, span: float, patience: float, create_after: float = 0, create_interval: float = 0
) -> Turn:
    """A turn of `span` seconds, in which nobody else begins a call, if it begins within `patience` seconds.

    With a `create_interval` the call makes a create, `create_after` seconds after it begins: that far from any other.
    """
    creates = create_interval > 0
    values: dict[str, Any] = {
        "account": account,
        "span": timedelta(seconds=span),
        "patience": timedelta(seconds=patience),
        "create_lead": timedelta(seconds=create_after) if creates else -_NO_CREATE,
        "create_span": timedelta(seconds=create_after + create_interval) if creates else _NO_CREATE,
    }
    with connection.cursor() as cursor:
        cursor.execute(_TAKE, values)
        taken = cursor.fetchone()
        if taken is not None:
            return Turn(max(0.0, taken[0].total_seconds()), is_taken=True)
        cursor.execute(_WAIT, values)
        (wait,) = cursor.fetchone()
    return Turn(max(0.0, wait.total_seconds()), is_taken=False)
