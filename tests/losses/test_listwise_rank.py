from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch

from rechub_ray.batch import Batch, Features
from rechub_ray.losses import LOSSES
from rechub_ray.schema import Label, Schema
from tests.losses.list_references import mean_over_lists, softmax

LABEL_KIND = "binary"
VARIANTS: list[dict[str, Any]] = [
    {"session_name": "user", "temperature": 0.5},
    {"session_name": "user", "temperature": 2.0, "label_is_logits": True, "scale_logits": True},
    {"label_is_logits": True},
]


def reference(
    s: np.ndarray, y: np.ndarray, w: np.ndarray, group: np.ndarray, *, session_name: str | None = None,
    temperature: float = 1.0, label_is_logits: bool = False, scale_logits: bool = False,
) -> float:  # fmt: skip
    def targets(label: np.ndarray) -> np.ndarray:
        return softmax(label / temperature) if label_is_logits else label

    return mean_over_lists(s / temperature, y, w, group if session_name else 0 * group, targets)


def test_the_scale_is_learned_and_takes_no_sign() -> None:
    loss = LOSSES.build(
        {"name": "LISTWISE_RANK_LOSS", "session_name": "u", "scale_logits": True}, Schema((), (Label("y"),), group="u")
    )
    ((name, scale),) = loss.named_parameters()
    assert name == "scale"
    s, y = torch.tensor([0.3, -1.0, 2.0]), torch.tensor([1.0, 0.0, 0.0])
    batch = Batch(Features(torch.zeros(3, 0).long(), torch.zeros(3, 0)), y.unsqueeze(1), None, torch.zeros(3).long())
    for value in (-2.0, 2.0):
        torch.nn.init.constant_(scale, value)
        scale.grad = None
        total = loss({"logit": s}, batch)
        total.backward()
        assert total.item() == pytest.approx(torch.logsumexp(2 * s, 0).item() - 0.6)
        slope = (torch.softmax(2 * s, 0) * s).sum().item() - 0.3
        assert scale.grad is not None
        assert scale.grad.item() == pytest.approx(slope * np.sign(value), rel=1e-5)
