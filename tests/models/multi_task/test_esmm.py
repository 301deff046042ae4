from __future__ import annotations

from decimal import Decimal, localcontext
from typing import Any

import numpy as np
import pytest
import torch
from sklearn.metrics import roc_auc_score

from rechub_ray.batch import Batch, Features
from rechub_ray.errors import ConfigError
from rechub_ray.metrics import MetricSet
from rechub_ray.outputs import predictions, served
from rechub_ray.schema import Label
from rechub_ray.task import Task
from rechub_ray.world import World

NODE = {"name": "esmm", "tower_units": [5]}
CHAIN = (Label("click"), Label("cart"), Label("buy"))


def sigmoid(x: Any) -> Any:
    return 1 / (1 + np.exp(-x))


def test_a_label_is_the_product_of_the_chain_up_to_it(by_hand: Any) -> None:
    case = by_hand(NODE, *CHAIN)
    given = {label.name: sigmoid(case.tower(case.x, label.name)[:, 0]) for label in CHAIN}
    outputs = {name: sigmoid(value) for name, value in case.outputs.items()}
    np.testing.assert_allclose(outputs["logit/click"], given["click"], rtol=1e-10)
    np.testing.assert_allclose(outputs["logit/cart"], given["click"] * given["cart"], rtol=1e-10)
    np.testing.assert_allclose(outputs["logit/buy"], given["click"] * given["cart"] * given["buy"], rtol=1e-10)
    np.testing.assert_allclose(outputs["conditional/cart"], given["cart"], rtol=1e-10)
    np.testing.assert_allclose(outputs["conditional/buy"], given["buy"], rtol=1e-10)


def test_shared_layers_come_before_the_towers(by_hand: Any) -> None:
    case = by_hand({**NODE, "bottom_units": [4]})
    x = case.hidden(case.x, "bottom")
    np.testing.assert_allclose(case.outputs["logit/click"], case.tower(x, "click")[:, 0], rtol=1e-10)


def test_the_conditional_is_measured_over_the_rows_with_a_click(by_hand: Any) -> None:
    case = by_hand(NODE)
    nodes = [{"name": "auc", "output": "conditional/buy", "where": "click"}, {"name": "auc", "label": "buy"}]
    outputs = case.model.outputs
    metrics = MetricSet(case.model.schema, nodes).bind(predictions(outputs, case.model.schema), outputs)
    labels = torch.tensor([[1, 0], [1, 1], [0, 0], [1, 0], [0, 0], [1, 1]], dtype=torch.float32)
    metrics.update(case.model(case.features), Batch(case.features, labels))
    clicked = labels[:, 0].numpy() == 1
    assert metrics.compute(World()) == {
        "buy/auc_where_click": roc_auc_score(labels[clicked, 1], case.outputs["conditional/buy"][clicked]),
        "buy/auc": roc_auc_score(labels[:, 1], case.outputs["logit/buy"]),
    }


@pytest.mark.parametrize(("a", "b"), [(100.0, 90.0), (-80.0, 3.0), (-300.0, -300.0), (0.5, 500.0)])
def test_the_products_logit_is_exact_where_probabilities_are_0_or_1(a: float, b: float, by_hand: Any) -> None:
    """In float32, against 500 digits."""
    model = by_hand({**NODE, "tower_units": []}).model.float()
    with torch.no_grad():
        for tower, bias in zip(model.towers.each, (a, b), strict=True):
            tower["mlp"][0].weight.zero_()
            tower["mlp"][0].bias.fill_(bias)
    with localcontext() as context:
        context.prec = 500
        p = 1 / ((1 + Decimal(-a).exp()) * (1 + Decimal(-b).exp()))
        expected = float((p / (1 - p)).ln())
    features = by_hand(NODE).features
    outputs = model(Features(features.sparse, features.dense.float()))
    np.testing.assert_allclose(outputs["logit/buy"].detach().numpy(), expected, rtol=1e-6)


def test_losses_train_both_towers_over_all_rows_and_none_reads_the_conditional(by_hand: Any) -> None:
    """The gradient of the conversion's loss in b, of a row without a click, is pCTCVR (1 - pCVR) / (1 - pCTCVR)."""
    case = by_hand({**NODE, "tower_units": []})
    task = Task(case.model, case.model.schema, [{"name": "bce", "label": "click"}, {"name": "bce", "label": "buy"}])
    assert [loss.output for loss in task.losses] == ["logit/click", "logit/buy"]
    task(Batch(case.features, torch.zeros(6, 2))).total.backward()
    ctr, cvr = (sigmoid(case.layer(case.x, f"towers.{x}.mlp.0")[:, 0]) for x in ("click", "buy"))
    both = ctr * cvr
    expected = np.mean(both * (1 - cvr) / (1 - both))
    bias = case.model.get_parameter("towers.buy.mlp.0.bias")
    np.testing.assert_allclose(bias.grad.numpy(), [expected], rtol=1e-6)


def test_the_conversion_rate_of_clicks_is_served_beside_the_labels(by_hand: Any) -> None:
    model = by_hand(NODE).model
    names = [(one.name, one.link) for one in served(model.outputs, model.schema)]
    assert names == [
        ("probability/click", "sigmoid"),
        ("probability/buy", "sigmoid"),
        ("conditional/buy", "sigmoid"),
    ]


def test_a_label_that_is_not_binary_is_an_error(by_hand: Any) -> None:
    with pytest.raises(ConfigError, match=r"esmm.*'price' is not binary.*regression"):
        by_hand(NODE, Label("click"), Label("price", kind="regression"))
