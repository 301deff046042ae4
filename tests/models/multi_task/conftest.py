"""A small schema of several labels, a batch of it, and what the modules hold, for models computed by hand."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch

from rechub_ray.batch import Features
from rechub_ray.models import MODELS, Model
from rechub_ray.schema import DenseFeature, Label, Schema, SparseFeature

Array = np.ndarray[Any, np.dtype[np.float64]]

FEATURES = (SparseFeature("user", 5), DenseFeature("age"), SparseFeature("item", 4), DenseFeature("profile", dim=2))
STARTS = np.array([0, 5])
ROWS = 6


class ByHand:
    """A model in float64 with random parameters, beside its parameters and its inputs in NumPy."""

    def __init__(self, node: dict[str, Any], *labels: Label) -> None:
        torch.manual_seed(0)
        schema = Schema(FEATURES, labels or (Label("click"), Label("buy")))
        self.model: Model = MODELS.build({"embedding_dim": 2, "activation": "tanh", **node}, schema).double().eval()
        with torch.no_grad():
            for parameter in self.model.parameters():
                parameter.normal_()
        self.state = {name: value.detach().numpy() for name, value in self.model.state_dict().items()}
        rng = np.random.default_rng(0)
        self.ids = np.stack([rng.integers(0, f.vocab_size, ROWS) for f in schema.sparse], 1)
        self.dense: Array = rng.normal(size=(ROWS, 3))

    @property
    def features(self) -> Features:
        return Features(torch.from_numpy(self.ids), torch.from_numpy(self.dense))

    @property
    def outputs(self) -> dict[str, Array]:
        return {name: value.detach().numpy() for name, value in self.model(self.features).items()}

    @property
    def x(self) -> Array:
        """(6, 7): embeddings, then numbers."""
        return self.inputs("embedding")

    def inputs(self, bank: str) -> Array:
        """(6, 7): embeddings of a bank, then numbers."""
        vectors: Array = self.state[f"{bank}.weights.2"][self.ids + STARTS]
        return np.concatenate([vectors.reshape(ROWS, -1), self.dense], 1)

    def layer(self, x: Array, name: str) -> Array:
        result: Array = x @ self.state[f"{name}.weight"].T
        return result + self.state[f"{name}.bias"] if f"{name}.bias" in self.state else result

    def hidden(self, x: Array, name: str) -> Array:
        """One layer with its activation, the first of a perceptron called `name`."""
        return np.tanh(self.layer(x, f"{name}.0"))

    def tower(self, x: Array, label: str) -> Array:
        """(6, width of the head): a tower with one hidden layer."""
        return self.layer(self.hidden(x, f"towers.{label}.mlp"), f"towers.{label}.mlp.2")

    def experts(self, x: Array, name: str) -> list[Array]:
        """What each expert of one layer gives, (6, width) each."""
        weights, biases = self.state[f"{name}.0.weight"], self.state[f"{name}.0.bias"]
        return [np.tanh(x @ weight.T + bias) for weight, bias in zip(weights, biases, strict=True)]

    def mixed(self, x: Array, gate: str, experts: list[Array]) -> Array:
        """The experts' mean by the softmax of the gate's product with x."""
        weights = softmax(x @ self.state[f"{gate}.linear.weight"].T)
        assert weights.shape == (ROWS, len(experts))
        return sum((weights[:, [i]] * expert for i, expert in enumerate(experts)), np.zeros_like(experts[0]))


def softmax(scores: Array) -> Array:
    result: Array = np.exp(scores) / np.exp(scores).sum(1, keepdims=True)
    return result


@pytest.fixture
def by_hand() -> type[ByHand]:
    return ByHand
