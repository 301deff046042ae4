"""Metrics of a model over every row of a split."""

from __future__ import annotations

import torch

from rechub_ray.data.source import EvalSource
from rechub_ray.device import autocast
from rechub_ray.errors import DataError
from rechub_ray.metrics import MetricSet
from rechub_ray.world import World


@torch.no_grad()
def evaluate_model(
    model: torch.nn.Module,
    metrics: MetricSet,
    source: EvalSource,
    *,
    world: World,
    device: torch.device,
    precision: str = "float32",
) -> dict[str, float]:
    """Return the metrics over every row of `source`, each row once; the same on every rank.

    Returns:
        Metric key -> value, with `rows_expected` and `rows_seen`.

    Raises:
        DataError: the number of rows seen on all workers is not the expected one.
    """
    model.eval()
    metrics.reset()
    rows = 0
    for batch in source.batches():
        batch = batch.to(device)
        with autocast(device, precision):
            outputs = model(batch.features)
        metrics.update({name: value.float() for name, value in outputs.items()}, batch)
        rows += batch.rows
    seen = int(world.sum_(torch.tensor([rows], dtype=torch.int64, device=device)).item())
    if seen != source.rows_expected:
        raise DataError("the evaluation did not see every row exactly once", expected=source.rows_expected, got=seen)
    result = metrics.compute(world, device=device)
    if device.type == "cuda":
        torch.cuda.empty_cache()  # evaluation batches are larger; training needs that memory back
    return {**result, "rows_expected": source.rows_expected, "rows_seen": seen}
