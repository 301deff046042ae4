"""It is the loss of the label's kind, and its output is served as that one's."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch

from rechub_ray.batch import Batch, Features
from rechub_ray.errors import ConfigError
from rechub_ray.losses import LOSSES
from rechub_ray.outputs import Output
from rechub_ray.schema import Label, Schema
from tests.losses.test_bce import reference as bce

LABEL_KIND = "binary"
VARIANTS: list[dict[str, Any]] = []
SCHEMA = Schema((), (Label("click"), Label("stars", "multiclass", num_classes=3), Label("price", "regression")))
OUTPUTS = (Output("a", "logit", "click"), Output("b", "classes", "stars"), Output("c", "classes", "click"))


def reference(s: np.ndarray, y: np.ndarray, w: np.ndarray, group: np.ndarray) -> float:
    return bce(s, y, w, group)


@pytest.mark.parametrize(("label", "same"), [("click", "bce"), ("stars", "cross_entropy")])
@pytest.mark.parametrize("by", ["label", "output"])
def test_the_labels_kind_decides(label: str, same: str, by: str) -> None:
    values = {"a": torch.tensor([0.3, -2.0]), "b": torch.tensor([[0.0, 1.0, 2.0], [0.5, 0.0, 0.0]])}
    batch = Batch(
        Features(torch.zeros(2, 0, dtype=torch.int64), torch.zeros(2, 0)),
        torch.tensor([[1.0, 2.0, 0.0], [0.0, 0.0, 0.0]]),
        torch.tensor([2.0, 0.5]),
    )
    name = {"click": "a", "stars": "b"}[label]
    losses = [
        LOSSES.build({"name": each, by: name if by == "output" else label}, SCHEMA) for each in (same, "CLASSIFICATION")
    ]
    for loss in losses:
        loss.bind(OUTPUTS, where="losses.0")
    one, other = losses
    assert torch.equal(other(values, batch), one(values, batch))
    assert (other.link, other.heads, other.label) == (one.link, one.heads, one.label)


def test_a_head_of_the_other_kind_is_refused() -> None:
    with pytest.raises(ConfigError, match=r"cannot read output 'c' of kind classes.*an output of kind logit"):
        LOSSES.build({"name": "classification", "output": "c"}, SCHEMA).bind(OUTPUTS, where="losses.0")
    with pytest.raises(ConfigError, match=r"cannot learn label 'price'.*binary or multiclass"):
        LOSSES.build({"name": "classification", "label": "price"}, SCHEMA)
