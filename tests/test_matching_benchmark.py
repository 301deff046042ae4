"""The benchmark of models for retrieval goes on where it was."""

from __future__ import annotations

import types
from pathlib import Path
from typing import Any

import pytest

from benchmarks import matching, matching_protocol
from benchmarks.settings import Settings
from rechub_ray import config as config_module
from rechub_ray.defaults import resolved
from tests.small_retrieval import SCHEMA


def test_an_interrupted_benchmark_trains_only_what_is_missing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    settings, trained, limit = Settings(work=tmp_path), list[str](), 7

    def run_training(settings: Settings, name: str, given: dict[str, Any], *, go_on: bool) -> Any:
        if len(trained) == limit:
            raise SystemExit("killed")
        trained.append(name)
        keys = {**matching.ALL, **matching.GIVEN}.values()
        return types.SimpleNamespace(test_metrics=dict.fromkeys(keys, given["seed"] / 10_000))

    monkeypatch.setattr(matching, "prepared", lambda settings, data: tmp_path)
    monkeypatch.setattr(matching, "run_training", run_training)
    monkeypatch.setattr(matching, "AT_ONCE", 1)
    with pytest.raises(SystemExit, match="killed"):
        matching.run(settings)
    before, limit = set(trained), 1000
    assert len(before) == 7
    result = matching.run(settings)
    every = 3 * sum(len(data.models) + len(data.own) for data in matching.DATA.values())
    assert len(trained) == len(set(trained)) == len(result["cells"]) == every
    assert "| MIND | 3 | 0.2027 (0.0002) | 0.2027 (0.0002) |" in matching.table(result)
    some = {name: cell for name, cell in result["cells"].items() if name == "Amazon Beauty, MIND, 2026"}
    part = matching.table({**result, "cells": some})
    assert "| MIND | 1 | 0.2026 | 0.2026 |" in part
    assert "SINE" not in part
    monkeypatch.setitem(matching.DATA["Amazon Beauty"].models, "MIND", {"name": "mind", "embedding_dim": 32})
    trained.clear()
    matching.run(settings)
    assert sorted(trained) == [f"amazon-beauty-MIND-{seed}" for seed in matching.SEEDS]
    monkeypatch.setattr(matching, "prepared", lambda settings, data: None)
    assert "Amazon Beauty is left out" in matching.table(matching.run(settings))


@pytest.mark.parametrize("data", matching.DATA.values(), ids=lambda data: data.folder)
def test_its_configurations_fit(data: matching.Data) -> None:
    for model in (*data.models, *data.own):
        given = config_module.load(matching.config(Path("data"), data, model, seed=1))
        assert (len(given.optimizers) == 1) == (model in ("MF", *data.own))
        early = given.train.model_copy(update={"early_stopping": config_module.EarlyStopping()})
        assert resolved(given.model_copy(update={"metrics": None, "train": early}), SCHEMA).losses


def test_torch_rechubs_protocol_goes_on_where_it_was(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    settings, ran, limit = Settings(work=tmp_path), list[str](), 4

    def answer(settings: Settings, command: list[str], *, name: str) -> dict[str, float]:
        if len(ran) == limit:
            raise SystemExit("killed")
        ran.append(name)
        hits = 0.3 if command[1] == "ours" else 0.2
        return {"hit@10": hits, "hit@100": 2 * hits, "seconds": 7.0, "items": 3000.0}

    (tmp_path / "ml-1m").mkdir()
    (tmp_path / "ml-1m" / "ratings.csv.gz").touch()
    monkeypatch.setenv("RECHUB_DATA", str(tmp_path))
    monkeypatch.setattr(matching_protocol, "answer", answer)
    monkeypatch.setattr(matching_protocol, "missing_torch_rechub", lambda: None)
    with pytest.raises(SystemExit, match="killed"):
        matching_protocol.run(settings)
    limit = 1000
    result = matching_protocol.run(settings)
    assert len(ran) == len(set(ran)) == len(result["cells"]) == 18
    lines = matching_protocol.table(result).splitlines()
    assert "| DSSM | torch-rechub 0.9.0 | 3 | 0.2000 (0.0000) | 0.4000 (0.0000) | 7 |" in lines
    assert "| YoutubeDNN | ours, the same script | 3 | 0.3000 (0.0000) | 0.6000 (0.0000) | 7 |" in lines
    monkeypatch.setenv("RECHUB_DATA", str(tmp_path / "nothing"))
    assert "Left out" in matching_protocol.table(matching_protocol.run(settings))
