"""The fault points by name, each under the first of the scenarios in which somebody comes by it."""

from __future__ import annotations

from tests.faults import FAULTS, SECOND

_USUAL: dict[str, tuple[str, ...]] = {
    "cancelled_while_pending": (
        "rate_limits.take: ratelimit",
        "planner.enqueue: job, jobevent, queuemessage",
        "broker.take: queuemessage",
        "scans.claim_scan: batchscan",
        "scan: mds.list",
        "heartbeat.write: worker",
        "scans.record_scan: batchscan",
        "wakeup.announce_timers: notify",
        "planner.cancel: job, jobevent, queuemessage",
        "claims.step: cancelled",
    ),
    "completed": (
        "upload: mds.upload",
        "files.upload: inputfile",
        "admission.admission: admitted, intent create",
        "create: provider.list",
        "create: provider.create",
        "observations.claim_observations: pool",
        "observe: provider.list",
        "claims.step: create ended, resource_created, resource_ready, intent submit",
        "submit: mds.create",
        "observations.record_observation: pool",
        "claims.step: submit ended, batch seen, batch_created, scheduling",
        "claims.step: intent poll",
        "poll: mds.get",
        "claims.step: batch seen, releasing, completed",
        "claims.step: intent release",
        "release: provider.list",
        "release: provider.delete",
        "claims.step: release sent",
        "observations.record_observation: pool, provision",
        "claims.step: wait",
        "claims.step: released",
    ),
    "cancelled_while_provisioning": (
        "claims.step: create ended, resource_created",
        "claims.step: releasing, cancelled",
    ),
    "cancelled_while_running": (
        "claims.step: batch seen, in_progress",
        "claims.step: cancelling, intent cancel",
        "cancel: mds.cancel",
        "cancel: mds.get",
        "claims.step: batch seen, releasing, cancelled",
    ),
    "submit_answered_by_nobody": (
        "claims.step: submit ended, mds_delayed, submit_unknown",
        "scans.record_scan: batch_adopted",
    ),
    "submit_lost_on_its_way": (
        "scans.record_scan: submit_not_created",
        "claims.step: intent submit",
    ),
    "refused_for_lack_of_room": ("claims.step: create ended, releasing, no_capacity",),
    "released_by_an_operator": (
        "planner.release: job, jobevent, provision, queuemessage",
        "claims.step: intent cancel",
        "claims.step: releasing, resource_released",
    ),
    "resource_vanished": (
        "claims.step: releasing, resource_lost",
        "claims.step: batch seen",
        "claims.step: resource_lost, intent cancel",
        "observations.record_observation: job, pool, provision",
    ),
    "a_second_batch": (
        "scan: mds.get",
        "scan: mds.cancel",
    ),
    "a_second_resource": (
        "remove_surplus: provider.list",
        "remove_surplus: provider.delete",
    ),
    "orphans_of_a_job_that_is_over": (
        "sweep: provider.list",
        "orphans.orphan_resources: pool",
        "sweep: provider.delete",
        "sweep: mds.list",
        "sweep: mds.get",
        "sweep: mds.cancel",
    ),
    "a_create_that_came_too_late": (
        "wakeup.post_message: queuemessage",
        "undo_create: provider.list",
        "undo_create: provider.delete",
    ),
    "a_submit_that_came_too_late": (
        "claims.step: submit ended, submit_unknown, cancelling",
        "scans.record_scan: releasing, cancelled",
    ),
    "a_batch_recorded_too_late": (
        "stop_batch: mds.cancel",
        "stop_batch: mds.get",
    ),
}

# Lives that end otherwise, or begin again.
_RARE: dict[str, tuple[str, ...]] = {
    "never_ready_in_time": ("claims.step: releasing, ready_timeout",),
    "passed_on_from_pool_to_pool": (
        "claims.step: create ended, releasing, pool_disabled",
        "claims.step: create ended, releasing, no_quota",
    ),
    "told_to_wait": (
        "claims.step: create ended, create_delayed",
        "claims.step: intent create",
    ),
    "expired_in_the_queue": ("claims.step: queue_timeout",),
    "broken_before_it_was_ready": ("claims.step: releasing, resource_failed",),
    "broken_while_it_ran": ("claims.step: resource_failed, intent cancel",),
    "past_its_lifetime": (
        "claims.step: resource_expired, intent cancel",
        "claims.step: releasing, resource_expired",
    ),
    "batch_failed": ("claims.step: batch seen, releasing, inference_failed",),
    "batch_lost": (
        "claims.step: batch seen, batch_missing",
        "claims.step: releasing, batch_lost",
    ),
    "batch_expired": ("claims.step: batch seen, releasing, deadline",),
}

# What befalls the second who comes by: on the way to another pool, and in another attempt.
_AGAIN: dict[str, tuple[str, ...]] = {
    "passed_on_from_pool_to_pool": (
        "admission.admission: admitted, intent create",
        "create: provider.list",
        "create: provider.create",
    ),
    "past_its_lifetime": (
        "admission.admission: admitted, intent create",
        "create: provider.create",
        "submit: mds.create",
        "claims.step: submit ended, batch seen, batch_created, scheduling",
    ),
}

POINTS = _USUAL | _RARE

Case = tuple[str, str, str]  # scenario, point, fault


def _cases(points: dict[str, tuple[str, ...]], prefix: str = "") -> list[Case]:
    return [(name, prefix + point, fault) for name, found in points.items() for point in found for fault in FAULTS]


def _turn(number: int) -> set[int]:
    return {2 * number % len(FAULTS), (2 * number + 1) % len(FAULTS)}


CASES = _cases(_USUAL)
RARE_CASES = _cases(_RARE) + _cases(_AGAIN, SECOND)
# Of these lives two faults at each point, in turn, so that each fault is met at many; the rest takes long.
SAMPLE = [case for number, case in enumerate(RARE_CASES) if number % len(FAULTS) in _turn(number // len(FAULTS))]
