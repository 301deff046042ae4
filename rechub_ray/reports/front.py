"""The Pareto front: the trials that no other one beats in all objectives."""

from __future__ import annotations

from collections.abc import Sequence


def front(values: Sequence[Sequence[float]], modes: Sequence[str]) -> list[int]:
    """Return the indices of the values that no other one beats: as good in all objectives, and better in one.

    Args:
        values: one number for each objective, of each trial.
        modes: `max` or `min`, of each objective.

    Example:
        >>> front([(0.9, 30), (0.8, 10), (0.7, 20), (0.9, 40)], ["max", "min"])
        [0, 1]
    """
    signs = [1 if mode == "max" else -1 for mode in modes]
    points = [tuple(s * v for s, v in zip(signs, mine, strict=True)) for mine in values]
    return [
        i
        for i, mine in enumerate(points)
        if not any(other != mine and all(o >= m for o, m in zip(other, mine, strict=True)) for other in points)
    ]
