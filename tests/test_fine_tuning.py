"""Weights of one model for another: by name, by a map, and tables by feature."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

from rechub_ray import checkpoint, config
from rechub_ray.errors import CheckpointError
from rechub_ray.fine_tuning import initialise_from
from rechub_ray.models import MODELS
from rechub_ray.models.base import Model
from rechub_ray.schema import DenseFeature, Label, Schema, SequenceFeature, SparseFeature

SCHEMA = Schema((SparseFeature("user", 5), DenseFeature("age")), (Label("click"),))
NAMES = ["embedding.tables.user", "linear.bias", "linear.dense.weight", "linear.embedding.tables.user"]


def make_model(fill: float, schema: Schema = SCHEMA, **arguments: Any) -> Model:
    model = MODELS.build({"name": "fm", "embedding_dim": 2, **arguments}, schema)
    for parameter in model.parameters():
        nn.init.constant_(parameter, fill)
    return model


def save(folder: Path, model: Model, **arguments: Any) -> Path:
    folder.mkdir()
    run = config.load({"model": {"name": "fm", "embedding_dim": 2, **arguments}, "optimizers": ["adam"]})
    checkpoint.write(folder, config=run, schema=model.schema, model=model, optimizers=[], state={})
    return folder


@pytest.fixture
def one(tmp_path: Path) -> Path:
    return save(tmp_path / "one", make_model(3.0))


def test_weights_by_name(one: Path) -> None:
    model = make_model(0.0)
    report = initialise_from(model, str(one), None)
    assert report == {"restored": NAMES, "not_restored": []}
    assert {float(value) for p in model.parameters() for value in p.detach().flatten()} == {3.0}


def test_weights_by_a_map(one: Path, tmp_path: Path) -> None:
    (tmp_path / "map").write_text("\nlinear.bias\tlinear.bias\n\n")
    model = make_model(0.0)
    report = initialise_from(model, str(one), str(tmp_path / "map"))
    assert report == {"restored": ["linear.bias"], "not_restored": [name for name in NAMES if name != "linear.bias"]}
    for name, tensor in model.state_dict().items():
        assert bool((tensor == (3.0 if name == "linear.bias" else 0.0)).all())


@pytest.mark.parametrize(
    ("line", "words"),
    [
        ("embedding.weights.2", "line 1. Expected: current<TAB>old"),
        ("nobody\tembedding.weights.2", "line 1: the model has no 'nobody'"),
        ("linear.bias\tlinear.bais", "the checkpoint has no .* Did you mean 'linear.bias'"),
        ("embedding.weights.2\tembeding.weights.2", "the checkpoint has no 'embeding.weights.2'"),
        ("embedding.weights.2\tlinear.bias", r"'linear.bias' .* does not fit 'embedding.tables.user'"),
        ("embedding.weights.3\tembedding.weights.2", "the model has no 'embedding.weights.3'"),
        (
            "embedding.weights.2\tlinear.embedding.weights.1",
            r"does not fit.*Expected: shape \(5, 2\)\. Got: shape \(5, 1",
        ),
        ("", "has no parameter of this model"),
    ],
)
def test_maps_that_are_wrong(one: Path, tmp_path: Path, line: str, words: str) -> None:
    (tmp_path / "map").write_text(line)
    model = make_model(0.0)
    with pytest.raises(CheckpointError, match=words):
        initialise_from(model, str(one), str(tmp_path / "map"))
    assert {float(value) for p in model.parameters() for value in p.detach().flatten()} == {0.0}


def test_a_map_that_is_not_there(one: Path, tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match="cannot read init_map"):
        initialise_from(make_model(0.0), str(one), str(tmp_path / "map"))


# --- tables, whatever else the two models have ----------------------------------------------------------------------

OLD = Schema((SparseFeature("user", 5), SparseFeature("item", 7)), (Label("click"),))
NEW = Schema(
    (SparseFeature("city", 3), SparseFeature("item", 7), SequenceFeature("history", 7, shared_with="item")),
    (Label("click"),),
)


def items_numbered(model: Model) -> Model:
    bank: Any = model.embedding
    with torch.no_grad():
        bank.rows("item").copy_(torch.arange(14.0).view(7, 2))
    return model


def test_a_table_comes_from_a_model_with_other_tables(tmp_path: Path) -> None:
    old = save(tmp_path / "old", items_numbered(make_model(3.0, OLD)))
    model: Any = make_model(0.0, NEW)
    report = initialise_from(model, str(old), None)
    assert report["restored"] == ["embedding.tables.item", "linear.bias", "linear.embedding.tables.item"]
    assert report["not_restored"] == ["embedding.tables.city", "linear.embedding.tables.city"]
    assert torch.equal(model.embedding.rows("history"), torch.arange(14.0).view(7, 2))
    assert model.embedding.rows("city").eq(0).all()
    assert model.linear.embedding.rows("item").eq(3).all()


def test_a_table_under_another_name(tmp_path: Path) -> None:
    old = save(tmp_path / "old", items_numbered(make_model(3.0, OLD)))
    schema = Schema((SparseFeature("candidate", 7), SparseFeature("city", 3)), (Label("click"),))
    model: Any = make_model(0.0, schema)
    (tmp_path / "map").write_text("embedding.tables.candidate\tembedding.tables.item\n")
    assert initialise_from(model, str(old), str(tmp_path / "map"))["restored"] == ["embedding.tables.candidate"]
    assert torch.equal(model.embedding.rows("candidate"), torch.arange(14.0).view(7, 2))
    assert model.embedding.rows("city").eq(0).all()


def test_a_weight_stands_for_its_tables(tmp_path: Path) -> None:
    """As maps for checkpoints of the first format name them; the order of the features does not matter."""
    old = save(tmp_path / "old", items_numbered(make_model(3.0, OLD)))
    turned: Any = make_model(0.0, Schema(OLD.features[::-1], OLD.labels))
    (tmp_path / "map").write_text("embedding.weights.2\tembedding.weights.2\n")
    restored = initialise_from(turned, str(old), str(tmp_path / "map"))["restored"]
    assert restored == ["embedding.tables.item", "embedding.tables.user"]
    assert torch.equal(turned.embedding.rows("item"), torch.arange(14.0).view(7, 2))
    assert turned.embedding.rows("user").eq(3).all()
    with pytest.raises(
        CheckpointError, match=r"hold different tables. Expected: city, item. Got: item, user. Name tabl"
    ):
        initialise_from(make_model(0.0, NEW), str(old), str(tmp_path / "map"))


def test_the_first_format_by_name(tmp_path: Path) -> None:
    old = Path(__file__).parent / "fixtures" / "format_1" / "step_0000000003"
    user, item = (
        checkpoint.read(old).model["embedding.tables.user"],
        checkpoint.read(old).model["embedding.tables.item"],
    )
    model: Any = make_model(
        0.0, Schema((SparseFeature("item", 7), SparseFeature("user", 11)), SCHEMA.labels), embedding_dim=4
    )
    initialise_from(model, str(old), None)
    assert torch.equal(model.embedding.rows("item"), item)
    assert torch.equal(model.embedding.rows("user"), user)
    (tmp_path / "map").write_text("embedding.weights.4\tembedding.weights.4\n")
    model = make_model(0.0, model.schema, embedding_dim=4)
    initialise_from(model, str(old), str(tmp_path / "map"))
    assert torch.equal(model.embedding.rows("item"), item)
    assert model.linear.embedding.rows("item").eq(0).all()
