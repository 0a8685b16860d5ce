"""Where a job may run: what a pool must offer, and be, for a job to go there."""

from __future__ import annotations

from typing import Any

import pytest

from jobs.models import Pool
from jobs.placement import Wanted, queue_class

POOL = Pool(name="west", provider="runpod", region="us-west", accelerator_types=["H100"])


@pytest.mark.parametrize(
    ("offered", "wanted", "is_suited"),
    [([], "H100", True), (["H100"], "H100", True), (["A100"], "H100", False), (["A100"], "", True), ([], "", True)],
)
def test_a_pool_suits_by_its_accelerators(offered: list[str], wanted: str, is_suited: bool) -> None:
    assert Wanted(wanted).suits(Pool(accelerator_types=offered)) == is_suited


@pytest.mark.parametrize(
    ("accepts", "is_suited"),
    [
        ({}, True),
        ({"providers": ["runpod"], "pools": ["east", "west"], "regions": ["us-west"]}, True),
        ({"providers": ["kubernetes"]}, False),
        ({"pools": ["east"]}, False),
        ({"regions": ["eu"], "pools": ["west"]}, False),
    ],
)
def test_a_pool_suits_if_it_is_all_that_is_accepted(accepts: dict[str, list[str]], is_suited: bool) -> None:
    assert Wanted.of("H100", accepts).suits(POOL) == is_suited


def test_a_pool_that_tells_no_region_is_in_none() -> None:
    assert not Wanted.of("", {"regions": ["us-west"]}).suits(Pool(name="west"))


def test_jobs_that_accept_the_same_are_of_one_class_and_others_of_another() -> None:
    accepts: list[Any] = [None, {}, {"pools": ["a"]}, {"pools": ["a"], "regions": ["b"]}, {"regions": ["b"]}]
    names = [queue_class("H100", each) for each in accepts]
    assert names[0] == names[1] == "H100|"
    assert len(set(names)) == len(names) - 1
    assert queue_class("H100", {"regions": ["b"], "pools": ["a"]}) == names[3]
    assert max(map(len, names)) < 64, "short, whatever is accepted"
