from __future__ import annotations

from typing import Any

import numpy as np

from tests.losses.pair_references import mean_over_pairs

LABEL_KIND = "binary"
VARIANTS: list[dict[str, Any]] = [{"session_name": "user", "temperature": 0.5, "margin": 0.3}]


def reference(
    s: np.ndarray, y: np.ndarray, w: np.ndarray, group: np.ndarray, *, margin: float = 0.0, **common: Any
) -> float:
    return mean_over_pairs(s, y, w, group, lambda d, _y, _z: float(np.log1p(np.exp(margin - d))), **common)
