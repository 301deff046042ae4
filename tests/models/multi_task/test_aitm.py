from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from rechub_ray.outputs import served
from rechub_ray.schema import Label

NODE = {"name": "aitm", "bottom_units": [4], "tower_units": [5]}
CHAIN = (Label("click"), Label("cart"), Label("buy"))


def sigmoid(x: Any) -> Any:
    return 1 / (1 + np.exp(-x))


def transferred(case: Any, p: Any, q: Any, label: str) -> Any:
    """The attention of the paper, in loops."""
    value, query, key = (case.state[f"towers.{label}.transfer.{x}.weight"] for x in ("value", "query", "key"))
    result = np.zeros_like(q)
    for row in range(len(q)):
        scores = [float((query @ u) @ (key @ u)) / np.sqrt(len(u)) for u in (p[row], q[row])]
        weights = np.exp(scores) / np.exp(scores).sum()
        result[row] = weights[0] * (value @ p[row]) + weights[1] * (value @ q[row])
    return result


def test_each_label_takes_over_from_the_one_before(by_hand: Any) -> None:
    case = by_hand(NODE, *CHAIN)
    z = None
    for label in CHAIN:
        q = case.hidden(case.x, f"towers.{label.name}.bottom")
        z = q if z is None else transferred(case, case.hidden(z, f"towers.{label.name}.info"), q, label.name)
        logit = case.tower(z, label.name)[:, 0]
        np.testing.assert_allclose(case.outputs[f"logit/{label.name}"], logit, rtol=1e-9)


def test_the_calibrator_is_what_a_step_exceeds_the_one_before_by(by_hand: Any) -> None:
    case = by_hand({**NODE, "calibrator_weight": 0.25}, *CHAIN)
    click, cart, buy = (sigmoid(case.outputs[f"logit/{label.name}"]) for label in CHAIN)
    expected = 0.25 * (np.mean(np.maximum(cart - click, 0)) + np.mean(np.maximum(buy - cart, 0)))
    assert expected > 0.01
    np.testing.assert_allclose(case.outputs["calibrator"], expected, rtol=1e-10)
    half = by_hand({**NODE, "calibrator_weight": 0.5}, *CHAIN)
    np.testing.assert_allclose(half.outputs["calibrator"], 2 * expected, rtol=1e-10)
    assert "calibrator" not in [one.name for one in served(case.model.outputs, case.model.schema)]


@pytest.mark.parametrize(
    ("labels", "weight", "has_one"),
    [
        ((Label("click"), Label("price", kind="regression"), Label("buy")), 0.6, False),
        ((Label("price", kind="regression"), Label("click"), Label("buy")), 0.6, True),
        ((Label("click"), Label("buy")), 0, False),
        ((Label("click"),), 0.6, False),
    ],
)
def test_it_is_there_for_neighbours_that_are_both_binary(
    labels: Any, weight: float, has_one: bool, by_hand: Any
) -> None:
    case = by_hand({**NODE, "calibrator_weight": weight}, *labels)
    assert ("calibrator" in case.outputs) is has_one
    assert ("calibrator" in [output.name for output in case.model.outputs]) is has_one
