"""Pools to provision from, and the reservations made there."""

from __future__ import annotations

import uuid
from datetime import datetime
from typing import ClassVar

from django.db import models
from django.db.models import F, Q
from django.db.models.fields.json import KeyTextTransform
from django.db.models.functions import Coalesce, Now

from jobs.conf import MAX_LOST_ATTEMPTS
from jobs.statuses import PROVISION_ENDED, PROVISION_LIVE, ProvisionStatus

# The one time that is not named like its status.
_TIMES = {ProvisionStatus.PROVISIONING.value: "create_ended_at"}

# A release that goes well counts its tries, too: it fails only with an error of its own. What our own pace put off is
# no try.
RELEASE_FAILING = Q(status=ProvisionStatus.RELEASING, retry_count__gt=0, last_error_at__gte=F("releasing_at"))


class Pool(models.Model):
    """One place to provision from: a provider account, cluster or region, with its limits."""

    name = models.CharField(max_length=64, unique=True)
    provider = models.CharField(max_length=32, help_text="A key of the setting PLANNER_PROVIDERS.")
    options = models.JSONField(
        default=dict, blank=True, help_text="Provider options; credentials only as names of variables or files."
    )
    accelerator_types = models.JSONField(default=list, blank=True, help_text="Types offered; empty means any.")
    region = models.CharField(
        max_length=128, blank=True, help_text="Where its resources are, for jobs that accept only some regions."
    )
    max_live = models.PositiveIntegerField(default=10, help_text="Provisions not yet released.")
    max_provisioning = models.PositiveIntegerField(default=10, help_text="Provisions not yet ready.")
    max_live_accelerators = models.PositiveIntegerField(
        null=True, blank=True, help_text="Accelerators not yet released; empty is no limit."
    )
    max_provisioning_accelerators = models.PositiveIntegerField(
        null=True, blank=True, help_text="Accelerators not yet ready; empty is no limit."
    )
    ready_timeout_seconds = models.PositiveIntegerField(default=900)
    max_lifetime_seconds = models.PositiveIntegerField(
        null=True, blank=True, help_text="A resource older than that counts as lost; empty is no limit."
    )
    loss_retries = models.PositiveSmallIntegerField(
        default=MAX_LOST_ATTEMPTS,
        help_text="How often a job whose resource is lost here while its batch runs is provisioned again.",
    )
    absence_confirm_seconds = models.FloatField(
        default=10, help_text="Two listings this far apart must miss a resource before it counts as gone."
    )
    observe_interval_seconds = models.FloatField(default=5)
    priority = models.PositiveSmallIntegerField(default=0, help_text="Higher is tried first.")
    price_per_hour = models.DecimalField(max_digits=10, decimal_places=4, null=True, blank=True)
    is_enabled = models.BooleanField(default=True, help_text="Off stops admissions here and nothing else.")
    disabled_reason = models.TextField(blank=True, help_text="Shown to everybody whose job waits for it.")
    held_by = models.CharField(max_length=254, blank=True, editable=False, help_text="Empty: the planner.")
    held_at = models.DateTimeField(null=True, blank=True, editable=False)
    capacity_retry_at = models.JSONField(
        default=dict, blank=True, help_text="Per accelerator type: not offered before `at` (unix seconds)."
    )

    # Control of observation: one listing at a time.
    observe_at = models.DateTimeField(null=True, blank=True, help_text="NULL while there is nothing to observe.")
    observe_lease_expires_at = models.DateTimeField(null=True, blank=True)
    observe_version = models.PositiveBigIntegerField(default=0)
    observed_at = models.DateTimeField(null=True, blank=True, help_text="Start of the last listing that succeeded.")
    observe_error = models.TextField(blank=True)
    observe_failures = models.PositiveIntegerField(default=0)

    orphans = models.JSONField(
        default=dict, blank=True, help_text="What bears our mark there and no provision needs: by name, since when."
    )

    class Meta:
        constraints: ClassVar = [
            models.CheckConstraint(
                condition=Q(max_lifetime_seconds__isnull=True)
                | Q(max_lifetime_seconds__gt=models.F("ready_timeout_seconds")),
                name="pool_lifetime_outlasts_ready_timeout",
                violation_error_message="The maximum lifetime must be longer than the ready timeout.",
            ),
        ]
        ordering: ClassVar = ["-priority", "name"]
        permissions: ClassVar = [
            ("hold_pool", "Can hold and resume pools"),
            ("refresh_pool", "Can have a pool looked at again at once"),
        ]

    def __str__(self) -> str:
        return self.name

    @property
    def hold(self) -> bool:
        """Whether it is held, as the queue or an owner may be: a held pool is a disabled one."""
        return not self.is_enabled

    @property
    def hold_reason(self) -> str:
        """Why."""
        return self.disabled_reason


class Provision(models.Model):
    """One reservation of resources for one job. The row stands before anything is created (G3)."""

    id = models.UUIDField(primary_key=True, default=uuid.uuid4, editable=False)
    job = models.ForeignKey("Job", on_delete=models.PROTECT, related_name="provisions")
    # The index of a pool's list begins with it.
    pool = models.ForeignKey(Pool, on_delete=models.PROTECT, related_name="provisions", db_index=False)
    attempt = models.PositiveIntegerField(help_text="The job's attempt it was reserved for.")
    name = models.CharField(max_length=63, unique=True, help_text="Its name at the provider; the intent to create.")
    spec = models.JSONField(default=dict, help_text="What is asked of the provider, frozen at admission.")
    accelerator_type = models.GeneratedField(
        expression=KeyTextTransform("accelerator_type", "spec"),
        output_field=models.CharField(max_length=64, null=True),
        db_persist=True,
    )
    status = models.CharField(
        max_length=16, choices=ProvisionStatus.choices, default=ProvisionStatus.REQUESTED, editable=False
    )

    holds_resources = models.BooleanField(
        default=True, help_text="False for a provider that reserves nothing: there is nothing to observe or release."
    )
    hands_over = models.BooleanField(
        default=False, help_text="Room that the engine takes once its batch is submitted; gone then is no loss."
    )

    # Facts, as last observed.
    observed_state = models.CharField(max_length=16, blank=True)
    observed_at = models.DateTimeField(null=True, blank=True)
    absent_since_at = models.DateTimeField(null=True, blank=True, help_text="First of the listings that missed it.")
    absence_confirmed_at = models.DateTimeField(null=True, blank=True)
    external_ids = models.JSONField(default=list, blank=True)
    region = models.CharField(max_length=128, blank=True)
    detail = models.JSONField(default=dict, blank=True)

    requested_at = models.DateTimeField(db_default=Now())
    create_started_at = models.DateTimeField(
        null=True, blank=True, help_text="Intent: something may exist from here on."
    )
    create_ended_at = models.DateTimeField(null=True, blank=True, help_text="No create can take effect after that.")
    create_unsure_until = models.DateTimeField(
        null=True, blank=True, help_text="An earlier create was never answered: it may take effect until then."
    )
    ready_at = models.DateTimeField(null=True, blank=True)
    failed_at = models.DateTimeField(null=True, blank=True)
    lost_at = models.DateTimeField(null=True, blank=True)
    release_requested_at = models.DateTimeField(null=True, blank=True)
    release_requested_by = models.CharField(max_length=254, blank=True, help_text="An operator; empty: the planner.")
    releasing_at = models.DateTimeField(null=True, blank=True)
    release_sent_at = models.DateTimeField(null=True, blank=True, help_text="The last delete the provider took.")
    released_at = models.DateTimeField(null=True, blank=True)
    written_off_at = models.DateTimeField(null=True, blank=True)
    deadline_at = models.DateTimeField(help_text="Not ready by then is a failure.")
    lifetime_ends_at = models.DateTimeField(
        null=True, blank=True, help_text="Counts as lost from then on; empty: its pool had no such limit."
    )
    expires_at = models.DateTimeField(help_text="What the provider is told: it may end the resource by itself then.")
    last_error_code = models.CharField(max_length=64, blank=True)
    last_error = models.TextField(blank=True)
    last_error_at = models.DateTimeField(null=True, blank=True)

    # Control: from `releasing` on, a unit of claim of its own.
    version = models.PositiveBigIntegerField(default=0)
    due_at = models.DateTimeField(null=True, blank=True)
    lease_expires_at = models.DateTimeField(null=True, blank=True)
    crashes = models.PositiveSmallIntegerField(default=0)
    retry_count = models.PositiveIntegerField(default=0)
    retry_at = models.DateTimeField(null=True, blank=True, help_text="After an error: no call before then.")
    claimable_at = models.GeneratedField(
        expression=Coalesce("lease_expires_at", "due_at"),
        output_field=models.DateTimeField(null=True),
        db_persist=True,
    )

    class Meta:
        constraints: ClassVar = [
            models.CheckConstraint(condition=Q(status__in=ProvisionStatus.values), name="provision_status_known"),
            models.CheckConstraint(
                condition=~Q(status=ProvisionStatus.RELEASED.value) | Q(released_at__isnull=False),
                name="provision_released_has_time",
            ),
            models.CheckConstraint(
                condition=~Q(status=ProvisionStatus.READY.value) | Q(ready_at__isnull=False),
                name="provision_ready_has_time",
            ),
            models.UniqueConstraint(
                fields=["job"],
                condition=Q(status__in=sorted(PROVISION_LIVE)),
                name="provision_one_live_per_job",
            ),
        ]
        indexes: ClassVar = [
            # limits and observation: what a pool still holds
            models.Index(
                fields=["pool", "status"],
                name="provision_held",
                condition=~Q(status__in=sorted(PROVISION_ENDED)),
            ),
            # claims of releases, and their timers
            models.Index(
                fields=["pool", "claimable_at"],
                name="provision_claim",
                condition=Q(status=ProvisionStatus.RELEASING.value, claimable_at__isnull=False),
            ),
            models.Index(
                fields=["claimable_at"],
                name="provision_timer",
                condition=Q(status=ProvisionStatus.RELEASING.value, claimable_at__isnull=False),
            ),
            # lists, newest first: all, one pool's (measured times are those of its newest), and the few given up
            models.Index(fields=["-requested_at", "-id"], name="provision_list"),
            models.Index(fields=["pool", "-requested_at", "-id"], name="provision_pool_list"),
            models.Index(
                fields=["-requested_at", "-id"],
                name="provision_written_off",
                condition=Q(status=ProvisionStatus.WRITTEN_OFF.value),
            ),
            # who was ready last, and after how long
            models.Index(
                fields=["pool", "accelerator_type", "-ready_at"],
                name="provision_ready",
                condition=Q(ready_at__isnull=False),
            ),
        ]
        permissions: ClassVar = [
            ("release_provision", "Can release provisions"),
            ("write_off_provision", "Can write provisions off without proof of release"),
        ]
        default_permissions = ("view",)

    def __str__(self) -> str:
        return self.name

    @property
    def in_status_since(self) -> datetime | None:
        """When it came to its status."""
        since: datetime | None = getattr(self, _TIMES.get(self.status, f"{self.status}_at"))
        return since

    @property
    def shown_state(self) -> str:
        """What people are shown of the last look: `absent` if it missed the resource, else what the provider said."""
        return self.observed_state if self.absent_since_at is None else "absent"

    @property
    def is_release_failing(self) -> bool:
        """Whether the last thing the provider said is that it did not take the delete."""
        return (
            self.releasing_at is not None
            and self.last_error_at is not None
            and self.last_error_at >= self.releasing_at
            and self.status == ProvisionStatus.RELEASING
        )
