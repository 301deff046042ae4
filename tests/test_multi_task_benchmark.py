"""The benchmark of multi-task models goes on where it was."""

from __future__ import annotations

import types
from pathlib import Path
from typing import Any

import pytest

from benchmarks import multi_task
from benchmarks.settings import Settings


def test_an_interrupted_benchmark_trains_only_what_is_missing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    settings, trained, limit = Settings(work=tmp_path), list[str](), 30

    def run_training(settings: Settings, name: str, given: dict[str, Any]) -> Any:
        if len(trained) == limit:
            raise SystemExit("killed")
        trained.append(name)
        first, second = given["data"]["labels"]
        found = {f"{first}/auc": 0.9, f"{second}/auc": 0.8}
        found |= {f"{label}/auc_where_never_married": 0.7 for label in (first, second)}
        return types.SimpleNamespace(test_metrics=found)

    monkeypatch.setattr(multi_task, "prepared", lambda settings: tmp_path)
    monkeypatch.setattr(multi_task, "run_training", run_training)
    monkeypatch.setattr(multi_task, "missing_torch_rechub", lambda: "not here")
    monkeypatch.setattr(multi_task, "AT_ONCE", 1)
    with pytest.raises(SystemExit, match="killed"):
        multi_task.run(settings)
    before, limit = set(trained), 61
    result = multi_task.run(settings)
    assert len(before) == 30
    assert len(trained) == len(result["cells"]) == 60
    assert set(trained) == set(result["cells"])
    assert "| MMoE | PCGrad | 3 | 0.9000 (0.0000) | 0.8000 (0.0000) | 0.7000 (0.0000) |" in multi_task.table(result)
    trained.clear()
    monkeypatch.setattr(multi_task, "EPOCHS", multi_task.EPOCHS + 1)
    multi_task.run(settings)
    assert len(trained) == 60, "other settings, other figures"
