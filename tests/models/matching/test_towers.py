"""DSSM and YoutubeDNN in NumPy, from their papers' equations."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch

from rechub_ray.batch import Features, PaddedSequences
from rechub_ray.errors import ConfigError, SchemaError
from rechub_ray.models import MODELS
from rechub_ray.models.matching.base import Retriever
from rechub_ray.schema import Schema
from tests.small_retrieval import SCHEMA

Array = np.ndarray
USERS = {
    "user": [3, 0, 39],
    "age": [0.5, -1.0, 2.0],
    "history": [[1, 60], [], [5, 5, 2]],
    "words": [[2], [3, 4, 11], []],
}
ITEMS = {"item": [1, 60], "genre": [2, 6], "price": [1.5, -0.5], "tags": [[1, 8], []]}


def build(name: str, **arguments: Any) -> Retriever:
    torch.manual_seed(0)
    model = MODELS.build({"name": name, "embedding_dim": 3, "init_std": 0.5, **arguments}, SCHEMA)
    assert isinstance(model, Retriever)
    for parameter_name, parameter in model.named_parameters():
        if parameter_name.endswith("bias"):
            torch.nn.init.normal_(parameter)
    return model.double().eval()


def stacked(schema: Schema, columns: dict[str, Any]) -> Features:
    rows = len(columns[schema.features[0].name])
    sparse = torch.tensor([columns[f.name] for f in schema.sparse]).T.reshape(rows, -1)
    dense = torch.tensor([columns[f.name] for f in schema.dense], dtype=torch.float64).T
    ids = [[row + [-1] * (3 - len(row)) for row in columns[f.name]] for f in schema.sequences]
    return Features(sparse, dense, PaddedSequences(tuple(torch.tensor(rows) for rows in ids)))


def table(model: Retriever, name: str) -> Array:
    return model.embedding.rows(name).detach().numpy()


def pooled(rows: Array, lists: list[list[int]]) -> Array:
    return np.array([rows[ids].mean(0) if ids else np.zeros(rows.shape[1]) for ids in lists])


def perceptron(mlp: torch.nn.Sequential, x: Array) -> Array:
    """Linear layers with relu between them."""
    layers = [layer for layer in mlp if hasattr(layer, "weight")]
    for i, layer in enumerate(layers):
        x = x @ layer.weight.detach().numpy().T + layer.bias.detach().numpy()  # type: ignore[union-attr, operator]
        x = np.maximum(x, 0) if i < len(layers) - 1 else x
    return x


def user_input(model: Retriever) -> Array:
    return np.concatenate(
        [
            table(model, "user")[USERS["user"]],
            pooled(table(model, "history"), USERS["history"]),
            pooled(table(model, "words"), USERS["words"]),
            np.array(USERS["age"])[:, None],
        ],
        1,
    )


def unit(vectors: Array) -> Array:
    return vectors / np.sqrt((vectors**2).sum(1, keepdims=True))


def vectors(model: Retriever) -> tuple[Array, Array]:
    found = model(stacked(SCHEMA.user_side, USERS), stacked(SCHEMA.item_side, ITEMS))
    return found["user"].detach().numpy(), found["item"].detach().numpy()


@pytest.mark.parametrize("similarity", ["cosine", "dot"])
def test_dssm(similarity: str) -> None:
    model = build("dssm", user_units=[8, 5], item_units=[6], vector_dim=4, similarity=similarity)
    item_input = np.concatenate(
        [
            table(model, "item")[ITEMS["item"]],
            table(model, "genre")[ITEMS["genre"]],
            pooled(table(model, "tags"), ITEMS["tags"]),
            np.array(ITEMS["price"])[:, None],
        ],
        1,
    )
    user = perceptron(model.user_mlp, user_input(model))  # type: ignore[arg-type]
    item = perceptron(model.item_mlp, item_input)  # type: ignore[arg-type]
    scale = unit if similarity == "cosine" else np.asarray
    for found, expected in zip(vectors(model), (scale(user), scale(item)), strict=True):
        np.testing.assert_allclose(found, expected, rtol=1e-10)


@pytest.mark.parametrize("similarity", ["cosine", "dot"])
def test_youtube_dnn(similarity: str) -> None:
    model = build("youtube_dnn", hidden_units=[8], similarity=similarity)
    scale = unit if similarity == "cosine" else np.asarray
    user, item = vectors(model)
    np.testing.assert_allclose(user, scale(perceptron(model.mlp, user_input(model))), rtol=1e-10)  # type: ignore[arg-type]
    np.testing.assert_allclose(item, scale(table(model, "item")[ITEMS["item"]]), rtol=1e-10)


def test_a_history_reads_the_table_of_the_items() -> None:
    model = build("youtube_dnn")
    assert model.embedding.rows("history").data_ptr() == model.embedding.rows("item").data_ptr()
    assert [*model.embedding.tables] == ["user", "item", "words"]
    assert [*build("dssm").embedding.tables] == ["user", "item", "genre", "words", "tags"]


def test_chosen_features_alone_are_read() -> None:
    model = build("dssm", user_features=["history"], item_features=["item", "price"])
    assert [*model.embedding.tables] == ["item"]
    assert (model.user_input.width, model.item_input.width) == (3, 4)
    with pytest.raises(ConfigError, match=r"'model.user_features': the schema has no feature 'item'"):
        build("dssm", user_features=["item"])
    with pytest.raises(ConfigError, match=r"'model.item_features': the schema has no feature 'genres'.*'genre'"):
        build("dssm", item_features=["genres"])


@pytest.mark.parametrize("name", ["dssm", "youtube_dnn"])
def test_data_without_items_is_refused(name: str) -> None:
    with pytest.raises(SchemaError, match="no items"):
        MODELS.build(name, Schema(SCHEMA.features, ()))


def test_outputs_say_whether_they_are_cosines() -> None:
    assert [(o.name, o.kind, o.part, o.is_unit) for o in build("dssm").outputs] == [
        ("user", "vector", "user", True),
        ("item", "vector", "item", True),
    ]
    assert not any(output.is_unit for output in build("youtube_dnn").outputs)
