"""Rows the engine keeps for itself: hints, heartbeats and the scan of the MDS's list."""

from __future__ import annotations

from typing import ClassVar

from django.db import models
from django.db.models.functions import Now


class QueueMessage(models.Model):
    """One message of the broker: a hint (no payload) or a django-q2 task, waiting to be taken."""

    id = models.BigAutoField(primary_key=True)
    payload = models.TextField(null=True, blank=True)  # noqa: DJ001 - NULL is a hint, "" would be a broken task
    created_at = models.DateTimeField(db_default=Now())

    class Meta:
        default_permissions = ()

    def __str__(self) -> str:
        return f"{'hint' if self.payload is None else 'task'} {self.pk}"


class Worker(models.Model):
    """The heartbeat of one worker process: one row per process, overwritten by each of its passes."""

    host = models.CharField(max_length=255)
    pid = models.PositiveIntegerField()
    first_seen_at = models.DateTimeField(db_default=Now())
    pass_started_at = models.DateTimeField()
    beat_at = models.DateTimeField(db_index=True)
    pass_ended_at = models.DateTimeField(null=True, blank=True)
    passes = models.PositiveBigIntegerField(default=0)
    steps = models.PositiveBigIntegerField(default=0, help_text="Calls made and recorded, over all passes.")

    class Meta:
        constraints: ClassVar = [models.UniqueConstraint(fields=["host", "pid"], name="worker_process")]
        default_permissions = ("view",)

    def __str__(self) -> str:
        return f"{self.host}:{self.pid}"


class BatchScan(models.Model):
    """The installation's one scan of the MDS's list: settles ambiguous submits, finds duplicates. One row.

    A scan goes page by page from the newest batch down to `floor_at`; its place is kept here, so that a
    killed worker costs one page.
    """

    id = models.PositiveSmallIntegerField(primary_key=True, default=1)
    due_at = models.DateTimeField(null=True, blank=True)
    lease_expires_at = models.DateTimeField(null=True, blank=True)
    version = models.PositiveBigIntegerField(default=0)
    began_at = models.DateTimeField(null=True, blank=True, help_text="Start of the scan under way; NULL between scans.")
    floor_at = models.DateTimeField(null=True, blank=True, help_text="How far down it must reach.")
    after = models.CharField(max_length=128, blank=True, help_text="The last batch id seen by the scan under way.")
    newest_at = models.DateTimeField(null=True, blank=True, help_text="The newest batch it has seen.")
    covered_to = models.DateTimeField(null=True, blank=True, help_text="The newest batch the last whole scan saw.")
    candidates = models.JSONField(default=dict, help_text="Batches of ambiguous jobs found so far, by our own id.")
    unwanted = models.JSONField(default=list, help_text="Batches of ours nobody wants, still to be stopped.")
    ended_at = models.DateTimeField(null=True, blank=True)
    retry_count = models.PositiveIntegerField(default=0)
    last_error = models.TextField(blank=True)

    class Meta:
        default_permissions = ("view",)

    def __str__(self) -> str:
        return "scan of the MDS's batches"


class AccountPace(models.Model):
    """When an account that may be asked only so often may be asked again: the turns of all workers, in one row."""

    account = models.CharField(primary_key=True, max_length=128)
    request_at = models.DateTimeField(help_text="No call before then.")
    create_at = models.DateTimeField(help_text="No create before then.")

    class Meta:
        default_permissions = ()

    def __str__(self) -> str:
        return self.account
