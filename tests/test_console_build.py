"""A console build at `/`: its files, its own routes, and nothing that is the planner's."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from django.test import Client

from planner_site.checks import check_console
from tests.api_client import assert_refused
from tests.factories import make_user

INDEX = b"<!doctype html><title>Console</title><div id=root></div>"
SCRIPT = "/assets/index-BxQ2f9a1.js"


@pytest.fixture
def build(tmp_path: Path, settings: Any) -> Path:
    """A build as a bundler leaves it, with folders that are named like the planner's own paths."""
    folder = tmp_path / "dist"
    files = {
        "index.html": INDEX,
        SCRIPT[1:]: b"console.log(1)",
        "assets/logo.svg": b"<svg/>",
        "apple-touch-icon.png": b"png",
        **{f"{name}/trap": b"a trap" for name in ("api", "api/v1", "v1", "admin", "jobs", "static")},
        "healthz": b"a trap",
    }
    for name, content in files.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_bytes(content)
    (tmp_path / "secret").write_bytes(b"a secret")
    settings.PLANNER_CONSOLE_DIST = str(folder)
    return folder


def body(response: Any) -> bytes:
    content: bytes = response.getvalue()
    return content


@pytest.mark.usefixtures("build")
@pytest.mark.parametrize(
    "path", ["/", "/index.html", "/batch", "/batch/new", "/batch/job_1", "/settings/x", "/apikeys", "/assets/gone.js"]
)
def test_what_the_console_routes_is_its_index(path: str) -> None:
    response = Client().get(path)
    assert (response.status_code, body(response)) == (200, INDEX)
    assert response["Content-Type"].startswith("text/html")
    assert response["Cache-Control"] == "no-cache"
    again = Client().get(path, headers={"If-None-Match": response["ETag"]})
    assert (again.status_code, body(again)) == (304, b"")


@pytest.mark.usefixtures("build")
@pytest.mark.parametrize(
    ("path", "kind", "is_kept"),
    [
        (SCRIPT, "text/javascript", True),
        ("/assets/logo.svg", "image/svg+xml", False),
        ("/apple-touch-icon.png", "image/png", False),
    ],
)
def test_a_file_is_itself_and_kept_for_long_if_its_name_tells_its_content(path: str, kind: str, is_kept: bool) -> None:
    response = Client().get(path)
    assert response.status_code == 200
    assert body(response) != INDEX
    assert response["Content-Type"].startswith(kind)
    assert ("immutable" in response["Cache-Control"]) == is_kept
    assert "Access-Control-Allow-Origin" not in response
    head = Client().head(path)
    assert (head.status_code, body(head)) == (200, b"")


@pytest.mark.usefixtures("build")
@pytest.mark.parametrize("path", ["/api/trap", "/api/v1/trap", "/api", "/api/", "/api/v1/nope"])
@pytest.mark.parametrize("method", ["get", "post"])
def test_the_api_answers_for_itself(path: str, method: str) -> None:
    assert_refused(getattr(Client(), method)(path), 404, 5)


@pytest.mark.django_db
@pytest.mark.usefixtures("build")
@pytest.mark.parametrize("path", ["/jobs/trap", "/jobs/a/b/c", "/admin/trap", "/static/trap", "/v1/trap", "/metrics/x"])
def test_what_is_the_planners_is_never_the_consoles(path: str) -> None:
    client = Client()
    client.force_login(make_user("superuser"))
    response = client.get(path)
    assert response.status_code == 404
    assert INDEX not in response.content


@pytest.mark.django_db
@pytest.mark.usefixtures("build")
def test_the_pages_stay_where_they_are() -> None:
    client = Client()
    client.force_login(make_user("superuser"))
    assert [client.get(path).status_code for path in ("/jobs/", "/admin/", "/healthz")] == [200, 200, 200]
    assert client.get("/healthz").json() == {"status": "ok"}


@pytest.mark.usefixtures("build")
@pytest.mark.parametrize(
    "path",
    ["/../secret", "/%2e%2e/secret", "/..%2fsecret", "/assets/../../secret", "/assets/..\\..\\secret", "//etc/passwd"],
)
def test_no_path_leads_out_of_the_folder(path: str) -> None:
    assert body(Client().get(path)) == INDEX


@pytest.mark.usefixtures("build")
def test_a_console_is_read_only() -> None:
    assert Client().post("/batch").status_code == 405


def test_without_a_build_there_is_none() -> None:
    assert Client().get("/")["Location"] == "/jobs/"
    assert Client().get("/batch").status_code == 404
    assert check_console() == []


def test_a_build_that_is_not_there_is_refused_at_the_start(build: Path, settings: Any) -> None:
    assert check_console() == []
    (build / "index.html").unlink()
    [problem] = check_console()
    assert (problem.id, str(build) in problem.msg) == ("planner.E004", True)
    assert "index.html" in str(problem.hint)
    settings.PLANNER_CONSOLE_DIST = str(build / "nowhere")
    assert [problem.id for problem in check_console()] == ["planner.E004"]
