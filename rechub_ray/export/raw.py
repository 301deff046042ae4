"""Raw values as a model's inputs: the fitted transforms of its data as ONNX operators before those of the model."""

from __future__ import annotations

import dataclasses
import itertools
from collections.abc import Iterable, Iterator
from typing import Any

import numpy as np
import pyarrow as pa

from rechub_ray.checkpoint import Checkpoint
from rechub_ray.config import RunConfig
from rechub_ray.data.fingerprint import find
from rechub_ray.errors import ExportError
from rechub_ray.export.serving import Port
from rechub_ray.preparation.encoder import Encoder
from rechub_ray.preparation.transforms import (
    BucketTransform,
    CategoricalTransform,
    Hashing,
    NumericTransform,
    SequenceTransform,
    Transform,
    Vocabulary,
    other_form,
)
from rechub_ray.schema import Schema

ML = "ai.onnx.ml"
VOCABULARY_BYTES = 1536 * 2**20
"""Vocabularies cannot leave the file as weights can, and a protobuf message ends at 2 GiB."""
SHARED_BYTES = 2**20
"""A vocabulary from this size on is in the file once, for all inputs that use it. Bringing their texts together copies
them, which takes longer than looking them up in a small vocabulary."""

_HASHING = (
    "id of a feature that is hashed, which ONNX cannot do: 0 for a missing value, else 1 + h % {} where h is FNV-1a "
    "of 64 bits over the UTF-8 bytes of the text (of a whole number without '.0'), then MurmurHash3's fmix64"
)
_LISTED = ", one a list element; padded on the right"


@dataclasses.dataclass(frozen=True)
class RawPort(Port):
    """An input of raw values.

    Args:
        column: the raw column.
        form: `text`, `number`, `numbers`, `list` (of texts), or `id`, `ids` for a feature that stays encoded.
        missing: what stands for a missing value.
        features: what is made of it: each feature's name, transform and its numbers.
    """

    column: str
    form: str
    missing: str
    features: tuple[dict[str, Any], ...]


@dataclasses.dataclass(frozen=True)
class RawInput:
    """An input and the transforms that read it."""

    port: RawPort
    transforms: tuple[Transform, ...]


class RawInputs:
    """The raw inputs of a model: one a raw column, or several where its features read a column in several forms.

    Args:
        encoder: the fitted transforms.
        schema: the model's features.
        source: names run and transforms, in errors.
        config: of the run, which names its data; None where there is none.

    Attributes:
        inputs: in the order of the features.

    Raises:
        ExportError: a feature has no transform there, or another one than the model was trained with.
    """

    def __init__(self, encoder: Encoder, schema: Schema, source: str, config: RunConfig | None = None) -> None:
        self.schema, self.config = schema, config
        transforms = {transform.spec.name: transform for transform in encoder.transforms}
        differing = [
            f"'{feature.name}'"
            for feature in schema.features
            if feature.name not in transforms or _differs(transforms[feature.name], feature)
        ]
        if differing:
            raise ExportError(
                f"{source}: its transforms are not those of the model's features {', '.join(differing)}",
                hint="Export with --inputs encoded, or train on data that `rechub-ray prepare` made.",
            )
        by_key: dict[tuple[object, ...], list[Transform]] = {}
        for feature in schema.features:
            transform = transforms[feature.name]
            by_key.setdefault(_key(transform), []).append(transform)
        self.inputs = tuple(_named(by_key.values()))

    @property
    def ports(self) -> tuple[RawPort, ...]:
        return tuple(item.port for item in self.inputs)

    @property
    def encoded(self) -> tuple[str, ...]:
        """The features that stay encoded."""
        return tuple(t.spec.name for item in self.inputs if item.port.form in ("id", "ids") for t in item.transforms)

    def attach(self, model: Any) -> None:
        """Put the transforms before an exported model, of type onnx_ir.Model.

        Raises:
            ExportError: the vocabularies are too large for a file, or an output has the name of an input.
        """
        import onnx_ir as ir

        graph, build = model.graph, _Builder()
        encoded = {value.name: value for value in graph.inputs}
        twice = {value.name for value in graph.outputs} & {port.name for port in self.ports}
        if twice:
            raise ExportError(
                f"the raw column '{min(twice)}' has the name of an output of the exported model",
                hint="Name that column otherwise in the raw data and in the recipe.",
            )
        inputs = [build.input(item.port) for item in self.inputs]
        readers: dict[str, tuple[Vocabulary, list[Any]]] = {}
        for item, raw in zip(self.inputs, inputs, strict=True):
            for transform in item.transforms:
                ids = getattr(transform, "ids", None)
                if isinstance(ids, Vocabulary):
                    readers.setdefault(ids.digest, (ids, []))[1].append(raw)
        for vocabulary, raws in readers.values():
            build.look_up(vocabulary, list(dict.fromkeys(raws)))
        for item, raw in zip(self.inputs, inputs, strict=True):
            for transform in item.transforms:
                old = encoded[transform.spec.name]
                new = raw
                if item.port.form not in ("id", "ids"):
                    new = build.encode(transform, raw)
                    new.name, new.type = f"{transform.spec.name}_encoded", old.type
                ir.convenience.replace_all_uses_with(old, new)
        if build.vocabulary_bytes > VOCABULARY_BYTES:
            raise ExportError(
                "the vocabularies are too large for an ONNX file",
                expected=f"at most {VOCABULARY_BYTES:,} bytes of texts",
                got=f"{build.vocabulary_bytes:,}",
                hint="Export with --inputs encoded, or prepare the largest features with hash_buckets.",
            )
        graph.inputs[:] = inputs
        graph.insert_before(next(iter(graph)), build.tape.nodes)
        for value in build.tape.initializers:
            graph.register_initializer(value)
        model.opset_imports[ML] = 3


def load(saved: Checkpoint) -> RawInputs:
    """Return the raw inputs of a checkpoint's model, by the transforms that its run keeps.

    Raises:
        ExportError: the run keeps none, or not those of the model.
        DataError: they cannot be read.
    """
    place = find(saved.path)
    if place is None:
        raise ExportError(
            f"{saved.path}: its run keeps no transforms, so raw values cannot be its inputs",
            expected="preprocess.json beside the checkpoints, as runs on data of `rechub-ray prepare` have it",
            hint="A run from before runs kept them gets them with `rechub-ray prepare --adopt RUN`.",
        )
    return RawInputs(Encoder.load(place), saved.schema, place, saved.config)


def _differs(transform: Transform, feature: Any) -> bool:
    made = transform.feature()
    if made.encoding and feature.encoding:
        return bool(made.encoding != feature.encoding)
    return any(getattr(made, size, None) != getattr(feature, size, None) for size in ("vocab_size", "dim"))


def _form(transform: Transform) -> str:
    if isinstance(transform, CategoricalTransform | SequenceTransform):
        is_list, is_hashed = isinstance(transform, SequenceTransform), isinstance(transform.ids, Hashing)
        return ("ids" if is_list else "id") if is_hashed else ("list" if is_list else "text")
    return "numbers" if isinstance(transform, NumericTransform) and transform.spec.dim > 1 else "number"


def _key(transform: Transform) -> tuple[object, ...]:
    """Return what two features have in common that read one input."""
    spec, form = transform.spec, _form(transform)
    if form in ("id", "ids"):
        return form, spec.name
    if form in ("text", "number"):
        return form, spec.source
    return form, spec.source, getattr(spec, "dim", None), getattr(spec, "separator", None)


def _named(groups: Iterable[list[Transform]]) -> Iterator[RawInput]:
    """Yield the inputs, each with the name of its column, or with that and its form where the name is taken."""
    taken: set[str] = set()
    for index, transforms in enumerate(groups):
        spec, form = transforms[0].spec, _form(transforms[0])
        plain = spec.name if form in ("id", "ids") else spec.source
        names = itertools.chain([plain, f"{plain}_{form}"], (f"{plain}_{form}_{i}" for i in itertools.count(2)))
        name = next(name for name in names if name not in taken)
        taken.add(name)
        yield RawInput(_port(name, form, transforms, index), tuple(transforms))


def _port(name: str, form: str, transforms: list[Transform], index: int) -> RawPort:
    first, spec = transforms[0], transforms[0].spec
    # not the name of the encoded list's length, which the file cuts: onnxruntime takes equal names for equal sizes
    length = f"raw_length_of_{name}" if name.isidentifier() and name.isascii() else f"raw_length_of_{index}"
    unseen = "a text that training has not seen counts as missing; whole numbers with or without '.0'"
    buckets = first.ids.size - 1 if isinstance(first, CategoricalTransform | SequenceTransform) and first.ids else 0
    dtype, shape, missing, meaning = {
        "text": ("string", (), "''", f"text; {unseen}"),
        "list": (
            "string",
            (length,),
            "any text that training has not seen",
            f"texts, padded with '' on the right; {unseen}",
        ),
        "number": ("float64", (), "NaN", "number as it stands in the raw data"),
        "numbers": ("float64", (getattr(spec, "dim", 1),), "NaN", "numbers as they stand in the raw data"),
        "id": ("int64", (), "0", _HASHING.format(buckets)),
        "ids": ("int64", (length,), "0", f"{_HASHING.format(buckets)}{_LISTED} with -1"),
    }[form]
    features = tuple(_describe(transform) for transform in transforms)
    return RawPort(name, dtype, ("batch", *shape), meaning, spec.source, form, missing, features)


def _describe(transform: Transform) -> dict[str, Any]:
    about: dict[str, Any] = {"name": transform.spec.name, "encoding": transform.encoding}
    if isinstance(transform, NumericTransform):
        spec = transform.spec
        about |= {"transform": ["numeric", *spec.transforms], "shift": transform.shift, "scale": transform.scale}
        about |= {"fill": spec.fill, **({"separator": spec.separator} if spec.dim > 1 else {})}
    elif isinstance(transform, BucketTransform):
        about |= {"transform": "bucket", "boundaries": transform.boundaries, "fill": 0}
    else:
        assert transform.ids is not None
        kind = "hashing" if isinstance(transform.ids, Hashing) else "vocabulary"
        about |= {"transform": kind, "vocab_size": transform.ids.size, "fill": 0}
        if isinstance(transform, SequenceTransform):
            about |= {"max_length": transform.spec.max_length, "separator": transform.spec.separator}
    return about


class _Builder:
    """Makes nodes; in double precision, as `prepare` calculates."""

    def __init__(self) -> None:
        import onnx_ir as ir

        self.ir, self.tape, self.vocabulary_bytes = ir, ir.tape.Tape(), 0
        self._ids: dict[tuple[str, str], Any] = {}
        self._made = itertools.count()

    def input(self, port: RawPort) -> Any:
        """Return a new input of the model."""
        kind = {"string": "STRING", "float64": "DOUBLE"}.get(port.dtype, "INT64")
        return self.ir.Value(
            name=port.name, type=self.ir.TensorType(self.ir.DataType[kind]), shape=self.ir.Shape(port.shape)
        )

    def look_up(self, vocabulary: Vocabulary, raws: list[Any]) -> None:
        """Look up the texts of inputs; the empty one has id -1."""
        keys, ids = _keys(vocabulary)
        size = sum(len(key.encode()) + 4 for key in keys) + 10 * len(ids)
        known = {"keys_strings": [*keys, ""], "values_int64s": [*ids, -1], "default_int64": 0}
        if len(raws) == 1 or size < SHARED_BYTES:
            self.vocabulary_bytes += size * len(raws)
            for raw in raws:
                self._ids[vocabulary.digest, raw.name] = self._op("LabelEncoder", raw, domain=ML, **known)
            return
        self.vocabulary_bytes += size
        flat = self._constant([-1], "int64")
        parts = [self._op("Reshape", raw, flat) for raw in raws]
        found = self._op("LabelEncoder", self._op("Concat", *parts, axis=0), domain=ML, **known)
        begin = self._constant([0], "int64")
        for raw, part in zip(raws, parts, strict=True):
            end = self._op("Add", begin, self._op("Shape", part))
            self._ids[vocabulary.digest, raw.name] = self._op(
                "Reshape", self._op("Slice", found, begin, end), self._op("Shape", raw)
            )
            begin = end

    def encode(self, transform: Transform, raw: Any) -> Any:
        """Return what `transform` makes of an input, as the model takes it."""
        if isinstance(transform, NumericTransform):
            return self._numeric(transform, raw)
        if isinstance(transform, BucketTransform):
            return self._bucket(transform, raw)
        assert isinstance(transform.ids, Vocabulary)
        ids = self._ids[transform.ids.digest, raw.name]
        if isinstance(transform, CategoricalTransform):
            return self._op("Max", ids, self._constant(0, "int64"))
        return self._sequence(ids, transform.spec.max_length)

    def _op(self, name: str, *inputs: Any, domain: str = "", **attributes: Any) -> Any:
        value = self.tape.op(name, inputs, attributes, domain=domain)
        value.name = f"raw_values_{next(self._made)}"
        return value

    def _constant(self, value: Any, dtype: str) -> Any:
        name = f"raw_values_{next(self._made)}"
        return self.tape.initializer(self.ir.tensor(np.asarray(value, dtype), name=name), name=name)

    def _cast(self, value: Any, kind: str) -> Any:
        return self._op("Cast", value, to=int(self.ir.DataType[kind]))

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

    def _sequence(self, ids: Any, max_length: int) -> Any:
        """Return each row's last `max_length` ids, padded with -1 behind the last text that is not empty."""
        zero, one, most = (self._constant(value, "int64") for value in (0, 1, max_length))
        is_text = self._cast(self._op("GreaterOrEqual", ids, zero), "INT64")
        is_inside = self._op("Greater", self._op("CumSum", is_text, one, reverse=1), zero)
        ids = self._op("Where", is_inside, self._op("Max", ids, zero), self._constant(-1, "int64"))
        axis = self._constant([1], "int64")
        lengths = self._op("ReduceSum", self._cast(is_inside, "INT64"), axis, keepdims=1)
        first = self._op("Max", self._op("Sub", lengths, most), zero)
        width = self._op("Squeeze", self._op("Shape", ids, start=1, end=2), self._constant([0], "int64"))
        places = self._op("Range", zero, self._op("Min", width, most), one)
        return self._op("GatherElements", ids, self._op("Add", first, places), axis=1)


def _keys(vocabulary: Vocabulary) -> tuple[list[str], list[int]]:
    """Return the texts that a vocabulary finds, whole numbers in both forms, and their ids."""
    values = vocabulary.values
    others = other_form(values, pa.nulls(len(values), pa.int32()))
    known = set(values.to_pylist())
    more = [(text, i) for i, text in enumerate(others.to_pylist(), 1) if text is not None and text not in known]
    return [*values.to_pylist(), *(text for text, _ in more)], [*range(1, len(values) + 1), *(i for _, i in more)]
