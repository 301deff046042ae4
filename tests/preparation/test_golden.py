"""Small inputs against encodings worked out by hand."""

from __future__ import annotations

import gzip
import json
import math
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from rechub_ray.data.manifest import Manifest
from rechub_ray.errors import DataError
from rechub_ray.preparation import Encoder, prepare
from rechub_ray.schema import Schema

TRAIN = """user,item,price,tags,rating
9007199254740993,a,1,x|y,5
9007199254740992,b,3,y,3
9007199254740993,a,,,4
9007199254740994,c,5,z|y|x,1
"""
TEST = """user,item,price,tags,rating
9007199254740993,c,9,w|y,4
7,,-3,x,2
"""


def test_every_encoding_by_hand(lab: Any) -> None:
    lab.write(train__csv=TRAIN, test__csv=TEST)
    result = prepare(lab.recipe())
    train, test = lab.split(result.out), lab.split(result.out, "test")
    # users: 2^53+1 twice, so id 1; the other two once each, in order of their text
    assert train["user"] == [1, 2, 1, 3]
    assert test["user"] == [1, 0]
    assert train["item"] == [1, 2, 1, 3]
    assert test["item"] == [3, 0]
    # known prices 1, 3, 5: mean 3, variance 8/3; null becomes 0
    scale = math.sqrt(8 / 3)
    np.testing.assert_allclose(train["price"], [-2 / scale, 0, 0, 2 / scale], rtol=1e-6)
    np.testing.assert_allclose(test["price"], [6 / scale, -6 / scale], rtol=1e-6)
    # kept: [x, y], [y], [], [y, x]; y three times, x twice
    assert train["tags"] == [[2, 1], [1], [], [1, 2]]
    assert test["tags"] == [[0, 1], [2]]
    assert train["liked"] == [1, 0, 1, 0]
    assert test["liked"] == [1, 0]
    assert result.schema == Schema.load(Path(result.out) / "schema.json")
    assert [getattr(f, "vocab_size", None) for f in result.schema.features] == [4, 4, None, 3]


def test_shard_types_are_those_of_the_schema(lab: Any) -> None:
    lab.write(train__csv=TRAIN, test__csv=TEST)
    changes = {"group": "user", "weight": "rating", "row_id": "item", "on_bad_rows": "quarantine"}
    result = prepare(lab.recipe(**changes))
    out = result.out
    assert all(file.is_sealed for file in Manifest.scan(f"{out}/train", result.schema).files)
    found = pq.read_schema(Path(out) / "train" / "part-00000.parquet")
    assert {f.name: str(f.type) for f in found} == {
        "user": "int32",
        "item": "int32",
        "price": "float",
        "tags": "list<element: int32>",
        "liked": "float",
        "user_raw": "int64",
        "rating": "float",
        "item_raw": "string",
    }
    assert lab.split(out)["user_raw"] == [9007199254740993, 9007199254740992, 9007199254740993, 9007199254740994]


def test_statistics_by_hand(lab: Any) -> None:
    lab.write(train__csv=TRAIN, test__csv=TEST)
    result = prepare(lab.recipe())
    train, test = result.stats["splits"]["train"], result.stats["splits"]["test"]
    assert (train["rows"], test["rows"]) == (4, 2)
    assert train["labels"]["liked"]["mean"] == 0.5
    assert train["features"]["price"] == {"kind": "dense", "nulls": 1, "min": 1, "max": 5, "mean": 3}
    assert test["features"]["item"] == {
        "kind": "sparse", "nulls": 1, "unseen": 0, "distinct": 1, "vocab_size": 4
    }  # fmt: skip
    assert test["features"]["user"]["unseen"] == 1
    tags = train["features"]["tags"]
    assert (tags["values"], tags["nulls"], tags["distinct"]) == (5, 1, 2)
    assert json.loads((Path(result.out) / "stats.json").read_text()) == result.stats


def test_min_frequency_and_max_values(lab: Any) -> None:
    lab.write(train__csv="v,w,y\n" + "\n".join(f"{v},{v},1" for v in "abbcccdddd"))
    features = [
        {"kind": "categorical", "name": "v", "min_frequency": 2},
        {"kind": "categorical", "name": "w", "max_values": 1},
    ]
    labels = [{"name": "y"}]
    out = prepare(lab.single(features=features, labels=labels)).out
    assert lab.split(out)["v"] == [0, 3, 3, 2, 2, 2, 1, 1, 1, 1]
    assert lab.split(out)["w"] == [0] * 6 + [1] * 4
    vocabulary = pq.read_table(Path(out) / "vocab" / "v.parquet").to_pydict()
    assert vocabulary == {"value": ["d", "c", "b"], "count": [4, 3, 2], "id": [1, 2, 3]}


@pytest.mark.parametrize(
    ("transforms", "expected"),
    [
        ([], [-3, 0, 1, 7]),
        (["log1p"], [-math.log(4), 0, math.log(2), math.log(8)]),
        (["min_max"], [0, 0.3, 0.4, 1]),
        (["standardise"], [(x - 1.25) / math.sqrt(13.1875) for x in (-3, 0, 1, 7)]),
    ],
)  # fmt: skip
def test_numeric_transforms(lab: Any, transforms: list[str], expected: list[float]) -> None:
    lab.write(train__csv="x,y\n-3,0\n0,1\n1,0\n7,1\n,1\n")
    features = [{"kind": "numeric", "name": "x", "transforms": transforms, "fill": 0.25}]
    out = prepare(lab.single(features=features)).out
    np.testing.assert_allclose(lab.split(out)["x"], [*expected, 0.25], rtol=1e-6)


def test_quantile_buckets(lab: Any) -> None:
    rows = "\n".join(f"{x},1" for x in [*range(1, 101), ""])
    lab.write(train__csv=f"x,y\n{rows}\n")
    features = [{"kind": "bucket", "name": "x", "num_buckets": 4}]
    result = prepare(lab.single(features=features))
    expected = [1] * 25 + [2] * 25 + [3] * 25 + [4] * 25 + [0]
    assert lab.split(result.out)["x"] == expected
    assert result.schema.sparse[0].vocab_size == 5


def test_shared_table_is_counted_over_its_columns(lab: Any) -> None:
    lab.write(train__csv="a,past,y\np,q|q,1\np,r,0\n")
    features = [
        {"kind": "categorical", "name": "a"},
        {"kind": "sequence", "name": "past", "separator": "|", "shared_with": "a"},
    ]
    result = prepare(lab.single(features=features))
    assert lab.split(result.out)["a"] == [1, 1]
    assert lab.split(result.out)["past"] == [[2, 2], [3]]
    assert [f.vocab_size for f in (*result.schema.sparse, *result.schema.sequences)] == [4, 4]


def test_vectors_of_numbers(lab: Any) -> None:
    lab.write(train__csv="v,y\n1 2.5,1\n-1 nan,0\n")
    features = [{"kind": "numeric", "name": "v", "dim": 2, "separator": " ", "fill": 9}]
    out = prepare(lab.single(features=features)).out
    assert lab.split(out)["v"] == [[1, 2.5], [-1, 9]]


def test_formats_agree(lab: Any) -> None:
    """The same rows as CSV, gzipped TSV, JSON lines and parquet give the same shards."""
    raw = lab.write(train__csv=TRAIN, test__csv=TEST)
    features = lab.recipe()["features"]
    expected = lab.split(prepare(lab.recipe()).out)

    (raw / "train.tsv.gz").write_bytes(gzip.compress(TRAIN.replace(",", "\t").encode()))
    rows = []
    for line in TRAIN.splitlines()[1:]:
        user, item, price, tags, rating = line.split(",")
        rows.append({"user": int(user), "item": item, "price": float(price) if price else None,
                     "tags": tags.split("|") if tags else [], "rating": int(rating)})  # fmt: skip
    (raw / "train.jsonl").write_text("\n".join(json.dumps(row) for row in rows))
    pq.write_table(pa.Table.from_pylist(rows), raw / "train.parquet")
    for name, form in [("train.tsv.gz", "tsv"), ("train.jsonl", "jsonl"), ("train.parquet", "parquet")]:
        out = lab.folder / form
        node = lab.recipe(out=str(out), files=name, format={"type": form}, split=None, features=features)
        assert lab.split(prepare(node).out) == expected, form


def test_encoder_repeats_the_encoding(lab: Any) -> None:
    lab.write(train__csv=TRAIN, test__csv=TEST)
    out = prepare(lab.recipe()).out
    raw = pa.table({"user": [9007199254740993, 7], "item": ["c", None], "price": [9, -3], "tags": ["w|y", "x"]})
    expected = pq.read_table(Path(out) / "test").drop_columns(["liked"])
    assert Encoder.load(out).encode(raw).to_pydict() == expected.to_pydict()
    with pytest.raises(DataError, match="no column 'price'"):
        Encoder.load(out).encode(raw.drop_columns(["price"]))
    with pytest.raises(DataError, match="no readable encoder"):
        Encoder.load(lab.folder)


def test_hash_is_fnv1a_with_murmur_finaliser(lab: Any) -> None:
    def reference(text: str) -> int:
        state = 0xCBF29CE484222325
        for byte in text.encode():
            state = (state ^ byte) * 0x100000001B3 % 2**64
        state = (state ^ state >> 33) * 0xFF51AFD7ED558CCD % 2**64
        state = (state ^ state >> 33) * 0xC4CEB9FE1A85EC53 % 2**64
        return state ^ state >> 33

    words = ["a", "", "häuser", "68fd1e64", "a" * 40, "7", "7.0", "-3.0", "7.00", "v7.0"]
    alike = {"7.0": "7", "-3.0": "-3"}  # whole numbers, which a null has made floats
    lab.write(train__csv="v,y\n" + "\n".join(f"{word},1" for word in words))
    features = [{"kind": "categorical", "name": "v", "hash_buckets": 1000}]
    result = prepare(lab.single(features=features))
    assert lab.split(result.out)["v"] == [1 + reference(alike.get(word, word)) % 999 if word else 0 for word in words]
    assert result.schema.sparse[0].vocab_size == 1000
