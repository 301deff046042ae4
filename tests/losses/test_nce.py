from __future__ import annotations

from typing import Any

import numpy as np

from tests.losses.vector_references import mean_by_count, unit

LABEL_KIND = "binary"
WIDTH = 6
PARTS = ("user", "item")
WEIGHTLESS_ROWS_STAY = True
VARIANTS: list[dict[str, Any]] = [{"similarity": "cosine", "temperature": 0.3}]


def reference(
    s: np.ndarray, y: np.ndarray, w: np.ndarray, group: np.ndarray, *, similarity: str = "dot", temperature: float = 1.0
) -> float:
    """The 2B x 2B matrix of all views, as in the paper."""
    user, item = np.split(s, 2, axis=1)
    views = np.concatenate([user, item])
    if similarity == "cosine":
        views = unit(views)
    logits, rows = views @ views.T / temperature, len(y)
    losses = np.zeros(2 * rows)
    for i in range(2 * rows):
        others = np.array([k for k in range(2 * rows) if k != i])
        losses[i] = np.log(np.exp(logits[i, others] - logits[i, (i + rows) % (2 * rows)]).sum())
    return mean_by_count((losses[:rows] + losses[rows:]) / 2, w * (y > 0))
