"""Models of two towers of features in NumPy, from their papers' equations."""

from __future__ import annotations

import numpy as np
import pytest

from rechub_ray import config as config_module
from rechub_ray.defaults import resolved
from rechub_ray.errors import ConfigError, SchemaError
from rechub_ray.models import MODELS
from rechub_ray.schema import Schema, SparseFeature
from tests.models.matching.small import (
    ITEMS,
    USERS,
    Array,
    build,
    item_columns,
    perceptron,
    sigmoid,
    table,
    unit,
    user_columns,
    vectors,
    weight,
)
from tests.small_retrieval import SCHEMA


@pytest.mark.parametrize("name", ["dssm", "facebook_dssm", "youtube_sbc"])
@pytest.mark.parametrize("similarity", ["cosine", "dot"])
def test_dssm(name: str, similarity: str) -> None:
    model = build(name, user_units=[8, 5], item_units=[6], vector_dim=4, similarity=similarity)
    user = perceptron(model.user_mlp, np.concatenate(user_columns(model), 1))  # type: ignore[arg-type]
    item = perceptron(model.item_mlp, np.concatenate(item_columns(model), 1))  # type: ignore[arg-type]
    scale = unit if similarity == "cosine" else np.asarray
    for found, expected in zip(vectors(model), (scale(user), scale(item)), strict=True):
        np.testing.assert_allclose(found, expected, rtol=1e-10)


@pytest.mark.parametrize("excitation", ["relu", "sigmoid"])
def test_dssm_senet(excitation: str) -> None:
    model = build("dssm_senet", user_units=[8], item_units=[6], vector_dim=4, reduction_ratio=1, excitation=excitation)

    def weighed(part: str, columns: list[Array]) -> Array:
        *embeddings, dense = columns
        means = np.stack([column.mean(1) for column in embeddings], 1)
        hidden = np.maximum(means @ weight(model, f"{part}_senet.squeeze.weight").T, 0)
        factors = hidden @ weight(model, f"{part}_senet.expand.weight").T
        factors = sigmoid(factors) if excitation == "sigmoid" else np.maximum(factors, 0)
        return np.concatenate([*(x * factors[:, [i]] for i, x in enumerate(embeddings)), dense], 1)

    user, item = vectors(model)
    expected = unit(perceptron(model.user_mlp, weighed("user", user_columns(model))))  # type: ignore[arg-type]
    np.testing.assert_allclose(user, expected, rtol=1e-10)
    expected = unit(perceptron(model.item_mlp, weighed("item", item_columns(model))))  # type: ignore[arg-type]
    np.testing.assert_allclose(item, expected, rtol=1e-10)


def test_models_of_the_same_towers_differ_in_their_losses() -> None:
    for name, loss, negatives, arguments in (
        ("dssm", "sampled_softmax", "in_batch", {"logq": True}),
        ("facebook_dssm", "hinge", "uniform", {"margin": 0.2}),
        ("youtube_sbc", "sampled_softmax", "in_batch", {"logq": True, "temperature": 0.05}),
    ):
        full = resolved(config_module.load({"model": name}), SCHEMA)
        assert [node["name"] for node in full.negatives or []] == [negatives]
        (found,) = full.losses or []
        assert found["name"] == loss
        assert {key: found[key] for key in arguments} == arguments
    overridden = config_module.load({"model": "facebook_dssm"}, ["losses.0.margin=0.5"])
    assert [(node["name"], node["margin"]) for node in overridden.losses or []] == [("hinge", 0.5)]


@pytest.mark.parametrize("similarity", ["cosine", "dot"])
def test_youtube_dnn(similarity: str) -> None:
    model = build("youtube_dnn", hidden_units=[8], similarity=similarity)
    scale = unit if similarity == "cosine" else np.asarray
    user, item = vectors(model)
    expected = perceptron(model.mlp, np.concatenate(user_columns(model), 1))  # type: ignore[arg-type]
    np.testing.assert_allclose(user, scale(expected), rtol=1e-10)
    np.testing.assert_allclose(item, scale(table(model, "item")[ITEMS["item"]]), rtol=1e-10)


def test_mf() -> None:
    p, q = vectors(model := build("mf"))
    np.testing.assert_array_equal(p, table(model, "user")[USERS["user"]])
    np.testing.assert_array_equal(q, table(model, "item")[ITEMS["item"]])
    u, v = vectors(model := build("mf", biases=True))
    biases = model.bias_embedding.rows("item").detach().numpy()[ITEMS["item"], 0]  # type: ignore[operator, union-attr]
    assert biases.all()
    p, q = table(model, "user")[USERS["user"]], table(model, "item")[ITEMS["item"]]
    np.testing.assert_allclose(u @ v.T, p @ q.T + biases, rtol=1e-12)


def test_mf_says_which_feature_it_needs() -> None:
    two = Schema((*SCHEMA.features, SparseFeature("city", 5)), (), items=SCHEMA.items)
    with pytest.raises(ConfigError, match=r"which feature names the user is not clear.*user, city"):
        MODELS.build("mf", two)
    with pytest.raises(ConfigError, match=r"'model.user_feature' is 'history'.*user, city"):
        MODELS.build({"name": "mf", "user_feature": "history"}, two)
    wide = Schema((SparseFeature("user", 9, embed_dim=8), *SCHEMA.features[1:]), (), items=SCHEMA.items)
    with pytest.raises(ConfigError, match=r"need one width.*8 and 64"):
        MODELS.build("mf", wide)
    assert MODELS.build({"name": "mf", "user_feature": "city"}, two).embedding.tables.keys() == {"item", "city"}  # type: ignore[operator, union-attr]


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


@pytest.mark.parametrize("name", ["dssm", "youtube_dnn", "mf", "mind"])
def test_data_without_items_is_refused(name: str) -> None:
    with pytest.raises(SchemaError, match="no items"):
        MODELS.build(name, Schema(SCHEMA.features, ()))


def test_outputs_say_whether_they_are_cosines() -> None:
    assert [(o.name, o.kind, o.part, o.is_unit) for o in build("dssm").outputs] == [
        ("user", "vector", "user", True),
        ("item", "vector", "item", True),
    ]
    assert not any(output.is_unit for output in build("youtube_dnn").outputs)
