"""Losses over lists in NumPy, list by list."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np


def softmax(values: np.ndarray) -> np.ndarray:
    return np.asarray(np.exp(values) / np.exp(values).sum())


def mean_over_lists(
    s: np.ndarray, y: np.ndarray, w: np.ndarray, group: np.ndarray, targets: Callable[[np.ndarray], np.ndarray]
) -> float:
    """`targets(labels of a list)` are its rows' targets; rows of weight 0 are in no list."""
    found = []
    for key in np.unique(group[w != 0]):
        rows = (group == key) & (w != 0)
        found.append(-(w[rows] * targets(y[rows]) * np.log(softmax(s[rows]))).sum())
    return float(np.mean(found))
