"""The benchmark of models of sequences goes on where it was, and its configurations are whole."""

from __future__ import annotations

import types
from pathlib import Path
from typing import Any

import pytest

from benchmarks import sequential, sequential_speed
from benchmarks.settings import Settings
from rechub_ray import config as config_module
from rechub_ray.defaults import resolved
from tests.small_sequences import SCHEMA


def test_an_interrupted_benchmark_trains_only_what_is_missing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    settings, trained, limit = Settings(work=tmp_path), list[str](), 4

    def run_training(settings: Settings, name: str, given: dict[str, Any], *, go_on: bool) -> Any:
        if len(trained) == limit:
            raise SystemExit("killed")
        trained.append(name)
        return types.SimpleNamespace(test_metrics=dict.fromkeys(sequential.COLUMNS.values(), given["seed"] / 100_000))

    monkeypatch.setattr(sequential, "prepared", lambda settings: tmp_path)
    monkeypatch.setattr(sequential, "run_training", run_training)
    monkeypatch.setattr(sequential, "AT_ONCE", 1)
    with pytest.raises(SystemExit, match="killed"):
        sequential.run(settings)
    before, limit = set(trained), 1000
    assert len(before) == 4
    result = sequential.run(settings)
    assert len(trained) == len(set(trained)) == len(result["cells"]) == 3 * len(sequential.MODELS)
    assert "| GRU4Rec | 3 | 0.0203 (0.0000) |" in sequential.table(result)
    assert "| SASRec, published (TIGER) | | 0.0387 | 0.0249 | 0.0605 | 0.0318 |" in sequential.table(result)


@pytest.mark.parametrize("model", sequential.MODELS)
def test_its_configurations_fit(model: str) -> None:
    given = config_module.load(sequential.config(Path("data"), model, seed=1))
    assert given.data.train == "windows"
    assert given.train.early_stopping is not None
    given = given.model_copy(update={"metrics": None, "train": given.train.model_copy(update={"early_stopping": None})})
    assert resolved(given, SCHEMA).losses


def test_without_the_data_it_is_left_out(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("RECHUB_DATA", str(tmp_path))
    for benchmark in (sequential, sequential_speed):
        assert (
            benchmark.table(benchmark.run(Settings(work=tmp_path)))
            == "Left out: set RECHUB_DATA to a folder with amazon-beauty."
        )
