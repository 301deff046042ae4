"""The largest products of users with items that come block by block."""

from __future__ import annotations

import torch
from torch import Tensor

_FOLDS = 16
"""Columns whose largest one is looked at first, by one pass over the block; sorting takes far longer."""


def merge_top(block: Tensor, start: int, number: int, before: tuple[Tensor, Tensor] | None) -> tuple[Tensor, Tensor]:
    """Return the largest products of a block and of those before it, in descending order, and their places.

    Args:
        block: products of users with the items from `start` on.
        start: place of the block's first item.
        number: how many are wanted, >= 1.
        before: the result for the blocks before; None for the first one.

    Shapes:
        block (B, C) -> (B, at most number) and (B, at most number) int64.
    """
    rows, width = block.shape[0], block.shape[1] // _FOLDS
    if number < width and width * _FOLDS == block.shape[1] and (before is None or before[0].shape[1] == number):
        # each of the largest ones is in a fold whose largest one is among as many largest ones of folds
        peaks, wanted = block.view(rows, _FOLDS, width).amax(1), number
        if before is not None:
            wanted = min(number, int((peaks > before[0][:, -1:]).sum(1).amax())) if rows else 0
            if wanted == 0:
                return before
        folds = peaks.topk(wanted, 1, sorted=False).indices
        places = (folds.unsqueeze(1) + width * torch.arange(_FOLDS, device=block.device).unsqueeze(1)).flatten(1)
        values = block.gather(1, places)
    else:
        values, places = block.topk(min(number, block.shape[1]), 1)
    places = places + start
    if before is not None:
        values, places = torch.cat([before[0], values], 1), torch.cat([before[1], places], 1)
    values, order = values.topk(min(number, values.shape[1]), 1)
    return values, places.gather(1, order)
