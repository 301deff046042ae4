from __future__ import annotations

from typing import Any

import numpy as np

from tests.losses.pair_references import mean_over_pairs

LABEL_KIND = "binary"
VARIANTS: list[dict[str, Any]] = [
    {"session_name": "user", "temperature": 0.5, "hinge_margin": 0.3},
    {"use_label_margin": True, "temperature": 2.0},
    {"ohem_ratio": 0.3},
]


def reference(
    s: np.ndarray, y: np.ndarray, w: np.ndarray, group: np.ndarray, *, hinge_margin: float = 0.0,
    use_label_margin: bool = False, **common: Any,
) -> float:  # fmt: skip
    def of_pair(difference: float, first: float, second: float) -> float:
        margin = (first - second) / common.get("temperature", 1.0) if use_label_margin else hinge_margin
        return float(np.log1p(np.exp(margin - difference)))

    return mean_over_pairs(s, y, w, group, of_pair, **common)
