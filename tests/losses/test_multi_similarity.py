from __future__ import annotations

from typing import Any

import numpy as np

from tests.losses.vector_references import mean_by_count, neighbours, unit

LABEL_KIND = "binary"
WIDTH = 3
PARTS = ("item",)
WEIGHTLESS_ROWS_STAY = True
VARIANTS: list[dict[str, Any]] = [
    {"session_name": "user", "beta": 5.0},
    {"alpha": 3.0, "beta": 4.0, "lamb": 0.4},
    {"mining": True, "eps": 0.05, "beta": 5.0},
]


def reference(
    s: np.ndarray, y: np.ndarray, w: np.ndarray, group: np.ndarray, *, alpha: float = 2.0, beta: float = 50.0,
    lamb: float = 1.0, eps: float = 0.1, mining: bool = False, session_name: str | None = None,
) -> float:  # fmt: skip
    cosine = np.maximum(unit(s) @ unit(s).T, 0)
    losses = np.zeros(len(y))
    for i in range(len(y)):
        positives, negatives = neighbours(y, group, i, session_name is not None)
        if mining:
            far = max((cosine[i, j] for j in negatives), default=-np.inf)
            near = min((cosine[i, j] for j in positives), default=np.inf)
            positives = [j for j in positives if cosine[i, j] - eps < far]
            negatives = [j for j in negatives if cosine[i, j] + eps > near]
        losses[i] = np.log(1 + sum(np.exp(-alpha * (cosine[i, j] - lamb)) for j in positives)) / alpha
        losses[i] += np.log(1 + sum(np.exp(beta * (cosine[i, j] - lamb)) for j in negatives)) / beta
    return mean_by_count(losses, w)
