"""Under Torch-RecHub's module path."""

from rechub_ray.trainers import MatchTrainer

__all__ = ["MatchTrainer"]
