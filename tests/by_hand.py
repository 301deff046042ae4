"""Pieces of ranking models in NumPy."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch

from rechub_ray.batch import Features, PaddedSequences
from rechub_ray.models import MODELS, Model
from rechub_ray.schema import DenseFeature, Label, Schema, SequenceFeature, SparseFeature

Array = np.ndarray[Any, np.dtype[np.float64]]


def pairs(count: int) -> list[tuple[int, int]]:
    return [(i, j) for i in range(count) for j in range(i + 1, count)]


def sigmoid(x: Array) -> Array:
    return 1 / (1 + np.exp(-x))


def softmax(x: Array, axis: int) -> Array:
    raised: Array = np.exp(x - x.max(axis, keepdims=True))
    result: Array = raised / raised.sum(axis, keepdims=True)
    return result


def field_aware(case: Any, i: int, j: int) -> Array:
    """(6, 2): the vectors of feature i for feature j, of three."""
    rows = case.state["embedding.weights.4"][case.ids[:, i] + (0, 5, 9)[i]]
    at = [k for k in range(3) if k != i].index(j)
    result: Array = rows[:, 2 * at : 2 * at + 2]
    return result


def norm(x: Array) -> Array:
    """Layer norm over the last dimension, without weight and bias."""
    result: Array = (x - x.mean(-1, keepdims=True)) / np.sqrt(x.var(-1, keepdims=True) + 1e-5)
    return result


def fields(case: Any) -> Array:
    """(6, 5, 2): the embeddings, and the vectors of the numeric features."""
    maps = [case.state[f"field_input.maps.{i}.weight"].T for i in range(2)]
    numbers = [case.dense[:, :1] @ maps[0], case.dense[:, 1:] @ maps[1]]
    return np.concatenate([case.vectors, np.stack(numbers, 1)], 1)


LISTS: list[list[int]] = [[1, 2, 3], [], [0], [3, 3, 1, 2], [2], [1, 0]]
OTHERS: list[list[int]] = [[2, 1, 3], [], [1], [0, 1, 3, 0], [3], [2, 3]]
ROWS = len(LISTS)


class Histories:
    """A model of rows with a history, in float64 with random parameters, beside its parameters in NumPy."""

    SCHEMA = Schema(
        features=(
            SparseFeature("user", 5),
            DenseFeature("price"),
            SparseFeature("item", 4),
            SequenceFeature("history", 4, max_length=4, shared_with="item"),
            SequenceFeature("others", 4, max_length=4, shared_with="item"),
        ),
        labels=(Label("click"),),
    )

    def __init__(self, node: dict[str, Any]) -> None:
        torch.manual_seed(0)
        node = {"embedding_dim": 2, "hidden_units": [], "history_features": ["history"], **node}
        self.model: Model = MODELS.build({"deep_features": ["user", "price"], **node}, self.SCHEMA).double().eval()
        with torch.no_grad():
            for parameter in self.model.parameters():
                parameter.normal_()
        self.state = {name: value.detach().numpy() for name, value in self.model.state_dict().items()}
        rng = np.random.default_rng(0)
        self.ids = np.stack([rng.integers(0, 5, ROWS), rng.integers(0, 4, ROWS)], 1)
        self.price: Array = rng.normal(size=(ROWS, 1))
        table = self.state["embedding.weights.2"]
        self.table: Array = table[5:]
        self.users, self.items = table[self.ids[:, 0]], self.table[self.ids[:, 1]]

    def features(self, places: int = 4) -> Features:
        """Lists in rectangles of so many places."""
        padded = [[[*ids, *[-1] * (places - len(ids))] for ids in lists] for lists in (LISTS, OTHERS)]
        sequences = PaddedSequences(tuple(torch.tensor(ids) for ids in padded))
        return Features(torch.from_numpy(self.ids), torch.from_numpy(self.price), sequences)

    @property
    def logit(self) -> Array:
        result: Array = self.model(self.features())["logit"].detach().numpy()
        return result

    def expected(self, interests: Any) -> Array:
        """(6,): what the last layer makes of the history's interest and the rest."""
        x = np.concatenate([np.array(interests), self.users, self.items, self.price], 1)
        return self.layer(x, "mlp.0")[:, 0]

    def layer(self, x: Array, name: str) -> Array:
        result: Array = x @ self.state[f"{name}.weight"].T + self.state.get(f"{name}.bias", 0)
        return result
