"""Similarities of vectors in NumPy."""

from __future__ import annotations

import numpy as np


def towers(s: np.ndarray, *, similarity: str = "dot", temperature: float = 1.0) -> tuple[np.ndarray, np.ndarray]:
    """The similarities of users and items, (B, B), before and after division by the temperature."""
    user, item = np.split(s, 2, axis=1)
    if similarity == "cosine":
        user, item = unit(user), unit(item)
    raw = np.array([[float(u @ v) for v in item] for u in user])
    return raw, raw / temperature


def unit(vectors: np.ndarray) -> np.ndarray:
    return np.array([vector / np.sqrt((vector**2).sum()) for vector in vectors])


def neighbours(y: np.ndarray, group: np.ndarray, i: int, by_session: bool) -> tuple[list[int], list[int]]:
    """The positives and the negatives of row i."""
    others = [j for j in range(len(y)) if j != i]
    near = [j for j in others if y[j] == y[i] and (not by_session or group[j] == group[i])]
    return near, [j for j in others if j not in near]


def mean_by_count(losses: np.ndarray, w: np.ndarray) -> float:
    return float((losses * w).sum() / max((w != 0).sum(), 1))
