"""A small schema, a batch of it, and what the tables hold, for models computed by hand."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch

from rechub_ray.batch import Features
from rechub_ray.models import MODELS, Model
from rechub_ray.schema import DenseFeature, Label, Schema, SparseFeature

Array = np.ndarray[Any, np.dtype[np.float64]]

SCHEMA = Schema(
    features=(
        SparseFeature("user", 5),
        DenseFeature("age"),
        SparseFeature("item", 4),
        SparseFeature("city", 3),
        DenseFeature("profile", dim=2),
    ),
    labels=(Label("click"),),
)
STARTS = np.array([0, 5, 9])


class ByHand:
    """A model in float64 with random parameters, beside its parameters and its inputs in NumPy."""

    def __init__(self, node: dict[str, Any]) -> None:
        torch.manual_seed(0)
        self.model: Model = MODELS.build(node, SCHEMA).double().eval()
        with torch.no_grad():
            for parameter in self.model.parameters():
                parameter.normal_()
        self.state = {name: value.detach().numpy() for name, value in self.model.state_dict().items()}
        rng = np.random.default_rng(0)
        self.ids = np.stack([rng.integers(0, f.vocab_size, 6) for f in SCHEMA.sparse], 1)
        self.dense: Array = rng.normal(size=(6, 3))

    @property
    def logit(self) -> Array:
        features = Features(torch.from_numpy(self.ids), torch.from_numpy(self.dense))
        result: Array = self.model(features)["logit"].detach().numpy()
        return result

    @property
    def vectors(self) -> Array:
        """(6, 3, 2): the embeddings, of width 2."""
        result: Array = self.state["embedding.weights.2"][self.ids + STARTS]
        return result

    @property
    def x(self) -> Array:
        """(6, 9): embeddings, then numbers."""
        return np.concatenate([self.vectors.reshape(6, -1), self.dense], 1)

    @property
    def linear(self) -> Array:
        """(6,): the linear term without bias."""
        ids = self.state["linear.embedding.weights.1"][self.ids + STARTS].sum((1, 2))
        result: Array = ids + self.dense @ self.state["linear.dense.weight"][0]
        return result

    def layer(self, x: Array, name: str) -> Array:
        result: Array = x @ self.state[f"{name}.weight"].T + self.state[f"{name}.bias"]
        return result


@pytest.fixture
def by_hand() -> type[ByHand]:
    return ByHand
