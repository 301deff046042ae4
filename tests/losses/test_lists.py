"""Sums and softmax within lists."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from rechub_ray.losses.base import Columns, Rows
from rechub_ray.losses.lists import Lists

GROUP = torch.tensor([7, 3, 7, 9, 3, 7, 9])


def lists(are_in: Tensor | None = None, *, first: int = 0, rows: int = 7) -> Lists:
    whole = Rows(torch.zeros(7), group=GROUP)
    return Lists(Rows(torch.zeros(rows)), Columns(torch.zeros(7), whole, first), are_in, by_group=True)


def test_rows_of_a_list_need_not_lie_together() -> None:
    values = torch.tensor([1.0, 2, 3, 4, 5, 6, 7])
    assert lists().sum(values).tolist() == [10, 7, 10, 11, 7, 10, 11]
    torch.testing.assert_close(lists().log_sum_exp(values)[1], torch.logsumexp(values[[1, 4]], 0))


def test_rows_outside_take_no_part_and_a_list_without_rows_is_minus_infinity() -> None:
    are_in = torch.tensor([True, True, False, False, True, True, False])
    values = torch.tensor([1.0, 2, 1e30, math.inf, 5, 6, 7]).requires_grad_()
    found = lists(are_in).log_sum_exp(values)
    assert found[3].item() == -math.inf
    torch.testing.assert_close(found[0], torch.logsumexp(values[[0, 5]], 0))
    lists(are_in).own(found).backward()
    assert values.grad is not None
    torch.testing.assert_close(
        values.grad[are_in], torch.softmax(values[[0, 5, 1, 4]].view(2, 2), 1).reshape(-1)[[0, 2, 3, 1]] * 2
    )
    assert values.grad[~are_in].tolist() == [0, 0, 0]


def test_a_list_is_counted_once_where_its_first_row_lies() -> None:
    are_in = torch.tensor([False, True, True, True, True, True, False])
    whole = lists(are_in).count()
    assert whole.item() == 3
    assert lists(are_in, first=0, rows=2).count().item() == 1
    assert lists(are_in, first=2, rows=5).count().item() == 2
