"""Raw values as a model's inputs: the fitted transforms of its data as ONNX operators before those of the model."""

from __future__ import annotations

import dataclasses
import itertools
from collections.abc import Iterable, Iterator
from typing import TYPE_CHECKING, Any

from rechub_ray.data.fingerprint import find
from rechub_ray.errors import ExportError
from rechub_ray.export.ports import Port
from rechub_ray.export.raw_graph import OPSET, VERSIONS, Builder, knows_all, separator
from rechub_ray.preparation.encoder import Encoder
from rechub_ray.preparation.transforms import (
    BucketTransform,
    CategoricalTransform,
    Hashing,
    Numbers,
    NumericTransform,
    SequenceTransform,
    Transform,
)
from rechub_ray.schema import Schema

if TYPE_CHECKING:
    from rechub_ray.checkpoint import Checkpoint
    from rechub_ray.config import RunConfig

VOCABULARY_BYTES = 1536 * 2**20
"""Vocabularies cannot leave the file as weights can, and a protobuf message ends at 2 GiB."""


@dataclasses.dataclass(frozen=True)
class RawPort(Port):
    """An input of raw values.

    Args:
        column: the raw column.
        form: `text`, `number`, `numbers` or `list` (of texts).
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

    def attach(self, model: Any) -> None:
        """Put the transforms before an exported model, of type onnx_ir.Model.

        Raises:
            ExportError: the vocabularies are too large for a file, or an output has the name of an input.
        """
        import onnx_ir as ir
        from onnxscript import version_converter

        graph, build = model.graph, Builder()
        encoded = {value.name: value for value in graph.inputs}
        twice = {value.name for value in graph.outputs} & {port.name for port in self.ports}
        if twice:
            raise ExportError(
                f"the raw column '{min(twice)}' has the name of an output of the exported model",
                hint="Name that column otherwise in the raw data and in the recipe.",
            )
        inputs = [build.input(item.port) for item in self.inputs]
        pairs = [(t, raw) for item, raw in zip(self.inputs, inputs, strict=True) for t in item.transforms]
        build.look_up(pairs)
        if build.vocabulary_bytes > VOCABULARY_BYTES:
            raise ExportError(
                "the vocabularies are too large for an ONNX file",
                expected=f"at most {VOCABULARY_BYTES:,} bytes of texts",
                got=f"{build.vocabulary_bytes:,}",
                hint="Export with --inputs encoded, or prepare the largest features with hash_buckets.",
            )
        version_converter.convert_version(model, OPSET)
        for transform, raw in pairs:
            old, new = encoded[transform.spec.name], build.encode(transform, raw)
            new.name, new.type = f"{transform.spec.name}_encoded", old.type
            ir.convenience.replace_all_uses_with(old, new)
        graph.inputs[:] = inputs
        graph.insert_before(next(iter(graph)), build.tape.nodes)
        for value in build.tape.initializers:
            graph.register_initializer(value)
        used = {domain for domain, _ in build.tape.used_opsets}
        model.opset_imports.update({domain: number for domain, number in VERSIONS.items() if domain in used})


def load(saved: Checkpoint) -> RawInputs:
    """Return the raw inputs of a checkpoint's model, by the transforms that its run keeps.

    Raises:
        ExportError: the run keeps none, or not those of the model.
        DataError: they cannot be read.
    """
    place = find(saved.path)
    if place is None:
        from rechub_ray.fine_tuning import without_transforms  # imports PyTorch, which `recommend` does without

        raise ExportError(
            f"{saved.path}: its run keeps no transforms, so raw values cannot be its inputs",
            expected="preprocess.json beside the checkpoints, as runs on data of `rechub-ray prepare` have it",
            hint=without_transforms(saved.config),
        )
    return RawInputs(Encoder.load(place), saved.schema, place, saved.config)


def _differs(transform: Transform, feature: Any) -> bool:
    made = transform.feature()
    if made.encoding and feature.encoding:
        return bool(made.encoding != feature.encoding)
    return any(getattr(made, size, None) != getattr(feature, size, None) for size in ("vocab_size", "dim"))


def _form(transform: Transform) -> str:
    if isinstance(transform, CategoricalTransform) or separator(transform) is not None:
        return "text"
    if isinstance(transform, SequenceTransform):
        return "list"
    return "numbers" if isinstance(transform, NumericTransform) and transform.spec.dim > 1 else "number"


def _key(transform: Transform) -> tuple[object, ...]:
    """Return what two features have in common that read one input."""
    form = _form(transform)
    return form, transform.spec.source, getattr(transform.spec, "dim", 1) if form == "numbers" else None


def _named(groups: Iterable[list[Transform]]) -> Iterator[RawInput]:
    """Yield the inputs, each with the name of its column, or with that and its form where the name is taken."""
    taken: set[str] = set()
    for index, transforms in enumerate(groups):
        column, form = transforms[0].spec.source, _form(transforms[0])
        names = itertools.chain([column, f"{column}_{form}"], (f"{column}_{form}_{i}" for i in itertools.count(2)))
        name = next(name for name in names if name not in taken)
        taken.add(name)
        yield RawInput(_port(name, form, transforms, index), tuple(transforms))


def _port(name: str, form: str, transforms: list[Transform], index: int) -> RawPort:
    spec = transforms[0].spec
    # not the name of the encoded list's length, which the file cuts: onnxruntime takes equal names for equal sizes
    length = f"raw_length_of_{name}" if name.isidentifier() and name.isascii() else f"raw_length_of_{index}"
    unseen = "of a vocabulary, one that training has not seen counts as missing; whole numbers with or without '.0'"
    cuts = dict.fromkeys(cut for transform in transforms if (cut := separator(transform)) is not None)
    cut = f", cut at {' and at '.join(map(repr, cuts))}" if cuts else ""
    dtype, shape, missing, meaning = {
        "text": ("string", (), "''", f"text{cut}; {unseen}"),
        "list": (
            "string",
            (length,),
            "''" if any(map(knows_all, transforms)) else "any text that training has not seen",
            f"texts, padded with '' on the right; {unseen}",
        ),
        "number": ("float64", (), "NaN", "number as it stands in the raw data"),
        "numbers": ("float64", (getattr(spec, "dim", 1),), "NaN", "numbers as they stand in the raw data"),
    }[form]
    features = tuple(_describe(transform) for transform in transforms)
    return RawPort(name, dtype, ("batch", *shape), meaning, spec.source, form, missing, features)


def _describe(transform: Transform) -> dict[str, Any]:
    about: dict[str, Any] = {"name": transform.spec.name, "encoding": transform.encoding}
    cut = separator(transform)
    if cut is not None:
        about["separator"] = cut
    if isinstance(transform, NumericTransform):
        spec = transform.spec
        about |= {"transform": ["numeric", *spec.transforms], "shift": transform.shift, "scale": transform.scale}
        about |= {"fill": spec.fill}
    elif isinstance(transform, BucketTransform):
        about |= {"transform": "bucket", "boundaries": transform.boundaries, "fill": 0}
    else:
        assert transform.ids is not None
        kind = {Hashing: "hashing", Numbers: "numbers"}.get(type(transform.ids), "vocabulary")
        about |= {"transform": kind, "vocab_size": transform.ids.size, "fill": 0}
        if isinstance(transform, SequenceTransform):
            about |= {"max_length": transform.spec.max_length}
    return about
