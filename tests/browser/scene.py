"""A planner in the middle of its day: what the pages look like when there is something on them."""

from __future__ import annotations

from datetime import timedelta
from typing import Any

from django.utils import timezone

from jobs.models import ApiToken, BatchScan, Job, JobEvent, Worker
from tests.factories import make_file, make_job, make_model, make_pool, make_provision, make_template, make_user

_SPEC = {"accelerator": {"type": "H100", "count": 4}, "supportedEndpoints": ["/v1/chat/completions"]}
_MODEL = "qwen/qwen3-32b"


def _ago(minutes: float) -> Any:
    return timezone.now() - timedelta(minutes=minutes)


class Scene:
    """Jobs of Alice's in every status, two pools, and workers that are alive."""

    def __init__(self) -> None:
        self.alice = make_user(username="alice", first_name="Alice", last_name="Arden", email="alice@example.org")
        self.pool = make_pool(name="east-h100", accelerator_types=["H100"], max_live=8, max_provisioning=4)
        make_pool(
            name="west-a100",
            accelerator_types=["A100"],
            max_live=4,
            is_enabled=False,
            disabled_reason="Maintenance until noon.",
        )
        model = make_model(name="Qwen3 32B", serving_name=_MODEL)
        make_template(model, name="qwen3-32b-h100", spec=_SPEC)
        make_file(self.alice, filename="evaluation.jsonl", request_count=12_000)
        self.running = self._running()
        self.failed = self._failed()
        self._others()
        self.held = self._job("weekly digest", "pending", 12, accelerator_type="A100", queue_class="A100|")
        now = timezone.now()
        Worker.objects.create(host="worker-1", pid=7, pass_started_at=now, beat_at=now + timedelta(hours=1))
        ApiToken.issue(self.alice, "nightly script")
        ApiToken.objects.update(last_used_at=_ago(7), created_at=_ago(60 * 24 * 3))

    def upset(self) -> None:
        """Nobody works, and the metadata service does not answer."""
        Worker.objects.update(beat_at=_ago(6))
        BatchScan.objects.update_or_create(pk=1, defaults={"last_error": "timed out", "ended_at": _ago(9)})

    def _job(self, name: str, status: str, minutes: float, **fields: Any) -> Job:
        given = {"model": _MODEL, "accelerator_count": 4, "accepted_at": _ago(minutes), **fields}
        job = make_job(self.alice, name=name, status=status, **given)
        job.events.update(at=_ago(minutes))
        return job

    def _running(self) -> Job:
        job = self._job(
            "nightly evaluation",
            "in_progress",
            48,
            replicas=2,
            template_name="qwen3-32b-h100",
            template_version="v1.0.0",
            request_total=12_000,
            request_completed=7_412,
            request_failed=3,
            batch_id="batch_5f0c8b8e",
            batch_seen_at=timezone.now(),
            provisioning_at=_ago(46),
            submitting_at=_ago(41),
            scheduling_at=_ago(40.8),
            in_progress_at=_ago(40),
            deadline_at=timezone.now() + timedelta(hours=23),
        )
        make_provision(job, self.pool, status="ready", region="us-east-1", ready_at=_ago(41.1), requested_at=_ago(46))
        self._tell(job, 46, "pending", "provisioning", "admitted", f"Reserved at pool {self.pool}.")
        self._tell(job, 41, "provisioning", "submitting", "resource_ready", "", "provider")
        self._tell(job, 40.8, "submitting", "scheduling", "batch_accepted", "Batch batch_5f0c8b8e.", "mds")
        self._tell(job, 40, "scheduling", "in_progress", "batch_started", "", "mds")
        return job

    def _failed(self) -> Job:
        job = self._job(
            "embeddings of the archive",
            "failed",
            190,
            failure_stage="provision",
            error_code="quota_exceeded",
            error_message="The provider refuses: quota of H100 exceeded in us-east-1 (asked for 8, 4 left).",
            provisioning_at=_ago(188),
            failed_at=_ago(181),
        )
        make_provision(job, self.pool, status="released", released_at=_ago(180), requested_at=_ago(188))
        self._tell(job, 188, "pending", "provisioning", "admitted", f"Reserved at pool {self.pool}.")
        self._tell(job, 181, "provisioning", "failed", "quota_exceeded", job.error_message, "provider")
        return job

    def _others(self) -> None:
        made = {"pool": self.pool}
        self._job("smoke test", "pending", 3)
        self._job("summaries, second half", "pending", 5)
        self._job("summaries, first half", "provisioning", 8, **made)
        self._job("translation of the manuals", "submitting", 15, submitting_at=_ago(1), **made)
        self._job("judge run 12", "scheduling", 20, request_total=800, **made)
        self._job("judge run 11", "validating", 22, request_total=800, **made)
        self._job("judge run 10", "finalizing", 70, request_total=800, request_completed=800, **made)
        self._job("wrong model", "in_progress", 30, cancel_requested_at=_ago(1), request_completed=1, **made)
        done = {"request_total": 2_000, "request_completed": 1_996, "request_failed": 4, "output_file_id": "file-1"}
        self._job("nightly evaluation", "completed", 60 * 25, **done, **made)
        self._job("long answers", "expired", 60 * 40, request_total=500, request_completed=350, **made)
        self._job("nightly evaluation", "cancelled", 60 * 49, **made)

    @staticmethod
    def _tell(
        job: Job, minutes: float, before: str, after: str, reason: str, message: str, source: str = "planner"
    ) -> None:
        job.event_count += 1
        JobEvent.objects.create(
            job=job,
            sequence=job.event_count,
            at=_ago(minutes),
            from_status=before,
            to_status=after,
            reason=reason,
            message=message,
            source=source,
        )
        Job.objects.filter(pk=job.pk).update(event_count=job.event_count)
