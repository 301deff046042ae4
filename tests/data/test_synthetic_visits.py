"""The synthetic log of visits: seeded, and with a best ranking that simple ones stay behind."""

from __future__ import annotations

import json
from pathlib import Path

import pandas as pd
import pytest

from rechub_ray.data.synthetic_visits import write_visits
from rechub_ray.errors import ConfigError


def test_same_arguments_same_bytes(tmp_path: Path) -> None:
    for name, seed in {"a": 1, "b": 1, "c": 2}.items():
        write_visits(tmp_path / name, users=50, items=40, visits=5, seed=seed)
    a, b, c = ((tmp_path / name / "visits.csv").read_bytes() for name in "abc")
    assert a == b != c


def test_a_ranking_by_what_users_of_a_kind_had_is_far_behind_the_best(tmp_path: Path) -> None:
    written = write_visits(tmp_path, users=3000, items=200, visits=8)
    assert json.loads((tmp_path / "truth.json").read_text())["best"] == written.best
    log = pd.read_csv(tmp_path / "visits.csv")
    assert len(log) == written.rows == 3000 * 8
    assert log["time"].is_monotonic_increasing
    assert set(log["item"]) <= set(pd.read_csv(tmp_path / "items.csv")["item"])
    last = log.groupby("user").tail(1)
    earlier = log.drop(last.index)

    def recall(by: list[str]) -> float:
        counts = earlier.groupby([*by, "item"]).size().sort_values(ascending=False).reset_index(name="n")
        top = counts.groupby(by).head(10) if by else counts.head(10)
        return len(last.merge(top, on=[*by, "item"])) / len(last)

    popular, of_kind = recall([]), recall(["segment", "country"])
    assert popular < of_kind < written.best["recall@10"] - 0.03
    assert 0.2 < written.best["recall@10"] < 0.8
    assert written.best["mrr@10"] < written.best["ndcg@10"] < written.best["recall@10"]


def test_refusals(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="items >= 20"):
        write_visits(tmp_path, items=5)
