"""The schema: what it derives, what it refuses, and that it survives its file."""

from __future__ import annotations

import dataclasses
import json
import re
from pathlib import Path
from typing import Any

import pytest

from rechub_ray.errors import SchemaError
from rechub_ray.schema import DenseFeature, Items, Label, Schema, SequenceFeature, SparseFeature


def test_what_it_derives(schema: Schema) -> None:
    assert schema.feature_names == ["user", "age", "item", "vector", "history", "tags"]
    assert [f.name for f in schema.sparse] == ["user", "item"]
    assert [f.name for f in schema.dense] == ["age", "vector"]
    assert [f.name for f in schema.sequences] == ["history", "tags"]
    assert schema.dense_dim == 1 + 3
    assert schema.columns == [*schema.feature_names, "click", "rating", "session", "importance", "row"]
    assert schema.label().name == "click"
    assert schema.label("rating").kind == "regression"


def test_a_group_or_row_id_may_be_a_feature() -> None:
    schema = Schema((SparseFeature("user", 5),), (Label("click"),), group="user", row_id="user")
    assert schema.columns == ["user", "click"]


def test_selecting_keeps_the_schemas_order(schema: Schema) -> None:
    selected = schema.select(["tags", "user"])
    assert selected.feature_names == ["user", "tags"]
    assert selected.labels == schema.labels
    with pytest.raises(SchemaError, match="Did you mean 'user'"):
        schema.select(["usr"])


def test_a_teacher_is_read_and_is_no_label(schema: Schema, tmp_path: Path) -> None:
    selected = schema.select(None, ["click"], teachers=["rating"])
    assert ([x.name for x in selected.labels], [x.name for x in selected.targets]) == (["click"], ["click", "rating"])
    assert selected.columns == schema.columns
    assert (selected.target("rating").kind, selected.label().name) == ("regression", "click")
    with pytest.raises(SchemaError, match="no label 'rating'"):
        selected.label("rating")
    selected.save(tmp_path / "schema.json")
    assert Schema.load(tmp_path / "schema.json") == selected
    assert "teachers" not in schema.to_dict()  # the fingerprints of other schemas stay


def test_the_file_gives_the_same_schema_and_changes_the_fingerprint(schema: Schema, tmp_path: Path) -> None:
    schema.save(tmp_path / "schema.json")
    again = Schema.load(tmp_path / "schema.json")
    assert again == schema
    assert again.fingerprint() == schema.fingerprint()
    other = schema.to_dict()
    other["features"][0]["vocab_size"] += 1
    assert Schema.from_dict(other).fingerprint() != schema.fingerprint()


@pytest.mark.parametrize(
    ("features", "labels", "extra", "words"),
    [
        ((SparseFeature("a", 2), DenseFeature("a")), (Label("y"),), {}, "two roles in the schema. Got: a."),
        ((SparseFeature("y", 2),), (Label("y"),), {}, "two roles"),
        ((SparseFeature("a", 2),), (Label("y"),), {"weight": "a"}, "two roles"),
        ((SparseFeature("a", 2, shared_with="b"),), (Label("y"),), {}, "shares the table of 'b'"),
        ((SparseFeature("a", 2, shared_with="a"),), (Label("y"),), {}, "shares the table of 'a'"),
        ((SparseFeature("a", 2), SequenceFeature("h", 3, shared_with="a")), (Label("y"),), {}, "differ in vocab_size"),
    ],
)
def test_what_does_not_fit_together(features: Any, labels: Any, extra: dict[str, str], words: str) -> None:
    with pytest.raises(SchemaError, match=words):
        Schema(features, labels, **extra)


def test_a_schema_without_labels_says_so_when_asked_for_one() -> None:
    schema = Schema((SparseFeature("item", 3),), ())
    assert Schema.from_dict(schema.to_dict()) == schema
    with pytest.raises(SchemaError, match="has no label"):
        schema.label()
    with pytest.raises(SchemaError, match="no label, so none called 'click'"):
        schema.label("click")


@pytest.mark.parametrize("classes", [1, 2**24, 2.5, True])
def test_the_number_of_classes_is_a_small_whole_number(classes: Any) -> None:
    data = {"features": [], "labels": [{"name": "y", "kind": "multiclass", "num_classes": classes}]}
    with pytest.raises(SchemaError, match=r"label 0 \('y'\): 'num_classes'"):
        Schema.from_dict(data)


def change(schema: Schema, place: list[Any], value: Any) -> dict[str, Any]:
    data = json.loads(json.dumps(schema.to_dict()))
    here: Any = data
    for key in place[:-1]:
        here = here[key]
    here[place[-1]] = value
    return data


@pytest.mark.parametrize(
    ("place", "value", "words"),
    [
        (["version"], 2, ["version 2", "version 1"]),
        (["lables"], [], ["lables", "Did you mean 'labels'?"]),
        (["features"], {}, ["'features'", "a list"]),
        (["labels"], "click", ["'labels'", "a list"]),
        (["labels", 0, "kind"], "multiclass", ["label 0 ('click')", "num_classes"]),
        (["labels", 0, "num_classes"], 3, ["label 0 ('click')", "no num_classes", "Got: 3"]),
        (["labels", 0], "click", ["label 0"]),
        (["labels", 0, "kind"], "ordinal", ["label 0 ('click')", "'kind'"]),
        (["group"], ["session"], ["'group'"]),
        (["weight"], True, ["'weight'"]),
        (["row_id"], 1, ["'row_id'"]),
        (["features", 0], None, ["feature 0", "kind: sparse"]),
        (["features", 0, "kind"], "sparce", ["feature 0", "sparce"]),
        (["features", 0, "kind"], ["sparse"], ["feature 0"]),
        (["features", 0, "vocab_size"], 0, ["feature 0 ('user')", "'vocab_size'"]),
        (["features", 0, "vocab_size"], 2.5, ["'user'", "'vocab_size'"]),
        (["features", 0, "vocab_size"], True, ["'user'", "'vocab_size'"]),
        (["features", 0, "embed_dim"], -1, ["'user'", "'embed_dim'"]),
        (["features", 0, "embed_dmi"], 4, ["embed_dmi", "Did you mean 'embed_dim'?"]),
        (["features", 0, "name"], 5, ["'name'"]),
        (["features", 1, "vocab_size"], 9, ["feature 1 ('age')", "vocab_size"]),
        (["features", 4, "pooling"], "max", ["'history'", "'pooling'"]),
        (["features", 4, "max_length"], 0, ["'history'", "'max_length'"]),
    ],
)
def test_wrong_files_name_the_place(
    schema: Schema, tmp_path: Path, place: list[Any], value: Any, words: list[str]
) -> None:
    file = tmp_path / "schema.json"
    file.write_text(json.dumps(change(schema, place, value)))
    with pytest.raises(SchemaError) as caught:
        Schema.load(file)
    assert all(word in str(caught.value) for word in [str(file), *words]), caught.value


@pytest.mark.parametrize("content", [b"", b"{", b"[]", b"5", b"\xff\xfe", b"[" * 100_000])
def test_a_file_that_is_no_schema(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "schema.json").write_bytes(content)
    with pytest.raises(SchemaError, match=r"schema\.json is not"):
        Schema.load(tmp_path / "schema.json")


def test_no_file(tmp_path: Path) -> None:
    with pytest.raises(SchemaError, match=r"schema\.json\. Got: No such file or directory\..*prepare"):
        Schema.load(tmp_path / "schema.json")


def test_files_may_lie_behind_a_uri(schema: Schema, tmp_path: Path) -> None:
    schema.save(tmp_path / "schema.json")
    assert Schema.load(f"file://{tmp_path}/schema.json") == schema


RETRIEVAL_ITEMS = (
    SparseFeature("genre", 6, encoding="g"),
    DenseFeature("price"),
    SequenceFeature("alike", 20, shared_with="item"),
    SparseFeature("made_in", 9, shared_with="city"),
)
RETRIEVAL = Schema(
    features=(
        SparseFeature("user", 50),
        SparseFeature("item", 20, embed_dim=8, encoding="i"),
        SequenceFeature("history", 20, max_length=4, shared_with="item", encoding="h"),
        SequenceFeature("clicked", 20, shared_with="item"),
        SequenceFeature("genres_before", 6, shared_with="genre"),
        SparseFeature("city", 9),
    ),
    labels=(Label("click"),),
    group="session",
    row_id="row",
    items=Items("item", RETRIEVAL_ITEMS, exclude="seen", lists=("given",)),
)


def test_the_sides_of_users_and_items() -> None:
    assert RETRIEVAL.columns == [
        "user",
        "item",
        "history",
        "clicked",
        "genres_before",
        "city",
        "click",
        "session",
        "row",
    ]
    user, item, both = RETRIEVAL.user_side, RETRIEVAL.item_side, RETRIEVAL.joined
    # the first feature that shares a table owns it where its owner is on the other side
    assert user == Schema(
        features=(
            SparseFeature("user", 50),
            SequenceFeature("history", 20, max_length=4, embed_dim=8, encoding="h"),
            SequenceFeature("clicked", 20, shared_with="history"),
            SequenceFeature("genres_before", 6),
            SparseFeature("city", 9),
        ),
        labels=(Label("click"),),
        group="session",
        row_id="row",
    )
    assert item == Schema(
        features=(
            SparseFeature("item", 20, embed_dim=8, encoding="i"),
            SparseFeature("genre", 6, encoding="g"),
            DenseFeature("price"),
            SequenceFeature("alike", 20, shared_with="item"),
            SparseFeature("made_in", 9),
        ),
        labels=(),
    )
    assert (both.features, both.items) == (RETRIEVAL.features + RETRIEVAL_ITEMS, None)
    for wrong in ("user_side", "item_side"):
        with pytest.raises(SchemaError, match="has no items"):
            getattr(both, wrong)


def test_items_survive_their_file_and_are_selected_whole(schema: Schema, tmp_path: Path) -> None:
    RETRIEVAL.save(tmp_path / "schema.json")
    assert Schema.load(tmp_path / "schema.json") == RETRIEVAL
    assert "items" not in schema.to_dict()  # the fingerprints of other schemas stay
    fewer = dataclasses.replace(RETRIEVAL, items=Items("item", RETRIEVAL_ITEMS[:1], exclude="seen"))
    assert RETRIEVAL.fingerprint() != fewer.fingerprint()
    selected = RETRIEVAL.select(["history", "city"], [])
    assert (selected.feature_names, selected.items) == (["item", "history", "city"], RETRIEVAL.items)


def test_encodings_of_items_count_too() -> None:
    bare = RETRIEVAL.encoded({"genre": "other", "item": "i"})
    assert {f.name: f.encoding for f in bare.all_features if f.encoding} == {"item": "i", "genre": "other"}
    assert RETRIEVAL.encoded_otherwise(bare) == {"genre": "encoded otherwise"}
    dense = Schema((DenseFeature("genre", encoding="d"),), ())
    assert RETRIEVAL.encoded_otherwise(dense) == {"genre": "encoded otherwise"}


@pytest.mark.parametrize(
    ("items", "words"),
    [
        (Items("itme"), "Did you mean 'item'"),
        (Items("history"), "'history'. Expected: a sparse feature with a table of its own. Got: a sequence feature"),
        (Items("item", (DenseFeature("count"),)), "two roles in the schema. Got: count"),
        (Items("item", (DenseFeature("city"),)), "two roles in the schema. Got: city"),
        (Items("item", (DenseFeature("session"),)), "two roles in the schema. Got: session"),
        (Items("item", (DenseFeature("item"),)), "two roles in the schema. Got: item"),
        (Items("item", (DenseFeature("a"), DenseFeature("a"))), "two roles in the schema. Got: a"),
        (Items("item", RETRIEVAL_ITEMS, "history"), "two roles in the schema. Got: history"),
        (Items("item", RETRIEVAL_ITEMS, "genre"), "two roles in the schema. Got: genre"),
        (Items("item"), "feature 'genres_before' shares the table of 'genre'"),
        (Items("item", (SparseFeature("genre", 7),)), "share a table but differ in vocab_size. Got: 6 and 7"),
    ],
)
def test_items_that_do_not_fit(items: Items, words: str) -> None:
    with pytest.raises(SchemaError, match=words):
        dataclasses.replace(RETRIEVAL, items=items)


def test_the_id_of_items_has_a_table_of_its_own() -> None:
    features = (SequenceFeature("history", 20), SparseFeature("item", 20, shared_with="history"))
    with pytest.raises(SchemaError, match="Got: one that shares a table"):
        Schema(features, (), items=Items("item"))


@pytest.mark.parametrize(
    ("value", "words"),
    [
        ("item", "items. Expected: an object with 'id'"),
        ({"id": 5}, "items. Expected: an object with 'id'"),
        ({"id": "item", "feature": []}, "items has an unknown key 'feature'. Did you mean 'features'?"),
        ({"id": "item", "features": [{"kind": "dense", "name": "a", "dim": 0}]}, "items: feature 0 ('a'): 'dim'"),
        ({"id": "user", "features": 5}, "items: 'features'. Expected: a list"),
        ({"id": "user", "exclude": ["seen"]}, "items: 'exclude'. Expected: the name of a column, or null"),
    ],
)
def test_wrong_items_in_a_file_name_the_place(schema: Schema, value: Any, words: str) -> None:
    with pytest.raises(SchemaError, match=re.escape(words)):
        Schema.from_dict({**schema.to_dict(), "items": value})
