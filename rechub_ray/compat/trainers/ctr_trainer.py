"""Under Torch-RecHub's module path."""

from rechub_ray.trainers import CTRTrainer

__all__ = ["CTRTrainer"]
