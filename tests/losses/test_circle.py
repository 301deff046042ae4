from __future__ import annotations

from typing import Any

import numpy as np
import torch

from rechub_ray.batch import Batch, Features
from rechub_ray.losses import LOSSES
from rechub_ray.outputs import Output
from rechub_ray.schema import Label, Schema
from tests.losses.vector_references import mean_by_count, neighbours, unit

LABEL_KIND = "binary"
WIDTH = 3
PARTS = ("item",)
WEIGHTLESS_ROWS_STAY = True
HAS_FIXED_FACTORS = True
VARIANTS: list[dict[str, Any]] = [{"session_name": "user", "gamma": 4.0}, {"margin": 0.4, "gamma": 2.0}]


def reference(
    s: np.ndarray, y: np.ndarray, w: np.ndarray, group: np.ndarray, *,
    margin: float = 0.25, gamma: float = 32.0, session_name: str | None = None,
    at: np.ndarray | None = None,
) -> float:  # fmt: skip
    """The factors are those of the vectors `at`, or of s."""
    cosine = unit(s) @ unit(s).T
    fixed = cosine if at is None else unit(at) @ unit(at).T
    losses = np.zeros(len(y))
    for i in range(len(y)):
        positives, negatives = neighbours(y, group, i, session_name is not None)
        near = sum(np.exp(-gamma * max(0, 1 + margin - fixed[i, j]) * (cosine[i, j] - 1 + margin)) for j in positives)
        far = sum(np.exp(gamma * max(0, fixed[i, j] + margin) * (cosine[i, j] - margin)) for j in negatives)
        losses[i] = np.log(1 + near * far)
    return mean_by_count(losses, w)


def test_its_gradient_takes_the_factors_for_constants() -> None:
    generator = np.random.default_rng(0)
    s, y, group = generator.normal(size=(8, 3)), np.arange(8) % 2.0, np.arange(8) // 4
    loss = LOSSES.build({"name": "CIRCLE_LOSS", "session_name": "user"}, Schema((), (Label("y"),), group="user"))
    loss.bind([Output("v", "vector")], where="losses.0")
    vectors = torch.from_numpy(s).requires_grad_()
    features = Features(torch.zeros(8, 0, dtype=torch.int64), torch.zeros(8, 0))
    batch = Batch(features, torch.from_numpy(y).unsqueeze(1), None, torch.from_numpy(group))
    (loss({"v": vectors}, batch) / 8).backward()
    expected = np.zeros_like(s)
    for place in np.ndindex(8, 3):
        step = np.zeros_like(s)
        step[place] = 1e-6
        up, down = (reference(x, y, np.ones(8), group, session_name="user", at=s) for x in (s + step, s - step))
        expected[place] = (up - down) / 2e-6
    np.testing.assert_allclose(np.array(vectors.grad), expected, rtol=1e-6, atol=1e-6)
