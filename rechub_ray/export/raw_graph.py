"""The fitted transforms of raw values as ONNX operators, in double precision, as `prepare` calculates."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import pyarrow as pa

from rechub_ray.export.ports import Port
from rechub_ray.preparation import forms
from rechub_ray.preparation.transforms import (
    BucketTransform,
    CategoricalTransform,
    Hashing,
    Numbers,
    NumericTransform,
    Transform,
    Vocabulary,
    other_form,
)
from rechub_ray.preparation.values import FNV_OFFSET, FNV_PRIME, MIX

ML, RUNTIME = "ai.onnx.ml", "com.microsoft"
OPSET = 20  # the first that cuts texts
VERSIONS = {ML: 3, RUNTIME: 1}
SHARED_BYTES = 2**20
"""A vocabulary from this size on is in the file once, for all inputs that use it. Bringing their texts together copies
them, which takes longer than looking them up in a small vocabulary."""


def knows_all(transform: Transform) -> bool:
    """Return whether a transform makes something of any text, so that no unseen one stands for a missing value."""
    return isinstance(getattr(transform, "ids", None), Hashing | Numbers)


def separator(transform: Transform) -> str | None:
    """Return where a transform cuts its raw text; None where it takes whole texts, lists or numbers."""
    spec = transform.spec
    is_list = isinstance(spec, forms.Sequence) or (isinstance(spec, forms.Numeric) and spec.dim > 1)
    return spec.separator if is_list else None  # type: ignore[union-attr]


class Builder:
    """Makes the nodes that stand between raw inputs and the inputs of an encoded model.

    Attributes:
        tape: the nodes and constants.
        vocabulary_bytes: size of the vocabularies in the file.
    """

    def __init__(self) -> None:
        import onnx_ir as ir

        self.ir, self.tape, self.vocabulary_bytes = ir, ir.tape.Tape(), 0
        self._ids: dict[tuple[str, str], Any] = {}
        self._cut: dict[tuple[str, str], tuple[Any, Any]] = {}
        self._made = itertools.count()

    def input(self, port: Port) -> Any:
        """Return a new input of the model."""
        kind = {"string": "STRING", "float64": "DOUBLE"}[port.dtype]
        return self.ir.Value(
            name=port.name, type=self.ir.TensorType(self.ir.DataType[kind]), shape=self.ir.Shape(port.shape)
        )

    def look_up(self, readers: Sequence[tuple[Transform, Any]]) -> None:
        """Make the ids of all texts that transforms read from their inputs; the empty text has id -1."""
        vocabularies: dict[str, tuple[Vocabulary, list[Any]]] = {}
        hashed: list[tuple[Hashing, Any]] = []
        for transform, raw in readers:
            ids = getattr(transform, "ids", None)
            if isinstance(ids, Vocabulary):
                vocabularies.setdefault(ids.digest, (ids, []))[1].append(self._texts(transform, raw))
            elif isinstance(ids, Hashing):
                hashed.append((ids, self._texts(transform, raw)))
            elif isinstance(ids, Numbers):
                texts = self._texts(transform, raw)
                self._ids[ids.digest, texts.name] = self._whole_numbers(texts)
        for vocabulary, values in vocabularies.values():
            self._find(vocabulary, list(dict.fromkeys(values)))
        if hashed:
            self._hash(hashed)

    def encode(self, transform: Transform, raw: Any) -> Any:
        """Return what `transform` makes of an input, as the model takes it."""
        if isinstance(transform, NumericTransform):
            return self._numeric(transform, self._numbers(transform, raw))
        if isinstance(transform, BucketTransform):
            return self._bucket(transform, raw)
        assert transform.ids is not None
        ids = self._ids[transform.ids.digest, self._texts(transform, raw).name]
        if isinstance(transform, CategoricalTransform):
            return self._op("Max", ids, self._constant(0, "int64"))
        cut = separator(transform)
        if cut is None:
            return self._sequence(ids, transform.spec.max_length)
        return self._last(ids, self._parts(raw, cut)[1], transform.spec.max_length)

    # --- operators

    def _op(self, name: str, *inputs: Any, domain: str = "", **attributes: Any) -> Any:
        value = self.tape.op(name, inputs, attributes, domain=domain)
        value.name = self._name()
        return value

    def _name(self) -> str:
        return f"raw_values_{next(self._made)}"

    def _constant(self, value: Any, dtype: str) -> Any:
        name = self._name()
        if dtype == "string":
            array = np.asarray(value, object)
            return self.tape.initializer(self.ir.StringTensor(np.vectorize(str.encode, [object])(array), name=name))
        return self.tape.initializer(self.ir.tensor(np.asarray(value, dtype), name=name), name=name)

    def _cast(self, value: Any, kind: str) -> Any:
        return self._op("Cast", value, to=int(self.ir.DataType[kind]))

    def _together(self, values: Sequence[Any], function: Callable[[Any], Any]) -> list[Any]:
        """Return what `function` makes of texts, applied once to those of all values, each in its value's shape."""
        flat, begin = self._constant([-1], "int64"), self._constant([0], "int64")
        parts = [self._op("Reshape", value, flat) for value in values]
        made, results = function(self._op("Concat", *parts, axis=0)), []
        for value, part in zip(values, parts, strict=True):
            end = self._op("Add", begin, self._op("Shape", part))
            own = self._op("Slice", made, begin, end)
            results.append(self._op("Reshape", own, self._op("Shape", value), allowzero=1))
            begin = end
        return results

    # --- texts

    def _texts(self, transform: Transform, raw: Any) -> Any:
        """Return the texts that a transform looks up: an input, or (B, T) what it is cut into, with "" on the right."""
        cut = separator(transform)
        return raw if cut is None else self._parts(raw, cut)[0]

    def _parts(self, raw: Any, cut: str) -> tuple[Any, Any]:
        """Return what texts are cut into, (B, T), and into how many parts each, (B,); the empty text has none."""
        if (raw.name, cut) not in self._cut:
            self._cut[raw.name, cut] = self._split(raw, cut)
        return self._cut[raw.name, cut]

    def _split(self, texts: Any, cut: str, **attributes: Any) -> tuple[Any, Any]:
        made = self.tape.op_multi_out("StringSplit", [texts], {"delimiter": cut, **attributes}, num_outputs=2)
        for value in made:
            value.name = self._name()
        return made[0], made[1]

    def _find(self, vocabulary: Vocabulary, texts: list[Any]) -> None:
        """Look texts up in a vocabulary."""
        keys, ids = _keys(vocabulary)
        size = sum(len(key.encode()) + 4 for key in keys) + 10 * len(ids)
        known = {"keys_strings": [*keys, ""], "values_int64s": [*ids, -1], "default_int64": 0}

        def find(values: Any) -> Any:
            self.vocabulary_bytes += size
            return self._op("LabelEncoder", values, domain=ML, **known)

        is_shared = len(texts) > 1 and size >= SHARED_BYTES
        found = self._together(texts, find) if is_shared else [find(values) for values in texts]
        for values, value in zip(texts, found, strict=True):
            self._ids[vocabulary.digest, values.name] = value

    def _whole_numbers(self, texts: Any) -> Any:
        """Return texts that are whole numbers as those."""
        is_empty = self._op("Equal", texts, self._constant("", "string"))
        numbers = self._cast(self._op("Where", is_empty, self._constant("-1", "string"), texts), "DOUBLE")
        return self._cast(self._op("Min", numbers, self._constant(Numbers.size - 1, "float64")), "INT64")

    def _hash(self, hashed: Sequence[tuple[Hashing, Any]]) -> None:
        """Hash texts, all of them at once, and make ids of the hashes."""
        texts = list(dict.fromkeys(values for _, values in hashed))
        hashes = dict(zip(texts, self._together(texts, self._hash64), strict=True))
        is_empty = {values: self._op("Equal", values, self._constant("", "string")) for values in texts}
        one, none = self._constant(1, "int64"), self._constant(-1, "int64")
        for hashing, values in hashed:
            rest = self._op("Mod", hashes[values], self._constant(hashing.size - 1, "uint64"))
            ids = self._op("Add", self._cast(rest, "INT64"), one)
            self._ids[hashing.digest, values.name] = self._op("Where", is_empty[values], none, ids)

    def _hash64(self, texts: Any) -> Any:
        """Return `hash64` of texts, of whole numbers without `.0`, (N,) uint64.

        It runs over the bytes of the characters, one position of all texts a step.
        """
        zero, one = self._constant([0], "int64"), self._constant([1], "int64")
        # a text more, since there has to be a character
        texts = self._op("Concat", texts, self._constant(["0"], "string"), axis=0)
        is_whole = self._op("RegexFullMatch", texts, pattern=r"-?\d+\.0")
        before, _ = self._split(texts, ".0", maxsplit=1)
        bare = self._op("Gather", before, self._constant(0, "int64"), axis=1)
        texts = self._op("Where", is_whole, bare, texts)
        characters = self._op(
            "Tokenizer", texts, domain=RUNTIME, separators=[""], mark=0, pad_value="", mincharnum=1
        )  # (N, T), "" on the right
        keys = _characters()
        packed = self._op(
            "LabelEncoder", characters, domain=ML, keys_strings=keys, default_int64=0,
            values_int64s=[int.from_bytes(key.encode(), "little") for key in keys],
        )  # fmt: skip
        # of first bytes, as onnxruntime 1.31 takes the largest of numbers past 32 bits for another one
        largest = self._op("ReduceMax", self._op("BitwiseAnd", packed, self._constant(255, "int64")), keepdims=0)
        most = self._op("GreaterOrEqual", largest, self._constant([1, 0xC0, 0xE0, 0xF0], "int64"))
        most = self._op("ReduceSum", self._cast(most, "INT64"), zero, keepdims=1)  # bytes of the longest character
        shifts = self._op("Slice", self._constant([0, 8, 16, 24], "uint64"), zero, most)
        packed = self._op("Unsqueeze", self._cast(packed, "UINT64"), self._constant([2], "int64"))
        pieces = self._op("BitShift", packed, shifts, direction="RIGHT")
        pieces = self._cast(self._op("BitwiseAnd", pieces, self._constant(255, "uint64")), "INT64")
        pieces = self._op("Reshape", pieces, self._constant([0, -1], "int64"))
        pieces = self._op("Transpose", pieces, perm=[1, 0])  # (bytes, N), 0 where there is none
        is_there = self._op("Greater", pieces, self._constant(0, "int64"))
        factors = self._op("Where", is_there, self._constant(FNV_PRIME, "int64"), self._constant(1, "int64"))
        start = self._op("Expand", self._constant(_signed(FNV_OFFSET), "int64"), self._op("Shape", texts))
        state = self._op("Scan", start, pieces, factors, body=self._fnv_step(), num_scan_inputs=2)
        for factor in MIX:
            state = self._op("Mul", self._mixed(state), self._constant(_signed(factor), "int64"))
        state = self._op("Slice", self._mixed(state), zero, self._op("Neg", one))
        return self._cast(state, "UINT64")

    def _mixed(self, state: Any) -> Any:
        """Return state ^ (state >> 33), of int64, without its sign."""
        bits = self._op("BitShift", self._cast(state, "UINT64"), self._constant(33, "uint64"), direction="RIGHT")
        return self._op("BitwiseXor", state, self._cast(bits, "INT64"))

    def _fnv_step(self) -> Any:
        """Return the graph (state ^ byte) * factor."""
        ir, tape = self.ir, self.ir.tape.Tape()
        kind, shape = ir.TensorType(ir.DataType.INT64), ir.Shape(["texts"])
        state, piece, factor = (ir.Value(name=self._name(), type=kind, shape=shape) for _ in range(3))
        mixed = tape.op("BitwiseXor", [state, piece])
        result = tape.op("Mul", [mixed, factor])
        for value in (mixed, result):
            value.name, value.type, value.shape = self._name(), kind, shape
        return ir.Graph([state, piece, factor], [result], nodes=tape.nodes, name="fnv_step")

    def _sequence(self, ids: Any, max_length: int) -> Any:
        """Return each row's last `max_length` ids, padded with -1 behind the last text that is not empty."""
        zero, one = self._constant(0, "int64"), self._constant(1, "int64")
        is_text = self._cast(self._op("GreaterOrEqual", ids, zero), "INT64")
        is_inside = self._op("Greater", self._op("CumSum", is_text, one, reverse=1), zero)
        axis = self._constant([1], "int64")
        counts = self._op("ReduceSum", self._cast(is_inside, "INT64"), axis, keepdims=0)
        return self._last(ids, counts, max_length)

    def _last(self, ids: Any, counts: Any, max_length: int) -> Any:
        """Return the last `max_length` of the first `counts` ids of each row, -1 behind them; ids < 0 become 0."""
        zero, one, most = (self._constant(value, "int64") for value in (0, 1, max_length))
        axis = self._constant([1], "int64")
        counts = self._op("Unsqueeze", counts, axis)
        first = self._op("Max", self._op("Sub", counts, most), zero)
        width = self._op("Squeeze", self._op("Shape", ids, start=1, end=2), self._constant([0], "int64"))
        places = self._op("Add", first, self._op("Range", zero, self._op("Min", width, most), one))
        kept = self._op("Max", self._op("GatherElements", ids, places, axis=1), zero)
        return self._op("Where", self._op("Less", places, counts), kept, self._constant(-1, "int64"))

    # --- numbers

    def _numbers(self, transform: NumericTransform, raw: Any) -> Any:
        """Return the raw numbers, NaN where one is missing: the input itself, or what texts are cut into, (B, dim)."""
        cut = separator(transform)
        if cut is None:
            return raw
        dim, nan = transform.spec.dim, self._constant(np.nan, "float64")
        texts, counts = self._parts(raw, cut)
        is_empty = self._op("Equal", texts, self._constant("", "string"))
        numbers = self._cast(self._op("Where", is_empty, self._constant("nan", "string"), texts), "DOUBLE")
        numbers = self._op("Pad", numbers, self._constant([0, 0, 0, dim], "int64"), nan)
        zero, axis = self._constant([0], "int64"), self._constant([1], "int64")
        numbers = self._op("Slice", numbers, zero, self._constant([dim], "int64"), axis)
        is_whole = self._op("Equal", self._op("Unsqueeze", counts, axis), self._constant(dim, "int64"))
        return self._op("Where", is_whole, numbers, nan)

    def _numeric(self, transform: NumericTransform, raw: Any) -> Any:
        numbers = raw
        for name in transform.spec.transforms:
            if name == "log1p":
                size = self._op("Log", self._op("Add", self._op("Abs", numbers), self._constant(1, "float64")))
                numbers = self._op("Mul", self._op("Sign", numbers), size)
        numbers = self._op("Sub", numbers, self._constant(transform.shift, "float64"))
        numbers = self._op("Div", numbers, self._constant(transform.scale, "float64"))
        fill = self._constant(transform.spec.fill, "float64")
        return self._cast(self._op("Where", self._op("IsNaN", raw), fill, numbers), "FLOAT")

    def _bucket(self, transform: BucketTransform, raw: Any) -> Any:
        if not transform.boundaries:
            above = self._cast(self._op("Mul", raw, self._constant(0, "float64")), "INT64")
        else:
            column = self._op("Unsqueeze", raw, self._constant([1], "int64"))
            is_above = self._op("Greater", column, self._constant([transform.boundaries], "float64"))
            above = self._op("ReduceSum", self._cast(is_above, "INT64"), self._constant([1], "int64"), keepdims=0)
        ids = self._op("Add", above, self._constant(1, "int64"))
        return self._op("Where", self._op("IsNaN", raw), self._constant(0, "int64"), ids)


def _keys(vocabulary: Vocabulary) -> tuple[list[str], list[int]]:
    """Return the texts that a vocabulary finds, whole numbers in both forms, and their ids."""
    values = vocabulary.values
    others = other_form(values, pa.nulls(len(values), pa.int32()))
    known = set(values.to_pylist())
    more = [(text, i) for i, text in enumerate(others.to_pylist(), 1) if text is not None and text not in known]
    return [*values.to_pylist(), *(text for text, _ in more)], [*range(1, len(values) + 1), *(i for _, i in more)]


def _characters() -> list[str]:
    """Return the characters of a text that can be hashed: all of Unicode, but for its planes without any of its own."""
    planes = [range(1, 0xD800), range(0xE000, 0x40000), range(0xE0000, 0xE1000)]
    return [chr(point) for plane in planes for point in plane]


def _signed(value: int) -> int:
    """Return the int64 of the same 64 bits."""
    return value - 2**64 if value >= 2**63 else value
