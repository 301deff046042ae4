"""The modulated cross-entropy, and its mean over the hardest rows."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch

from rechub_ray.batch import Batch, Features
from rechub_ray.errors import ConfigError
from rechub_ray.losses import LOSSES
from rechub_ray.losses.binary_focal import BinaryFocal
from rechub_ray.models import MODELS
from rechub_ray.schema import Label, Schema, SparseFeature
from rechub_ray.task import Task

SCHEMA = Schema((SparseFeature("user", 5),), (Label("click"),))
LABEL_KIND = "binary"
VARIANTS: list[dict[str, Any]] = [
    {"gamma": 1.5, "alpha": 0.85, "label_smoothing": 0.2},
    {"gamma": 0.0},
    {"ohem_ratio": 0.5},
    {"ohem_ratio": 0.97},
]


def reference(
    s: np.ndarray, y: np.ndarray, w: np.ndarray, group: np.ndarray, *, gamma: float = 2.0, alpha: float | None = None,
    ohem_ratio: float = 1.0, label_smoothing: float = 0.0,
) -> float:  # fmt: skip
    p = 1 / (1 + np.exp(-s))
    z = y * (1 - label_smoothing) + 0.5 * label_smoothing
    losses = -(z * np.log(p) + (1 - z) * np.log(1 - p)) * w
    losses = losses * (1 - np.where(y == 1, p, 1 - p)) ** gamma
    if alpha is not None:
        losses = losses * np.where(y == 1, alpha, 1 - alpha)
    if ohem_ratio == 1:
        return float(losses.sum() / (w != 0).sum())
    hardest = np.sort(losses)[::-1][: int(np.rint(ohem_ratio * len(s)))]
    return float(hardest[hardest > 0].mean())


def mean(logit: torch.Tensor, label: list[float], weight: list[float] | None = None, **arguments: Any) -> torch.Tensor:
    features = Features(torch.zeros(len(label), 1, dtype=torch.int64), torch.zeros(len(label), 0))
    batch = Batch(features, torch.tensor(label).unsqueeze(1), None if weight is None else torch.tensor(weight))
    loss = BinaryFocal(SCHEMA, **arguments)
    return loss({"logit": logit}, batch) / max(float(loss.count(batch)), 1)


def test_rows_that_are_equally_hard_share_the_last_place() -> None:
    """Four rows, the hardest two: one place is left for two equal rows, whichever comes first."""
    logit = torch.tensor([-1.0, 0.5, 0.5, 3.0], requires_grad=True)
    mean(logit, [1.0] * 4, ohem_ratio=0.5).backward()
    assert logit.grad is not None
    assert logit.grad[1] == logit.grad[2] != 0
    assert logit.grad[3] == 0
    alone = torch.tensor([0.5], requires_grad=True)
    mean(alone, [1.0]).backward()
    assert alone.grad is not None
    torch.testing.assert_close(logit.grad[1], alone.grad[0] / 4)


def test_a_small_share_of_few_rows_is_one_row() -> None:
    logit = torch.tensor([-1.0, 0.5, 2.0])
    torch.testing.assert_close(mean(logit, [1.0] * 3, ohem_ratio=0.01), mean(logit[:1], [1.0]))


def test_rows_of_weight_zero_are_never_among_the_hardest() -> None:
    logit = torch.tensor([-9.0, 0.5, 2.0, 1.0])
    expected = mean(logit[1:], [1.0] * 3, [1.0, 2.0, 1.0])
    torch.testing.assert_close(mean(logit, [1.0] * 4, [0.0, 1.0, 2.0, 1.0], ohem_ratio=0.9), expected)


def test_the_hardest_rows_are_those_of_a_whole_step() -> None:
    model, node = MODELS.build("lr", SCHEMA), {"name": "BINARY_FOCAL_LOSS", "ohem_ratio": 0.5}
    with pytest.raises(ConfigError, match=r"'losses.0'.*2 accumulated parts.*train.accumulate_steps=1"):
        Task(model, SCHEMA, [node], parts=2)
    Task(model, SCHEMA, [{**node, "ohem_ratio": 1.0}], parts=2)


@pytest.mark.parametrize(("key", "value"), [("gamma", -1), ("alpha", 1.0), ("ohem_ratio", 0.0), ("ohem_ratio", 1.5)])
def test_arguments_have_ranges(key: str, value: float) -> None:
    with pytest.raises(ConfigError, match=key):
        LOSSES.validate({"name": "binary_focal", key: value})
