from __future__ import annotations

from typing import Any

import numpy as np

from tests.losses.list_references import mean_over_lists

LABEL_KIND = "regression"
VARIANTS: list[dict[str, Any]] = [
    {"session_name": "user", "temperature": 0.5},
    {"session_name": "user", "label_clip_max_value": 1.5, "scale_logits": True},
]


def reference(
    s: np.ndarray, y: np.ndarray, w: np.ndarray, group: np.ndarray, *, session_name: str | None = None,
    temperature: float = 1.0, label_clip_max_value: float = 512.0, scale_logits: bool = False,
) -> float:  # fmt: skip
    def targets(label: np.ndarray) -> np.ndarray:
        gains = np.log(1 + label_clip_max_value) - np.log(np.clip(label, 1, label_clip_max_value))
        return np.asarray(gains / gains.sum())

    return mean_over_lists(s / temperature, y, w, group if session_name else 0 * group, targets)
