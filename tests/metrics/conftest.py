from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest
import torch

from rechub_ray.batch import Batch, Features, Outputs
from rechub_ray.metrics import METRICS, Metric
from rechub_ray.schema import Label, Schema

Rows = tuple[Outputs, Batch]


@pytest.fixture
def build() -> Callable[..., Metric]:
    """A metric by name, for one label."""

    def make(name: str, *, kind: str = "binary", weighted: bool = False, **arguments: object) -> Metric:
        schema = Schema(
            features=(),
            labels=(Label("label", kind),),  # type: ignore[arg-type]
            group="user",
            weight="weight" if weighted else None,
        )
        return METRICS.build({"name": name, **arguments}, schema)

    return make


@pytest.fixture
def rows() -> Callable[..., Rows]:
    """Outputs and a batch from NumPy arrays."""

    def make(
        logits: np.ndarray, labels: np.ndarray, weight: np.ndarray | None = None, group: np.ndarray | None = None
    ) -> Rows:
        count = len(logits)
        batch = Batch(
            features=Features(torch.zeros((count, 0), dtype=torch.int64), torch.zeros((count, 0))),
            labels=torch.tensor(labels, dtype=torch.float32)[:, None],
            weight=None if weight is None else torch.tensor(weight, dtype=torch.float32),
            group=torch.zeros(count, dtype=torch.int64) if group is None else torch.tensor(group, dtype=torch.int64),
        )
        return {"logit": torch.tensor(logits, dtype=torch.float32)}, batch

    return make


@pytest.fixture
def value(build: Callable[..., Metric], rows: Callable[..., Rows]) -> Callable[..., float]:
    """A metric's number over all rows in one batch."""

    def compute(
        name: str,
        logits: object,
        labels: object,
        weight: np.ndarray | None = None,
        group: np.ndarray | None = None,
        **arguments: object,
    ) -> float:
        metric = build(name, weighted=weight is not None, **arguments)
        return metric.compute(metric.update(*rows(np.asarray(logits), np.asarray(labels), weight, group)))

    return compute


@pytest.fixture
def clicks() -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
    """1,000 rows with ties: float32 logits, labels, weights (some 0), groups (some of one row or one class)."""
    random = np.random.default_rng(7)
    logits = np.round(random.normal(-1, 2, 1000), 1).astype(np.float32)
    labels = (random.random(1000) < 1 / (1 + np.exp(-logits))).astype(np.float32)
    weight = random.choice([0.0, 0.5, 1.0, 3.7], 1000).astype(np.float32)
    group = np.floor(random.exponential(40, 1000)).astype(np.int64) * 10**12 - 5
    return logits, labels, weight, group
