from __future__ import annotations

import pytest
import torch

from rechub_ray.balancing import BALANCING
from rechub_ray.errors import ConfigError
from rechub_ray.schema import Label

TASKS = (Label("click"), Label("price", "regression"))


@pytest.mark.parametrize(
    ("given", "expected"), [([2.0, 0.5], 1.4 + 1.0), ({"price": 0.5}, 0.7 + 1.0), ([], 2.7), ({}, 2.7)]
)
def test_losses_are_weighted_by_place_or_name(given: object, expected: float) -> None:
    balancing = BALANCING.build({"name": "fixed", "task_weights": given}, TASKS)
    assert balancing.combine(torch.tensor([0.7, 2.0]), 1.0).item() == pytest.approx(expected)
    assert not balancing.state_dict(), "nothing is learned"


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ([1.0], "another number of weights.*2, for click, price"),
        ({"prise": 1.0}, "no task is called 'prise'.*Did you mean 'price'"),
        ([1.0, -1.0], "greater than or equal to 0"),
    ],
)
def test_what_does_not_fit_is_refused(given: object, message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        BALANCING.build({"name": "fixed", "task_weights": given}, TASKS)
