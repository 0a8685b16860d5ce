"""Whether the workers make progress: who beats, who has stopped in the middle, how late the work is."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime, timedelta

from django.db.models import Max, Min
from django.db.models.functions import Now
from django.utils import timezone

from jobs.conf import times
from jobs.lifecycle.due import seconds_to_next_timer
from jobs.models import BatchScan, QueueMessage, Worker

_FORGOTTEN = timedelta(hours=1)  # a worker that has not beaten for longer is no news


@dataclass(frozen=True)
class StalledWorker:
    """One that began a pass and no longer makes progress in it: stopped, hanging, or killed and not yet missed."""

    host: str
    pid: int
    seconds: float  # since it last beat

    def __str__(self) -> str:
        return f"{self.host}:{self.pid} has made no progress for {self.seconds:.0f} s"


def is_beating() -> bool:
    """Whether a pass has made progress of late."""
    return Worker.objects.filter(beat_at__gt=Now() - timedelta(seconds=times().unready)).exists()


def last_beat_at() -> datetime | None:
    """When a pass last made progress."""
    at: datetime | None = Worker.objects.aggregate(at=Max("beat_at"))["at"]
    return at


def beating_workers() -> int:
    """The worker processes that have beaten of late."""
    return Worker.objects.filter(beat_at__gt=Now() - timedelta(seconds=times().unready)).count()


def stalled_workers(host: str = "") -> list[StalledWorker]:
    """Those in the middle of a pass that no longer beat, of one host or of all."""
    found = Worker.objects.filter(
        beat_at__lt=Now() - timedelta(seconds=times().stalled), beat_at__gt=Now() - _FORGOTTEN, pass_ended_at=None
    )
    if host:
        found = found.filter(host=host)
    now = timezone.now()
    rows = found.order_by("host", "pid").values_list("host", "pid", "beat_at")[:100]
    return [StalledWorker(host, pid, (now - beat_at).total_seconds()) for host, pid, beat_at in rows]


def lag_seconds() -> float:
    """How long the most overdue row has been waiting for a pass; 0 if nothing is overdue."""
    return max(0.0, -(seconds_to_next_timer() or 0.0))


def oldest_hint_seconds() -> float:
    """How long the oldest message has been waiting to be taken; 0 if there is none."""
    at = QueueMessage.objects.aggregate(at=Min("created_at"))["at"]
    return 0.0 if at is None else max(0.0, (timezone.now() - at).total_seconds())


def mds_was_read() -> bool:
    """Whether the MDS's list has ever been read to its end."""
    return BatchScan.objects.filter(ended_at__isnull=False).exists()


def mds_error() -> str:
    """What the last try to read the MDS's list ended with; empty if it was read."""
    return BatchScan.objects.values_list("last_error", flat=True).first() or ""
