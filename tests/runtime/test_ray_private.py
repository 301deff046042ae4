"""Names of Ray that are not public: they exist in the pinned version, and a run or sweep survives that one is gone."""

from __future__ import annotations

import importlib
import logging
from typing import Any

import pytest
import ray

from rechub_ray.runtime import ray_private
from rechub_ray.runtime.ray_private import NAMES, find, noted_address
from rechub_ray.space import Space
from rechub_ray.sweeps.lost import losses_cost_one_trial
from rechub_ray.sweeps.schedulers import Pb2, Pbt, build


@pytest.mark.parametrize("name", NAMES)
def test_a_name_exists_in_the_pinned_version_and_says_what_it_is_for(name: str) -> None:
    assert find(name) is not None
    assert "without it" in NAMES[name]


def test_what_is_not_there_is_not_found() -> None:
    assert find("ray._private.nowhere:x") is None
    assert find("ray._private.services:nowhere") is None
    assert find("ray._private.services:find_bootstrap_address.nowhere") is None


@pytest.fixture
def without(monkeypatch: pytest.MonkeyPatch, request: pytest.FixtureRequest) -> str:
    """Takes a name away, as an update of Ray might."""
    module, _, path = request.param.partition(":")
    *owners, name = path.split(".")
    owner: Any = importlib.import_module(module)
    for part in owners:
        owner = getattr(owner, part)
    monkeypatch.delattr(owner, name)
    assert find(request.param) is None
    return str(request.param)


@pytest.mark.parametrize("without", NAMES, indirect=True)
@pytest.mark.parametrize("settings", [Pbt(), Pb2()], ids=["pbt", "pb2"])
def test_each_may_be_gone(
    without: str, settings: Pbt | Pb2, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert noted_address() is None or "find_bootstrap_address" not in without
    with losses_cost_one_trial(), ray_private.quiet():
        pass
    space = Space.parse({"lr": {"uniform": [0.1, 1.0]}})
    with caplog.at_level(logging.WARNING):
        scheduler = build(settings, space, epochs=3, takes_turns=False, exploited=lambda exploit: None)
    is_fifo = type(scheduler) is ray.tune.schedulers.FIFOScheduler
    assert is_fifo == without.startswith("ray.tune.schedulers.pbt:")
    assert ("exchange no weights" in caplog.text) == is_fifo


def test_state_of_a_population_that_is_gone_means_fifo(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ray_private, "_POPULATION_STATE", ("_trial_state", "_renamed"))
    space = Space.parse({"lr": {"uniform": [0.1, 1.0]}})
    scheduler = build(Pbt(), space, epochs=3, takes_turns=False, exploited=lambda exploit: None)
    assert type(scheduler) is ray.tune.schedulers.FIFOScheduler


def test_errors_of_trials_are_translated_only_meanwhile() -> None:
    manager = find("ray.air.execution._internal.actor_manager:RayActorManager")
    before = manager._actor_task_failed
    with ray_private.task_failures_as(lambda error: error):
        assert manager._actor_task_failed is not before
    assert manager._actor_task_failed is before
