"""All losses; importing this package registers them."""

from rechub_ray.losses.base import LOSSES, Loss, weighted_sum
from rechub_ray.losses.bce import BCE

__all__ = ["BCE", "LOSSES", "Loss", "weighted_sum"]
