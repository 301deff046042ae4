"""The weight of negative rows follows the predictions of the whole step."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch

from rechub_ray.batch import Batch, Features
from rechub_ray.errors import ConfigError
from rechub_ray.losses.f1_reweighted import F1Reweighted
from rechub_ray.models import MODELS
from rechub_ray.schema import Label, Schema, SparseFeature
from rechub_ray.task import Task

SCHEMA = Schema((SparseFeature("user", 5),), (Label("click"),))
LABEL_KIND = "binary"
VARIANTS: list[dict[str, Any]] = [{"f1_beta_square": 0.5625}, {"f1_beta_square": 2.0, "label_smoothing": 0.2}]
WEIGHTLESS_ROWS_STAY = True
"""They are predicted like the others, so P and n have them."""


def reference(
    s: np.ndarray, y: np.ndarray, w: np.ndarray, group: np.ndarray, *, f1_beta_square: float = 1.0,
    label_smoothing: float = 0.0,
) -> float:  # fmt: skip
    p = 1 / (1 + np.exp(-s))
    z = y * (1 - label_smoothing) + 0.5 * label_smoothing
    negative = p.sum() / (f1_beta_square * y.sum() + (len(y) - y.sum()) - (len(y) - p.sum()) + 1e-8)
    weights = np.where(y == 1, 1, negative) * w
    return float((-(z * np.log(p) + (1 - z) * np.log(1 - p)) * weights).sum() / (weights != 0).sum())


def mean(logit: list[float], label: list[float], b: float) -> float:
    features = Features(torch.zeros(len(label), 1, dtype=torch.int64), torch.zeros(len(label), 0))
    batch, loss = Batch(features, torch.tensor(label).unsqueeze(1)), F1Reweighted(SCHEMA, f1_beta_square=b)
    return float(loss({"logit": torch.tensor(logit)}, batch) / loss.count(batch))


def test_the_weight_of_negative_rows_is_at_most_100() -> None:
    """P = 0.36 for n = 2: by the formula c is -0.56."""
    assert mean([-2.0, -2.0, -2.0], [1.0, 1.0, 0.0], 0.5) == pytest.approx(
        (2 * 2.126928 + 100 * 0.126928) / 3, rel=1e-5
    )


def test_it_sees_the_whole_step() -> None:
    with pytest.raises(ConfigError, match=r"'losses.0'.*2 accumulated parts.*train.accumulate_steps=1"):
        Task(MODELS.build("lr", SCHEMA), SCHEMA, ["F1_REWEIGHTED_LOSS"], parts=2)
