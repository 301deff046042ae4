"""The item table: its rows against values put together by hand, what it is fitted on, and what is refused."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import pytest

from rechub_ray.data.catalogue import Catalogue
from rechub_ray.errors import ConfigError, DataError
from rechub_ray.preparation import Encoder, prepare, print_report
from rechub_ray.preparation.earlier import adopt
from rechub_ray.schema import Items, Schema, SequenceFeature

# users buy in the order of t; the last row of each is for the test, so item e is in no training row
LOG = "u,item,t,shop,paid\n" + "".join(
    f"{user},{item},{t},{'x' if item in 'ab' else 'y'},{ord(item) - 96}\n"
    for t, (user, item) in enumerate([(1, "a"), (1, "b"), (1, "a"), (2, "a"), (2, "c"), (2, "b"), (3, "d"), (3, "e")])
)
GOODS = (
    "key,price,tags,colour,size\nb,30,p|q|r,red,1|2\na,10,,blue,3|4\nd,20,q,,5|6\nz,999,q|z,green,7|8\ne,5,p,red,9|9\n"
)
FEATURES: list[dict[str, Any]] = [
    {"kind": "numeric", "name": "price", "transforms": ["standardise"], "fill": -7.0},
    {"kind": "sequence", "name": "tags", "separator": "|", "max_length": 2},
    {"kind": "categorical", "name": "colour"},
    {"kind": "numeric", "name": "size", "dim": 2, "separator": "|"},
    {"kind": "bucket", "name": "price_class", "column": "price", "num_buckets": 2},
]
FILE: dict[str, Any] = {"id": "item", "file": "goods.csv", "key": "key", "features": FEATURES}


def node(lab: Any, items: dict[str, Any], **changes: Any) -> dict[str, Any]:
    lab.write(train__csv=LOG, goods__csv=GOODS)
    base: dict[str, Any] = lab.recipe(
        files="train.csv",
        history={"user": "u", "item": "item", "order": "t"},
        split={"by": "leave_last_out", "user": "u", "order": "t", "valid": 0, "test": 1},
        labels=[],
        features=[
            {"kind": "categorical", "columns": ["u", "item"]},
            {"kind": "sequence", "name": "history", "shared_with": "item"},
        ],
        items=items,
    )
    return {**base, **changes}


def table(out: str | Path) -> dict[str, Any]:
    columns: dict[str, Any] = pq.read_table(Path(out) / "items").to_pydict()
    return columns


def test_an_item_file(lab: Any, capsys: pytest.CaptureFixture[str]) -> None:
    result = prepare(node(lab, FILE))
    found = table(result.out)
    # training rows: a b | a c | d; b and c and d are once there, in byte order
    assert Encoder.load(result.out).vocabulary("item").to_pylist() == ["a", "b", "c", "d"]
    assert (found["item"], found["count"]) == ([1, 2, 3, 4], [2, 1, 1, 1])
    # fitted on a, b and d alone, each once; c has no row
    spread = (200 / 3) ** 0.5
    assert found["price"] == pytest.approx([-10 / spread, 10 / spread, -7.0, 0.0], rel=1e-6)
    assert found["tags"] == [[], [1, 2], [], [1]], "q is there twice, so 1; p is cut off, but counts for no id"
    assert found["colour"] == [1, 2, 0, 0]
    assert found["size"] == [[3, 4], [1, 2], [0, 0], [5, 6]]
    assert found["price_class"] == [1, 2, 0, 1]
    assert lab.split()["history"] == [[], [1], [], [1], []], "a row holds the id alone"
    assert set(lab.split()) == {"u", "item", "history"}
    numbers = result.stats["items"]
    assert {key: numbers[key] for key in ("rows", "without_row", "left_out", "without_training_row")} == {
        "rows": 4, "without_row": 1, "left_out": 2, "without_training_row": 0,
    }  # fmt: skip
    assert "items: 1 (25.00%) have no row in goods.csv, so nulls" in result.stats["notes"]
    assert (numbers["features"]["colour"]["nulls"], numbers["features"]["price"]["max"]) == (2, 30)
    print_report(result.stats)
    assert re.search(r"Items \(4\).*price_class *│ sparse *│ 3 *", capsys.readouterr().out, re.DOTALL)


def test_items_without_features_are_counted(lab: Any, capsys: pytest.CaptureFixture[str]) -> None:
    print_report(prepare(node(lab, {"id": "item"})).stats)
    said = capsys.readouterr().out
    assert "4 items, without features of their own.\n" in said
    assert "Items (" not in said


def test_the_schema_and_the_catalogue(lab: Any) -> None:
    result = prepare(node(lab, FILE))
    schema = Schema.load(Path(result.out) / "schema.json")
    assert schema == result.schema
    assert isinstance(schema.items, Items)
    assert [f.name for f in schema.items.features] == ["price", "tags", "colour", "size", "price_class"]
    assert all(f.encoding for f in schema.all_features)
    catalogue = Catalogue.read(result.out, schema)
    assert catalogue.features.sparse.tolist() == [[1, 1, 1], [2, 2, 2], [3, 0, 0], [4, 0, 1]]
    assert Encoder.load(result.out).encodings == {f.name: f.encoding for f in schema.all_features}


def test_distinct_rows_of_the_log(lab: Any) -> None:
    features = [{"kind": "categorical", "name": "shop"}, {"kind": "numeric", "name": "paid", "transforms": ["min_max"]}]
    result = prepare(node(lab, {"id": "item", "from_rows": ["shop", "paid"], "features": features}))
    assert table(result.out) == {
        "item": [1, 2, 3, 4], "shop": [1, 1, 2, 2], "paid": pytest.approx([0, 1 / 3, 2 / 3, 1]), "count": [2, 1, 1, 1],
    }  # fmt: skip
    assert set(lab.split()) == {"u", "item", "history"}


def test_columns_of_side_tables_may_be_of_items(lab: Any) -> None:
    changes = {"joins": [{"file": "goods.csv", "key": "key", "input_key": "item", "columns": ["tags", "size"]}]}
    items = {"id": "item", "from_rows": ["tags", "size"], "features": [
        FEATURES[1], {"kind": "sequence", "name": "sizes", "column": "size", "separator": "|"},
    ]}  # fmt: skip
    found = table(prepare(node(lab, items, **changes)).out)
    assert found["tags"] == [[], [1, 2], [], [1]]
    assert [len(sizes) for sizes in found["sizes"]] == [2, 2, 0, 2]


@pytest.mark.parametrize(
    ("column", "row", "words"),
    [
        ("shop", "2,a,9,y,1", "item 'a' has two values of 'shop' in the training rows"),
        ("paid", "2,a,9,x,1.5", "item 'a' has two values of 'paid'"),
        ("paid", "2,a,9,x,", "item 'a' has two values of 'paid'"),
    ],
)
def test_two_values_of_an_item(lab: Any, column: str, row: str, words: str) -> None:
    kind = "categorical" if column == "shop" else "numeric"
    recipe = node(lab, {"id": "item", "from_rows": [column], "features": [{"kind": kind, "name": column}]})
    for files in ([LOG + row + "\n2,b,10,x,2\n"], [LOG, f"u,item,t,shop,paid\n{row}\n2,b,10,x,2\n"]):  # one task, two
        lab.write(**{f"log_{len(files)}_{i}__csv": text for i, text in enumerate(files)})
        recipe["files"] = f"log_{len(files)}_*.csv"
        with pytest.raises(DataError, match=re.escape(words)) as caught:
            prepare(recipe)
        ends = {"shop": "'x' and 'y'", "paid": "1.0 and 1.5" if "1.5" in row else "1.0 and None"}
        assert ends[column] in str(caught.value)
    assert not lab.out.exists()


def test_values_that_differ_outside_of_training_are_no_conflict(lab: Any) -> None:
    recipe = node(lab, {"id": "item", "from_rows": ["shop"], "features": [{"kind": "categorical", "name": "shop"}]})
    lab.write(train__csv=LOG.replace("1,a,2,x,1", "1,a,2,other,1"))  # the last row of user 1
    assert table(prepare(recipe).out)["shop"] == [1, 1, 2, 2]


def test_a_table_of_ids(lab: Any) -> None:
    result = prepare(node(lab, {"id": "item"}))
    assert table(result.out) == {"item": [1, 2, 3, 4], "count": [2, 1, 1, 1]}
    assert result.schema.items == Items("item")
    assert not result.stats["notes"]


def test_shared_tables(lab: Any) -> None:
    """A history of shops by the items' own vocabulary; items that are alike count for no item's frequency."""
    lab.write(alike__csv="item,shop,alike\na,x,b b c d\nb,x,c c c\nc,y,\nd,w,\n")
    items = {"id": "item", "file": "alike.csv", "features": [
        {"kind": "categorical", "name": "shop"},
        {"kind": "sequence", "name": "alike", "separator": " ", "shared_with": "item"},
    ]}  # fmt: skip
    recipe = node(lab, items)
    recipe["features"] = [*recipe["features"], {"kind": "sequence", "name": "shops_before", "shared_with": "shop"}]
    recipe["history"] = {**recipe["history"], "lists": {"shops_before": "shop"}}
    result = prepare(recipe)
    counts = pq.read_table(Path(result.out) / "vocab" / "shop.parquet").to_pydict()
    assert (counts["value"], counts["count"]) == (["x", "w", "y"], [2, 1, 1]), "items, not rows of histories"
    assert table(result.out)["alike"] == [[2, 2, 3, 4], [3, 3, 3], [], []]
    assert pq.read_table(Path(result.out) / "vocab" / "item.parquet")["count"].to_pylist() == [2, 1, 1, 1]
    assert lab.split()["shops_before"] == [[], [1], [], [1], []]
    assert result.schema.user_side.feature("shops_before") == SequenceFeature(
        "shops_before", 4, encoding=result.schema.feature("shops_before").encoding
    )


def test_keys_meet_in_any_form_of_a_whole_number(lab: Any) -> None:
    recipe = node(lab, {**FILE, "features": FEATURES[2:3]})
    lab.write(train__csv="u,item,t\n1,7,1\n1,8.0,2\n1,9,3\n", goods__csv="key,colour\n7.0,red\n8,blue\n9,green\n")
    assert table(prepare(recipe).out)["colour"] == [2, 1]


def test_a_json_map(lab: Any) -> None:
    (lab.raw / "tags.json").write_text(json.dumps({"a": ["p", "q"], "d": ["q"], "c": [], "b": ["z", "p", "q"]}))
    items = {"id": "item", "file": "tags.json", "key": "key", "format": {"type": "json_map"},
             "features": [{"kind": "sequence", "name": "tags", "column": "value"}]}  # fmt: skip
    assert table(prepare(node(lab, items)).out)["tags"] == [[2, 1], [3, 2, 1], [], [1]]


def test_side_tables_of_an_item_file(lab: Any) -> None:
    lab.write(colours__csv="name,code\nred,r1\ngreen,g1\n")
    colours = {"file": "colours.csv", "key": "name", "input_key": "colour", "columns": ["code"]}
    features = [FEATURES[2], {"kind": "categorical", "name": "code"}]
    found = table(prepare(node(lab, {**FILE, "joins": [colours], "features": features})).out)
    assert (found["colour"], found["code"]) == ([1, 2, 0, 0], [0, 1, 0, 0])


def test_shards_hold_row_groups_of_the_size_asked_for(lab: Any) -> None:
    result = prepare(node(lab, FILE, row_group_rows=1, shard_rows=2))
    files = sorted((Path(result.out) / "items").iterdir())
    assert [path.name for path in files] == ["part-00000.parquet", "part-00001.parquet"]
    assert [pq.ParquetFile(path).num_row_groups for path in files] == [2, 2]
    assert Catalogue.read(result.out, result.schema).count.tolist() == [2, 1, 1, 1]


def test_whole_groups_are_counted_too(lab: Any) -> None:
    assert table(prepare(node(lab, FILE, cluster_by="u")).out)["count"] == [2, 1, 1, 1]


MORE = LOG + "4,c,20,y,3\n4,f,21,y,6\n4,g,22,y,7\n4,a,23,x,1\n"


def test_like_keeps_ids_and_fits(lab: Any) -> None:
    old = prepare(node(lab, FILE, out=str(lab.folder / "old")))
    recipe = node(lab, FILE, like=old.out)
    lab.write(train__csv=MORE, goods__csv=GOODS.replace("b,30", "b,50") + "c,20,p|q,blue,1|1\n")
    result = prepare(recipe)
    found = table(result.out)
    assert result.schema == old.schema
    assert (found["item"], found["count"]) == ([1, 2, 3, 4], [2, 1, 2, 1])
    spread = (200 / 3) ** 0.5
    assert found["price"] == pytest.approx([-10 / spread, 30 / spread, 0.0, 0.0], abs=1e-6)
    assert found["tags"][2] == [0, 1], "p is no tag of the old data"


def test_grown_items(lab: Any) -> None:
    old = prepare(node(lab, FILE, out=str(lab.folder / "old")))
    recipe = node(lab, FILE, like=old.out, grow=True)
    lab.write(train__csv=MORE, goods__csv=GOODS + "f,20,s|q,black,1|1\n")
    result = prepare(recipe)
    found = table(result.out)
    assert Encoder.load(result.out).vocabulary("item").to_pylist() == ["a", "b", "c", "d", "f", "g"]
    assert (found["item"], found["count"]) == ([1, 2, 3, 4, 5, 6], [2, 1, 2, 1, 1, 1])
    assert (found["tags"][4], found["colour"]) == ([3, 1], [1, 2, 0, 0, 3, 0])
    assert found["price"][:4] == table(old.out)["price"]
    assert any("feature 'colour': 1 new ids" in note for note in result.stats["notes"])
    assert old.schema.encoded_otherwise(result.schema)["colour"] == "4 ids, was 3"


def test_data_without_fingerprints_gets_them(lab: Any) -> None:
    result = prepare(node(lab, FILE))
    root = Path(result.out)
    document = json.loads((root / "preprocess.json").read_text())
    (root / "preprocess.json").write_text(json.dumps({**document, "encodings": {}}))
    result.schema.encoded({}).save(root / "schema.json")
    adopt(result.out)
    assert Schema.load(root / "schema.json") == result.schema
    assert json.loads((root / "preprocess.json").read_text()) == document


def test_like_of_other_item_features(lab: Any) -> None:
    old = prepare(node(lab, {"id": "item"}, out=str(lab.folder / "old")))
    with pytest.raises(
        ConfigError, match="'price', 'tags', 'colour', 'size', 'price_class' would be encoded otherwise"
    ):
        prepare(node(lab, FILE, like=old.out))
    rows = {"id": "item", "from_rows": ["shop"], "features": [{"kind": "categorical", "name": "shop"}]}
    with pytest.raises(ConfigError, match=r"'items\.from_rows' does not go with 'like'"):
        prepare(node(lab, rows, like=old.out))


SHOP = [{"kind": "categorical", "name": "shop"}]


@pytest.mark.parametrize(
    ("items", "words"),
    [
        ({}, "'items.id' is missing"),
        ({"id": "itme"}, "'items.id': there is no feature 'itme'. Did you mean 'item'"),
        ({"id": "history"}, "feature 'history' cannot name items. Expected: a categorical feature with a vocabulary"),
        ({"id": "item", "features": SHOP}, "'items': name either 'file' or 'from_rows'"),
        ({**FILE, "from_rows": ["shop"]}, "'items': name either 'file' or 'from_rows'"),
        ({"id": "item", "key": "key"}, "'items.key' is for 'items.file', which is missing"),
        ({"id": "item", "file": "goods.csv"}, "'items.features' is empty"),
        ({"id": "item", "from_rows": ["shop", "paid"], "features": SHOP}, "'items.features' differ in 'paid'"),
        ({"id": "item", "from_rows": ["paid"], "features": SHOP}, "'items.features' differ in 'paid'"),
        ({**FILE, "features": [{"kind": "numeric", "name": "count", "column": "price"}]}, "'count' is the name of"),
        ({**FILE, "features": [{"kind": "categorical", "name": "u"}]}, "'u' names two columns of the output"),
        (
            {**FILE, "features": [{"kind": "categorcial", "name": "a"}]},
            "'items.features.0.kind': there is no 'categorcial'",
        ),
        ({**FILE, "file": "good.csv"}, "Did you mean 'goods.csv'"),
        ({**FILE, "key": "kee"}, "has no column 'kee'"),
        ({**FILE, "features": [{"kind": "numeric", "name": "colour"}]}, "goods.csv, item 'a': column 'colour': 'blue'"),
        ({**FILE, "key": "colour"}, "key 'colour' is not unique"),
        ({**FILE, "key": "price"}, "goods.csv has a row for none of the 4 items of the training rows"),
    ],
)
def test_items_that_cannot_be(lab: Any, items: dict[str, Any], words: str) -> None:
    with pytest.raises((ConfigError, DataError), match=re.escape(words)):
        prepare(node(lab, items))
    assert not lab.out.exists()


def test_hashed_ids_are_no_items(lab: Any) -> None:
    recipe = node(lab, {"id": "item"}, features=[{"kind": "categorical", "name": "item", "hash_buckets": 10}])
    with pytest.raises(ConfigError, match=r"feature 'item' cannot name items.*Got: hash_buckets"):
        prepare(recipe)


def test_lists_of_items_that_are_no_features(lab: Any) -> None:
    """One of a column, and one of a side table whose key is made of two columns; what has no id is left out."""
    lab.write(shown__csv="pair,items\n1-b,c|e|a|a\n3-e,b|zz\n")
    changes: dict[str, Any] = {
        "joins": [{"file": "shown.csv", "key": "pair", "input_key": "{u}-{item}", "columns": ["items"]}],
    }
    items = {"id": "item", "lists": {"shown": {"column": "items", "separator": "|"}, "shop": {}}}
    result = prepare(node(lab, items, **changes))
    assert result.schema.items == Items("item", lists=("shown", "shop"))
    assert Schema.load(Path(result.out) / "schema.json") == result.schema
    train, test = lab.split(), lab.split(name="test")
    assert [train["item"], train["shown"]] == [[1, 2, 1, 3, 4], [[], [3, 1, 1], [], [], []]]
    assert dict(zip(test["item"], test["shown"], strict=True))[0] == [2], "item e has no id"
    assert set(test["shop"][0]) <= {1, 2, 3, 4}
    assert "shown" not in result.schema.columns
    assert "shown" in result.schema.with_lists(["shown"]).columns


@pytest.mark.parametrize(
    ("items", "changes", "words"),
    [
        ({"lists": {"shown": {}}}, {}, "no column 'shown'"),
        ({"lists": {"history": {}}}, {}, "'history' names two columns"),
        ({"lists": {"shown": {"columns": "shop"}}}, {}, "Did you mean 'column'"),
        ({}, {"joins": [{"file": "goods.csv", "key": "key", "input_key": "{u}-{thing}", "columns": ["tags"]}]},
         "thing"),
        ({}, {"joins": [{"file": "goods.csv", "key": "key", "input_key": "{u}-{item}", "columns": ["tags"]}]},
         "a partner for none of the 8 rows"),
    ],
)  # fmt: skip
def test_lists_and_keys_that_are_not_there(lab: Any, items: Any, changes: Any, words: str) -> None:
    with pytest.raises((ConfigError, DataError), match=re.escape(words)):
        prepare(node(lab, {"id": "item", **items}, **changes))
