"""Items that the model takes for right."""

from __future__ import annotations

from typing import Annotated

import torch
from annotated_types import Ge
from torch import Tensor

from rechub_ray.data.catalogue import Catalogue
from rechub_ray.negatives.base import NEGATIVES, Negatives, Rows
from rechub_ray.schema import PositiveInt

_BLOCK = 2**22
"""Products that are held at once: 16 MiB in float32."""


@NEGATIVES.register("hard")
class Hard(Negatives):
    """The items of the largest products with a row's user, without the row's own. They are the row's alone.

    Users' vectors are those of the present weights, items' vectors those of the last refresh: at every
    `refresh_steps`-th step, and after every checkpoint, so that a run that goes on from one has the same items. Both
    towers are in evaluation mode.

    Among the largest products are items that would be right: `skip` leaves the first ones out, and `pool` chooses among
    some drawn items only, which is also less work where there are many.

    Args:
        catalogue: the items.
        number: negatives a row, >= 1.
        skip: how many of the largest products are passed over, >= 0.
        pool: items that a step draws, each as likely as any other, to choose from, the same for all rows, >= 1; None
            chooses from all.
        refresh_steps: steps after which items' vectors are computed again, >= 1.

    Reference: Xiong et al., Approximate Nearest Neighbor Negative Contrastive Learning for Dense Text Retrieval, arXiv
    2007.00808, section 3, with exact neighbours; `skip` as in Huang et al., Embedding-based Retrieval in Facebook
    Search, arXiv 2006.11632, section 6.1; `pool` as in Zhang et al., Optimizing Top-N Collaborative Filtering via
    Dynamic Negative Item Sampling, SIGIR 2013.
    """

    per_row = True

    def __init__(
        self,
        catalogue: Catalogue,
        *,
        number: PositiveInt = 1,
        skip: Annotated[int, Ge(0)] = 0,
        pool: PositiveInt | None = None,
        refresh_steps: PositiveInt = 100,
    ) -> None:
        super().__init__(catalogue)
        self.number, self.skip, self.pool, self.refresh_steps = number, skip, pool, refresh_steps

    def of_rows(self, rows: Rows) -> Tensor:
        assert rows.items is not None
        vectors, own = rows.items, rows.own.unsqueeze(1)
        drawn = None
        if self.pool is not None:
            # one that was drawn twice would be a negative twice
            drawn = torch.unique((rows.draw(self.pool) * len(vectors)).long())
            vectors = vectors[drawn]
        users = rows.users().to(vectors.dtype)
        rows_at_once = max(1, _BLOCK // max(1, len(vectors) * (users.shape[1] if users.dim() == 3 else 1)))
        found = [
            _largest(some, vectors, drawn, mine, self.skip + self.number)
            for some, mine in zip(torch.split(users, rows_at_once), torch.split(own, rows_at_once), strict=True)
        ]
        return torch.cat(found)[:, self.skip :]


def _largest(users: Tensor, vectors: Tensor, drawn: Tensor | None, own: Tensor, number: int) -> Tensor:
    """Return the places of the largest products, best first, without the rows' own; -1 where there are no more.

    Args:
        drawn: places of `vectors` in the catalogue, ascending; None where they are all items.

    Shapes:
        users (R, D) or (R, K, D), vectors (N, D), drawn (N,), own (R, 1) -> (R, number)
    """
    products = users @ vectors.T
    if users.dim() == 3:
        products = products.amax(1)
    if drawn is None:
        place, is_there = own.clamp(min=0), own >= 0
    else:
        place = torch.searchsorted(drawn, own).clamp(max=len(drawn) - 1)
        is_there = drawn[place] == own
    lowest = torch.full_like(own, -torch.inf, dtype=products.dtype)
    products = products.scatter(1, place, torch.where(is_there, lowest, products.gather(1, place)))
    values, places = products.topk(min(number, len(vectors)), 1)
    places = places if drawn is None else drawn[places]
    return torch.where(values > -torch.inf, places, -1)
