"""New rows through transforms fitted earlier: of a data set, of a run; ids of new values after those that are there."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
import yaml

from rechub_ray.cli import main
from rechub_ray.errors import ConfigError, DataError
from rechub_ray.preparation import Encoder, prepare
from rechub_ray.schema import Schema

OLD = "user,item,price,tags,rating\n1,a,1,x|y,5\n2,b,3,y,3\n1,a,,,4\n3,c,5,z,1\n"
NEW = "user,item,price,tags,rating\n9,b,9,y|q,5\n9,d,3,x,1\n2,e,,q,4\n8,e,1,,2\n2,b,7,y,1\n"


def fit(lab: Any, **changes: Any) -> Path:
    lab.write(train__csv=OLD, test__csv=OLD)
    prepare(lab.recipe(out=str(lab.folder / "old"), **changes))
    lab.write(train__csv=NEW, test__csv=NEW)
    return Path(lab.folder / "old")


def test_new_rows_through_old_transforms(lab: Any) -> None:
    old = fit(lab)
    result = lab.prepare(like=str(old))
    expected = Encoder.load(old).encode(pa.table({
        "user": [9, 9, 2, 8, 2], "item": ["b", "d", "e", "e", "b"], "price": [9, 3, None, 1, 7],
        "tags": ["y|q", "x", "q", None, "y"],
    }))  # fmt: skip
    shards = lab.split()
    assert {name: shards[name] for name in expected.column_names} == expected.to_pydict()
    assert shards["user"] == [0, 0, 2, 0, 2], "unseen users are unknown"
    assert result.schema == Schema.load(old / "schema.json")
    assert Encoder.load(lab.out).encodings == Encoder.load(old).encodings
    assert (lab.out / "vocab" / "user.parquet").read_bytes() == (old / "vocab" / "user.parquet").read_bytes()


def test_a_label_made_otherwise_is_said(lab: Any) -> None:
    old = fit(lab)
    assert not lab.prepare(like=str(old), labels=[{"name": "liked", "expression": "(rating>=4)"}]).notes
    changed = [{"name": "liked", "expression": "rating > 4"}, {"name": "rating", "kind": "regression"}]
    notes = lab.prepare(like=str(old), labels=changed, overwrite=True).notes
    assert notes == [f"label 'liked' is rating > 4, was rating >= 4 in {old}: no model of that data is measured by it"]


def test_into_the_folder_itself(lab: Any) -> None:
    shutil.move(fit(lab), lab.out)
    before = Schema.load(lab.out / "schema.json")
    assert lab.prepare(like=str(lab.out), overwrite=True).schema == before
    assert lab.split()["item"] == [2, 0, 0, 0, 2]


def test_grown_vocabularies_keep_every_old_id(lab: Any) -> None:
    old = fit(lab)
    result = lab.prepare(like=str(old), grow=True)
    before, now = Encoder.load(old), Encoder.load(lab.out)
    for name, more in (("user", ["9", "8"]), ("item", ["e", "d"]), ("tags", ["q"])):
        assert now.vocabulary(name).to_pylist() == before.vocabulary(name).to_pylist() + more
    assert lab.split()["user"] == [4, 4, 2, 5, 2]
    assert now.encodings["price"] == before.encodings["price"], "numbers keep their scale"
    assert [f.vocab_size for f in result.schema.sparse] == [6, 6]
    assert Schema.load(old / "schema.json").encoded_otherwise(result.schema) == {
        "user": "6 ids, was 4", "item": "6 ids, was 4", "tags": "5 ids, was 4",
    }  # fmt: skip
    assert [now.difference(before, name) for name in ("user", "price")] == [
        "the first 3 ids of 'user' are the same", None,
    ]  # fmt: skip
    assert any("feature 'user': 2 new ids" in note for note in result.stats["notes"])
    assert lab.split(name="test")["user"] == [4, 4, 2, 5, 2]


def test_growth_is_held_to_the_recipe(lab: Any) -> None:
    old = fit(lab)
    features = lab.recipe()["features"]
    features[0] = {"kind": "categorical", "name": "user", "min_frequency": 2}
    features.append({"kind": "categorical", "name": "item", "max_values": 4})
    lab.prepare(like=str(old), grow=True, features=features)
    now = Encoder.load(lab.out)
    assert now.vocabulary("user").to_pylist() == ["1", "2", "3", "9"]
    assert now.vocabulary("item").to_pylist() == ["a", "b", "c", "e"]


def test_a_known_number_in_another_form_is_not_new(lab: Any) -> None:
    old = fit(lab)
    lab.write(train__csv=NEW.replace("\n2,", "\n2.0,"))
    lab.prepare(like=str(old), grow=True)
    assert Encoder.load(lab.out).vocabulary("user").to_pylist() == ["1", "2", "3", "9", "8"]
    assert lab.split()["user"][2] == 2


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"kind": "numeric", "name": "price", "transforms": ["log1p"]}, "'price' would be encoded otherwise"),
        ({"kind": "categorical", "name": "price"}, "'price' would be"),
        ({"kind": "categorical", "name": "more", "column": "item"}, "'more' would be"),
        ({"kind": "categorical", "name": "user", "hash_buckets": 9}, "'user' would be"),
        ({"kind": "categorical", "name": "user", "shared_with": "item"}, "'user' would be"),
        ({"kind": "sequence", "name": "tags", "separator": "|", "max_length": 3}, "'tags' would be"),
    ],
)
def test_features_that_would_be_encoded_otherwise(lab: Any, change: dict[str, Any], said: str) -> None:
    old = fit(lab)
    features = [{"kind": "categorical", "name": "user"}, {"kind": "categorical", "name": "item"}]
    features += lab.recipe()["features"][1:]
    features = [node for node in features if node["name"] != change["name"]]
    with pytest.raises(ConfigError, match=rf"'features': {said}"):
        lab.prepare(like=str(old), features=[*features, change])
    assert not lab.out.exists()


def test_another_raw_column_and_fewer_features(lab: Any) -> None:
    old = fit(lab)
    lab.write(train__csv=NEW.replace("item", "article"))
    lab.write(test__csv=NEW.replace("item", "article"))
    lab.prepare(like=str(old), features=[{"kind": "categorical", "name": "item", "column": "article"}])
    assert lab.split()["item"] == [2, 0, 0, 0, 2]


def test_classes_are_those_of_the_earlier_data(lab: Any) -> None:
    old = fit(lab, labels=[{"name": "rating", "kind": "multiclass"}])
    lab.write(train__csv=NEW.replace(",5\n", ",4\n"), test__csv=NEW)
    result = lab.prepare(like=str(old), labels=[{"name": "rating", "kind": "multiclass"}])
    assert result.schema.labels[0].num_classes == 6
    new = [{"name": "rating", "kind": "multiclass"}, {"name": "stars", "kind": "multiclass", "expression": "rating"}]
    result = lab.prepare(like=str(old), labels=new, overwrite=True, split=None, files="test.csv")
    assert [label.num_classes for label in result.schema.labels] == [6, 6]
    lab.write(train__csv=NEW.replace(",5\n", ",7\n"))
    with pytest.raises(DataError, match=r"expected a class from 0 to 5"):
        lab.prepare(like=str(old), labels=new[:1], overwrite=True)


def test_bad_places_and_keys(lab: Any) -> None:
    fit(lab)
    with pytest.raises(ConfigError, match=r"'like': no transforms in .*nowhere"):
        lab.prepare(like=str(lab.folder / "nowhere"))
    with pytest.raises(ConfigError, match=r"'grow' is for 'like'"):
        lab.prepare(grow=True)


def test_histories_count_rows_once_when_they_grow(lab: Any) -> None:
    changes: dict[str, Any] = {
        "files": "train.csv",
        "split": None,
        "history": {"user": "user", "item": "item", "order": "price"},
        "features": [
            {"kind": "categorical", "name": "item", "min_frequency": 2},
            {"kind": "sequence", "name": "history", "shared_with": "item"},
        ],
    }
    raw = "user,item,price,rating\n" + "".join(f"1,{item},{i},{i % 2}\n" for i, item in enumerate("aabbb"))
    lab.write(train__csv=raw)
    prepare(lab.recipe(out=str(lab.folder / "old"), **changes))
    lab.write(train__csv=raw.replace(",a,", ",c,").replace("b,4", "d,4"))
    lab.prepare(like=str(lab.folder / "old"), grow=True, **changes)
    assert Encoder.load(lab.out).vocabulary("item").to_pylist() == ["b", "a", "c"]
    shards = lab.split()
    np.testing.assert_equal(shards["history"][-1], [3, 3, 1, 1])
    assert shards["item"] == [3, 3, 1, 1, 0]


def test_differences_by_example(lab: Any) -> None:
    old = Encoder.load(fit(lab))
    lab.prepare()
    new = Encoder.load(lab.out)
    assert new.difference(old, "item") == "id 1 of 'item' is 'b', was 'a'"
    assert new.difference(old, "price") == "'price' is (x - 5) / 3.16228, was (x - 3) / 1.63299"
    assert old.difference(old, "price") is None


def test_from_the_command_line(lab: Any, capsys: pytest.CaptureFixture[str]) -> None:
    old = fit(lab)
    (lab.folder / "recipe.yaml").write_text(yaml.safe_dump(lab.recipe()))
    assert main(["prepare", str(lab.folder / "recipe.yaml"), "--like", str(old), "grow=true"]) == 0
    assert lab.split()["user"] == [4, 4, 2, 5, 2]
    assert main(["prepare", str(lab.folder / "recipe.yaml"), "--like", str(lab.raw), "overwrite=true"]) == 2
    assert "'like': no transforms in" in capsys.readouterr().err
