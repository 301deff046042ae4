from __future__ import annotations

from rechub_ray.schedules import Constant


def test_is_one() -> None:
    assert {Constant(10, 0.3).factor(step) for step in range(20)} == {1.0}
