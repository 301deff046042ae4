"""Some items of the other rows, drawn for each row."""

from __future__ import annotations

import torch
from torch import Tensor

from rechub_ray.data.catalogue import Catalogue
from rechub_ray.negatives.base import NEGATIVES, Negatives, Rows
from rechub_ray.schema import PositiveInt


@NEGATIVES.register("in_batch_drawn")
class InBatchDrawn(Negatives):
    """The items of `number` other rows of the step, on all workers, which each row draws for itself, with replacement.

    Args:
        catalogue: the items.
        number: negatives a row, >= 1.
    """

    per_row = True
    of_step = True

    def __init__(self, catalogue: Catalogue, *, number: PositiveInt = 1) -> None:
        super().__init__(catalogue)
        self.number = number

    def of_rows(self, rows: Rows) -> Tensor:
        every, first = rows.every()
        if len(every) < 2:
            return torch.full_like(rows.own, -1).unsqueeze(1)
        mine = first + torch.arange(len(rows.own), device=every.device)
        steps = 1 + (rows.draw_rows(mine, self.number) * (len(every) - 1)).long()
        return every[(mine.unsqueeze(1) + steps) % len(every)]
