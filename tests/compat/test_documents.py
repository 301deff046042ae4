"""The code of the documents on trainers, block by block in one namespace, on tables with the columns they name."""

from __future__ import annotations

import importlib.util
import re
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest

from rechub_ray.trainers.base import Trainer

DOCS = Path(__file__).resolve().parents[2] / "docs"


def frame(rows: int, others: list[str]) -> pd.DataFrame:
    rng = np.random.default_rng(2)
    user, item, price = rng.integers(0, 20, rows), rng.integers(0, 10, rows), rng.normal(size=rows)
    liking = 2 * (rng.normal(size=20)[user] + rng.normal(size=10)[item])
    click = (rng.random(rows) < 1 / (1 + np.exp(-liking))).astype(int)
    conversion = click * (rng.random(rows) < 1 / (1 + np.exp(-price))).astype(int)
    found = pd.DataFrame({"user_id": user, "item_id": item, "price": price, "click": click, "conversion": conversion})
    return found.assign(**{column: rng.integers(0, 5, rows) for column in others})


def run(name: str, *, epochs: int = 2) -> dict[str, Any]:
    text = (DOCS / name).read_text(encoding="utf-8")
    found: dict[str, Any] = {}
    for block in re.findall(r"```python\n(.*?)```", text, flags=re.DOTALL):
        exec(re.sub(r"(n_epochs?)=\d+", rf"\1={epochs}", block), found)
    return found


@pytest.mark.slow
def test_multi_task(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    others = ["age", "gender", "occupation", "category_id", "shop_id", "brand_id"]
    frame(600, others).drop(columns="price").to_csv("ali_ccp_data.csv", index=False)
    found = run("multi_task.md")
    assert found["predictions"].shape == (120, 2)
    assert found["metrics"]["click/auc"] == found["best_auc"]
    assert list(found["evaluate_multi_task"](found["model"], found["test_dataloader"])) == ["click", "conversion"]
    assert (tmp_path / "mmoe.onnx").is_file()
    assert found["shared_params"]
    assert found["task_params"]


@pytest.mark.slow
def test_trainers(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("wandb")
    pytest.importorskip("tensorboardX")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("WANDB_MODE", "offline")  # not disabled: W&B keeps the mode that a process starts with
    monkeypatch.setenv("WANDB_CACHE_DIR", str(tmp_path / "cache"))
    monkeypatch.setenv("WANDB_CONFIG_DIR", str(tmp_path / "config"))
    if importlib.util.find_spec("torchview") is None or shutil.which("dot") is None:
        monkeypatch.setattr(Trainer, "visualization", lambda self, save_path: Path(save_path).touch())
    frame(600, []).to_csv("clicks.csv", index=False)
    found = run("trainers.md")
    assert 0 <= found["auc"] <= 1
    assert found["early_stopper"].best_auc == 0.74
    for name in ("deepfm.onnx", "mmoe.onnx", "user_tower.onnx", "item_tower.onnx", "deepfm_architecture.pdf"):
        assert (tmp_path / name).is_file()
    assert list((tmp_path / "runs" / "deepfm").glob("events*"))
