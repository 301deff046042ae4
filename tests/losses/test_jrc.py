"""How the two losses are mixed."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch

from rechub_ray.batch import Batch, Features
from rechub_ray.losses import LOSSES
from rechub_ray.losses.jrc import JRC
from rechub_ray.schema import Label, Schema
from tests.losses.list_references import softmax

LABEL_KIND = "binary"
WIDTH = 2
WEIGHTLESS_ROWS_STAY = True
VARIANTS: list[dict[str, Any]] = [
    {"session_name": "user", "alpha": 0.3},
    {"session_name": "user", "same_label_loss": False},
    {"same_label_loss": False, "loss_weight_strategy": "random_normal"},
    {"session_name": "user", "loss_weight_strategy": "uncertainty"},
]
SCHEMA = Schema((), (Label("y"),), group="u")


def reference(
    s: np.ndarray, y: np.ndarray, w: np.ndarray, group: np.ndarray, *, session_name: str | None = None,
    alpha: float = 0.5, same_label_loss: bool = True, loss_weight_strategy: str = "fixed",
) -> float:  # fmt: skip
    """Column by column of the B x B matrices, as the paper has them."""
    rows, label = len(y), y.astype(int)
    errors = -np.log(np.exp(s[np.arange(rows), label]) / np.exp(s).sum(1))
    ce = (errors * w).sum() / (w != 0).sum()
    ge = 0.0
    for j in range(rows):
        session = np.arange(rows) if session_name is None else np.flatnonzero(group == group[j])
        for c in (0, 1):
            peers = session
            if not same_label_loss:
                peers = session[(label[session] != c) | (session == j)]
            log_p = dict(zip(peers.tolist(), np.log(softmax(s[peers, c])).tolist(), strict=True))
            mine = [i for i in peers if label[i] == c] if same_label_loss else [j] * int(label[j] == c)
            ge -= w[j] * sum(log_p[i] for i in mine) / (len(session) if same_label_loss else 1)
    p, q = (1.0, 1.0) if loss_weight_strategy == "uncertainty" else (alpha, 1 - alpha)
    return float(p * ce + q * ge / rows)


def draws(strategy: str, steps: int) -> list[tuple[float, float]]:
    loss = LOSSES.build({"name": "JRC_LOSS", "loss_weight_strategy": strategy}, SCHEMA)
    assert isinstance(loss, JRC)
    found = []
    for step in range(steps):
        loss.draw(torch.Generator().manual_seed(step))
        found.append(loss.shares)
    return found


def test_random_shares_follow_their_distributions_and_the_generator() -> None:
    for strategy in ("random_uniform", "random_normal", "random_bernoulli"):
        found = draws(strategy, 2000)
        assert found == draws(strategy, 2000)
        assert all(sum(pair) == pytest.approx(1) for pair in found)
        assert np.mean(found, 0) == pytest.approx([0.5, 0.5], abs=0.03)
    uniform = np.sort([p for p, _ in draws("random_uniform", 2000)])
    np.testing.assert_allclose(uniform, np.linspace(0, 1, 2000), atol=0.05)
    normals = np.random.default_rng(0).normal(size=(2000, 2)) ** 2
    expected = np.sort(1 / (1 + np.exp(normals[:, 1] - normals[:, 0])))
    np.testing.assert_allclose(np.sort([p for p, _ in draws("random_normal", 2000)]), expected, atol=0.05)
    counts = {pair: draws("random_bernoulli", 2000).count(pair) for pair in ((1.0, 0.0), (0.0, 1.0), (0.5, 0.5))}
    assert [count / 2000 for count in counts.values()] == pytest.approx([0.25, 0.25, 0.5], abs=0.03)
    assert draws("fixed", 2) == [(0.5, 0.5)] * 2


def test_uncertainties_are_learned_with_their_penalty() -> None:
    generator = torch.Generator().manual_seed(0)
    s, y = torch.randn(6, 2, generator=generator), torch.tensor([1.0, 0, 0, 1, 0, 0])
    batch = Batch(Features(torch.zeros(6, 0).long(), torch.zeros(6, 0)), y.unsqueeze(1), None, torch.arange(6) // 3)
    pure = [
        LOSSES.build({"name": "jrc", "session_name": "u", "alpha": alpha}, SCHEMA)({"logit": s}, batch).sum() / 6
        for alpha in (1.0, 0.0)
    ]
    loss = LOSSES.build(
        {"name": "jrc", "session_name": "u", "loss_weight_strategy": "uncertainty", "weight": 2.0}, SCHEMA
    )
    ((_, parameter),) = loss.named_parameters()
    with torch.no_grad():
        parameter.copy_(torch.tensor([0.7, -0.4]))
    whole = loss.weighted((loss({"logit": s}, batch) / loss.count(batch)).sum(), 1.0)
    expected = 2 * (np.exp(-0.7) * pure[0] + 0.35 + np.exp(0.4) * pure[1] - 0.2)
    assert whole.item() == pytest.approx(expected.item(), rel=1e-5)
    halves = [
        loss.weighted((loss({"logit": s[rows]}, part) / 6).sum(), 0.5)
        for rows, part in ((slice(0, 3), take(batch, 0)), (slice(3, 6), take(batch, 3)))
    ]
    assert sum(halves).item() == pytest.approx(expected.item(), rel=1e-5)  # type: ignore[union-attr]


def take(batch: Batch, start: int) -> Batch:
    rows = slice(start, start + 3)
    assert batch.group is not None
    features = Features(batch.features.sparse[rows], batch.features.dense[rows])
    return Batch(features, batch.labels[rows], None, batch.group[rows])
