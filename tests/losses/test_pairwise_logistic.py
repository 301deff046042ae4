"""Values of another implementation, and memory that does not grow with the number of pairs."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch

from rechub_ray.batch import Batch, Features
from rechub_ray.losses import pairwise_logistic
from rechub_ray.losses.pairwise_logistic import PairwiseLogistic
from rechub_ray.schema import Label, Schema

SCHEMA = Schema((), (Label("click"),), group="session")
LOGIT = [0.8, -0.4, 0.3, 0.9, -1.2, -0.5, 0.1, -0.7]
LABEL = [1.0, 0.0, 1.0, 0.0, 0.0, 1.0, 0.0, 0.0]
SESSION = [1, 1, 1, 2, 2, 2, 3, 3]
LABEL_KIND = "binary"
VARIANTS: list[dict[str, Any]] = [{"session_name": "user", "temperature": 0.5, "hinge_margin": 0.3}]


def reference(
    s: np.ndarray, y: np.ndarray, w: np.ndarray, group: np.ndarray, *, session_name: str | None = None,
    temperature: float = 1.0, hinge_margin: float = 0.0,
) -> float:  # fmt: skip
    total, count = 0.0, 0
    for i in range(len(s)):
        for j in range(len(s)):
            if y[i] > y[j] and (session_name is None or group[i] == group[j]) and w[i] != 0:
                total += w[i] * np.log1p(np.exp(-((s[i] - s[j]) / temperature - hinge_margin)))
                count += 1
    return total / count


def batch(rows: int = 8, label: list[float] = LABEL) -> Batch:
    features = Features(torch.zeros(rows, 0, dtype=torch.int64), torch.zeros(rows, 0))
    return Batch(features, torch.tensor(label).unsqueeze(1), None, torch.tensor(SESSION[:rows] or [0] * rows))


@pytest.mark.parametrize(
    ("session", "expected", "gradient"),
    [
        # what TensorFlow computes in float32
        (
            None,
            0.5797547698020935,
            [-0.0926597, 0.0725511, -0.1252668, 0.1315213, 0.0422294, -0.1836532, 0.0951756, 0.0601022],
        ),
        (
            "session",
            0.6725179553031921,
            [-0.0578688, 0.1408219, -0.0829531, 0.200546, 0.0829531, -0.283499, 0.0, 0.0],
        ),
    ],
)
def test_it_equals_tensorflow(session: str | None, expected: float, gradient: list[float]) -> None:
    loss, rows = PairwiseLogistic(SCHEMA, session_name=session), batch()
    logit = torch.tensor(LOGIT, requires_grad=True)
    value = loss({"logit": logit}, rows) / loss.count(rows)
    value.backward()
    assert value.item() == pytest.approx(expected, rel=1e-6)
    np.testing.assert_allclose(np.array(logit.grad), gradient, atol=1e-7)


def test_blocks_of_one_row_give_the_same(monkeypatch: pytest.MonkeyPatch) -> None:
    loss, rows = PairwiseLogistic(SCHEMA), batch()
    results = []
    for block in (2**24, 8):
        monkeypatch.setattr(pairwise_logistic, "_BLOCK", block)
        logit = torch.tensor(LOGIT, requires_grad=True)
        value = loss({"logit": logit}, rows) / loss.count(rows)
        value.backward()
        results.append((value.detach(), logit.grad))
    torch.testing.assert_close(*results)


def test_no_tensor_of_all_pairs_is_made() -> None:
    rows = 12_000  # 576 MB of pairs in float32
    label = (torch.arange(rows) % 50 == 0).float().tolist()
    features = Features(torch.zeros(rows, 0, dtype=torch.int64), torch.zeros(rows, 0))
    data = Batch(features, torch.tensor(label).unsqueeze(1))
    logit = torch.randn(rows, generator=torch.Generator().manual_seed(0)).requires_grad_()
    with torch.profiler.profile(activities=[torch.profiler.ProfilerActivity.CPU], profile_memory=True) as profile:
        loss = PairwiseLogistic(SCHEMA)
        (loss({"logit": logit}, data) / loss.count(data)).backward()
    assert 0 < max(event.cpu_memory_usage for event in profile.events()) < 4 * rows * rows / 2
    assert logit.grad is not None
    assert torch.isfinite(logit.grad).all()
