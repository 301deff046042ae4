from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch

from rechub_ray.batch import Batch, Features
from rechub_ray.errors import ConfigError, SchemaError
from rechub_ray.losses import BCE, LOSSES
from rechub_ray.outputs import Output
from rechub_ray.schema import Label, Schema

SCHEMA = Schema(features=(), labels=(Label("rating", kind="regression"), Label("click"), Label("buy")))
LOGIT = [0.8, -0.4, 0.3, 0.9, -1.2, -0.5, 0.1, -0.7]
LABEL = [1.0, 0.0, 1.0, 0.0, 0.0, 1.0, 0.0, 0.0]
WEIGHT = [1.0, 2.0, 0.5, 1.0, 0.0, 1.5, 1.0, 1.0]


def batch(label: list[float], weight: list[float] | None) -> Batch:
    """The label stands in the second of three columns."""
    labels = torch.full((len(label), 3), 0.5)
    labels[:, 1] = torch.tensor(label)
    features = Features(torch.zeros(len(label), 0, dtype=torch.int64), torch.zeros(len(label), 0))
    return Batch(features, labels, None if weight is None else torch.tensor(weight))


LABEL_KIND = "binary"
VARIANTS: list[dict[str, Any]] = [{"label_smoothing": 0.2}]


def reference(s: np.ndarray, y: np.ndarray, w: np.ndarray, group: np.ndarray, *, label_smoothing: float = 0.0) -> float:
    p = 1 / (1 + np.exp(-s))
    z = np.where(y == 1, 1 - label_smoothing / 2, label_smoothing / 2)
    return float((-(z * np.log(p) + (1 - z) * np.log(1 - p)) * w).sum() / (w != 0).sum())


@pytest.mark.parametrize(
    ("weight", "expected", "gradient"),
    [
        # what TensorFlow computes in float32
        (
            None,
            0.6330708861351013,
            [-0.0387532, 0.050164, -0.0531947, 0.0888687, 0.0289344, -0.0778074, 0.0656224, 0.0414765],
        ),
        (
            WEIGHT,
            0.7891658544540405,
            [-0.0442894, 0.1146607, -0.030397, 0.1015642, 0.0, -0.1333842, 0.074997, 0.0474017],
        ),
    ],
)
def test_it_equals_tensorflow(weight: list[float] | None, expected: float, gradient: list[float]) -> None:
    logit = torch.tensor(LOGIT, requires_grad=True)
    bce, rows = BCE(SCHEMA, label="click"), batch(LABEL, weight)
    loss = bce({"logit": logit}, rows) / bce.count(rows)
    loss.backward()
    assert loss.item() == pytest.approx(expected, rel=1e-6)
    np.testing.assert_allclose(np.array(logit.grad), gradient, atol=1e-7)


def test_without_weights_the_count_needs_no_collective() -> None:
    count = BCE(SCHEMA, label="click").count(batch(LABEL, None))
    assert count == 8.0
    assert isinstance(count, float)


def test_a_wrong_label_is_an_error_that_names_it() -> None:
    with pytest.raises(ConfigError, match=r"'rating'.*binary"):
        BCE(SCHEMA)
    with pytest.raises(SchemaError, match="Did you mean 'click'"):
        BCE(SCHEMA, label="clik")


@pytest.mark.parametrize(("key", "value"), [("label_smoothing", 1.5), ("label_smoothing", -0.1), ("weight", -1)])
def test_arguments_have_ranges(key: str, value: float) -> None:
    with pytest.raises(ConfigError, match=rf"losses\.0\.{key}"):
        LOSSES.validate({"name": "bce", "label": "click", key: value}, where="losses.0")


def test_a_missing_output_is_found_before_training() -> None:
    with pytest.raises(ConfigError, match=r"losses\.0\.output.*Did you mean 'logit'"):
        BCE(SCHEMA, output="logits", label="click").bind([Output("logit", label="click")], where="losses.0")
