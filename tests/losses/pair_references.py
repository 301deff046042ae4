"""Losses over pairs in NumPy, pair by pair."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np


def mean_over_pairs(
    s: np.ndarray, y: np.ndarray, w: np.ndarray, group: np.ndarray, of_pair: Callable[[float, float, float], float], *,
    session_name: str | None = None, temperature: float = 1.0, ohem_ratio: float = 1.0, limit: float = np.inf,
) -> float:  # fmt: skip
    """`of_pair(difference, y_i, y_j)` is what one pair loses."""
    found = []
    for i in range(len(s)):
        for j in range(len(s)):
            difference = (s[i] - s[j]) / temperature
            together = session_name is None or group[i] == group[j]
            if y[i] > y[j] and together and w[i] != 0 and difference < limit:
                found.append(w[i] * of_pair(difference, y[i], y[j]))
    if ohem_ratio < 1:
        hardest = sorted(found, reverse=True)[: max(1, int(np.rint(len(found) * ohem_ratio)))]
        found = [loss for loss in hardest if loss > 0]
    return float(np.mean(found)) if found else 0.0
