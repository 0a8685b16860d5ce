"""Holds and limits in the admin: edited by those with that right, with their author, and looked at by the workers."""

from __future__ import annotations

from typing import Any

import pytest
from django.test import Client

from jobs.models import OwnerQuota, Queue, QueueMessage
from tests.factories import make_user

pytestmark = pytest.mark.django_db

QUEUE = "/admin/jobs/queue/1/change/"
LIMITS = dict.fromkeys(("max_live", "max_provisioning", "max_live_accelerators", "max_provisioning_accelerators"), "")


@pytest.fixture
def queue() -> Queue:
    return Queue.objects.get_or_create(pk=1)[0]


def posted(user: Any, path: str, **fields: Any) -> int:
    client = Client()
    client.force_login(user)
    return client.post(path, {**LIMITS, "hold_reason": "", **fields}).status_code


def test_a_hold_and_its_end_are_written_with_their_author(queue: Queue) -> None:
    admin = make_user("superuser")
    assert posted(admin, QUEUE, hold="on", hold_reason="upgrade", max_live=4) == 302
    queue.refresh_from_db()
    assert (queue.hold, queue.hold_reason, queue.held_by, queue.max_live) == (True, "upgrade", admin.email, 4)
    held_at, other = queue.held_at, make_user("superuser")
    assert held_at is not None
    assert posted(other, QUEUE, hold="on", hold_reason="upgrade", max_live=5) == 302
    queue.refresh_from_db()
    assert (queue.held_by, queue.held_at, queue.max_live) == (admin.email, held_at, 5)
    assert posted(other, QUEUE, hold="on", hold_reason="a long upgrade") == 302
    queue.refresh_from_db()
    assert (queue.held_by, queue.held_at > held_at, queue.hold_reason) == (other.email, True, "a long upgrade")
    assert posted(admin, QUEUE, hold_reason="over") == 302
    queue.refresh_from_db()
    assert (queue.hold, queue.hold_reason, queue.held_by, queue.held_at) == (False, "", "", None)
    assert QueueMessage.objects.exists()


def test_a_quota_of_an_owner_is_made_and_found(queue: Queue) -> None:
    admin, owner = make_user("superuser"), make_user()
    assert posted(admin, "/admin/jobs/ownerquota/add/", owner=owner.pk, max_live_accelerators=16) == 302
    assert OwnerQuota.objects.get(owner=owner).max_live_accelerators == 16
    client = Client()
    client.force_login(admin)
    assert owner.username in client.get(f"/admin/jobs/ownerquota/?q={owner.username}").content.decode()


def test_operators_see_the_queue_and_change_no_limit(queue: Queue) -> None:
    operator = make_user("operator")
    client = Client()
    client.force_login(operator)
    assert client.get(QUEUE).status_code == 200
    assert posted(operator, QUEUE, max_live=1) == 403
    assert client.get("/admin/jobs/queue/add/").status_code == 403
    queue.refresh_from_db()
    assert queue.max_live is None
