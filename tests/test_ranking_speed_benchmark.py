"""The benchmark of steps builds every model, and reads its batches."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from benchmarks import ranking_side, ranking_speed
from benchmarks.settings import Settings


@pytest.mark.parametrize("name", ranking_side.MODELS)
def test_our_side_steps(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ranking_side, "table_sizes", lambda ids: [30, 5, 9, 4, 3])
    monkeypatch.setattr(ranking_side, "BATCH", 8)
    monkeypatch.setattr(ranking_side, "HIDDEN", (8,))
    assert ranking_side.ours(name, steps=2, warm_up=1) > 0


def test_a_batch_has_the_columns_rows() -> None:
    from rechub_ray.compat.basic import features as kinds
    from rechub_ray.compat.models import ranking

    schema = ranking_side.MODELS["DIEN"](ranking, ranking_side.Given(kinds)).schema
    data, labels = ranking_side.columns(6)
    batch = ranking_side.batch_of(schema, data, labels)
    for i, feature in enumerate(schema.sparse):
        assert torch.equal(batch.features.sparse[:, i], data[feature.name])
    sequences: Any = batch.features.sequences
    names = [feature.name for feature in schema.sequences]
    assert set(names) == {"history", "negatives"}
    for i, name in enumerate(names):
        for row in range(6):
            start, stop = sequences.offsets[i * 6 + row : i * 6 + row + 2]
            assert sequences.values[start:stop].tolist() == [int(v) for v in data[name][row] if v]


def test_the_table_has_the_ratios(monkeypatch: pytest.MonkeyPatch, tmp_path: Any) -> None:
    speed = {"ours": 300.0, "torch-rechub": 100.0}
    monkeypatch.setattr(ranking_speed, "missing_torch_rechub", lambda: None)
    monkeypatch.setattr(ranking_speed, "answer", lambda settings, command: {"rows_per_second": speed[command[1]]})
    shown = ranking_speed.table(ranking_speed.run(Settings(work=tmp_path)))
    assert "| DIEN | 100 | 300 | 3.0 |" in shown
    assert "| median | | | 3.0 |" in shown
    monkeypatch.setattr(ranking_speed, "missing_torch_rechub", lambda: "not here")
    speed.clear()  # what is there is not measured again
    assert "left out: not here" in ranking_speed.table(ranking_speed.run(Settings(work=tmp_path)))
