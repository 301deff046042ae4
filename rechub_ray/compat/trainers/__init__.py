"""Trainers under Torch-RecHub's names."""

from __future__ import annotations

from typing import Any

from rechub_ray.compat.missing import refuse
from rechub_ray.trainers import CTRTrainer, MatchTrainer, MTLTrainer, SeqTrainer, evaluate_multi_task

__all__ = ["CTRTrainer", "MTLTrainer", "MatchTrainer", "SeqTrainer", "evaluate_multi_task"]


def __getattr__(name: str) -> Any:
    refuse(__name__, name, known=__all__, missing=())
