"""Whether everything that this installation needs is there and well, and what to do where it is not. Writes nothing."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from enum import StrEnum

from django.conf import settings
from django.core import checks as system_checks
from django.db import DatabaseError, InterfaceError, connection
from django.db.migrations.executor import MigrationExecutor
from django.db.models.functions import Now
from django_q.models import Schedule, Task

from jobs.conf import times
from jobs.errors import UpstreamError, UpstreamKind, is_database_away
from jobs.models import Pool, Provision
from jobs.models.provision import RELEASE_FAILING
from jobs.reconciler.calls import batch_client, provisioner_of
from jobs.schedules import CHORES
from jobs.vital_signs import beating_workers, lag_seconds, stalled_workers

_OLDEST_POSTGRESQL = 140_000
_LIMITS = ("lock_timeout", "statement_timeout", "idle_in_transaction_session_timeout")
_SKEW_SECONDS = 5.0  # deadlines and windows are told to others in unix seconds
_WORST_SKEW_SECONDS = 60.0
_NEWS = timedelta(days=1)
_FAILED_DELETES = 3
_REFUSALS = ("authentication failed", "does not exist", "no pg_hba.conf entry")  # waiting mends none


class State(StrEnum):
    """How bad it is."""

    OK = "ok"
    WARN = "warn"  # it works, and somebody should look
    FAIL = "fail"  # something does not work


@dataclass(frozen=True)
class Check:
    """What was looked at, what was found, and what to do about it."""

    name: str
    state: State
    found: str
    remedy: str = ""


def examine() -> Iterator[Check]:
    """All checks, one after another; what one meets keeps nobody from the others."""
    for name, probe in _PROBES.items():
        try:
            yield from probe(name)
        except (DatabaseError, InterfaceError) as error:
            connection.close()
            yield _without_answer(name, error)
        except Exception as error:
            yield Check(name, State.FAIL, f"our own code failed: {error!r}", "Report it, with the log.")


def _without_answer(name: str, error: Exception) -> Check:
    """The driver's own words name hosts and accounts, and are left out; the server's, on why, are not."""
    _, fatal, rest = str(error).rpartition("FATAL:")
    words = rest.strip().partition("\n")[0]
    if fatal and any(sign in words for sign in _REFUSALS):
        return Check(name, State.FAIL, f"the database refuses the connection: {words}", "Correct DATABASE_URL.")
    if fatal:
        said = f"the database does not answer: {words}"
        return Check(name, State.FAIL, said, "Try again; if it stays, look at the database's log.")
    if is_database_away(error):
        said = f"the database does not answer ({type(error).__name__})"
        return Check(name, State.FAIL, said, "Start the database, or set DATABASE_URL to one that runs.")
    said = f"the database's tables are not as expected ({type(error).__name__})"
    return Check(name, State.FAIL, said, "Run: manage.py migrate")


def _database(name: str) -> Iterator[Check]:
    began = time.monotonic()
    with connection.cursor() as cursor:
        cursor.execute("SELECT current_setting('server_version_num')::int, current_setting('server_version')")
        number, version = cursor.fetchone()
        took = 1000 * (time.monotonic() - began)
        cursor.execute("SELECT name FROM pg_settings WHERE name = ANY(%s) AND setting = '0'", [list(_LIMITS)])
        unlimited = sorted(row[0] for row in cursor.fetchall())
    if number < _OLDEST_POSTGRESQL:
        yield Check(name, State.FAIL, f"PostgreSQL {version}", "Upgrade it to 14 or newer.")
    elif unlimited:
        remedy = "A pooler in between drops them: let it pass `options` on, or set them for the role."
        yield Check(name, State.WARN, f"PostgreSQL {version}; without {', '.join(unlimited)}", remedy)
    else:
        yield Check(name, State.OK, f"PostgreSQL {version}, answers within {took:.0f} ms")


def _database_clock(name: str) -> Iterator[Check]:
    before = time.time()
    with connection.cursor() as cursor:
        cursor.execute("SELECT extract(epoch FROM clock_timestamp())")
        there = float(cursor.fetchone()[0])
    yield _skew(name, there - (before + time.time()) / 2)


def _skew(name: str, seconds: float) -> Check:
    found = f"{abs(seconds):.1f} s {'ahead of' if seconds > 0 else 'behind'} this machine's"
    if abs(seconds) <= _SKEW_SECONDS:
        return Check(name, State.OK, found)
    state = State.WARN if abs(seconds) <= _WORST_SKEW_SECONDS else State.FAIL
    return Check(name, state, found, "Synchronise the clocks (NTP): deadlines are told to others in unix seconds.")


def _migrations(name: str) -> Iterator[Check]:
    executor = MigrationExecutor(connection)
    missing = [str(migration) for migration, _ in executor.migration_plan(executor.loader.graph.leaf_nodes())]
    if missing:
        some = ", ".join(missing[-5:])
        yield Check(name, State.FAIL, f"{len(missing)} not applied, the last ones: {some}", "Run: manage.py migrate")
    else:
        yield Check(name, State.OK, "all applied")


def _settings(name: str) -> Iterator[Check]:
    messages = system_checks.run_checks(include_deployment_checks=not settings.DEBUG)
    found = [message for message in messages if not message.is_silenced()]
    for message in found:
        state = State.FAIL if message.level >= system_checks.ERROR else State.WARN
        yield Check(name, state, f"{message.id}: {message.msg}", message.hint or "See manage.py check --deploy.")
    if not found:
        yield Check(name, State.OK, "no complaint")


def _workers(name: str) -> Iterator[Check]:
    if count := beating_workers():
        yield Check(name, State.OK, f"{count} make progress")
    else:
        yield Check(name, State.FAIL, f"none has beaten for {times().unready:g} s", "Run: manage.py run_workers")
    if stalled := stalled_workers():
        remedy = "If such a process still runs it hangs or is stopped: kill it, run_workers starts another."
        yield Check(name, State.WARN, "; ".join(map(str, stalled[:10])), remedy)


def _work(name: str) -> Iterator[Check]:
    late = lag_seconds()
    if late > times().stalled:
        yield Check(name, State.WARN, f"the oldest is {late:.0f} s late", "Start more workers; look at their log.")
    else:
        yield Check(name, State.OK, "nothing is late")
    failing = Provision.objects.filter(RELEASE_FAILING, retry_count__gte=_FAILED_DELETES)
    if count := failing.count():
        names = ", ".join(failing.values_list("name", flat=True)[:5])
        remedy = "Look at the provider; see manage.py inspect_job. They are tried again and again."
        yield Check(name, State.WARN, f"{count} releases fail: {names}", remedy)


def _chores(name: str) -> Iterator[Check]:
    missing = set(CHORES) - set(Schedule.objects.filter(name__in=CHORES).values_list("name", flat=True))
    if missing:
        yield Check(name, State.WARN, f"not scheduled: {', '.join(sorted(missing))}", "Run: manage.py migrate")
    failed = Task.objects.filter(success=False, stopped__gt=Now() - _NEWS).order_by("-stopped")
    if last := failed.first():
        said = str(last.result).strip().partition("\n")[0][:200]
        found = f"{failed.count()} failed within a day, the last one {last.func}: {said}"
        yield Check(name, State.WARN, found, "See the failed tasks in the admin, and the workers' log.")
    elif not missing:
        yield Check(name, State.OK, "all scheduled, none failed within a day")


def _mds(name: str) -> Iterator[Check]:
    began, at = time.monotonic(), datetime.now(UTC)
    try:
        page = batch_client().list_page(limit=1)
    except UpstreamError as error:
        yield Check(
            name, State.FAIL, str(error), "Start it, or set PLANNER_MDS_URL; meanwhile jobs wait, none is lost."
        )
        return
    took = time.monotonic() - began
    yield Check(name, State.OK, f"lists its batches within {1000 * took:.0f} ms")
    if page.server_at is not None:
        # its Date header is cut to whole seconds
        yield _skew("mds clock", (page.server_at - at).total_seconds() + 0.5 - took / 2)


def _pools(name: str) -> Iterator[Check]:
    pools = list(Pool.objects.all())
    if not any(pool.is_enabled for pool in pools):
        yield Check(name, State.FAIL, "no pool admits jobs", "Add one in the admin, or resume one that is held.")
    for pool in pools:
        yield _pool(f"pool {pool.name}", pool)


def _pool(name: str, pool: Pool) -> Check:
    began = time.monotonic()
    try:
        found = provisioner_of(pool).discover()
    except UpstreamError as error:
        return Check(name, State.FAIL, f"{pool.provider}: {error}", _REMEDIES.get(error.kind, _TRY_AGAIN))
    except DatabaseError:
        raise
    except Exception as error:
        return Check(name, State.FAIL, f"{pool.provider}: its adapter failed: {error!r}", "Report it, with the log.")
    reach = (
        f"{pool.provider}, answers within {1000 * (time.monotonic() - began):.0f} ms, {len(found)} resources of ours"
    )
    if not pool.is_enabled:
        by = pool.held_by or "the planner"
        return Check(
            name, State.WARN, f"held by {by}: {pool.disabled_reason or '-'}; {reach}", "Resume it in the admin."
        )
    if pool.orphans:
        remedy = "Run: manage.py release_orphans --dry-run"
        return Check(name, State.WARN, f"{len(pool.orphans)} resources that no job needs; {reach}", remedy)
    return Check(name, State.OK, reach)


_TRY_AGAIN = "Look at the provider and the network; the workers go on trying."
_REMEDIES = {
    UpstreamKind.INVALID_CREDENTIAL: "Set the variable or file that the pool's options name, then resume the pool.",
    UpstreamKind.RATE_LIMITED: "Wait; or give its account to fewer installations.",
    UpstreamKind.PERMANENT: "Correct the pool's options in the admin.",
}
_PROBES: dict[str, Callable[[str], Iterator[Check]]] = {
    "database": _database,
    "database clock": _database_clock,
    "migrations": _migrations,
    "settings": _settings,
    "workers": _workers,
    "work": _work,
    "chores": _chores,
    "mds": _mds,
    "pools": _pools,
}
