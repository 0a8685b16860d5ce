"""The rows of the seeded jobs, and their way into the database."""

from __future__ import annotations

import json
import random
import time
import uuid
from collections.abc import Callable, Iterator
from datetime import datetime, timedelta
from typing import Any

from django.contrib.auth.models import Group, User
from django.db import OperationalError, connection, models, transaction
from django.utils import timezone

from jobs.errors import is_lock_timeout
from jobs.models import Job, JobEvent, Pool, Provision
from jobs.placement import queue_class
from jobs.statuses import JobStatus, ProvisionStatus
from planner_site import demo_data
from planner_site.seed.lives import CANCEL, MOST_AT_WORK, REQUESTS, Life, life_of

_MARK = "seeded-"  # what the names of seeded owners and pools begin with
_ACCELERATORS = ("H100", "A100", "L40S")  # a pool each
_PER_TRANSACTION = 10_000
_SAY_SECONDS = 5.0
_BETWEEN = timedelta(seconds=30)  # from one accept to the next: a million tell of a year
_NEWEST = timedelta(hours=3)  # ago: all that followed the newest accept is past
_ADMITTED = timedelta(minutes=10)  # ago, of what is at work
_WINDOW = timedelta(hours=24)
_TABLES: tuple[type[models.Model], ...] = (Job, Provision, JobEvent)  # all that refers to jobs

Columns = dict[str, Any]


class SeedRefused(Exception):
    """The database must be left as it is; the message is for the user of the command line."""


def load(rows: int, say: Callable[[str], object] = lambda _: None) -> None:
    """Replace what was seeded before by `rows` jobs with their owners, pools, provisions and events.

    Raises `SeedRefused`, and then changes nothing, if there are jobs of anybody else or the tables are in use. Broken
    off, it leaves a part, which the next call replaces.
    """
    began = said_at = time.monotonic()
    try:
        _make_room()
        jobs = _Jobs(rows)
        for first in range(0, rows, _PER_TRANSACTION):
            last = min(rows, first + _PER_TRANSACTION)
            jobs.copy(range(first, last))
            if time.monotonic() - said_at > _SAY_SECONDS:
                said_at = time.monotonic()
                say(f"{last:,} of {rows:,} jobs, {said_at - began:.0f} s")
        with connection.cursor() as cursor:
            # what autovacuum would do in the next minutes, in the midst of whatever is looked at then
            cursor.execute(f"VACUUM (ANALYZE) {_names(*_TABLES)}")
    finally:
        connection.close()  # and with it the session's settings
    say(f"{rows:,} jobs with {jobs.events:,} events in {time.monotonic() - began:.0f} s")


def _make_room() -> None:
    if Job.objects.exclude(owner__username__startswith=_MARK).exists():
        raise SeedRefused("This database holds jobs that were not seeded: name another one in DATABASE_URL.")
    try:
        with connection.cursor() as cursor:
            cursor.execute("SET statement_timeout = 0")
            cursor.execute("SET idle_in_transaction_session_timeout = 0")
            cursor.execute(f"TRUNCATE {_names(*_TABLES)}")
    except OperationalError as error:
        if not is_lock_timeout(error):
            raise
        raise SeedRefused("The tables are in use: stop the workers and the web, then try again.") from error


class _Jobs:
    """The jobs by their number, oldest first. The same every time, but for the clock."""

    def __init__(self, rows: int) -> None:
        self.events = 0  # copied so far
        self._rows = rows
        self._now = timezone.now()
        self._chance = random.Random(rows)  # noqa: S311 - to be repeated, not to be secret
        self._owners = _owners(max(10, min(1000, rows // 1000)))
        self._pools = {accelerator: _pool(accelerator) for accelerator in _ACCELERATORS}
        self._specs = {accelerator: json.dumps(_spec(accelerator)) for accelerator in _ACCELERATORS}
        self._defaults = {model: _defaults(model) for model in _TABLES}

    def copy(self, numbers: range) -> None:
        """These jobs and all that is theirs, in one transaction."""
        rows: dict[type[models.Model], list[Columns]] = {model: [] for model in _TABLES}
        for number in numbers:
            for model, row in self._rows_of(number):
                rows[model].append(row)
        self.events += len(rows[JobEvent])
        with transaction.atomic(), connection.cursor() as cursor:
            for model, defaults in self._defaults.items():
                columns = ", ".join(f'"{column}"' for column in defaults)
                with cursor.copy(f"COPY {_names(model)} ({columns}) FROM STDIN") as copy:
                    for row in rows[model]:
                        copy.write_row(tuple((defaults | row).values()))

    def _rows_of(self, number: int) -> Iterator[tuple[type[models.Model], Columns]]:
        life = life_of(number, self._rows, self._chance)
        accepted_at = self._now - _NEWEST - (self._rows - 1 - number) * _BETWEEN
        began_at = self._now - _ADMITTED if life.is_at_work else accepted_at
        at = [accepted_at, *(began_at + timedelta(seconds=line.seconds) for line in life.lines[1:])]
        job = self._job(number, life, at)
        if life.provision is not None:
            provision = self._provision(job, life.provision, at)
            job |= {"pool_id": provision["pool_id"], "provision_id": provision["id"]}
            job["deadline_at"] = provision["expires_at"] - timedelta(seconds=120)
            yield Provision, provision
        yield Job, job
        yield from ((JobEvent, event) for event in _events(job, life, at))

    def _job(self, number: int, life: Life, at: list[datetime]) -> Columns:
        chance = self._chance
        owner_id, owner = self._owners[int(len(self._owners) * chance.random() ** 2)]  # few have many, many have few
        accelerator = _ACCELERATORS[number // 2 % len(_ACCELERATORS)]  # in turn, so that no pool holds more than it may
        job: Columns = {
            "id": f"job_{_uuid(chance)}",
            "owner_id": owner_id,
            "created_by": owner,
            "name": f"nightly {number}",
            "endpoint": demo_data.ENDPOINT,
            "input_file_id": str(_uuid(chance)),
            "completion_window": "24h",
            "completion_window_seconds": _WINDOW // timedelta(seconds=1),
            "model_id": demo_data.MODEL,
            "model": demo_data.MODEL,
            "template_name": f"sample-1b-{accelerator.lower()}",
            "template_version": "v1.0.0",
            "template_spec": self._specs[accelerator],
            "accelerator_type": accelerator,
            "accelerator_count": 1,
            "request_total": REQUESTS,
            "queue_class": queue_class(accelerator),
            "status": life.status,
            "accepted_at": at[0],
            "ranked_at": at[0],
            "event_count": len(life.lines),
            "due_at": self._now if life.is_at_work else None,
            **{f"{line.to}_at": moment for line, moment in zip(life.lines[1:], at[1:], strict=True) if line.to},
            **life.columns,
        }
        if CANCEL in life.lines:
            job |= {"cancel_requested_at": at[life.lines.index(CANCEL)], "cancel_requested_by": owner}
        return job | self._submission(job, at) if life.is_submitted else job

    def _submission(self, job: Columns, at: list[datetime]) -> Columns:
        batch_id = str(_uuid(self._chance))
        status = "in_progress" if job["status"] == JobStatus.CANCELLING else job["status"]
        view = {"id": batch_id, "object": "batch", "status": status, "input_file_id": job["input_file_id"]}
        sent_at = job["submitting_at"]
        return {
            "batch_id": batch_id,
            "batch_view": json.dumps(view | {"endpoint": job["endpoint"], "created_at": int(sent_at.timestamp())}),
            "batch_seen_at": at[-1],
            "submit_started_at": sent_at,
            "submit_ended_at": sent_at + timedelta(seconds=1),
            "output_file_id": f"output-of-{batch_id}" if status == JobStatus.COMPLETED else "",
        }

    def _provision(self, job: Columns, status: ProvisionStatus, at: list[datetime]) -> Columns:
        key = _uuid(self._chance)
        requested_at, ready_at = job["provisioning_at"], job.get("submitting_at")
        expires_at = requested_at + _WINDOW + timedelta(seconds=900 + 120)
        provision: Columns = {
            "id": key,
            "job_id": job["id"],
            "pool_id": self._pools[job["accelerator_type"]],
            "attempt": 1,
            "name": f"abp-{key.hex[:20]}",
            "spec": json.dumps(
                {"accelerator_type": job["accelerator_type"], "accelerator_count": 1, "replicas": 1, "options": {}}
            ),
            "status": status,
            "requested_at": requested_at,
            "ready_at": ready_at,
            "deadline_at": requested_at + timedelta(seconds=900),
            "expires_at": expires_at,
        }
        if status != ProvisionStatus.REQUESTED:
            provision |= {
                "create_started_at": requested_at,
                "create_ended_at": requested_at + timedelta(seconds=2),
                "observed_state": "ready" if ready_at else "pending",
                "observed_at": ready_at or requested_at,
                "external_ids": json.dumps([f"seeded-{key.hex[:8]}"]),
                "region": "seeded",
            }
        if status == ProvisionStatus.RELEASED:
            names = ("release_requested_at", "releasing_at", "release_sent_at", "released_at")
            provision |= {name: at[-1] + timedelta(seconds=3 * place) for place, name in enumerate(names)}
        return provision


def _events(job: Columns, life: Life, at: list[datetime]) -> Iterator[Columns]:
    status = ""
    for sequence, (line, moment) in enumerate(zip(life.lines, at, strict=True), 1):
        is_asked = line is CANCEL or sequence == 1
        yield {
            "job_id": job["id"],
            "sequence": sequence,
            "at": moment,
            "from_status": status,
            "to_status": line.to,
            "reason": line.reason,
            "source": line.source,
            "actor": job["created_by"] if is_asked else "",
        }
        status = line.to or status


def _owners(count: int) -> list[tuple[int, str]]:
    """Ids and addresses of the seeded users."""
    names = [f"{_MARK}{number:04}" for number in range(count)]
    User.objects.bulk_create(
        [User(username=name, email=f"{name}@example.org", password="!") for name in names],  # noqa: S106 - no password fits
        ignore_conflicts=True,
    )
    Group.objects.get(name="submitter").user_set.add(*User.objects.filter(username__in=names))
    return list(User.objects.filter(username__in=names).order_by("username").values_list("id", "email"))


def _pool(accelerator: str) -> int:
    """The id of the seeded pool of this type. It has no address, so that no worker gets anything there."""
    fields = {"provider": "simulated", "accelerator_types": [accelerator]}
    places = MOST_AT_WORK // len(_ACCELERATORS)
    pool, _ = Pool.objects.get_or_create(
        name=f"{_MARK}{accelerator.lower()}", defaults=fields | {"max_live": places, "max_provisioning": places}
    )
    return pool.pk


def _spec(accelerator: str) -> Columns:
    return demo_data.SPEC | {"accelerator": {"type": accelerator, "count": 1}}


def _defaults(model: type[models.Model]) -> Columns:
    """What every column has that no row names, in the order of the columns."""
    blank = model()
    return {
        str(column.column): _stored(getattr(blank, column.attname))
        for column in model._meta.concrete_fields
        if not column.generated and not isinstance(column, models.AutoField)
    }


def _stored(value: Any) -> Any:
    return json.dumps(value) if isinstance(value, dict | list) else value


def _names(*tables: type[models.Model]) -> str:
    return ", ".join(f'"{model._meta.db_table}"' for model in tables)


def _uuid(chance: random.Random) -> uuid.UUID:
    return uuid.UUID(int=chance.getrandbits(128), version=4)
