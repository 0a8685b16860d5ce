"""Who sees what: what somebody may not see does not exist for them. And the roles that say so."""

from __future__ import annotations

from typing import Any

import pytest
from django.apps import apps
from django.contrib.auth.models import Group
from django.db import connection
from django.db.models.signals import post_migrate
from django.test.utils import CaptureQueriesContext

from jobs import planner
from jobs.errors import NotFound
from jobs.roles import ROLES
from tests.factories import make_job, make_provision, make_user

pytestmark = pytest.mark.django_db


def test_it_works() -> None:
    job, other = make_job(), make_job()
    assert list(planner.visible_jobs(job.owner)) == [job]
    assert planner.get_job(job.owner, job.pk) == job
    with pytest.raises(NotFound, match=f'^job "{other.pk}" not found$'):
        planner.get_job(job.owner, other.pk)


@pytest.mark.parametrize("role", ["viewer", "operator", "superuser"])
def test_viewers_and_operators_see_everybodys_jobs_and_provisions(role: str) -> None:
    user, provision = make_user(role), make_provision()
    make_job()
    assert planner.visible_jobs(user).count() == 2
    assert planner.get_provision(user, str(provision.pk)) == provision
    assert list(planner.visible_provisions(user)) == [provision]


def test_a_provision_is_seen_by_its_jobs_owner_only() -> None:
    provision = make_provision()
    assert planner.get_provision(provision.job.owner, str(provision.pk)) == provision
    with pytest.raises(NotFound):
        planner.get_provision(make_user(), str(provision.pk))
    assert not planner.visible_provisions(make_user()).exists()


@pytest.mark.parametrize(
    ("role", "expected"), [("submitter", False), ("viewer", False), ("operator", True), ("superuser", True)]
)
def test_others_jobs_are_cancelled_by_operators_only(role: str, expected: bool) -> None:
    assert planner.can_cancel(make_user(role), make_job()) is expected


def test_everybody_may_cancel_their_own_job() -> None:
    user = make_user("")
    assert planner.can_cancel(user, make_job(user))


def test_a_list_of_jobs_needs_no_query_per_row() -> None:
    user = make_user("viewer")
    for _ in range(3):
        make_provision()
    list(planner.visible_jobs(user))  # asks for the permissions
    with CaptureQueriesContext(
        connection,
    ) as queries:
        names = [(job.pool.name, job.provision.pool.name) for job in planner.visible_jobs(user)]
    assert (len(names), len(queries)) == (3, 1)


def test_roles_hold_their_permissions() -> None:
    for role, codenames in ROLES.items():
        held = Group.objects.get(name=role).permissions.values_list("codename", flat=True)
        assert sorted(held) == sorted(codenames), role


@pytest.mark.parametrize("role", ROLES)
def test_only_superusers_write_off(role: str) -> None:
    assert not make_user(role).has_perm("jobs.write_off_provision")
    assert make_user("superuser").has_perm("jobs.write_off_provision")


def test_another_migrate_makes_roles_whole_and_keeps_what_was_added() -> None:
    Group.objects.get(name="viewer").delete()
    operator = Group.objects.get(name="operator")
    operator.permissions.remove(operator.permissions.get(codename="cancel_any_job"))
    extra = {"codename": "add_user", "content_type__app_label": "auth"}
    operator.permissions.add(operator.permissions.model.objects.get(**extra))

    def migrated() -> Any:
        config = apps.get_app_config("jobs")
        return post_migrate.send(sender=config, app_config=config, verbosity=0, interactive=False, using="default")

    migrated()
    migrated()
    assert make_user("viewer").has_perm("jobs.view_all_jobs")
    held = set(operator.permissions.values_list("codename", flat=True))
    assert held == {*ROLES["operator"], "add_user"}
