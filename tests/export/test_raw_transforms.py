"""Every transform of `prepare` as ONNX operators, value by value against the encoder, without a model in between."""

from __future__ import annotations

import datetime
import re
from pathlib import Path
from typing import Any, get_args

import numpy as np
import onnx
import onnx_ir as ir
import onnxruntime
import pyarrow as pa
import pytest

from rechub_ray.export import raw_rows
from rechub_ray.export.raw import RawInputs
from rechub_ray.export.serving import _inputs
from rechub_ray.preparation import Encoder
from rechub_ray.preparation.forms import Numeric
from rechub_ray.schema import Schema

SERVING = Path(__file__).parents[2] / "docs" / "serving.md"
NAN = float("nan")


def session(encoder: Encoder, path: Path) -> onnxruntime.InferenceSession:
    """The transforms before a model that passes its inputs on."""
    schema = Schema(encoder.features, ())
    kinds = {"int64": ir.DataType.INT64, "float32": ir.DataType.FLOAT}
    inputs = [ir.val(port.name, kinds[port.dtype], port.shape) for port in _inputs(schema)]
    nodes = [ir.node("Identity", [value]) for value in inputs]
    for value, node in zip(inputs, nodes, strict=True):
        node.outputs[0].name, node.outputs[0].type = f"{value.name} encoded", value.type
        node.outputs[0].shape = value.shape
    outputs = [node.outputs[0] for node in nodes]
    model = ir.Model(ir.Graph(inputs, outputs, nodes=nodes, opset_imports={"": 18}, name="identity"), ir_version=10)
    RawInputs(encoder, schema, "the test").attach(model)
    ir.save(model, path / "model.onnx")
    onnx.checker.check_model(str(path / "model.onnx"), full_check=False)
    return onnxruntime.InferenceSession(str(path / "model.onnx"), providers=["CPUExecutionProvider"])


def compare(encoder: Encoder, rows: pa.Table, inputs: dict[str, Any], path: Path) -> dict[str, list[Any]]:
    """Check the file's values on `inputs` against the encoder's on `rows`; return them by feature."""
    fed = {name: np.array(values, object if isinstance(np.ravel(values)[0], str) else None)
           for name, values in inputs.items()}  # fmt: skip
    running = session(encoder, path)
    found = dict(zip(encoder_names(encoder), running.run(None, fed), strict=True))
    for name, column in encoder.encode(rows).to_pydict().items():
        if found[name].dtype == np.float32:
            np.testing.assert_allclose(found[name], column, rtol=1e-6, atol=1e-9, err_msg=name)
        else:
            got = (
                [[i for i in row if i != -1] for row in found[name].tolist()] if found[name].ndim == 2 else found[name]
            )
            assert list(map(list, got) if found[name].ndim == 2 else got) == column, name
    return {name: values.tolist() for name, values in found.items()}


def encoder_names(encoder: Encoder) -> list[str]:
    return [feature.name for feature in encoder.features]


def one(kind: str, column: str = "x", **settings: Any) -> dict[str, Any]:
    return {"kind": kind, "name": f"{kind}_{'_'.join(map(str, settings))}", "column": column, **settings}


def fnv(text: str) -> int:
    text = re.sub(r"^(-?[0-9]+)\.0$", r"\1", text)
    state = 0xCBF29CE484222325
    for byte in text.encode():
        state = (state ^ byte) * 0x100000001B3 % 2**64
    state = (state ^ state >> 33) * 0xFF51AFD7ED558CCD % 2**64
    state = (state ^ state >> 33) * 0xC4CEB9FE1A85EC53 % 2**64
    return state ^ state >> 33


WHEN = datetime.datetime(2026, 1, 31, 12, 30)
VOCABULARIES = {  # training values, values, as texts, ids
    "texts": (["a", "a", "é", 'say "so"'], ["é", "a", "", "ä", None], ["é", "a", "", "ä", ""], [3, 1, 0, 0, 0]),
    "whole numbers": ([7, 7, -3], [7, -3, 7, 8, None], ["7", "-3", "7.0", "8", ""], [1, 2, 1, 0, 0]),
    "whole floats": ([7.0, 7.0, 0.5], [7.0, 0.5, 7.0, NAN], ["7", "0.5", "7.0", ""], [1, 2, 1, 0]),
    "numbers in texts": (["7.0", "7.0", "8"], ["7", "8.0", "7.0"], ["7", "8.0", "7.0"], [1, 2, 1]),
    "both forms": (["7.0", "7.0", "7"], ["7", "7.0"], ["7", "7.0"], [2, 1]),
    "truth values": ([True, True, False], [False, True, None], ["false", "true", ""], [2, 1, 0]),
    "moments": ([WHEN], [WHEN, None], ["2026-01-31 12:30:00", ""], [1, 0]),
}


@pytest.mark.parametrize("name", VOCABULARIES)
def test_vocabularies(name: str, tmp_path: Path) -> None:
    training, values, texts, ids = VOCABULARIES[name]
    encoder = Encoder.fitted([one("categorical")], pa.table({"x": training}))
    found = compare(encoder, pa.table({"x": values}), {"x": texts}, tmp_path)
    assert found["categorical_"] == ids


NUMBERS = [0.0, 1.5, -4.0, 1e-7, 250.0, 3e30, NAN]


@pytest.mark.parametrize("fill", [0.0, -1.25])
@pytest.mark.parametrize("transforms", [[], ["log1p"], ["standardise"], ["min_max"], ["log1p", "min_max"]])
def test_numbers(transforms: list[str], fill: float, tmp_path: Path) -> None:
    training = pa.table({"x": [1.0, 2.0, 7.0, -3.0, None]})
    encoder = Encoder.fitted([one("numeric", transforms=transforms, fill=fill)], training)
    found = compare(encoder, pa.table({"x": NUMBERS}), {"x": NUMBERS}, tmp_path)
    (values,) = found.values()
    assert values[-1] == fill
    if transforms == ["min_max"]:
        assert values[1] == pytest.approx(0.45)


@pytest.mark.parametrize("buckets", [2, 10])
def test_buckets(buckets: int, tmp_path: Path) -> None:
    training = np.arange(100.0) if buckets > 2 else np.zeros(5)
    encoder = Encoder.fitted([one("bucket", num_buckets=buckets)], pa.table({"x": training}))
    borders = encoder.transforms[0].boundaries  # type: ignore[union-attr]
    values = [*borders, *np.nextafter(borders, 1e9).tolist(), -5.0, 1e9, NAN]
    found = compare(encoder, pa.table({"x": values}), {"x": values}, tmp_path)
    assert found["bucket_num_buckets"][-2:] == [len(borders) + 1, 0]


def test_hashed_texts_of_all_characters(tmp_path: Path) -> None:
    rng = np.random.default_rng(5)
    planes = [(1, 0x80), (0x80, 0x800), (0x800, 0xD800), (0xE000, 0x10000), (0x10000, 0x40000)]
    texts = ["", "a", "68fd1e64", "7", "7.0", "-12.0", "1.05", "v7.0", "7.0.0", "a" * 300]
    for _ in range(200):
        lowest, highest = planes[rng.integers(len(planes))]
        texts.append("".join(map(chr, rng.integers(lowest, highest, rng.integers(1, 12)))))
        texts.append("".join(chr(rng.integers(*planes[i])) for i in rng.integers(0, len(planes), rng.integers(1, 6))))
    features = [one("categorical", hash_buckets=10**9), {**one("categorical", hash_buckets=7), "name": "few"}]
    encoder = Encoder.fitted(features, pa.table({"x": ["any"]}))
    found = compare(encoder, pa.table({"x": texts}), {"x": texts}, tmp_path)
    assert found["categorical_hash_buckets"] == [1 + fnv(text) % (10**9 - 1) if text else 0 for text in texts]
    empty = session(encoder, tmp_path).run(None, {"x": np.array(["", ""], object)})
    assert [ids.tolist() for ids in empty] == [[0, 0], [0, 0]]


LISTS = [["x", "y", "z", "x"], ["new", "y"], [], ["y", None, "x"], ["x"], None, ["7", "7.0"]]


@pytest.mark.parametrize("settings", [{}, {"hash_buckets": 50}], ids=["vocabulary", "hashed"])
def test_list_columns(settings: dict[str, Any], tmp_path: Path) -> None:
    encoder = Encoder.fitted([one("sequence", max_length=3, **settings)], pa.table({"x": [["x", "y", "y", "7"]]}))
    longest = max(len(row or []) for row in LISTS)
    rows = [[text or "" for text in row or []] for row in LISTS]
    padded = [row + [""] * (longest - len(row)) for row in rows]
    compare(encoder, pa.table({"x": LISTS}), {"x": padded}, tmp_path)
    whole = pa.table({"x": pa.array([[7, 8], [9]])})
    numbers = Encoder.fitted([one("sequence", max_length=3, **settings)], whole)
    compare(numbers, whole, {"x": [["7", "8"], ["9", ""]]}, tmp_path)


DELIMITED = ["x|y|z|x|y", "new|y", "", "y||x", "x|", "|", "||", "x", "7.0|7", "x y|y"]


@pytest.mark.parametrize("settings", [{}, {"hash_buckets": 50}], ids=["vocabulary", "hashed"])
@pytest.mark.parametrize("cut", ["|", "::"])
def test_delimited_texts(settings: dict[str, Any], cut: str, tmp_path: Path) -> None:
    texts = [text.replace("|", cut) for text in DELIMITED]
    features = [
        one("sequence", max_length=3, separator=cut, **settings),
        one("categorical"),
        {"kind": "sequence", "name": "other", "column": "x", "separator": " ", "shared_with": "categorical_"},
    ]
    training = pa.table({"x": [f"x{cut}y", "x y", "x", "7"]})
    encoder = Encoder.fitted(features, training)
    found = compare(encoder, pa.table({"x": texts}), {"x": texts}, tmp_path)
    lengths = [sum(i != -1 for i in row) for row in next(iter(found.values()))]
    assert lengths == [3, 2, 0, 3, 2, 2, 3, 1, 2, 2]
    for some in (["", ""], ["x", ""]):  # all shorter than the longest
        compare(encoder, pa.table({"x": some}), {"x": some}, tmp_path)


def test_vector_columns(tmp_path: Path) -> None:
    vectors = [[1.0, -2.0], [None, 250.0], [0.0, 3.0]]
    settings = {"dim": 2, "transforms": ["log1p", "standardise"], "fill": -0.5}
    encoder = Encoder.fitted([one("numeric", **settings)], pa.table({"x": vectors}))
    compare(encoder, pa.table({"x": vectors}), {"x": [[1.0, -2.0], [NAN, 250.0], [0.0, 3.0]]}, tmp_path)
    texts = ["1|-2", "|250.0", "0|3e0"]
    cut = Encoder.fitted([one("numeric", **settings, separator="|")], pa.table({"x": texts}))
    found = compare(cut, pa.table({"x": texts}), {"x": texts}, tmp_path)
    (values,) = found.values()
    assert values[1][0] == -0.5
    odd = session(cut, tmp_path).run(None, {"x": np.array(["1", "1|-2|3", "", "1|-2"], object)})[0]
    np.testing.assert_array_equal(odd[:3], -0.5)  # rows that `prepare` refuses
    np.testing.assert_array_equal(odd[3], values[0])


def test_one_row_and_none(tmp_path: Path) -> None:
    features = [one("sequence", max_length=3, separator="|", hash_buckets=9), one("categorical"), one("numeric", "n")]
    encoder = Encoder.fitted(features, pa.table({"x": ["x|y", "x"], "n": [1.0, 2.0]}))
    running = session(encoder, tmp_path)
    for rows in (0, 1):
        found = running.run(None, {"x": np.array(["x"] * rows, object), "n": np.ones(rows)})
        assert [len(values) for values in found] == [rows] * 3


@pytest.mark.parametrize("cut", [None, "|"])
def test_lists_of_whole_numbers(cut: str | None, tmp_path: Path) -> None:
    texts = ["3|40|7.0|0", "", "9000000000|5", "|1e3"]
    lists = [[part or None for part in text.split("|")] if text else [] for text in texts]
    encoder = Encoder.fitted([one("sequence", numbers=True, max_length=3, separator=cut)], pa.table({"x": lists}))
    padded = [[part or "" for part in row] + [""] * (4 - len(row)) for row in lists]
    rows = pa.table({"x": texts if cut else lists})
    found = compare(encoder, rows, {"x": texts if cut else padded}, tmp_path)
    (values,) = found.values()
    assert values == [[40, 7, 0], [-1, -1, -1], [2**31 - 2, 5, -1], [0, 1000, -1]]


@pytest.mark.parametrize("real", [True, False])
def test_the_rows_of_the_comparison(real: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Real ones and drawn ones, with values that are missing, unseen or too many, in every form of input."""
    table = pa.table({
        "x": ["x|y", "x", None, "7.0|y|y|x"] * 5,
        "l": [["x", None], [], ["7", "y", "z", "x"], ["x"]] * 5,
        "v": [[1.0, None], [2.0, 3.5], [0.0, -1.0], [5.0, 5.0]] * 5,
        "w": ["1|2", "|3", "4|", "1e3|-2"] * 5,
        "n": [1.0, None, 7.0, -3.0] * 5,
        "a": [[3, 40], [], [9, None, 1, 7], [5]] * 5,
    })  # fmt: skip
    features = [
        one("categorical"), one("categorical", hash_buckets=30), one("bucket", "n", num_buckets=3), one("numeric", "n"),
        one("sequence", separator="|", max_length=3), one("sequence", separator="|", max_length=2, hash_buckets=40),
        one("sequence", "l", max_length=3), one("sequence", "l", max_length=2, hash_buckets=50),
        one("numeric", "v", dim=2, fill=0.5), one("numeric", "w", dim=2, separator="|", transforms=["log1p"]),
        one("sequence", "a", max_length=3, numbers=True),
    ]  # fmt: skip
    encoder = Encoder.fitted(features, table)
    raw = RawInputs(encoder, Schema(encoder.features, ()), "the test")
    if real:
        monkeypatch.setattr(raw_rows, "_real", lambda *_: (["file"], table))
        raw.config = object()  # type: ignore[assignment]
    rows = raw_rows.raw_rows(raw, 80)
    assert rows.source == ({"files": ["file"], "columns": ["x", "n", "l", "v", "w", "a"]} if real else None)
    inputs = {item.port.name: raw_rows.fed(item, rows.values[item.port.name]) for item in raw.inputs}
    assert {name: (item.port.form) for name, item in zip(inputs, raw.inputs, strict=True)} == {
        "x": "text", "n": "number", "l": "list", "v": "numbers", "w": "text", "a": "list",
    }  # fmt: skip
    found = dict(zip(encoder_names(encoder), session(encoder, tmp_path).run(None, inputs), strict=True))
    for item in raw.inputs:
        for transform in item.transforms:
            values, flaws = raw_rows._parsed(item, transform, rows.values[item.port.name])
            assert not flaws.reasons
            expected, got = transform.encode(values).to_pylist(), found[transform.spec.name]
            if got.dtype == np.float32:
                np.testing.assert_allclose(got, expected, rtol=1e-6)
            elif got.ndim == 2:
                assert [[i for i in row if i != -1] for row in got.tolist()] == expected
                assert {len(row) for row in expected} >= {0, 1, transform.spec.max_length}
            else:
                assert got.tolist() == expected


def test_the_document_names_every_transform() -> None:
    text = SERVING.read_text(encoding="utf-8")
    (table,) = re.findall(r"\| in the recipe \|.*?\n\n", text, flags=re.DOTALL)
    names = ["categorical", "sequence", "numeric", "bucket", "hash_buckets", "separator", "dim", "fill", "max_length"]
    names += [
        name for name in get_args(get_args(Numeric.model_fields["transforms"].annotation)[0]) if name != "standardize"
    ]
    assert [name for name in names if f"`{name}" not in table and f"{name}`" not in table] == []
