"""A student's logit against a teacher's column, which is read and not predicted."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch

from rechub_ray import config as config_module
from rechub_ray.batch import Batch, Features
from rechub_ray.checkpoint import read
from rechub_ray.data.synthetic import write_click_logs
from rechub_ray.errors import ConfigError, SchemaError
from rechub_ray.losses.distillation import Distillation
from rechub_ray.runtime.inference import evaluate, predict
from rechub_ray.runtime.launch import train
from rechub_ray.schema import Label, Schema, SparseFeature

SOFT = Label("teacher", "regression", optional=True)
SCHEMA = Schema((SparseFeature("user", 9),), (Label("click"),), teachers=(SOFT,))
LABEL_KIND = "regression"
ARGUMENTS: dict[str, Any] = {"teacher": "y"}
VARIANTS: list[dict[str, Any]] = [
    {"teacher_kind": "logit", "temperature": 2.0},
    {"teacher_kind": "logit", "form": "bce"},
    {"teacher_kind": "logit", "form": "l2", "temperature": 0.5},
    {"form": "l2"},
]


def reference(
    s: np.ndarray, y: np.ndarray, w: np.ndarray, group: np.ndarray, *, teacher: str, teacher_kind: str = "probability",
    form: str = "kl", temperature: float = 1.0,
) -> float:  # fmt: skip
    t = y
    if teacher_kind == "probability":
        known = np.clip(y, 1e-7, 1 - 1e-7)
        t = np.log(known / (1 - known))
    q, p = 1 / (1 + np.exp(-t / temperature)), 1 / (1 + np.exp(-s / temperature))
    losses = {
        "kl": q * np.log(q / p) + (1 - q) * np.log((1 - q) / (1 - p)),
        "bce": -q * np.log(p) - (1 - q) * np.log(1 - p),
        "l2": (s / temperature - t / temperature) ** 2,
    }[form]
    return float((losses * w).sum() / (w != 0).sum())


def mean(student: torch.Tensor, teacher: list[float], label: list[float], **arguments: Any) -> torch.Tensor:
    features = Features(torch.zeros(len(label), 1, dtype=torch.int64), torch.zeros(len(label), 0))
    batch = Batch(features, torch.tensor([label, teacher]).T)
    loss = Distillation(SCHEMA, teacher="teacher", label="click", **arguments)
    return loss({"logit": student}, batch) / loss.count(batch)


@pytest.mark.parametrize("form", ["kl", "bce", "l2"])
def test_the_student_becomes_the_teacher(form: str) -> None:
    """Whatever the label says; a row without a teacher has no gradient."""
    student = torch.zeros(4, requires_grad=True)
    optimizer = torch.optim.Adam([student], lr=0.05)
    for _ in range(400):
        optimizer.zero_grad()
        value = mean(student, [0.9, 0.2, 0.5, float("nan")], [0.0, 1.0, 1.0, 1.0], form=form, temperature=2.0)
        value.backward()
        optimizer.step()
    assert student.detach().sigmoid().tolist() == pytest.approx([0.9, 0.2, 0.5, 0.5], abs=1e-3)
    if form != "bce":
        assert value.item() == pytest.approx(0, abs=1e-5)


def test_what_cannot_teach_is_named() -> None:
    with pytest.raises(SchemaError, match="Did you mean 'teacher'"):
        Distillation(SCHEMA, teacher="teachr")
    classes = Schema((), (Label("click"), Label("stars", "multiclass", num_classes=3)))
    with pytest.raises(ConfigError, match="'stars' is multiclass"):
        Distillation(classes, teacher="stars")


def test_a_run_reads_the_teacher_and_neither_predicts_nor_measures_it(tmp_path: Path) -> None:
    root = tmp_path / "data"
    write_click_logs(root, rows=3000, seed=3, files=2, row_group_rows=256)
    for file in sorted(root.glob("*/*.parquet")):
        table = pq.read_table(file)
        soft = [None if i % 5 == 0 else 0.9 - 0.8 * click for i, click in enumerate(table["click"].to_pylist())]
        pq.write_table(table.append_column("soft", pa.array(soft, pa.float32())), file, row_group_size=256)
    schema = json.loads((root / "schema.json").read_text())
    schema["labels"].insert(0, {"name": "soft", "kind": "regression", "optional": True})
    (root / "schema.json").write_text(json.dumps(schema))
    content = {
        "name": "t",
        "data": {"root": str(root), "batch_size": 64},
        "model": {"name": "shared_bottom", "embedding_dim": 4, "bottom_units": [8], "tower_units": []},
        "losses": [
            {"name": "bce", "weight": 0.1},
            {"name": "KL_DIVERGENCE_LOSS", "teacher": "soft", "temperature": 2.0, "weight": 20.0},
        ],
        "optimizers": [{"name": "adam", "lr": 0.05}],
        "train": {"epochs": 3, "device": "cpu"},
        "trackers": [],
        "export": {"onnx": True},
        "model_dir": str(tmp_path / "run"),
    }
    result = train(config_module.load(content))
    assert {key for key in result.test_metrics if not key.startswith("rows")} == {"auc", "log_loss"}
    assert result.test_metrics["auc"] < 0.45  # the teacher says the contrary of the label
    saved = read(tmp_path / "run").schema
    assert ([x.name for x in saved.labels], [x.name for x in saved.teachers]) == (["click"], ["soft"])
    assert evaluate(tmp_path / "run")["auc"] == pytest.approx(result.test_metrics["auc"])
    for file in sorted(root.glob("test/*.parquet")):
        pq.write_table(pq.read_table(file).drop_columns(["soft", "click"]), file)
    rows = predict(tmp_path / "run", tmp_path / "predictions", split=str(root / "test"))
    columns = pq.read_table(tmp_path / "predictions").column_names
    assert rows > 0
    assert "probability" in columns
    assert not {"soft", "value"} & set(columns)
    names = [port.name for port in onnx.load(tmp_path / "run" / "model.onnx").graph.output]
    assert names == ["probability"]
