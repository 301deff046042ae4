"""Trainer objects with fit, evaluate and predict, on the same runtime as the command line."""

from rechub_ray.trainers.ctr_trainer import CTRTrainer

__all__ = ["CTRTrainer"]
