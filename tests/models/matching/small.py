"""A few rows and items by hand, and what models for retrieval compute of them, in NumPy."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch

from rechub_ray.batch import Features, PaddedSequences
from rechub_ray.models import MODELS
from rechub_ray.models.matching.base import Retriever
from rechub_ray.schema import Schema
from tests.small_retrieval import SCHEMA

Array = np.ndarray
USERS = {
    "user": [3, 0, 39],
    "age": [0.5, -1.0, 2.0],
    "history": [[1, 60, 7, 5, 33], [], [5, 5, 2]],
    "words": [[2], [3, 4, 11], []],
}
ITEMS = {"item": [1, 60], "genre": [2, 6], "price": [1.5, -0.5], "tags": [[1, 8], []]}


def build(name: str, **arguments: Any) -> Retriever:
    """A model of small widths in double precision, none of whose parameters is zero."""
    torch.manual_seed(0)
    model = MODELS.build({"name": name, "embedding_dim": 3, "init_std": 0.5, **arguments}, SCHEMA)
    assert isinstance(model, Retriever)
    for parameter_name, parameter in model.named_parameters():
        if parameter_name.endswith("bias") or parameter_name.startswith("bias_embedding"):
            torch.nn.init.normal_(parameter)
    return model.double().eval()


def stacked(schema: Schema, columns: dict[str, Any]) -> Features:
    """Columns as a model takes them."""
    rows = len(columns[schema.features[0].name])
    sparse = torch.tensor([columns[f.name] for f in schema.sparse]).T.reshape(rows, -1)
    dense = torch.tensor([columns[f.name] for f in schema.dense], dtype=torch.float64).T
    ids = [[row + [-1] * (5 - len(row)) for row in columns[f.name]] for f in schema.sequences]
    return Features(sparse, dense, PaddedSequences(tuple(torch.tensor(rows) for rows in ids)))


def vectors(model: Retriever) -> tuple[Array, Array]:
    """What the model gives of `USERS` and `ITEMS`."""
    found = model(stacked(SCHEMA.user_side, USERS), stacked(SCHEMA.item_side, ITEMS))
    return found["user"].detach().numpy(), found["item"].detach().numpy()


def table(model: Retriever, name: str) -> Array:
    return model.embedding.rows(name).detach().numpy()


def weight(model: Any, path: str) -> Array:
    """A parameter or buffer by its name."""
    found: Array = model.state_dict()[path].numpy()
    return found


def pooled(rows: Array, lists: list[list[int]]) -> Array:
    return np.array([rows[ids].mean(0) if ids else np.zeros(rows.shape[1]) for ids in lists])


def perceptron(mlp: torch.nn.Sequential, x: Array) -> Array:
    """Linear layers with relu between them."""
    layers = [layer for layer in mlp if hasattr(layer, "weight")]
    for i, layer in enumerate(layers):
        x = x @ layer.weight.detach().numpy().T + layer.bias.detach().numpy()  # type: ignore[union-attr, operator]
        x = np.maximum(x, 0) if i < len(layers) - 1 else x
    return x


def user_columns(model: Retriever) -> list[Array]:
    """What a user tower of all features reads, one feature after the other."""
    return [
        table(model, "user")[USERS["user"]],
        pooled(table(model, "history"), USERS["history"]),
        pooled(table(model, "words"), USERS["words"]),
        np.array(USERS["age"])[:, None],
    ]


def item_columns(model: Retriever) -> list[Array]:
    """What an item tower of all features reads, one feature after the other."""
    return [
        table(model, "item")[ITEMS["item"]],
        table(model, "genre")[ITEMS["genre"]],
        pooled(table(model, "tags"), ITEMS["tags"]),
        np.array(ITEMS["price"])[:, None],
    ]


def unit(vectors: Array) -> Array:
    return vectors / np.sqrt((vectors**2).sum(-1, keepdims=True))


def softmax(x: Array, axis: int = -1) -> Array:
    shares = np.exp(x - x.max(axis, keepdims=True))
    return shares / shares.sum(axis, keepdims=True)


def sigmoid(x: Array) -> Array:
    return 1 / (1 + np.exp(-x))
