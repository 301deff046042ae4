"""Against NumPy."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import nn

from rechub_ray.compat.basic.loss_func import BPRLoss, RegularizationLoss
from rechub_ray.models import DeepFM
from rechub_ray.schema import Label, Schema, SparseFeature


def test_each_kind_of_weight_has_its_own_coefficients() -> None:
    torch.manual_seed(0)
    schema = Schema((SparseFeature("user", 9),), (Label("click"),))
    model = nn.ModuleDict(
        {"deepfm": DeepFM(schema, embedding_dim=4, hidden_units=(3,), batch_norm=True), "table": nn.Embedding(5, 2)}
    )
    for weight in model.parameters():
        nn.init.normal_(weight)
    loss = RegularizationLoss(embedding_l1=0.1, embedding_l2=0.2, dense_l1=0.3, dense_l2=0.4)(model)
    tables, dense = [], []
    for name, weight in model.named_parameters():
        values = weight.detach().double().numpy().ravel()
        if "embedding" in name or name.startswith("table"):
            tables.append(values)
        elif name not in ("deepfm.mlp.1.weight", "deepfm.mlp.1.bias"):  # batch normalisation
            dense.append(values)
    assert len(tables) == 3
    t, d = np.concatenate(tables), np.concatenate(dense)
    expected = 0.1 * abs(t).sum() + 0.2 * (t**2).sum() + 0.3 * abs(d).sum() + 0.4 * (d**2).sum()
    assert loss.item() == pytest.approx(expected, rel=1e-5)
    loss.backward()
    table = model["table"].weight
    torch.testing.assert_close(table.grad, 0.1 * table.sign() + 0.4 * table, check_dtype=False)


def test_no_coefficients_no_penalty() -> None:
    assert float(RegularizationLoss()(nn.Linear(2, 2))) == 0.0


@pytest.mark.parametrize("negatives", [1, 3])
def test_bpr(negatives: int) -> None:
    rng = np.random.default_rng(0)
    positive, negative = rng.normal(size=(6, 1)), rng.normal(size=(6, negatives))
    expected = np.log1p(np.exp(-(positive - negative))).mean()
    scores = torch.tensor(negative[:, 0] if negatives == 1 else negative)
    assert float(BPRLoss()(torch.tensor(positive), scores)) == pytest.approx(expected, rel=1e-12)


def test_bpr_is_finite_for_any_scores() -> None:
    positive = torch.tensor([-1e4, 1e4], requires_grad=True)
    loss = BPRLoss()(positive, torch.tensor([1e4, -1e4]))
    assert loss.item() == pytest.approx(1e4)
    loss.backward()
    assert positive.grad is not None
    assert positive.grad.isfinite().all()
