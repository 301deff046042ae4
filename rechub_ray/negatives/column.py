"""Items that the rows name themselves."""

from __future__ import annotations

import torch
from torch import Tensor

from rechub_ray.data.catalogue import Catalogue
from rechub_ray.negatives.base import NEGATIVES, Negatives, Rows
from rechub_ray.schema import PositiveInt


@NEGATIVES.register("column")
class Column(Negatives):
    """The items of a list column: what a user was shown and did not take, for instance. They are the row's alone.

    Args:
        catalogue: the items.
        column: the list column, one of the schema's `items.lists`.
        number: the first so many of a list count, >= 1; None takes all. Items that are not in the item table are left
            out.
    """

    per_row = True

    def __init__(self, catalogue: Catalogue, *, column: str, number: PositiveInt | None = None) -> None:
        super().__init__(catalogue)
        self.column, self.most = column, number

    def of_rows(self, rows: Rows) -> Tensor:
        assert self.column is not None
        lists = rows.lists[self.column]
        lengths, starts = lists.offsets.diff()[rows.of], lists.offsets[rows.of].unsqueeze(1)
        if self.most is not None:
            lengths = lengths.clamp(max=self.most)
        width = int(lengths.max()) if len(lengths) else 0
        place = torch.arange(width, device=lengths.device)
        is_there = place < lengths.unsqueeze(1)
        ids = lists.values[torch.where(is_there, starts + place, 0)]
        return torch.where(is_there, self.catalogue.rows_of(ids), -1)
