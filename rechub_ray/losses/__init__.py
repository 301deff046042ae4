"""Losses: one file each, found by `LOSSES` when one is first asked for."""

from __future__ import annotations

from typing import Any

from rechub_ray.losses.base import LOSSES, Loss, PairLoss, Scope, build_losses, weighted_sum

__all__ = ["LOSSES", "Loss", "PairLoss", "Scope", "build_losses", "weighted_sum"]


def __getattr__(name: str) -> Any:
    return LOSSES.attribute(__name__, name)
