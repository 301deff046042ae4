"""Rankings of a few items in place of all: lists that the rows give, and drawn ones."""

from __future__ import annotations

import torch
from torch import Tensor

from rechub_ray.evaluation.corpus import Pairs
from rechub_ray.negatives.base import uniform_rows

_ROWS = 256
_NUMBERS = 2**22
"""Random numbers that are held at once."""


def drawn(number: int, excluded: Pairs, *, rows: Tensor, items: int, seed: int) -> Pairs:
    """Return so many items for each row, each at most once and as likely as any other, without some pairs.

    What a row gets depends on the seed, its number and its excluded items alone. A row to which fewer are left gets all
    of them.

    Args:
        number: of items a row, >= 1.
        excluded: places in the item table that a row does not get, its own item among them.
        rows: numbers of the rows in their split, (B,) int64.
        items: number of all items, >= 1.
        seed: any integer.
    """
    parts = [
        _drawn(number, excluded.within(start, start + _ROWS), rows[start : start + _ROWS], items, seed)
        for start in range(0, len(rows), _ROWS)
    ]
    places = [torch.stack([part.rows + i * _ROWS, part.places]) for i, part in enumerate(parts)]
    found = torch.cat(places, 1) if places else rows.new_zeros((2, 0))
    return Pairs.of(found[0], found[1], items)


def _drawn(number: int, excluded: Pairs, rows: Tensor, items: int, seed: int) -> Pairs:
    wanted = (items - torch.bincount(excluded.rows, minlength=len(rows))).clamp(max=number)
    own = torch.arange(len(rows), device=rows.device).unsqueeze(1)
    keys = (excluded.rows * items + excluded.places).sort().values
    width = 2 * number + 32
    while True:  # the first numbers stay the same, so it does not matter which rows need more
        places = torch.cat(
            [(uniform_rows(seed, some, width) * items).long() for some in torch.split(rows, max(1, _NUMBERS // width))]
        )
        counts = ~torch.isin(own * items + places, keys)
        ordered, order = places.sort(dim=1, stable=True)
        counts &= ~torch.zeros_like(counts).scatter(1, order[:, 1:], ordered[:, 1:] == ordered[:, :-1])
        if bool((counts.sum(1) >= wanted).all()):
            break
        width *= 2
    counts &= counts.cumsum(1) <= number
    found = counts.nonzero()
    return Pairs(found[:, 0], places[counts])


def without(pairs: Pairs, excluded: Pairs, items: int) -> Pairs:
    """Return the pairs that are not among others."""
    keys = [one.rows * items + one.places for one in (pairs, excluded)]
    kept = ~torch.isin(*keys)
    return Pairs(pairs.rows[kept], pairs.places[kept])
