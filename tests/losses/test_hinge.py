from __future__ import annotations

from typing import Any

import numpy as np

from tests.losses.vector_references import mean_by_count, towers

LABEL_KIND = "binary"
WIDTH = 6
PARTS = ("user", "item")
WEIGHTLESS_ROWS_STAY = True
VARIANTS: list[dict[str, Any]] = [{"similarity": "cosine", "temperature": 0.5, "margin": 0.3}, {"hardest": True}]


def reference(
    s: np.ndarray, y: np.ndarray, w: np.ndarray, group: np.ndarray, *, margin: float = 1.0, hardest: bool = False,
    **arguments: Any,
) -> float:  # fmt: skip
    _, sims = towers(s, **arguments)
    each = [[max(0.0, margin + row[j] - row[i]) for j in range(len(y)) if j != i] for i, row in enumerate(sims)]
    return mean_by_count(np.array([max(lost) if hardest else np.mean(lost) for lost in each]), w * (y > 0))
