from __future__ import annotations

from typing import Any

import numpy as np

from tests.losses.vector_references import towers

LABEL_KIND = "binary"
WIDTH = 6
PARTS = ("user", "item")
WEIGHTLESS_ROWS_STAY = True
WEIGHTS_ARE_RELATIVE = True
VARIANTS: list[dict[str, Any]] = [
    {"similarity": "cosine", "temperature": 0.2},
    {"positive_regularization": 0.0, "scale_logits": True},
]


def reference(
    s: np.ndarray, y: np.ndarray, w: np.ndarray, group: np.ndarray, *,
    positive_regularization: float = 1.0, scale_logits: bool = False, **arguments: Any,
) -> float:  # fmt: skip
    raw, sims = towers(s, **arguments)
    w = w * (y > 0)
    chance = np.exp(np.diag(sims) - sims.max(1)) / np.exp(sims - sims.max(1, keepdims=True)).sum(1)
    softmax = -(np.log(chance) * w).mean() / w.mean()
    return float(softmax + positive_regularization * (np.maximum(-np.diag(raw), 0) * w).mean() / w.mean())
