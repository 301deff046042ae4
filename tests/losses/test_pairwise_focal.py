from __future__ import annotations

from typing import Any

import numpy as np

from tests.losses.pair_references import mean_over_pairs

LABEL_KIND = "binary"
VARIANTS: list[dict[str, Any]] = [
    {"gamma": 1.5, "alpha": 0.25, "temperature": 2.0, "session_name": "user"},
    {"hinge_margin": 1.0},
    {"hinge_margin": 1.0, "session_name": "user", "ohem_ratio": 0.5},
]


def reference(
    s: np.ndarray, y: np.ndarray, w: np.ndarray, group: np.ndarray, *, gamma: float = 2.0, alpha: float = 1.0,
    hinge_margin: float = np.inf, **common: Any,
) -> float:  # fmt: skip
    def of_pair(difference: float, _first: float, _second: float) -> float:
        p = np.clip(1 / (1 + np.exp(-difference)), 1e-7, 1 - 1e-7)
        return float(alpha * (1 - p) ** gamma * np.log1p(np.exp(-difference)))

    return mean_over_pairs(s, y, w, group, of_pair, limit=hinge_margin, **common)
