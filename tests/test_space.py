"""The space: what is drawn, what a grid holds, what a point sets, and what a user may write wrong."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from rechub_ray.errors import ConfigError
from rechub_ray.space import Space

RAW: dict[str, Any] = {
    "optimizers.0.lr": {"loguniform": [1e-4, 1e-1]},
    "model": {
        "choice": [
            "lr",
            {"name": "fm", "space": {"embedding_dim": {"choice": [4, 8]}}},
            {"name": "deepfm", "hidden_units": [8], "space": {"dropout": {"uniform": [0.0, 0.5]}}},
        ]
    },
    "train.clip_norm": {"quniform": [1, 3, 0.5]},
    "data.batch_size": {"randint": [64, 67]},
}


def test_draws_follow_their_distributions() -> None:
    space = Space.parse(RAW)
    points = [space.sample(np.random.default_rng([1, k])) for k in range(3000)]
    logs = np.log10([p["optimizers.0.lr"] for p in points])
    assert logs.min() >= -4
    assert logs.max() <= -1
    assert abs(logs.mean() + 2.5) < 0.05
    assert abs(logs.std() - 3 / np.sqrt(12)) < 0.05
    assert {p["train.clip_norm"] for p in points} == {1.0, 1.5, 2.0, 2.5, 3.0}
    assert {p["data.batch_size"] for p in points} == {64, 65, 66}
    drops = np.array([p[next(k for k in p if k.endswith(".dropout"))] for p in points])
    assert abs(drops.mean() - 0.25) < 0.02
    counts = [sum(p["model"] == label for p in points) for label in dict.fromkeys(p["model"] for p in points)]
    assert len(counts) == 3
    assert min(counts) > 900


def test_a_point_sets_only_what_belongs_to_the_chosen_component() -> None:
    space = Space.parse(RAW)
    fm = space.encode(
        {"optimizers.0.lr": 0.01, "model": "fm", "model.embedding_dim": 8, "train.clip_norm": 2, "data.batch_size": 65},
        where="here",
    )
    assert space.overrides(fm) == {
        "optimizers.0.lr": 0.01,
        "model": {"name": "fm"},
        "model.embedding_dim": 8,
        "train.clip_norm": 2,
        "data.batch_size": 65,
    }
    assert space.params(fm)["model"] == "fm"


def test_a_grid_holds_each_combination_once() -> None:
    space = Space.parse({"seed": {"grid": [1, 2]}, "model": {"choice": RAW["model"]["choice"][:2]}})
    found = [space.overrides(p) for p in space.grid()]
    assert len(found) == 6  # 2 seeds x (lr, fm with 4, fm with 8)
    assert {"seed": 2, "model": {"name": "fm"}, "model.embedding_dim": 4} in found
    assert {"seed": 1, "model": "lr"} in found


def test_grids_of_a_random_search_take_turns() -> None:
    space = Space.parse({**RAW, "seed": {"grid": [1, 2, 3]}, "train.epochs": {"grid": [5, 6]}})
    points = [space.sample(np.random.default_rng([1, k]), turn=k) for k in range(12)]
    assert [(p["seed"], p["train.epochs"]) for p in points] == [(s, e) for s in (1, 2, 3) for e in (5, 6)] * 2
    assert len({p["optimizers.0.lr"] for p in points}) == 12


def test_a_whole_number_is_a_number_like_any_other() -> None:
    space = Space.parse({"dropout": {"uniform": [0, 1]}, "units": {"randint": [1, 4]}})
    point = space.encode({"dropout": 0, "units": 2}, where="points_to_evaluate.0")
    assert {key: (type(value), value) for key, value in point.items()} == {"dropout": (float, 0.0), "units": (int, 2)}


@pytest.mark.parametrize(
    ("raw", "message"),
    [
        ({}, "empty"),
        ({"seed": {"unform": [1, 2]}}, "uniform"),
        ({"seed": {"uniform": [2, 1]}}, "low < high"),
        ({"seed": {"loguniform": [0, 1]}}, "> 0"),
        ({"seed": {"quniform": [0, 1]}}, "step"),
        ({"seed": {"randint": [0.5, 2]}}, "whole numbers"),
        ({"seed": {"choice": []}}, "list of values"),
        ({"seed": {"choice": [1, 1]}}, "twice"),
        ({"seed": 3}, "one of"),
        ({"model": {"choice": ["lr"]}, "model.dropout": {"uniform": [0, 1]}}, "varies as a whole"),
    ],
)
def test_mistakes_name_the_place(raw: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        Space.parse(raw)


@pytest.mark.parametrize(
    ("params", "message"),
    [
        ({"a": 0.5, "b": 1, "c": 1}, "not in the space"),
        ({"a": 2.0, "b": 1}, "not in its range"),
        ({"a": 0.5}, "no value for 'b'"),
        ({"a": 0.5, "b": 3}, "no such option"),
    ],
)
def test_points_to_evaluate_must_lie_in_the_space(params: dict[str, Any], message: str) -> None:
    space = Space.parse({"a": {"uniform": [0, 1]}, "b": {"choice": [1, 2]}})
    with pytest.raises(ConfigError, match=message):
        space.encode(params, where="points_to_evaluate.0")
