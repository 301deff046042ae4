"""The benchmark of models for retrieval goes on where it was."""

from __future__ import annotations

import types
from pathlib import Path
from typing import Any

import pytest

from benchmarks import matching
from benchmarks.settings import Settings
from rechub_ray import config as config_module
from rechub_ray.defaults import resolved
from tests.small_retrieval import SCHEMA


def test_an_interrupted_benchmark_trains_only_what_is_missing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    settings, trained, limit = Settings(work=tmp_path), list[str](), 7

    def run_training(settings: Settings, name: str, given: dict[str, Any]) -> Any:
        if len(trained) == limit:
            raise SystemExit("killed")
        trained.append(name)
        return types.SimpleNamespace(test_metrics=dict.fromkeys(matching.COLUMNS.values(), given["seed"] / 10_000))

    monkeypatch.setattr(matching, "prepared", lambda settings: tmp_path)
    monkeypatch.setattr(matching, "run_training", run_training)
    monkeypatch.setattr(matching, "AT_ONCE", 1)
    with pytest.raises(SystemExit, match="killed"):
        matching.run(settings)
    before, limit = set(trained), 1000
    assert len(before) == 7
    result = matching.run(settings)
    assert len(trained) == len(set(trained)) == len(result["cells"]) == 3 * len(matching.MODELS)
    assert "| MIND | 3 | 0.2027 (0.0002) |" in matching.table(result)


@pytest.mark.parametrize("model", matching.MODELS)
def test_its_configurations_fit(model: str) -> None:
    given = config_module.load(matching.config(Path("data"), model, seed=1))
    given = given.model_copy(update={"metrics": None, "train": given.train.model_copy(update={"early_stopping": None})})
    assert resolved(given, SCHEMA).losses
    assert (len(given.optimizers) == 1) == (model == "MF")
