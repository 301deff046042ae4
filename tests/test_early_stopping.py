"""Early stopping against a plain reading of its definition."""

from __future__ import annotations

import json
import math
from typing import Literal

import pytest
from hypothesis import given
from hypothesis import strategies as st

from rechub_ray.early_stopping import EarlyStopper
from rechub_ray.runtime.doubts import of_scores

SCORES = st.lists(st.one_of(st.floats(-2, 2), st.just(math.nan)), max_size=30)


def expected(scores: list[float], mode: str, patience: int, min_delta: float) -> tuple[int | None, int | None]:
    """Index of the best score and of the one that says stop, looked up over the whole history at every step."""
    best, stop, without = None, None, 0
    for i, score in enumerate(scores):
        if math.isnan(score):
            continue
        gain = score - scores[best] if best is not None else math.inf
        gain = -gain if mode == "min" and best is not None else gain
        best, without = (i, 0) if gain > min_delta else (best, without + 1)
        if stop is None and without >= patience:
            stop = i
    return best, stop


@given(SCORES, st.sampled_from(["max", "min"]), st.integers(1, 4), st.floats(0, 1))
def test_against_the_definition(scores: list[float], mode: Literal["max", "min"], patience: int, delta: float) -> None:
    stopper = EarlyStopper(metric="m", mode=mode, patience=patience, min_delta=delta)
    stop = None
    for i, score in enumerate(scores):
        stopper.observe(score, step=i, metrics={"m": score})
        if stop is None and stopper.should_stop:
            stop = i
    assert (stopper.best_step, stop) == expected(scores, mode, patience, delta)


@pytest.mark.parametrize("mode", ["max", "min"])
def test_what_is_not_defined_is_passed_over(mode: Literal["max", "min"]) -> None:
    stopper = EarlyStopper(metric="m", mode=mode, patience=2)
    assert not stopper.observe(math.nan, step=0, metrics={})
    assert stopper.observe(0.5, step=1, metrics={"m": 0.5})
    for step in range(2, 9):
        assert not stopper.observe(math.nan, step=step, metrics={})
    assert not stopper.observe(0.5, step=9, metrics={})
    assert not stopper.should_stop
    assert not stopper.observe(0.4 if mode == "max" else 0.6, step=10, metrics={})
    assert stopper.should_stop
    assert (stopper.best_score, stopper.best_step, stopper.best_metrics) == (0.5, 1, {"m": 0.5})


def test_without_patience_it_never_stops() -> None:
    stopper = EarlyStopper(metric="m", mode="max")
    for step in range(50):
        stopper.observe(-step, step=step, metrics={})
    assert not stopper.should_stop


@given(SCORES.filter(len), st.integers(0, 29))
def test_state_through_json_goes_on_as_if_never_saved(scores: list[float], cut: int) -> None:
    whole, part = (EarlyStopper(metric="m", mode="max", patience=3, min_delta=0.1) for _ in range(2))
    for i, score in enumerate(scores):
        if i == cut:
            state = json.loads(json.dumps(part.state_dict()))
            part = EarlyStopper(metric="m", mode="max", patience=3, min_delta=0.1)
            part.load_state_dict(state)
        assert part.observe(score, step=i, metrics={}) == whole.observe(score, step=i, metrics={})
        assert part.should_stop == whole.should_stop


def test_the_state_of_another_metric_is_left_out() -> None:
    old = EarlyStopper(metric="log_loss", mode="min", patience=1)
    old.observe(0.3, step=5, metrics={"log_loss": 0.3})
    new = EarlyStopper(metric="auc", mode="max", patience=1)
    new.load_state_dict(old.state_dict())
    new.load_state_dict({})
    assert new.best_score is None
    assert new.observe(0.2, step=6, metrics={})


def test_a_metric_that_is_null_in_a_file_is_not_defined() -> None:
    stopper = EarlyStopper(metric="auc", mode="max")
    state = {**stopper.state_dict(), "best_score": 0.7, "best_step": 5, "best_metrics": {"auc": 0.7, "xauc": None}}
    stopper.load_state_dict(state)
    assert math.isnan(stopper.best_metrics["xauc"])
    assert of_scores(stopper.best_metrics) == []
