from __future__ import annotations

from typing import Any

import numpy as np

from tests.losses.vector_references import mean_by_count, towers

LABEL_KIND = "binary"
WIDTH = 6
PARTS = ("user", "item")
WEIGHTLESS_ROWS_STAY = True
VARIANTS: list[dict[str, Any]] = [{"similarity": "cosine", "temperature": 0.3, "score_penalty": 0.2}]


def of_row(own: float, others: np.ndarray, *, score_penalty: float = 1.0) -> float:
    p = np.exp(others) / np.exp(others).sum()
    return float(-np.log((p / (1 + np.exp(others - own))).sum()) + score_penalty * (p * others**2).sum())


def reference(
    s: np.ndarray, y: np.ndarray, w: np.ndarray, group: np.ndarray, *, score_penalty: float = 1.0, **arguments: Any
) -> float:
    _, sims = towers(s, **arguments)
    each = [of_row(row[i], np.delete(row, i), score_penalty=score_penalty) for i, row in enumerate(sims)]
    return mean_by_count(np.array(each), w * (y > 0))
