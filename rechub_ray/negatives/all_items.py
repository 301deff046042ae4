"""All items of the item table."""

from __future__ import annotations

from rechub_ray.negatives.base import NEGATIVES, Negatives


@NEGATIVES.register("all")
class AllItems(Negatives):
    """Every item of the item table, in every step: nothing is drawn. `full_softmax` reads it, and takes no other."""

    every = True
