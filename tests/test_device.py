"""Computations in blocks on several cores."""

from __future__ import annotations

import threading
from collections.abc import Iterator

import pytest
import torch

from rechub_ray.device import on_a_core_each

CPU = torch.device("cpu")


@pytest.fixture
def two_threads() -> Iterator[None]:
    before = torch.get_num_threads()
    torch.set_num_threads(2)
    yield
    torch.set_num_threads(before)


@pytest.mark.usefixtures("two_threads")
def test_parts_are_computed_at_once_by_one_core_each() -> None:
    together = threading.Barrier(2, timeout=60)  # neither part ends before the other has begun

    def of_part(number: int) -> tuple[int, int, bool]:
        together.wait()
        return number, torch.get_num_threads(), torch.is_grad_enabled()

    assert on_a_core_each(of_part, [4, 2], CPU) == [(4, 1, False), (2, 1, False)]
    assert torch.get_num_threads() == 2
    assert torch.is_grad_enabled()


@pytest.mark.usefixtures("two_threads")
def test_an_error_of_a_part_is_raised_and_the_threads_are_as_before() -> None:
    def of_part(number: int) -> int:
        if number == 3:
            raise ValueError("the third")
        return number

    with pytest.raises(ValueError, match="the third"):
        on_a_core_each(of_part, range(9), CPU)
    assert torch.get_num_threads() == 2


@pytest.mark.usefixtures("two_threads")
def test_one_part_has_all_cores() -> None:
    assert on_a_core_each(lambda _: torch.get_num_threads(), [0], CPU) == [2]
