from __future__ import annotations

from typing import Any

import numpy as np

from tests.losses.vector_references import mean_by_count, towers

LABEL_KIND = "binary"
WIDTH = 6
PARTS = ("user", "item")
WEIGHTLESS_ROWS_STAY = True
VARIANTS: list[dict[str, Any]] = [{"similarity": "cosine", "temperature": 0.5}]


def reference(
    s: np.ndarray, y: np.ndarray, w: np.ndarray, group: np.ndarray, *, temperature: float = 0.1, **arguments: Any
) -> float:
    _, sims = towers(s, temperature=temperature, **arguments)
    chosen = np.array([np.log(np.exp(row - row[i]).sum()) for i, row in enumerate(sims)])
    return mean_by_count(chosen, w * (y > 0))
