"""Losses and gradients of another implementation, from its inputs."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch

from rechub_ray.batch import Batch, Features
from rechub_ray.losses import LOSSES
from rechub_ray.losses.vectors import MetricLoss, VectorLoss
from rechub_ray.outputs import Output
from rechub_ray.schema import Label, Schema

BINARY, SPEND = Label("y"), Label("y", "regression")
# case: loss, label, (prediction, label, whether there are weights) among the inputs
CASES: dict[str, tuple[dict[str, Any], Label, tuple[str, str, bool]]] = {
    "CLASSIFICATION bin": ({"name": "CLASSIFICATION"}, BINARY, ("s", "y", False)),
    "CLASSIFICATION bin w": ({"name": "CLASSIFICATION"}, BINARY, ("s", "y", True)),
    "CLASSIFICATION softmax2": (
        {"name": "CLASSIFICATION"},
        Label("y", "multiclass", num_classes=2),
        ("L2", "y", False),
    ),
    "L2 w": ({"name": "L2_LOSS"}, BINARY, ("s", "y", True)),
    "SIGMOID_L2": ({"name": "SIGMOID_L2_LOSS"}, BINARY, ("s", "y", False)),
    "CROSS_ENTROPY(log_loss)": ({"name": "CROSS_ENTROPY_LOSS"}, BINARY, ("s", "y", False)),
    "BINARY_FOCAL default": ({"name": "BINARY_FOCAL_LOSS"}, BINARY, ("s", "y", False)),
    "BINARY_FOCAL a.85 w": ({"name": "BINARY_FOCAL_LOSS", "alpha": 0.85}, BINARY, ("s", "y", True)),
    "F1 b1": ({"name": "F1_REWEIGHTED_LOSS"}, BINARY, ("s", "y", False)),
    "F1 b.5625": ({"name": "F1_REWEIGHTED_LOSS", "f1_beta_square": 0.5625}, BINARY, ("s", "y", False)),
    "PAIR_WISE": ({"name": "PAIR_WISE_LOSS"}, BINARY, ("s", "y", False)),
    "PAIR_WISE sess": ({"name": "PAIR_WISE_LOSS", "session_name": "u"}, BINARY, ("s", "y", False)),
    "PW_FOCAL": ({"name": "PAIRWISE_FOCAL_LOSS"}, BINARY, ("s", "y", False)),
    "PW_LOGISTIC": ({"name": "PAIRWISE_LOGISTIC_LOSS"}, BINARY, ("s", "y", False)),
    "PW_HINGE m1 nolabelmargin sess w": (
        {"name": "PAIRWISE_HINGE_LOSS", "margin": 1.0, "use_label_margin": False, "session_name": "u"},
        BINARY,
        ("s", "y", True),
    ),
    "JRC fixed .5": ({"name": "JRC_LOSS", "session_name": "u"}, BINARY, ("L2", "y", False)),
    "JRC no same_label": (
        {"name": "JRC_LOSS", "session_name": "u", "same_label_loss": False},
        BINARY,
        ("L2", "y", False),
    ),
    "LISTWISE_RANK": ({"name": "LISTWISE_RANK_LOSS", "session_name": "u"}, BINARY, ("s", "y", False)),
    "LISTWISE_DISTILL": ({"name": "LISTWISE_DISTILL_LOSS", "session_name": "u"}, SPEND, ("s", "pos", False)),
    "CIRCLE": ({"name": "CIRCLE_LOSS"}, BINARY, ("E", "y", False)),
    "info_nce T.1": ({"name": "info_nce"}, BINARY, ("E", "1", False)),
    "ZILN": ({"name": "ZILN_LOSS"}, SPEND, ("Z", "yz", False)),
}


@pytest.mark.parametrize("case", CASES)
def test_it_equals_the_other_implementation(case: str, golden: Callable[[str], Any]) -> None:
    node, label, (prediction, target, is_weighted) = CASES[case]
    file = golden("losses.json")
    inputs, expected = {name: torch.tensor(value) for name, value in file["inputs"].items()}, file["golden"][case]
    inputs["1"] = torch.ones(8)
    weight = inputs["w"] if is_weighted else None
    rows = len(inputs[target])
    features = Features(torch.zeros(rows, 0, dtype=torch.int64), torch.zeros(rows, 0))
    batch = Batch(features, inputs[target].unsqueeze(1), weight, inputs["u"])
    loss = LOSSES.build(node, Schema((), (label,), group="u"))
    given = inputs[prediction].requires_grad_()
    outputs = (Output("logit", "vector", part="user"), Output("item", "vector", part="item"))
    if isinstance(loss, VectorLoss):
        loss.bind(outputs[: 1 if isinstance(loss, MetricLoss) else 2], where="losses.0")
    value = (loss({"logit": given, "item": inputs["F"]}, batch) / loss.count(batch)).sum()
    assert value.item() == pytest.approx(expected["loss"], abs=1e-5, rel=1e-5)
    if "grad" in expected:
        value.backward()
        np.testing.assert_allclose(np.array(given.grad).ravel(), expected["grad"], atol=1e-5, rtol=1e-5)
