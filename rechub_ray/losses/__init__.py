"""All losses; importing this package registers them."""

from rechub_ray.losses.base import LOSSES, Loss, LossSum, sum_by_nonzero_weights
from rechub_ray.losses.bce import BCE

__all__ = ["BCE", "LOSSES", "Loss", "LossSum", "sum_by_nonzero_weights"]
