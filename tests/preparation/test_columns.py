"""What a raw column may be: every role meets every type that parquet has, and the types of several files meet."""

from __future__ import annotations

import datetime
import decimal
import json
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from rechub_ray.errors import ConfigError, DataError
from rechub_ray.preparation import prepare
from rechub_ray.preparation.encoder import Encoder

ROWS = 4
DAY = datetime.date(2024, 1, 31)
MOMENT = datetime.datetime(2024, 1, 31, 12)
UUID = pa.ExtensionArray.from_storage(pa.uuid(), pa.array([b"0123456789abcdef"] * ROWS, pa.binary(16)))
WHOLE = [0, 1, 0, 1]

NUMBERS = {
    "bool": pa.array([False, True, False, True]),
    "bool8": pa.ExtensionArray.from_storage(pa.bool8(), pa.array(WHOLE, pa.int8())),
    "int8": pa.array(WHOLE, pa.int8()),
    "int64": pa.array(WHOLE, pa.int64()),
    "uint64": pa.array(WHOLE, pa.uint64()),
    "half": pa.array([0.0, 1.0, 0.0, 1.0], pa.float16()),
    "float": pa.array([0.0, 1.0, 0.0, 1.0], pa.float32()),
    "double": pa.array([0.0, 1.0, 0.0, 1.0]),
    "decimal32": pa.array([decimal.Decimal(x) for x in WHOLE], pa.decimal32(5, 2)),
    "decimal256": pa.array([decimal.Decimal(x) for x in WHOLE], pa.decimal256(50, 2)),
    "digits": pa.array(["0", "1", "0", "1"]),
    "large_string": pa.array(["0", "1", "0", "1"], pa.large_string()),
    "string_view": pa.array(["0", "1", "0", "1"], pa.string_view()),
    "binary": pa.array([b"0", b"1", b"0", b"1"]),
    "binary_view": pa.array([b"0", b"1", b"0", b"1"], pa.binary_view()),
    "fixed_binary": pa.array([b"0", b"1", b"0", b"1"], pa.binary(1)),
    "json": pa.ExtensionArray.from_storage(pa.json_(), pa.array(["0", "1", "0", "1"])),
    "dictionary": pa.array(["0", "1", "0", "1"]).dictionary_encode(),
}
TEXTS = {"digits", "large_string", "string_view", "binary", "binary_view", "fixed_binary", "json", "dictionary"}
NO_TRUTH = {name: values for name, values in NUMBERS.items() if "bool" not in name}
TIMES = {
    "date32": pa.array([DAY] * ROWS, pa.date32()),
    "date64": pa.array([DAY] * ROWS, pa.date64()),
    **{f"timestamp_{unit}": pa.array([MOMENT] * ROWS, pa.timestamp(unit)) for unit in ("s", "ms", "us", "ns")},
    "timestamp_tz": pa.array([MOMENT] * ROWS, pa.timestamp("us", "Europe/Berlin")),
}
CLOCKS = {
    "time32": pa.array([datetime.time(1)] * ROWS, pa.time32("s")),
    "time64": pa.array([datetime.time(1)] * ROWS, pa.time64("ns")),
    "duration": pa.array([datetime.timedelta(1)] * ROWS, pa.duration("s")),
}
NUMBER_LISTS = {
    "list": pa.array([[1, 2]] * ROWS),
    "large_list": pa.array([[1, 2]] * ROWS, pa.large_list(pa.int64())),
    "fixed_list": pa.array([[1, 2]] * ROWS, pa.list_(pa.float32(), 2)),
    "list_view": pa.array([[1, 2]] * ROWS, pa.list_view(pa.int64())),
    "large_list_view": pa.array([[1, 2]] * ROWS, pa.large_list_view(pa.int64())),
    "list_of_digits": pa.array([["1", "2"]] * ROWS),
    "list_of_dictionary": pa.DictionaryArray.from_arrays([0, 1] * ROWS, ["1", "2"]),
}
NUMBER_LISTS["list_of_dictionary"] = pa.ListArray.from_arrays([0, 2, 4, 6, 8], NUMBER_LISTS["list_of_dictionary"])
OTHER_LISTS = {"list_of_dates": pa.array([[DAY, DAY]] * ROWS), "list_of_bytes": pa.array([[b"a", b"b"]] * ROWS)}
NEVER = {
    "struct": pa.array([{"id": 1}] * ROWS),
    "map": pa.array([[("a", 1)]] * ROWS, pa.map_(pa.string(), pa.int64())),
    "list_of_structs": pa.array([[{"id": 1}]] * ROWS),
    "list_of_lists": pa.array([[[1]]] * ROWS),
    "list_of_maps": pa.array([[[("a", 1)]]] * ROWS, pa.list_(pa.map_(pa.string(), pa.int64()))),
}
NULL = {"null": pa.nulls(ROWS)}
SINGLE = {**NUMBERS, **TIMES, **CLOCKS, "uuid": UUID}
ALL: dict[str, pa.Array] = {**SINGLE, **NUMBER_LISTS, **OTHER_LISTS, **NEVER, **NULL}

KEEP = {"on_bad_rows": "quarantine"}  # the values need not suit, only the type
ROLES: dict[str, tuple[dict[str, Any], set[str]]] = {
    "categorical": ({"features": [{"kind": "categorical", "name": "x"}]}, {*SINGLE, *NULL}),
    "hashed": ({"features": [{"kind": "categorical", "name": "x", "hash_buckets": 9}]}, {*SINGLE, *NULL}),
    "sequence": (
        {"features": [{"kind": "sequence", "name": "x"}]},
        {*SINGLE, *NUMBER_LISTS, "list_of_dates", "list_of_bytes", *NULL},
    ),
    "numeric": ({"features": [{"kind": "numeric", "name": "x"}]}, {*NUMBERS, *NULL}),
    "vector": (
        {"features": [{"kind": "numeric", "name": "x", "dim": 2, "separator": ","}]},
        {*NUMBER_LISTS, *TEXTS, "list_of_bytes", *NULL},
    ),
    "bucket": ({"features": [{"kind": "bucket", "name": "x", "num_buckets": 3}]}, {*NUMBERS, *NULL}),
    "label": ({"labels": [{"name": "x", "kind": "regression"}]}, {*NUMBERS, *NULL}),
    "expression": ({"labels": [{"name": "y", "expression": "x == 'a'"}]}, {*SINGLE, *NULL}),
    "weight": ({"weight": "x"}, {*NUMBERS, *NULL}),
    "group": ({"group": "x"}, {*SINGLE, *NULL}),
    "row_id": ({"row_id": "x"}, {*SINGLE, *NULL}),
    "split column": (
        {"split": {"by": "column", "column": "x", "values": {"train": ["1", "0"], "test": ["2"]}}},
        {*SINGLE, *NULL},
    ),
    "split time": (
        {"split": {"by": "time", "column": "x", "starts": {"test": "2000-01-01"}}},
        {*NO_TRUTH, *TIMES, *NULL},
    ),
    "user": ({"split": {"by": "leave_last_out", "user": "x", "valid": 0}}, {*SINGLE, *NULL}),
    "order": ({"split": {"by": "leave_last_out", "user": "u", "order": "x", "valid": 0}}, {*NO_TRUTH, *TIMES, *NULL}),
    "history item": (
        {
            "history": {"user": "u", "item": "x", "name": "h"},
            "features": [{"kind": "sequence", "name": "h"}],
        },
        {*SINGLE, *NULL},
    ),
    "history items": (
        {"history": {"items": "x", "item": "i", "name": "h"}, "features": [{"kind": "sequence", "name": "h"}]},
        {*SINGLE, *NUMBER_LISTS, "list_of_dates", "list_of_bytes", *NULL},
    ),
    "join input key": ({"joins": [{"file": "side.csv", "key": "k", "input_key": "x", "columns": ["c"]}]},
                       {*SINGLE, *NULL}),
}  # fmt: skip


def write(lab: Any, values: pa.Array, name: str = "a.parquet") -> None:
    others = {"u": ["a", "a", "b", "b"], "y": [0, 1, 0, 1], "f": ["a", "b", "c", "d"]}
    pq.write_table(pa.table({**others, "x": values}), lab.raw / name)


def node(lab: Any, **changes: Any) -> dict[str, Any]:
    base = {"files": "a.parquet", "format": {"type": "parquet"}, "features": [{"kind": "categorical", "name": "f"}]}
    result: dict[str, Any] = lab.single(**{**base, **KEEP, **changes}, overwrite=True)
    return result


@pytest.mark.parametrize("role", ROLES)
def test_every_role_takes_a_type_or_says_which_it_takes(lab: Any, role: str) -> None:
    changes, taken = ROLES[role]
    lab.write(side__csv="k,c\n1,2\n")
    for name, values in ALL.items():
        write(lab, values)
        try:
            prepare(node(lab, **changes), use_ray=False)
        except DataError as error:
            said = str(error)
            if name in taken:  # then only for what the rows hold
                assert any(words in said for words in ("has no rows", "holds no time", "partner for none")), (
                    name,
                    said,
                )
            else:
                assert said.startswith(f"{lab.raw}/a.parquet: column 'x' cannot be "), (name, said)
                assert str(pq.read_schema(lab.raw / "a.parquet").field("x").type)[:40] in said, (name, said)
                assert "\n" not in said
        else:
            assert name in taken, name


def test_a_side_table_is_checked_too(lab: Any) -> None:
    write(lab, pa.array(WHOLE))
    side = {"k": pa.array([0, 1]), "c": pa.array([[1], [2]]), "unused": pa.array([{"a": 1}] * 2)}
    pq.write_table(pa.table(side), lab.raw / "side.parquet")
    join = {"file": "side.parquet", "format": {"type": "parquet"}, "key": "k", "input_key": "x", "columns": ["c"]}
    with pytest.raises(DataError, match=r"side\.parquet: column 'c' cannot be the categorical feature 'c'.*sequence"):
        prepare(node(lab, joins=[join], features=[{"kind": "categorical", "name": "c"}]))
    with pytest.raises(DataError, match=r"side\.parquet: column 'unused' cannot be the key of a side table"):
        prepare(node(lab, joins=[{**join, "key": "unused"}], features=[{"kind": "sequence", "name": "c"}]))
    prepare(node(lab, joins=[join], features=[{"kind": "sequence", "name": "c"}]))
    assert lab.split()["c"] == [[1], [2], [1], [2]]


def test_a_history_is_a_list(lab: Any) -> None:
    history = {"user": "u", "item": "f", "name": "h"}
    with pytest.raises(ConfigError, match="'h' cannot be the categorical feature 'h'"):
        prepare(node(lab, history=history, features=[{"kind": "categorical", "name": "h"}]))


def test_raw_rows_for_the_encoder_may_have_any_of_the_types(lab: Any) -> None:
    write(lab, pa.array(WHOLE))
    prepare(node(lab, features=[{"kind": "categorical", "name": "x"}]))
    encoder = Encoder.load(lab.out)
    for name, values in NUMBERS.items():
        if "bool" not in name and "decimal" not in name:
            assert encoder.encode(pa.table({"x": values}))["x"].to_pylist() == [1, 2, 1, 2], name
    for name in ("list", "struct", "map", "large_list_view"):
        with pytest.raises(DataError, match=r"column 'x'.*one value a row"):
            encoder.encode(pa.table({"x": ALL[name]}))


TWO_FILES = [
    (pa.array([0, 1, 0, 1]), pa.array([1.0, None, 0.0, 1.0])),
    (pa.array([0, 1, 0, 1]), pa.array(["0", "1", None, "1"])),
    (pa.nulls(ROWS), pa.array([0, 1, 0, 1])),
    (pa.array([0, 1, 0, 1], pa.uint64()), pa.array([0, 1, 0, 1], pa.int8())),
    (pa.array([decimal.Decimal("1.00")] * ROWS), pa.array([b"1", b"0", b"1", b"1"])),
    (pa.array([MOMENT] * ROWS, pa.timestamp("ns")), pa.array([MOMENT] * ROWS, pa.timestamp("ms", "Europe/Berlin"))),
]


@pytest.mark.parametrize("pair", TWO_FILES, ids=lambda pair: f"{pair[0].type}-{pair[1].type}")
@pytest.mark.parametrize("split", [None, {"by": "leave_last_out", "user": "u", "valid": 0}], ids=["whole", "by user"])
def test_files_of_different_types_meet(lab: Any, pair: tuple[pa.Array, pa.Array], split: Any) -> None:
    for name, values in zip("ab", pair, strict=True):
        write(lab, values, f"{name}.parquet")
    prepare(node(lab, files="*.parquet", split=split, features=[{"kind": "categorical", "name": "x"}]), use_ray=False)
    values = pq.read_table(lab.out / "vocab" / "x.parquet")["value"].to_pylist()
    assert set(values) <= {"0", "1", "2024-01-31 12:00:00"}


@pytest.mark.parametrize("split", [None, {"by": "leave_last_out", "user": "u", "valid": 0}], ids=["whole", "by user"])
@pytest.mark.parametrize(
    "first", [pa.nulls(ROWS), pa.array(["x|y", None, "", "y"]), pa.array([["x"], [], None, [None]])]
)
def test_lists_meet_nulls_and_texts(lab: Any, first: pa.Array, split: Any) -> None:
    write(lab, first, "a.parquet")
    write(lab, pa.array([["x", "y"]] * ROWS, pa.large_list(pa.string())), "b.parquet")
    features = [{"kind": "sequence", "name": "x", "separator": "|"}]
    prepare(node(lab, files="*.parquet", split=split, features=features), use_ray=False)
    assert [1, 2] in lab.split()["x"] or [2, 1] in lab.split()["x"]


@pytest.mark.parametrize("split", [None, {"by": "leave_last_out", "user": "u", "valid": 0}], ids=["whole", "by user"])
def test_json_that_begins_with_nulls(lab: Any, split: Any) -> None:
    for day, tags in enumerate((None, ["x", "y"], "x|y", [])):
        lines = [json.dumps({"u": str(k % 2), "y": k % 2, "tags": tags}) for k in range(4)]
        lab.write(**{f"day{day}__jsonl": "\n".join(lines) + "\n"})
    features = [{"kind": "sequence", "name": "tags", "separator": "|"}]
    recipe = node(lab, files="day*.jsonl", format={"type": "jsonl"}, split=split, features=features)
    prepare(recipe, use_ray=False)
    assert {tuple(row) for row in lab.split()["tags"]} == {(), (1, 2)}


@pytest.mark.parametrize(
    ("one", "other", "changes"),
    [
        (pa.array(WHOLE), pa.array([MOMENT] * ROWS), ROLES["split time"][0]),
        (pa.array(WHOLE), pa.array([MOMENT] * ROWS), ROLES["order"][0]),
        (pa.array(["a|b"] * ROWS), pa.array([["a"]] * ROWS), {"features": [
            {"kind": "sequence", "name": "x", "separator": "|"},
            {"kind": "sequence", "name": "z", "column": "x", "separator": ","},
        ]}),
    ],
)  # fmt: skip
def test_types_that_cannot_be_one_name_both_files(
    lab: Any, one: pa.Array, other: pa.Array, changes: dict[str, Any]
) -> None:
    write(lab, one, "a.parquet")
    write(lab, other, "b.parquet")
    with pytest.raises(DataError, match=rf"column 'x' is {one.type} in .*a\.parquet and .* in .*b\.parquet"):
        prepare(node(lab, files="*.parquet", **changes))
