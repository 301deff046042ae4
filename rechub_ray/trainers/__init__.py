"""The familiar face: a trainer object with fit, evaluate and predict, on top of the same runtime as the command line."""

from rechub_ray.trainers.ctr_trainer import CTRTrainer

__all__ = ["CTRTrainer"]
