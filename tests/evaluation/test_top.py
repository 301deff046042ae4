"""The largest numbers of blocks: those of a sort, of whatever shape the blocks are."""

from __future__ import annotations

import pytest
import torch

from rechub_ray.evaluation.top import merge_top


@pytest.mark.parametrize("number", [1, 3, 40, 300])
@pytest.mark.parametrize("size", [7, 160, 512])
def test_blocks_together_give_the_first_of_a_sort(size: int, number: int) -> None:
    random = torch.Generator().manual_seed(size)
    products = torch.randn(5, 1312, generator=random)
    products[1] = torch.arange(1312) / 7.0  # each block is better than all before
    products[2] = -torch.arange(1312) / 7.0  # none is
    products[3] = 1.0
    products[4, :900] = -torch.inf
    found: tuple[torch.Tensor, torch.Tensor] | None = None
    for start in range(0, 1312, size):
        found = merge_top(products[:, start : start + size], start, number, found)
    assert found is not None
    values, places = found
    torch.testing.assert_close(values, products.sort(1, descending=True).values[:, :number], rtol=0, atol=0)
    torch.testing.assert_close(products.gather(1, places), values, rtol=0, atol=0)
    assert all(len(set(row)) == number for row in places.tolist())


def test_no_rows() -> None:
    nothing = merge_top(torch.empty(0, 64), 0, 3, None)
    assert merge_top(torch.empty(0, 64), 64, 3, nothing)[0].shape == (0, 3)
