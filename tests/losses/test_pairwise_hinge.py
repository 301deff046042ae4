from __future__ import annotations

from typing import Any

import numpy as np

from tests.losses.pair_references import mean_over_pairs

LABEL_KIND = "regression"
VARIANTS: list[dict[str, Any]] = [
    {"session_name": "user", "temperature": 0.5},
    {"label_is_logits": False, "temperature": 2.0},
    {"use_label_margin": False, "margin": 0.7},
    {"use_exponent": True, "temperature": 2.0},
    {"use_exponent": True, "use_label_margin": False, "session_name": "user"},
    {"ohem_ratio": 0.7, "session_name": "user"},
    {"ohem_ratio": 0.9, "use_label_margin": False},  # it would take pairs that lose nothing too
]


def reference(
    s: np.ndarray, y: np.ndarray, w: np.ndarray, group: np.ndarray, *, margin: float = 1.0,
    label_is_logits: bool = True, use_label_margin: bool = True,
    use_exponent: bool = False, temperature: float = 1.0, **common: Any,
) -> float:  # fmt: skip
    s, graded = s / temperature, y / temperature if label_is_logits else y
    if use_exponent:
        s, graded = 1 / (1 + np.exp(-s)), 1 / (1 + np.exp(-graded))
    label_of = dict(zip(y.tolist(), graded.tolist(), strict=True))

    def of_pair(difference: float, first: float, second: float) -> float:
        lacking = (label_of[first] - label_of[second] if use_label_margin else margin) - difference
        return max(0.0, float(np.exp(min(lacking, 88)) - 1) if use_exponent else lacking)

    return mean_over_pairs(s, y, w, group, of_pair, **common)
