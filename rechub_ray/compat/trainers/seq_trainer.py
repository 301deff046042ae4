"""Under Torch-RecHub's module path."""

from rechub_ray.trainers import SeqTrainer

__all__ = ["SeqTrainer"]
