"""Many jobs at once, on workers as they run in production, against the real MDS."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from jobs.models import Job, Pool
from jobs.provisioners.simulated_server import SimulatedServer
from planner_site.metadata_service import MetadataService
from tests.workers import Installation

pytestmark = [pytest.mark.processes, pytest.mark.mds]

MANY = 200


@pytest.fixture
def own_mds(tmp_path: Path) -> Iterator[str]:
    """An MDS that is empty at the start of the test."""
    service = MetadataService(tmp_path / "mds")
    try:
        service.wait_until_up()
        yield service.url
    finally:
        service.stop()


@pytest.fixture
def installation(
    child_environment: dict[str, str], simulated_server: SimulatedServer, own_mds: str, tmp_path: Path
) -> Iterator[Installation]:
    installation = Installation(child_environment, simulated_server, own_mds, tmp_path)
    try:
        yield installation
    finally:
        installation.stop()


def test_200_jobs_enqueued_at_once_all_complete(installation: Installation) -> None:
    """On two hosts, with the times of production: the MDS takes a few batches a second, so some creates wait."""
    Pool.objects.update(max_live=50, max_provisioning=20)
    file_id = installation.upload(3)
    jobs = [installation.enqueue(file_id) for _ in range(MANY)]
    for _ in range(2):
        installation.start_host(workers=2, DJANGO_SETTINGS_MODULE="planner_site.settings", DJANGO_HTTPS="0")
    installation.check_completed(jobs, timeout=300)
    assert len(installation.batches()) == MANY, "none was cancelled either"
    assert Job.objects.filter(attempt=1).count() == MANY
    assert installation.provider.stats()["bill"]["objects_created"] == MANY
