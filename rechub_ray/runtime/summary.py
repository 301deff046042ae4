"""Results, as the command line prints them, and the kinds of components."""

from __future__ import annotations

import math
import typing
from collections.abc import Mapping

from rich.console import Console
from rich.table import Table

from rechub_ray.balancing import BALANCING
from rechub_ray.errors import masked
from rechub_ray.export.index import INDEXES
from rechub_ray.losses import LOSSES
from rechub_ray.metrics import METRICS
from rechub_ray.models import MODELS
from rechub_ray.negatives import NEGATIVES
from rechub_ray.optimizers import OPTIMIZERS
from rechub_ray.registry import Registry
from rechub_ray.schedules import SCHEDULES
from rechub_ray.tracking import TRACKERS

if typing.TYPE_CHECKING:
    from rechub_ray.runtime.launch import RunResult

FAMILIES: dict[str, Registry[typing.Any]] = {
    "models": MODELS,
    "losses": LOSSES,
    "balancing": BALANCING,
    "metrics": METRICS,
    "negatives": NEGATIVES,
    "optimizers": OPTIMIZERS,
    "schedules": SCHEDULES,
    "trackers": TRACKERS,
    "indexes": INDEXES,
}


def print_result(result: RunResult) -> None:
    """Print a finished run: its numbers, and where its files are."""
    details = result.details
    seconds = details["seconds"]
    table = Table(box=None, pad_edge=False)
    table.add_column("metric")
    table.add_column("valid", justify="right")
    table.add_column("test", justify="right")
    for key in dict.fromkeys([*result.metrics, *result.test_metrics]):
        table.add_row(key, _number(result.metrics.get(key)), _number(result.test_metrics.get(key)))
    console = Console(highlight=False, soft_wrap=True)
    console.print()
    console.print(table)
    console.print()
    here = details["rows_here"]
    speed = f" ({here / seconds['train']:,.0f} rows/s)" if here and seconds["train"] else ""
    ended = ", stopped early" if details["stopped_early"] else ""
    console.print(
        f"{details['rows']:,} rows in {details['steps']:,} steps and {details['epochs']} epochs on "
        f"{max(details['workers'], 1)} worker(s){ended}"
    )
    console.print(
        f"{seconds['run']:.1f} s in all: training {seconds['train']:.1f} s{speed}, "
        f"waiting for data {seconds['data']:.1f} s, evaluation {seconds['evaluate']:.1f} s, "
        f"saving {seconds['save']:.1f} s"
    )
    console.print(f"best checkpoint  {masked(result.best_checkpoint)}")
    if result.onnx:
        console.print(f"ONNX             {masked(result.onnx)}")
    if result.report:
        console.print(f"report           {masked(result.report)}")
    console.print(f"all files        {masked(result.model_dir)}")


def print_metrics(metrics: Mapping[str, float], split: str) -> None:
    """Print the metrics of one split."""
    table = Table(box=None, pad_edge=False)
    table.add_column("metric")
    table.add_column(split, justify="right")
    for key, value in metrics.items():
        table.add_row(key, _number(value))
    Console(highlight=False, soft_wrap=True).print(table)


def _number(value: float | None) -> str:
    if value is None:
        return ""
    if math.isnan(value):
        return "undefined"
    return f"{value:,}" if isinstance(value, int) else f"{value:.6f}"
