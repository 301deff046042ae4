from __future__ import annotations

import pytest
import torch
from torch import nn

from rechub_ray.layers.embedding import EmbeddingBank
from rechub_ray.regularization import Regularization
from rechub_ray.schema import Label, Schema, SparseFeature

SCHEMA = Schema((SparseFeature("user", 5),), (Label("click"),))


class Model(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.embedding = EmbeddingBank(SCHEMA, dim=4, init_std=1.0)
        self.linear = EmbeddingBank(SCHEMA, dim=1, init_std=1.0)
        self.mlp = nn.Sequential(nn.Linear(4, 3), nn.BatchNorm1d(3))


def test_value_is_the_penalty_of_each_kind() -> None:
    model = Model()
    tables = [model.embedding.weights["4"], model.linear.weights["1"]]
    rest = list(model.mlp.parameters())
    expected = (
        sum(0.1 * p.abs().sum() + 0.2 * p.square().sum() for p in tables)
        + sum(0.3 * p.abs().sum() + 0.4 * p.square().sum() for p in rest)
    )  # fmt: skip
    value = Regularization(embedding_l1=0.1, embedding_l2=0.2, dense_l1=0.3, dense_l2=0.4).value(model)
    assert value.item() == pytest.approx(torch.as_tensor(expected).item(), rel=1e-6)
    assert not value.requires_grad


def test_no_penalty_is_zero() -> None:
    assert Regularization().value(Model()).item() == 0


@pytest.mark.parametrize("embedding", [False, True])
def test_gradient_is_that_of_the_penalty(embedding: bool) -> None:
    regularization = Regularization(embedding_l1=0.1, embedding_l2=0.2, dense_l1=0.3, dense_l2=0.4)
    weight = torch.randn(6, 2, requires_grad=True)
    l1, l2 = (0.1, 0.2) if embedding else (0.3, 0.4)
    (l1 * weight.abs().sum() + l2 * weight.square().sum()).backward()
    gradient = torch.ones(6, 2)
    regularization.add_gradient(gradient, weight, embedding=embedding)
    torch.testing.assert_close(gradient, 1 + torch.as_tensor(weight.grad))
