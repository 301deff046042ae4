"""Values in their canonical forms, and what is missing: the same in every format and kind of column."""

from __future__ import annotations

import csv
import io
import json
import math
from decimal import Decimal
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from rechub_ray.errors import ConfigError, DataError
from rechub_ray.preparation import prepare
from rechub_ray.preparation.values import Flaws, to_lists, to_number, to_text


@pytest.mark.parametrize(
    ("values", "expected"),
    [
        (pa.array([7.0, 0.5, 1e22, -0.0, math.nan, None]), ["7", "0.5", "1e+22", "0", None, None]),
        (pa.array([0.1, 7.0], pa.float32()), ["0.1", "7"]),
        (pa.array([0.5, 7.0], pa.float16()), ["0.5", "7"]),
        (pa.array([Decimal("7.00"), Decimal("7.50"), Decimal("100.00"), Decimal("0.05")]), ["7", "7.5", "100", "0.05"]),
        (pa.array([Decimal("100")], pa.decimal128(5, 0)), ["100"]),
        (pa.array([2**64 - 1], pa.uint64()), ["18446744073709551615"]),
        (pa.array([10**18 + 510], pa.timestamp("ns")), ["2001-09-09 01:46:40.00000051"]),
        (pa.array([1_000_000_000_000_000], pa.timestamp("us")), ["2001-09-09 01:46:40"]),
        (pa.array([1_000_000_000_500], pa.timestamp("ms", "Asia/Tokyo")), ["2001-09-09 01:46:40.5"]),
        (pa.array([b"a", "ä".encode(), b"", None]), ["a", "ä", None, None]),
        (pa.array(["", " ", None]), [None, " ", None]),
        (pa.array([True, None]), ["true", None]),
    ],
)
def test_texts(values: pa.Array, expected: list[str | None]) -> None:
    assert to_text(values).to_pylist() == expected


@pytest.mark.parametrize(
    ("texts", "expected"),
    [
        (["True", "false", "TRUE", None], [1, 0, 1, None]),
        (["true", "0.5", " 7 "], [1.0, 0.5, 7.0]),
        (["+5", "-5", "5."], [5.0, -5.0, 5.0]),
        (["1e3", ".5", "nan", "-NaN"], [1000.0, 0.5, None, None]),
        (["9007199254740993", " 2"], [9007199254740993, 2]),
    ],
)
def test_numbers(texts: list[str], expected: list[float]) -> None:
    flaws = Flaws(len(texts))
    assert to_number(pa.array(texts), "x", flaws).to_pylist() == expected
    assert not flaws.reasons


@pytest.mark.parametrize("text", ["0x10", "1_000", "1,5", "yes", "inf", "1e999", "٣", "--1", "NA", "1 2"])
def test_what_is_no_number_marks_its_row_alone_or_among_others(text: str) -> None:
    for others in ([], ["1"], ["0.5"], ["true"]):
        flaws = Flaws(1 + len(others))
        to_number(pa.array([text, *others]), "x", flaws)
        assert list(flaws.reasons) == [0], text


@pytest.mark.parametrize(
    ("text", "separator", "expected"),
    [
        ("[1, 2]", ",", ["1", "2"]), ("[1, 2]", None, ["1", "2"]), ("[]", ",", []), (" [ ] ", ",", []),
        ('["a", "b,c"]', ",", ["a", "b,c"]), ("['a', 'b']", ",", ["a", "b"]), ("[1.0, 0.5]", "|", ["1", "0.5"]),
        ("[true, null, NaN]", ",", ["true", None, None]), ("[None, nan, 'x']", ",", [None, None, "x"]),
        ("a,,b", ",", ["a", None, "b"]), ("", ",", []), ("a|b", "|", ["a", "b"]), ("a | b", None, ["a | b"]),
        ("7 days, or 30", None, ["7 days, or 30"]), ("50", None, ["50"]), ("|", None, ["|"]),
        ("[CLS] a [SEP]", " ", ["[CLS]", "a", "[SEP]"]), ("[rare]", ",", ["[rare]"]),
        ("[rare],x", ",", ["[rare]", "x"]),
        ("{1, 2}", ",", ["{1", " 2}"]),
    ],
)  # fmt: skip
def test_lists_in_texts(text: str, separator: str | None, expected: list[str | None]) -> None:
    for others in ([], ["x"], ["[9]", None]):
        assert to_lists(pa.array([text, *others]), separator).to_pylist()[0] == expected


@pytest.mark.parametrize("text", ["[a, b]", "[1 2 3]", "[[1, 2], [3]]", '[{"a": 1}]', "[1, 2"[:-1] + "x, ]"])
def test_a_list_that_cannot_be_read_marks_its_row(text: str) -> None:
    flaws = Flaws(3)
    lists = to_lists(pa.array(["x", text, "[1]"]), ",", "tags", flaws)
    assert list(flaws.reasons) == [1]
    assert "column 'tags'" in flaws.reasons[1]
    assert len(lists) == 3
    with pytest.raises(DataError, match="tags"):
        to_lists(pa.array([text]), ",", "tags")


@pytest.mark.parametrize("text", ["a|b", "50|100|181", "50,100", "50;100", " 50 100 "])
def test_a_text_of_several_values_that_nothing_cuts_is_not_one_value(text: str) -> None:
    flaws = Flaws(4)
    to_lists(pa.array(["x", text, None, "[50, 100]"]), None, "history", flaws)
    assert list(flaws.reasons) == [1]
    with pytest.raises(DataError, match=r"column 'history': '.*' looks like several values.*write \[50, 100\]"):
        to_lists(pa.array([text]), None, "history")


def test_vectors_in_texts(lab: Any) -> None:
    lab.write(train__csv='x,y\n"[0.5, 1]",1\n"[2.0, 3]",0\n')
    prepare(lab.single(features=[{"kind": "numeric", "name": "x", "dim": 2}]))
    assert lab.split()["x"] == [[0.5, 1.0], [2.0, 3.0]]


MISSING = {"empty": "", "null": None, "nan": math.nan, "text nan": "nan", "text NaN": "NaN"}
KINDS = {
    "categorical": ({"kind": "categorical", "name": "x"}, ["1", "2"], [1, 2], 0),
    "hashed": ({"kind": "categorical", "name": "x", "hash_buckets": 2}, ["1", "2"], [1, 1], 0),
    "sequence": ({"kind": "sequence", "name": "x"}, ["1", "2"], [[1], [2]], []),
    "numeric": ({"kind": "numeric", "name": "x", "fill": -1.0}, [1.0, 2.0], [1.0, 2.0], -1.0),
    "bucket": ({"kind": "bucket", "name": "x", "num_buckets": 2}, [1.0, 2.0], [1, 2], 0),
}


def write(lab: Any, form: str, values: list[Any]) -> None:
    path = lab.raw / f"log.{form}"
    if form == "parquet":
        texts = any(isinstance(value, str) for value in values)
        column = pa.array([str(v) if texts and isinstance(v, float) else v for v in values], from_pandas=False)
        pq.write_table(pa.table({"x": column, "y": [1] * len(values)}), path)
    elif form == "jsonl":
        path.write_text("\n".join(json.dumps({"x": value, "y": 1}) for value in values))
    else:
        buffer = io.StringIO()
        rows = [["x", "y"], *(["" if value is None else value, 1] for value in values)]
        csv.writer(buffer, "excel-tab" if form == "tsv" else "excel").writerows(rows)
        path.write_text(buffer.getvalue())


@pytest.mark.parametrize("form", ["csv", "tsv", "jsonl", "parquet"])
@pytest.mark.parametrize("kind", KINDS)
def test_what_is_missing_is_so_everywhere(lab: Any, form: str, kind: str) -> None:
    feature, values, ids, missing = KINDS[kind]
    for name, value in MISSING.items():
        write(lab, form, [*values, value])
        recipe = lab.single(files=f"log.{form}", format={"type": form}, features=[feature], overwrite=True)
        result = prepare(recipe)
        assert lab.split()["x"] == [*ids, missing], (name, form)
        assert result.stats["splits"]["train"]["features"]["x"]["nulls"] == 1, (name, form)


@pytest.mark.parametrize("form", ["csv", "jsonl", "parquet"])
def test_elements_are_missing_like_values(lab: Any, form: str) -> None:
    elements = ["a", None, "", "nan", "NaN", "b"]
    value = "a||||nan|b" if form == "csv" else elements
    write(lab, form, [value])
    features = [{"kind": "sequence", "name": "x", "separator": "|"}]
    prepare(lab.single(files=f"log.{form}", format={"type": form}, features=features))
    assert lab.split()["x"] == [[1, 0, 0, 0, 0, 2]]


@pytest.mark.parametrize("form", ["csv", "jsonl", "parquet"])
def test_ones_own_missing_values(lab: Any, form: str) -> None:
    write(lab, form, ["?", "nan", "a"])
    features = [{"kind": "categorical", "name": "x"}]
    prepare(lab.single(files=f"log.{form}", format={"type": form, "null_values": ["?"]}, features=features))
    assert lab.split()["x"] == [0, 2, 1]


@pytest.mark.parametrize(
    ("role", "said"),
    [
        ({"labels": [{"name": "x", "kind": "regression"}]}, "label 'x' is null"),
        ({"weight": "x"}, "weight 'x' is null"),
        ({"group": "x"}, "group 'x' is null"),
        ({"row_id": "x"}, "row id 'x' is null"),
        ({"split": {"by": "column", "column": "x", "values": {"train": [1], "test": [2]}}}, "None belongs to no split"),
        ({"split": {"by": "leave_last_out", "user": "x"}}, "column 'x' is null"),
        ({"split": {"by": "leave_last_out", "user": "u", "order": "x"}}, "column 'x' holds no time"),
    ],
)
def test_a_role_without_value_is_a_bad_row_in_every_format(lab: Any, role: dict[str, Any], said: str) -> None:
    for form in ("csv", "jsonl", "parquet"):
        for name, value in MISSING.items():
            write(lab, form, [1.0, 1.0, 1.0, 2.0, value])
            features = [{"kind": "categorical", "name": "u", "column": "y"}]
            changes = json.loads(json.dumps(role).replace('"u"', '"y"'))
            recipe = lab.single(files=f"log.{form}", format={"type": form}, features=features, **changes)
            with pytest.raises(DataError) as caught:
                prepare(recipe, use_ray=False)
            assert said in str(caught.value), (form, name)
            assert f"row {6 if form == 'csv' else 5}:" in str(caught.value), (form, name)


BYTES = [b"good", b"\xff\xfe", b"fine"]


@pytest.mark.parametrize("kind", ["categorical", "sequence", "hashed"])
@pytest.mark.parametrize("column", [pa.array(BYTES), pa.array(BYTES).view(pa.string()), pa.array([[b] for b in BYTES])])
def test_bytes_that_are_no_text_are_bad_rows(lab: Any, kind: str, column: pa.Array) -> None:
    if pa.types.is_list(column.type) and kind != "sequence":
        return
    feature = {"kind": "sequence" if kind == "sequence" else "categorical", "name": "x"}
    feature |= {"hash_buckets": 1000} if kind == "hashed" else {}
    pq.write_table(pa.table({"x": column, "y": [1, 1, 1]}), lab.raw / "a.parquet")
    recipe = lab.single(files="a.parquet", format={"type": "parquet"}, features=[feature])
    with pytest.raises(DataError, match=r"a\.parquet, row 2: column 'x'.*is not text \(UTF-8\)"):
        prepare(recipe)
    result = prepare({**recipe, "on_bad_rows": "quarantine"})
    assert result.stats["bad_rows"] == 1
    assert result.stats["splits"]["train"]["rows"] == 2


@pytest.mark.parametrize(
    ("value", "said"),
    [
        ('"\\ud800"', "not Unicode"),
        ('["a", "\\ud800"]', "not Unicode"),
        ('{"a": 1}', "holds an object"),
        ("[[1], 2]", "a list of lists"),
        ("[" * 100_000, "not JSON"),
        ("1" * 5000, "not JSON"),
    ],
)
@pytest.mark.parametrize("kind", ["categorical", "sequence"])
def test_json_that_cannot_become_text_is_a_bad_row(lab: Any, value: str, said: str, kind: str) -> None:
    lab.write(a__jsonl=f'{{"x": "fine", "y": 1}}\n{{"x": {value}, "y": 1}}\n')
    recipe = lab.single(files="a.jsonl", format={"type": "jsonl"}, features=[{"kind": kind, "name": "x"}])
    with pytest.raises(DataError, match=r"a\.jsonl, row 2:") as caught:
        prepare(recipe)
    assert said in str(caught.value) or (kind == "categorical" and "holds a list" in str(caught.value))
    assert len(str(caught.value)) < 800
    assert prepare({**recipe, "on_bad_rows": "quarantine"}).stats["bad_rows"] == 1


HUGE = ["1e39", "-1e300", "1.7e308", "3.5e38"]


@pytest.mark.parametrize("transforms", [[], ["standardise"], ["min_max"], ["log1p"], ["log1p", "standardise"]])
@pytest.mark.parametrize("dim", [1, 2])
def test_numbers_past_float32_are_bad_rows(lab: Any, transforms: list[str], dim: int) -> None:
    feature = {"kind": "numeric", "name": "x", "transforms": transforms, "dim": dim, "separator": "|"}
    good = ["1|2", "3|4", "5|3e38"] if dim == 2 else ["1", "3", "3e38"]
    for huge in HUGE:
        lab.write(train__csv="x,y\n" + "".join(f"{x},1\n" for x in [*good, f"0|{huge}" if dim == 2 else huge]))
        with pytest.raises(DataError, match=r"train\.csv, row 5: column 'x': .*past float32"):
            prepare(lab.single(features=[feature]))
        prepare(lab.single(features=[feature], on_bad_rows="quarantine", overwrite=True))
        assert np.isfinite(np.asarray(lab.split()["x"])).all()
        assert len(lab.split()["x"]) == 3
        lab.out.rename(lab.folder / f"done{huge}")


def test_a_row_that_the_fitted_transform_cannot_hold(lab: Any) -> None:
    """Finite in float32 before standardising by 1e-20, not after it."""
    lab.write(train__csv="x,y\n0,1\n2e-20,1\n", test__csv="x,y\n1e-20,1\n1e30,1\n")
    feature = {"kind": "numeric", "name": "x", "transforms": ["standardise"]}
    recipe = lab.recipe(labels=[{"name": "y"}], features=[feature])
    with pytest.raises(DataError, match=r"test\.csv, row 3: column 'x': 1e\+30 is past float32"):
        prepare(recipe)
    prepare({**recipe, "on_bad_rows": "quarantine"})
    assert lab.split(name="test")["x"] == [0.0]


@pytest.mark.parametrize("role", [{"weight": "x"}, {"labels": [{"name": "x", "kind": "regression"}]}])
def test_labels_and_weights_past_float32(lab: Any, role: dict[str, Any]) -> None:
    lab.write(train__csv="x,y\n1,1\n1e39,1\n")
    with pytest.raises(DataError, match=r"train\.csv, row 3: .*'x'.*past float32"):
        prepare(lab.single(features=[{"kind": "categorical", "name": "f", "column": "y"}], **role))


def test_a_fill_past_float32_is_refused(lab: Any) -> None:
    with pytest.raises(ConfigError, match="fill"):
        prepare(lab.single(features=[{"kind": "numeric", "name": "x", "fill": 1e39}]))
