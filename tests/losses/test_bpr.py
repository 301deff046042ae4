from __future__ import annotations

from typing import Any

import numpy as np

from tests.losses.vector_references import mean_by_count, towers

LABEL_KIND = "binary"
WIDTH = 6
PARTS = ("user", "item")
WEIGHTLESS_ROWS_STAY = True
VARIANTS: list[dict[str, Any]] = [{"similarity": "cosine", "temperature": 0.3}]


def reference(s: np.ndarray, y: np.ndarray, w: np.ndarray, group: np.ndarray, **arguments: Any) -> float:
    _, sims = towers(s, **arguments)
    chance = [
        np.mean([np.log(1 + np.exp(row[j] - row[i])) for j in range(len(y)) if j != i]) for i, row in enumerate(sims)
    ]
    return mean_by_count(np.array(chance), w * (y > 0))
