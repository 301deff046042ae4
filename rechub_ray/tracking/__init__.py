"""Trackers: where a run's numbers go."""

from rechub_ray.tracking.adapter import LoggerAdapter
from rechub_ray.tracking.base import TRACKERS, RunInfo, Tracker
from rechub_ray.tracking.console import ConsoleTracker
from rechub_ray.tracking.csv import CsvTracker
from rechub_ray.tracking.jsonl import JsonlTracker, read_history
from rechub_ray.tracking.mlflow import MlflowTracker
from rechub_ray.tracking.swanlab import SwanlabTracker
from rechub_ray.tracking.tensorboardx import TensorBoardXTracker
from rechub_ray.tracking.trackers import Trackers, check_trackers
from rechub_ray.tracking.wandb import WandbTracker

__all__ = [
    "TRACKERS",
    "ConsoleTracker",
    "CsvTracker",
    "JsonlTracker",
    "LoggerAdapter",
    "MlflowTracker",
    "RunInfo",
    "SwanlabTracker",
    "TensorBoardXTracker",
    "Tracker",
    "Trackers",
    "WandbTracker",
    "check_trackers",
    "read_history",
]
