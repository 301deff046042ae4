"""Learning-rate schedules."""

from rechub_ray.schedules.base import SCHEDULES, Schedule
from rechub_ray.schedules.constant import Constant
from rechub_ray.schedules.exponential import Exponential
from rechub_ray.schedules.manual_step import ManualStep
from rechub_ray.schedules.polynomial import Polynomial
from rechub_ray.schedules.reduce_on_plateau import ReduceOnPlateau
from rechub_ray.schedules.warmup_cosine import WarmupCosine

__all__ = [
    "SCHEDULES",
    "Constant",
    "Exponential",
    "ManualStep",
    "Polynomial",
    "ReduceOnPlateau",
    "Schedule",
    "WarmupCosine",
]
