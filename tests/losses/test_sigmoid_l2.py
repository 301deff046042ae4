from __future__ import annotations

from typing import Any

import numpy as np

LABEL_KIND = "binary"
VARIANTS: list[dict[str, Any]] = []


def reference(s: np.ndarray, y: np.ndarray, w: np.ndarray, group: np.ndarray) -> float:
    return float(((1 / (1 + np.exp(-s)) - y) ** 2 * w).sum() / (w != 0).sum())
