"""What a trial reports."""

from __future__ import annotations

import json
from pathlib import Path
from types import SimpleNamespace

from rechub_ray.data.plan import Cut, Position
from rechub_ray.sweeps.trial import TrialHooks


def epochs(folder: Path, position: Position) -> float:
    folder.joinpath("state.json").write_text(json.dumps({"position": position.to_dict()}))
    hooks = TrialHooks.__new__(TrialHooks)
    hooks._job = SimpleNamespace(train=SimpleNamespace(rows=1000))  # type: ignore[assignment]
    return hooks._epochs(str(folder))


def test_epochs_count_the_rows_of_all_stretches(tmp_path: Path) -> None:
    assert epochs(tmp_path, Position(epoch=2)) == 2.0
    cuts = (Cut(lanes=8, global_batch=50, steps=3),)
    assert epochs(tmp_path, Position(epoch=1, cuts=cuts, step=2, lanes=8, global_batch=100, rows_done=350)) == 1.35
