"""The alert rules against the figures there are: a rule about a name that nobody writes never fires."""

from __future__ import annotations

import re
from typing import Any

import pytest
import yaml
from prometheus_client.metrics import MetricWrapperBase

from jobs import metrics, statuses
from jobs.collector import DatabaseCollector
from jobs.errors import UpstreamKind
from jobs.models import Worker
from tests.documentation import DOCS
from tests.engine import long_ago
from tests.factories import make_pool

SUFFIXES = {"histogram": ("_bucket", "_sum", "_count"), "counter": ("_total",), "gauge": ("",)}
SPAN = re.compile(r"\d+[smhd]")


def rules() -> list[dict[str, Any]]:
    read = yaml.safe_load((DOCS / "operations" / "alerts.yml").read_text())
    assert read.keys() == {"groups"}
    assert all(group.keys() == {"name", "rules"} for group in read["groups"])
    return [rule for group in read["groups"] for rule in group["rules"]]


def names(expression: str) -> set[str]:
    return set(re.findall(r"planner_\w+", expression))


def written() -> dict[str, set[str]]:
    """Every name of a sample, with the labels it bears."""
    found: dict[str, set[str]] = {}
    counted = [each for each in vars(metrics).values() if isinstance(each, MetricWrapperBase)]
    for metric in counted:
        for suffix in SUFFIXES[metric._type]:
            found[metric._name + suffix] = {*metric._labelnames, "le"}
    for family in DatabaseCollector().collect():
        assert family.type == "gauge"
        found[family.name] = {label for sample in family.samples for label in sample.labels}
    return found


@pytest.mark.django_db
def test_every_figure_of_a_rule_is_written_by_somebody_with_these_labels() -> None:
    make_pool()
    Worker.objects.create(host="h", pid=7, pass_started_at=long_ago(100), beat_at=long_ago(100))
    known = written()
    for rule in rules():
        figures = names(rule["expr"])
        assert figures <= known.keys(), rule["alert"]
        labels = {label for group in re.findall(r"by \(([^)]*)\)", rule["expr"]) for label in group.split(", ")}
        labels |= set(re.findall(r"(\w+)\s*(?:=~|!~|!=|=)\s*\"", rule["expr"]))
        assert labels <= set.union(*(known[name] for name in figures)), rule["alert"]
        assert set(re.findall(r"\$labels\.(\w+)", str(rule["annotations"]))) <= labels, rule["alert"]


def test_a_rule_is_built_as_prometheus_reads_it() -> None:
    needed = {"alert", "expr", "labels", "annotations"}
    seen = set()
    for rule in rules():
        assert needed <= rule.keys() <= needed | {"for"}
        assert re.fullmatch(r"Planner[A-Za-z]+", rule["alert"])
        assert SPAN.fullmatch(rule.get("for", "0s"))
        assert rule["labels"]["severity"] in {"page", "ticket"}
        assert all(SPAN.fullmatch(span) for span in re.findall(r"\[(.*?)\]", rule["expr"]))
        for opening, closing in ("()", "[]", "{}"):
            assert rule["expr"].count(opening) == rule["expr"].count(closing)
        assert names(rule["expr"])
        seen.add(rule["alert"])
    assert len(seen) == len(rules())


def test_the_values_of_labels_are_words_that_exist() -> None:
    words = {
        "status": {*statuses.JobStatus.values, "5.."},
        "to_status": set(statuses.JobStatus.values),
        "error": {kind.value for kind in UpstreamKind} | {"defect"},
        "route": {"/readyz"},
    }
    used = [pair for rule in rules() for pair in re.findall(r'(\w+)\s*(?:=~|!~|!=|=)\s*"([^"]*)"', rule["expr"])]
    assert used
    assert [(label, values) for label, values in used if not set(values.split("|")) <= words[label]] == []


def test_every_alert_leads_to_its_place_in_the_run_book() -> None:
    headings = re.findall(r"^#+ (.*)$", (DOCS / "operations.md").read_text(), flags=re.MULTILINE)
    anchors = {f"docs/operations.md#{heading.lower().replace(' ', '-')}" for heading in headings}
    assert sorted({rule["annotations"]["runbook"] for rule in rules()} - anchors) == []
