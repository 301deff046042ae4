"""Optuna's model and the numbering of trials, without Ray's processes."""

from __future__ import annotations

import math
from typing import Any

import pytest

from rechub_ray.space import Point, Space
from rechub_ray.sweeps.objectives import Objective
from rechub_ray.sweeps.search import OptunaModel, numbered

pytest.importorskip("optuna")

SPACE = Space.parse(
    {
        "lr": {"loguniform": [1e-4, 1.0]},
        "model": {
            "choice": [
                {"name": "a", "space": {"depth": {"randint": [1, 9]}, "width": {"quniform": [0.5, 4, 0.25]}}},
                {"name": "b", "space": {"depth": {"choice": [[1], [2, 2]]}}},
                "c",
            ]
        },
    }
)
AUC, SIZE = Objective(metric="auc", mode="max"), Objective(metric="num_parameters", mode="min")


def score(point: Point) -> float:
    """Best at model a, depth 6 and lr 0.01."""
    gain = {"a": -0.02 * abs(point.get("model=a.depth", 0) - 6), "b": -0.2, "c": -0.3}[point["model"]]
    return 1 + gain - 0.1 * (math.log10(point["lr"]) + 2) ** 2


def size(point: Point) -> float:
    return {"a": 100 * point.get("model=a.depth", 0), "b": 50, "c": 10}[point["model"]]


def model(*objectives: Objective, seed: int = 1) -> OptunaModel:
    return OptunaModel(SPACE, objectives, initial_points=10, seed=seed)


def run(found: OptunaModel, trials: int) -> list[Point]:
    points = []
    for number in range(trials):
        points.append(found.suggest(str(number)))
        result = {"val/auc": score(points[-1]), "num_parameters": size(points[-1])}
        found.on_trial_complete(str(number), result=result)
    return points


def test_only_what_counts_is_asked_for() -> None:
    points = run(model(AUC), 40)
    for point in points:
        assert set(point) == {v.name for v in SPACE.active(point)}
        assert SPACE.overrides(point).keys() == {v.path for v in SPACE.active(point)}
    widths = {point["model=a.width"] for point in points if point["model"] == "a"}
    assert widths <= {0.25 * k for k in range(2, 17)}


def test_the_model_learns() -> None:
    found = run(model(AUC), 60)
    assert sum(map(score, found[40:])) / 20 > sum(map(score, found[:10])) / 10 + 0.1
    assert max(map(score, found)) > 0.95


def test_several_objectives_are_followed_to_both_ends() -> None:
    found = run(model(AUC, SIZE), 80)
    late = found[30:]
    assert max(score(p) for p in late if p["model"] == "a") > 0.93
    assert max(score(p) for p in late if p["model"] == "c") > 0.67


def test_what_it_is_told_of_counts_as_if_it_had_asked() -> None:
    fresh, told = model(AUC, SIZE), model(AUC, SIZE)
    for point in run(fresh, 30):
        told.add(point, [score(point), size(point)])
    variables = {v.name: v for v in SPACE.variables}
    asked, added = fresh._study.trials, told._study.trials
    for mine, other in zip(asked, added, strict=True):
        rounded = {name: variables[name].clip(value) for name, value in mine.params.items()}
        assert (rounded, mine.values, mine.distributions) == (other.params, other.values, other.distributions)


def test_numbered_counts_a_trial_by_its_best_evaluation() -> None:
    pytest.importorskip("ray")
    inner = model(AUC, SIZE)

    def opened(point: Point) -> dict[str, Any]:
        return {**point, "_trial": "x"}

    planned = {"lr": 0.5, "model": "c", "model=a.depth": 3, "_trial": "p", "_seed": 0}
    search = numbered([planned], inner, 3, opened, objectives=[AUC, SIZE])
    assert search.suggest("ray0") == planned
    for at, auc in enumerate((0.6, 0.8, 0.7)):
        result = {"score": auc, "val/auc": auc, "num_parameters": 10}
        search.on_trial_result("ray0", result) if at < 2 else search.on_trial_complete("ray0", result=result)
    assert search.suggest("ray1")["_trial"] == "x"
    search.on_trial_complete("ray1", result={"score": 0.4, "val/auc": 0.4, "num_parameters": 7})  # stopped at once
    search.suggest("ray2")
    search.on_trial_complete("ray2", error=True)
    assert search.suggest("ray3") == "FINISHED"
    trials = inner._study.trials
    assert [t.state.name for t in trials] == ["COMPLETE", "COMPLETE", "FAIL"]
    assert [t.values for t in trials] == [[0.8, 10], [0.4, 7], None]
    assert trials[0].params == {"lr": 0.5, "model": "c"}  # a planned point is told when its trial ends
