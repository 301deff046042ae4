from __future__ import annotations

from typing import Any

import pytest
import torch

from rechub_ray.schedules import OneCycle


@pytest.mark.parametrize(("curve", "anneal"), [("cosine", "cos"), ("linear", "linear")])
@pytest.mark.parametrize("rise", [0.3, 0.5, 0.9])
def test_is_that_of_torch(curve: Any, anneal: Any, rise: float) -> None:
    optimizer = torch.optim.SGD([torch.nn.Parameter(torch.zeros(1))], lr=0.4)
    theirs = torch.optim.lr_scheduler.OneCycleLR(
        optimizer, 0.4, total_steps=50, pct_start=rise, anneal_strategy=anneal, cycle_momentum=False
    )
    mine = OneCycle(50, 0.4, rise=rise, curve=curve)
    for step in range(50):
        assert 0.4 * mine.factor(step) == pytest.approx(optimizer.param_groups[0]["lr"], rel=1e-9)
        optimizer.step()
        theirs.step()


def test_stays_at_the_end() -> None:
    schedule = OneCycle(10, 1.0, start_divisor=2, end_divisor=5)
    assert [schedule.factor(step) for step in (9, 10, 1000)] == pytest.approx([0.1] * 3)
    assert OneCycle(10, 1.0, rise=1.0).factor(9) == pytest.approx(1.0)
