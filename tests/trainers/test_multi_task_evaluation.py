"""Metrics of each task: against scikit-learn, from every form of data."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch
from sklearn.metrics import accuracy_score, log_loss, roc_auc_score, root_mean_squared_error
from torch.utils.data import DataLoader, TensorDataset

import rechub_ray
from rechub_ray.data.collate import batch_from_table
from rechub_ray.errors import ConfigError, DataError
from rechub_ray.models import MODELS, Model
from rechub_ray.schema import DenseFeature, Label, Schema, SparseFeature
from rechub_ray.trainers import evaluate_multi_task

FEATURES = (SparseFeature("user", 30), DenseFeature("price"))
SCHEMA = Schema(
    FEATURES,
    (
        Label("click"),
        Label("conversion", optional=True),
        Label("rating", "regression"),
        Label("stars", "multiclass", num_classes=3),
    ),
)


@pytest.fixture
def model() -> Model:
    torch.manual_seed(0)
    model = MODELS.build({"name": "mmoe", "embedding_dim": 4, "dropout": 0.5}, SCHEMA)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.normal_(std=0.2)
    return model


@pytest.fixture
def frame() -> pd.DataFrame:
    rng = np.random.default_rng(0)
    count = 700
    frame = pd.DataFrame(
        {
            "user": rng.integers(0, 30, count),
            "price": rng.normal(size=count).astype(np.float32),
            "click": rng.integers(0, 2, count),
            "conversion": rng.integers(0, 2, count).astype(float),
            "rating": rng.normal(size=count).astype(np.float32),
            "stars": rng.integers(0, 3, count),
        }
    )
    frame.loc[frame.index % 3 == 0, "conversion"] = np.nan
    return frame


def test_equals_scikit_learn(model: Model, frame: pd.DataFrame) -> None:
    result = evaluate_multi_task(model, frame)
    assert model.training
    model.eval()
    with torch.no_grad():
        outputs = model(batch_from_table(frame, SCHEMA).features)
    given = {output.label: outputs[output.name].double() for output in model.outputs}
    expected = {}
    for label in ("click", "conversion"):
        there = frame[label].notna().to_numpy(copy=True)
        labels, logits = frame[label][there], given[label][torch.from_numpy(there)]
        expected[label] = {"auc": roc_auc_score(labels, logits), "logloss": log_loss(labels, logits.sigmoid())}
    expected["rating"] = {"rmse": root_mean_squared_error(frame["rating"], given["rating"])}
    expected["stars"] = {
        "logloss": log_loss(frame["stars"], given["stars"].softmax(1), labels=[0, 1, 2]),
        "accuracy": accuracy_score(frame["stars"], given["stars"].argmax(1)),
    }
    assert list(result) == list(expected)
    for label, numbers in expected.items():
        assert result[label] == pytest.approx(numbers, rel=1e-6)


def test_a_path_and_a_loader_give_the_same(model: Model, frame: pd.DataFrame, tmp_path: Path) -> None:
    expected = evaluate_multi_task(model, frame)
    frame.to_parquet(tmp_path / "rows.parquet")
    assert evaluate_multi_task(model, tmp_path) == evaluate_multi_task(model, str(tmp_path)) == expected
    rows = TensorDataset(*(torch.tensor(frame[name].to_numpy()) for name in frame))
    loader = [
        ({"user": user, "price": price}, torch.stack([column.float() for column in labels], 1))
        for user, price, *labels in DataLoader(rows, batch_size=64)
    ]
    assert evaluate_multi_task(model, loader) == expected


def test_one_label_is_a_task_too(frame: pd.DataFrame) -> None:
    model = MODELS.build("lr", Schema(FEATURES, (Label("click"),))).eval()
    result = rechub_ray.evaluate_multi_task(model, frame)
    assert list(result) == ["click"]
    assert list(result["click"]) == ["auc", "logloss"]
    assert not model.training


def test_what_does_not_fit(model: Model, frame: pd.DataFrame) -> None:
    with pytest.raises(DataError, match="price"):
        evaluate_multi_task(model, frame.drop(columns="price"))
    assert model.training
    schema = Schema(FEATURES, (Label("click"), Label("spent", "regression")))
    of_loss = MODELS.build({"name": "mmoe", "heads": {"spent": "distribution"}}, schema)
    with pytest.raises(ConfigError, match=r"'spent'.*is a distribution.*evaluate\(checkpoint\)"):
        evaluate_multi_task(of_loss, frame)
