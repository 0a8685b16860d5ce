"""The site's own addresses: where the short ones lead, and what is deliberately not there."""

from __future__ import annotations

from importlib import import_module

import pytest
from django.conf import settings
from django.contrib.contenttypes.models import ContentType
from django.core.checks import Tags, run_checks
from django.templatetags.static import static
from django.test import Client

from tests import factories


@pytest.mark.parametrize(("short", "full"), [("/", "/jobs/"), ("/jobs", "/jobs/"), ("/admin", "/admin/")])
def test_short_addresses_lead_to_the_pages(client: Client, short: str, full: str) -> None:
    answer = client.get(short)
    assert (answer.status_code, answer["Location"]) == (302, full)


@pytest.mark.django_db
@pytest.mark.parametrize("row", ["{type}/{pk}/", "{type}/no-uuid/", "{type}/", "7777777/1/"])
def test_the_admin_leads_to_no_row_on_the_site_whatever_its_key(client: Client, row: str) -> None:
    provision = factories.make_job(status="provisioning").provision
    client.force_login(factories.make_user("superuser"))
    given = {"type": ContentType.objects.get_for_model(provision).pk, "pk": provision.pk}
    assert client.get(f"/admin/r/{row.format(**given)}").status_code == 404


@pytest.mark.django_db
def test_the_admin_has_the_sites_icon(client: Client) -> None:
    client.force_login(factories.make_user("operator"))
    assert f'<link rel="icon" href="{static("jobs/icon.svg")}"' in client.get("/admin/").content.decode()


@pytest.mark.django_db
def test_the_messages_of_django_q_are_not_for_hands(client: Client) -> None:
    client.force_login(factories.make_user("superuser"))
    assert client.get("/admin/").status_code == 200
    assert client.get("/admin/django_q/failure/").status_code == 404
    assert client.get("/admin/django_q/schedule/").status_code == 404


def test_the_routes_load_the_admin_and_its_checks_have_nothing_to_say() -> None:
    import_module(settings.ROOT_URLCONF)
    assert run_checks(tags=[Tags.admin]) == []
