"""The penalty of probabilities in the wrong order, and the outputs that it finds."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch

from rechub_ray.batch import Batch, Features
from rechub_ray.errors import ConfigError
from rechub_ray.losses import LOSSES
from rechub_ray.models import MODELS
from rechub_ray.outputs import Output
from rechub_ray.schema import DenseFeature, Label, Schema
from rechub_ray.task import Task

LABEL_KIND = "binary"
WIDTH = 3
OTHERS = ("click", "cart")
ARGUMENTS: dict[str, Any] = {"relations": ["click", "cart"]}
VARIANTS: list[dict[str, Any]] = [{"relations": ["cart"]}]
SCHEMA = Schema((DenseFeature("x", dim=3),), (Label("click"), Label("buy"), Label("price", "regression")))
NODE = {"name": "ORDER_CALIBRATE_LOSS", "label": "buy", "relations": ["click"]}


def reference(s: np.ndarray, y: np.ndarray, w: np.ndarray, group: np.ndarray, *, relations: list[str]) -> float:
    p = 1 / (1 + np.exp(-s))
    total = 0.0
    for relation in relations:
        excess = p[:, 0] - p[:, 1 + OTHERS.index(relation)]
        total += (np.where(excess > 0, excess, 0) * w).sum() / (w != 0).sum()
    return float(total)


def test_training_puts_the_labels_in_order() -> None:
    """Labels without an order: with the penalty, no row's purchase is more probable than its click."""
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(200, 3, generator=generator)
    labels = torch.stack([x[:, 0] > 0.5, x[:, 1] > -0.5, x[:, 2] > 0], 1).float()
    batch = Batch(Features(torch.zeros(200, 0, dtype=torch.int64), x), labels)
    excesses = []
    for penalty in (0.0, 20.0):
        torch.manual_seed(0)
        model = MODELS.build({"name": "shared_bottom", "bottom_units": [16], "tower_units": []}, SCHEMA)
        losses = [
            "bce",
            {"name": "bce", "label": "buy"},
            {**NODE, "weight": penalty},
            {"name": "mse", "label": "price"},
        ]
        task = Task(model, SCHEMA, losses)
        optimizer = torch.optim.Adam(model.parameters(), lr=0.02)
        for _ in range(100):
            optimizer.zero_grad()
            task(batch).total.backward()
            optimizer.step()
        outputs = model(batch.features)
        excess = outputs["logit/buy"].sigmoid() - outputs["logit/click"].sigmoid()
        excesses.append(float(excess.clamp(min=0).mean().detach()))
        assert task(batch).parts["order_calibrate/buy"].item() == pytest.approx(excesses[-1], rel=1e-5)
    assert excesses[1] < 0.05 * excesses[0]


@pytest.mark.parametrize(
    ("relations", "message"),
    [
        (["buy"], r"'losses.2.relations.0': 'buy' is the loss's own label"),
        (["price"], r"relation 'price' is regression. Expected: binary"),
        (["cart"], "no label 'cart'"),
        ([], "relations"),
    ],
)
def test_a_relation_that_makes_no_sense_is_named(relations: list[str], message: str) -> None:
    outputs = (Output("a", label="click"), Output("b", label="buy"))
    with (
        pytest.raises(ConfigError, match=message) if relations != ["cart"] else pytest.raises(Exception, match=message)
    ):
        LOSSES.build({**NODE, "relations": relations}, SCHEMA).bind(outputs, where="losses.2")
