"""Under Torch-RecHub's module path."""

from rechub_ray.trainers import MTLTrainer

__all__ = ["MTLTrainer"]
