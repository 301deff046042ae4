from __future__ import annotations

import pytest
import torch

from rechub_ray.batch import Features
from rechub_ray.errors import ConfigError, SchemaError
from rechub_ray.layers.embedding import EmbeddingBank
from rechub_ray.layers.inputs import Columns, DeepInput, VectorInput, choose, embedded
from rechub_ray.schema import DenseFeature, Label, Schema, SequenceFeature, SparseFeature

SCHEMA = Schema(
    features=(
        SequenceFeature("history", 9, shared_with="item"),
        SparseFeature("user", 5),
        DenseFeature("age"),
        SparseFeature("city", 4, embed_dim=2),
        DenseFeature("profile", dim=2),
        SparseFeature("item", 9),
        DenseFeature("price"),
    ),
    labels=(Label("click"),),
)


def test_choose_keeps_the_schemas_order_and_takes_all_by_default() -> None:
    assert choose(SCHEMA, None, key="deep_features") == SCHEMA.feature_names
    assert choose(SCHEMA, ["price", "user"], key="deep_features") == ["user", "price"]


def test_a_wrong_choice_names_the_key_and_the_nearest_feature() -> None:
    with pytest.raises(ConfigError, match=r"model\.fm_features.*'ietm'.*Did you mean 'item'"):
        choose(SCHEMA, ["user", "ietm"], key="fm_features")
    with pytest.raises(ConfigError, match=r"model\.fm_features.*empty"):
        choose(SCHEMA, [], key="fm_features")


def test_embedded_features_come_in_the_banks_order() -> None:
    names = embedded(SCHEMA, SCHEMA.feature_names)
    assert names == ["user", "city", "item", "history"]
    assert names == [f.name for f in EmbeddingBank(SCHEMA, dim=4).features]


@pytest.mark.parametrize(
    ("chosen", "expected"),
    [
        ([True, True, True], [0, 1, 2, 3, 4, 5]),
        ([True, False, True], [0, 1, 5]),
        ([False, True, True], [2, 3, 4, 5]),
        ([False, False, False], []),
    ],
)
def test_columns(chosen: list[bool], expected: list[int]) -> None:
    x = torch.arange(12).view(2, 6)
    columns = Columns([2, 3, 1], chosen)
    assert columns.width == len(expected)
    assert columns(x).tolist() == x[:, expected].tolist()


def test_one_stretch_of_columns_is_a_view() -> None:
    x = torch.randn(2, 6)
    assert Columns([2, 3, 1], [False, True, True])(x).data_ptr() == x[:, 2:].data_ptr()
    assert Columns([2, 3, 1], [True, True, True])(x) is x


def test_deep_input_puts_embeddings_before_numbers() -> None:
    bank = EmbeddingBank(SCHEMA, dim=4, features=["user", "city", "item"], init_std=1.0)
    sparse, dense = torch.tensor([[1, 2, 3], [4, 0, 8]]), torch.arange(8.0).view(2, 4)
    part = DeepInput(SCHEMA, bank, ["profile", "user", "item"])
    flat = bank.flat(Features(sparse, dense))
    expected = torch.cat([flat[:, :4], flat[:, 6:], dense[:, 1:3]], 1)
    assert part.width == 10
    assert torch.equal(part(flat, dense), expected)


def test_vector_input_stacks_features_of_one_width() -> None:
    bank = EmbeddingBank(SCHEMA, dim=4, init_std=1.0, features=["user", "city", "item"])
    part = VectorInput(bank, ["user", "age", "item"])
    flat = torch.randn(3, bank.flat_dim)
    assert torch.equal(part(flat), torch.stack([flat[:, :4], flat[:, 6:]], 1))
    assert part(flat[:0]).shape == (0, 2, 4)


def test_vector_input_refuses_what_cannot_be_multiplied() -> None:
    bank = EmbeddingBank(SCHEMA, dim=4)
    with pytest.raises(SchemaError, match=r"one width.*city 2"):
        VectorInput(bank, ["user", "city"])
    with pytest.raises(SchemaError, match=r"none of its features has one.*age"):
        VectorInput(bank, ["age"])
