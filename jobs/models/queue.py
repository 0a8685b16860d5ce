"""What operators set for the queue: whether anything is admitted, and how much one owner may have at a time."""

from __future__ import annotations

from typing import ClassVar

from django.conf import settings
from django.db import models


class Rules(models.Model):
    """A hold, and how much of the pools may be in use at a time; an empty limit is none of its own."""

    hold = models.BooleanField(default=False, help_text="Jobs are accepted and not admitted while set.")
    hold_reason = models.TextField(blank=True, help_text="Shown to everybody whose job waits for it.")
    held_by = models.CharField(max_length=254, blank=True, editable=False)
    held_at = models.DateTimeField(null=True, blank=True, editable=False)
    max_live = models.PositiveIntegerField(null=True, blank=True, help_text="Jobs whose resource is not yet released.")
    max_provisioning = models.PositiveIntegerField(
        null=True, blank=True, help_text="Jobs whose resource is not yet ready."
    )
    max_live_accelerators = models.PositiveIntegerField(
        null=True, blank=True, help_text="Accelerators not yet released."
    )
    max_provisioning_accelerators = models.PositiveIntegerField(
        null=True, blank=True, help_text="Accelerators not yet ready."
    )

    class Meta:
        abstract = True


class Queue(Rules):
    """The queue as a whole: one row. Its hold drains all of it; its limits are those of owners without a quota."""

    id = models.PositiveSmallIntegerField(primary_key=True, default=1, editable=False)

    class Meta:
        default_permissions = ("view", "change")
        permissions: ClassVar = [("hold_queue", "Can hold and resume the queue")]
        verbose_name_plural = "queue"

    def __str__(self) -> str:
        return "The queue"


class OwnerQuota(Rules):
    """One owner's limits, where they differ from the queue's, and a hold on all of their jobs."""

    owner = models.OneToOneField(
        settings.AUTH_USER_MODEL, on_delete=models.CASCADE, primary_key=True, related_name="quota"
    )

    class Meta:
        permissions: ClassVar = [("hold_owner", "Can hold and resume the jobs of an owner")]

    def __str__(self) -> str:
        return f"Quota of {self.owner}"
