"""Trainer objects with fit, evaluate and predict, on the same runtime as the command line."""

from rechub_ray.trainers.ctr_trainer import CTRTrainer
from rechub_ray.trainers.match_trainer import MatchTrainer
from rechub_ray.trainers.mtl_trainer import MTLTrainer
from rechub_ray.trainers.multi_task_evaluation import evaluate_multi_task
from rechub_ray.trainers.seq_trainer import SeqTrainer

__all__ = ["CTRTrainer", "MTLTrainer", "MatchTrainer", "SeqTrainer", "evaluate_multi_task"]
