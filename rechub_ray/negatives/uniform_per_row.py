"""Items that are drawn alike, for each row its own."""

from __future__ import annotations

import torch
from torch import Tensor

from rechub_ray.data.catalogue import Catalogue
from rechub_ray.negatives.base import NEGATIVES, Negatives, Rows
from rechub_ray.schema import PositiveInt


@NEGATIVES.register("uniform_per_row")
class UniformPerRow(Negatives):
    """Items of the item table that are drawn for one row each, or for one position of a sequence each.

    Each item is as likely as any other, but for the row's own one and those in its histories, of which none is drawn:
    the number of the draw counts the other items alone, so nothing is drawn twice, and a draw takes bounded time.

    Args:
        catalogue: the items.
        number: columns a row, >= 1.

    Reference: one a position, Kang and McAuley, Self-Attentive Sequential Recommendation, arXiv 1808.09781, section
    III.F; there, the user's whole history is left out, here the items in the row's lists.
    """

    per_row = True

    def __init__(self, catalogue: Catalogue, *, number: PositiveInt = 1) -> None:
        super().__init__(catalogue)
        self.number = number

    def of_rows(self, rows: Rows) -> Tensor:
        seen, row, items = rows.seen(), rows.of.unsqueeze(1), self.catalogue.rows
        first = seen.counts.cumsum(0) - seen.counts
        # how many items that may be drawn stand before each that may not
        before = seen.places - (torch.arange(len(seen.rows), device=row.device) - first[seen.rows])
        free = items - seen.counts[row]
        drawn = (rows.draw_each(self.number) * free).long()
        passed = torch.searchsorted(seen.rows * items + before, row * items + drawn, right=True) - first[row]
        return torch.where(free > 0, drawn + passed, -1)
