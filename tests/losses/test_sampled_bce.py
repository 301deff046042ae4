from __future__ import annotations

from typing import Any

import numpy as np

from tests.losses.vector_references import mean_by_count, towers

LABEL_KIND = "binary"
WIDTH = 6
PARTS = ("user", "item")
WEIGHTLESS_ROWS_STAY = True
VARIANTS: list[dict[str, Any]] = [{"similarity": "cosine", "temperature": 0.3}, {"negative_weight": 0.25}]


def reference(
    s: np.ndarray, y: np.ndarray, w: np.ndarray, group: np.ndarray, *, negative_weight: float = 1.0, **arguments: Any
) -> float:
    _, sims = towers(s, **arguments)
    losses = []
    for i, row in enumerate(sims):
        p = 1 / (1 + np.exp(-row))
        if y[i] > 0:
            losses.append(
                -np.log(p[i]) - negative_weight * np.mean([np.log(1 - p[j]) for j in range(len(y)) if j != i])
            )
        else:
            losses.append(-np.log(1 - p[i]))
    return mean_by_count(np.array(losses), w)
