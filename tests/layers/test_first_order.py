from __future__ import annotations

import numpy as np
import torch

from rechub_ray.batch import Features, RaggedSequences
from rechub_ray.layers.first_order import FirstOrder
from rechub_ray.schema import DenseFeature, Label, Schema, SequenceFeature, SparseFeature

SCHEMA = Schema(
    features=(
        SparseFeature("user", 5, embed_dim=7),
        DenseFeature("profile", dim=2),
        SparseFeature("item", 4),
        SequenceFeature("history", 4, shared_with="item"),
        DenseFeature("price"),
        SequenceFeature("tags", 3, pooling="sum"),
    ),
    labels=(Label("click"),),
)
FEATURES = Features(
    sparse=torch.tensor([[4, 1], [0, 3]]),
    dense=torch.tensor([[0.5, -1.0, 2.0], [1.0, 3.0, -0.5]]),
    sequences=RaggedSequences(torch.tensor([2, 3, 1, 1, 2]), torch.tensor([0, 2, 2, 3, 5])),
)


def randomised(names: list[str], *, bias: bool) -> FirstOrder:
    torch.manual_seed(0)
    layer = FirstOrder(SCHEMA, names, bias=bias, init_std=1.0)
    for parameter in layer.parameters():
        torch.nn.init.normal_(parameter)
    return layer


def test_it_adds_up_weights_by_hand() -> None:
    layer = randomised(SCHEMA.feature_names, bias=True)
    state = {name: value.detach().numpy() for name, value in layer.named_parameters()}
    table, v, b = state["embedding.weights.1"][:, 0], state["dense.weight"][0], state["bias"][0]
    user, item, tags = table[:5], table[5:9], table[9:]
    dense = FEATURES.dense.numpy() @ v
    expected = [
        user[4] + item[1] + (item[2] + item[3]) / 2 + tags[1] + dense[0] + b,
        user[0] + item[3] + 0 + tags[1] + tags[2] + dense[1] + b,
    ]
    np.testing.assert_allclose(layer(FEATURES).detach().numpy(), expected, rtol=1e-5)


def test_it_reads_only_its_features() -> None:
    layer = randomised(["item", "price"], bias=False)
    assert {name: tuple(p.shape) for name, p in layer.named_parameters()} == {
        "embedding.weights.1": (4, 1),
        "dense.weight": (1, 1),
    }
    table, v = layer.get_parameter("embedding.weights.1"), layer.get_parameter("dense.weight")
    expected = table[[1, 3], 0] + v[0, 0] * FEATURES.dense[:, 2]
    torch.testing.assert_close(layer(FEATURES), expected)


def test_numbers_alone_are_enough() -> None:
    layer = randomised(["profile"], bias=True)
    assert layer.embedding is None
    assert layer(FEATURES).shape == (2,)
