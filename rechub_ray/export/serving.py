"""The model as it is served: one named input a feature, one named output a prediction."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping

import torch
from torch import Tensor, nn

from rechub_ray.batch import Features, Outputs, PaddedSequences
from rechub_ray.errors import ExportError
from rechub_ray.export.ports import Part, Port, vector_name
from rechub_ray.models.base import Model
from rechub_ray.models.matching.base import Retriever
from rechub_ray.outputs import Link, served
from rechub_ray.schema import DenseFeature, Schema, SequenceFeature


class ServingModel(nn.Module):
    """Stacks one tensor a feature into `Features`, runs the model, and applies the outputs' links.

    It takes what production sends: an id outside [0, vocab_size) counts as id 0, the unseen one. In a sequence,
    negative ids are padding, on the right; ids from vocab_size on count as id 0.

    `outputs.served` decides what is served under which names: `probability` for a binary label, for instance.

    Args:
        model: the model.
        schema: its features, one input each, in the schema's order.
        probabilities: False leaves all outputs as the model gives them.
        links: by label, how its output is read; the others take that of the label's kind.

    Attributes:
        inputs: one a feature, in order.
        outputs: one a prediction, in order.

    Shapes:
        sparse (B,) int64; dense (B,) or (B, dim) float32; sequence (B, T) int64, T >= 1. Results: as the model's.

    Raises:
        ExportError: no feature, or an output's name is a feature's too.
    """

    vocab_sizes: Tensor

    def __init__(
        self, model: Model, schema: Schema, *, probabilities: bool, links: Mapping[str, Link] | None = None
    ) -> None:
        super().__init__()
        self.model = model
        self.schema = schema
        self.inputs = _inputs(schema)
        self.served = served(model.outputs, schema, links, probabilities=probabilities)
        self.outputs = tuple(Port(item.name, "float32", ("batch", *item.columns), item.meaning) for item in self.served)
        sizes = torch.tensor([f.vocab_size for f in schema.sparse], dtype=torch.int64)
        self.register_buffer("vocab_sizes", sizes, persistent=False)
        if not self.inputs:
            raise ExportError("the schema has no feature, so the exported model would have no input")
        for output in self.outputs:
            if output.name in schema.feature_names:
                raise ExportError(
                    f"the feature '{output.name}' has the name of an output of the exported model",
                    hint="Rename that column in the data and the schema.",
                )

    def forward(self, *inputs: Tensor) -> tuple[Tensor, ...]:
        outputs = self.model(self.stack(inputs))
        return tuple(item.of(outputs) for item in self.served)

    def stack(self, inputs: tuple[Tensor, ...]) -> Features:
        """Return the inputs, one a feature in the schema's order, as the model takes them."""
        by_name = dict(zip(self.schema.feature_names, inputs, strict=True))
        rows = inputs[0].shape[0]
        sparse = inputs[0].new_zeros((rows, 0), dtype=torch.int64)
        if self.schema.sparse:
            ids = torch.stack([by_name[f.name] for f in self.schema.sparse], 1)
            sparse = torch.where((ids >= 0) & (ids < self.vocab_sizes), ids, 0)
        dense = inputs[0].new_zeros((rows, 0), dtype=torch.float32)
        if self.schema.dense:
            columns = [by_name[f.name] for f in self.schema.dense]
            dense = torch.cat([c.unsqueeze(1) if c.dim() == 1 else c for c in columns], 1)
        if not self.schema.sequences:
            return Features(sparse, dense)
        padded = tuple(torch.where(by_name[f.name] < f.vocab_size, by_name[f.name], 0) for f in self.schema.sequences)
        return Features(sparse, dense, PaddedSequences(padded))


class Tower(Model):
    """One tower of a model for retrieval, as a model of its own whose one output are the vectors.

    Args:
        model: has both.
        part: which one.
    """

    def __init__(self, model: Retriever, part: Part) -> None:
        super().__init__(model.user_schema if part == "user" else model.item_schema)
        self.model = model
        output = next(output for output in model.outputs if output.part == part)
        self.outputs = (dataclasses.replace(output, name=vector_name(model.schema, part)),)
        self.__dict__["registered_name"] = f"{getattr(model, 'registered_name', type(model).__name__)}/{part}"

    def forward(self, features: Features) -> Outputs:
        (output,) = self.outputs
        vectors = self.model.user_vectors if output.part == "user" else self.model.item_vectors
        return {output.name: vectors(features)}


def _inputs(schema: Schema) -> tuple[Port, ...]:
    ports = []
    lengths = {f.name: _length_name(schema, i) for i, f in enumerate(schema.sequences)}
    for feature in schema.features:
        if isinstance(feature, DenseFeature):
            shape: tuple[str | int, ...] = ("batch",) if feature.dim == 1 else ("batch", feature.dim)
            ports.append(Port(feature.name, "float32", shape, "numeric value"))
        elif isinstance(feature, SequenceFeature):
            meaning = (
                f"up to {feature.max_length} ids in [0, {feature.vocab_size}), padded with -1 on the right; "
                "a larger id counts as 0"
            )
            ports.append(Port(feature.name, "int64", ("batch", lengths[feature.name]), meaning))
        else:
            meaning = f"id in [0, {feature.vocab_size}); any other counts as 0"
            ports.append(Port(feature.name, "int64", ("batch",), meaning))
    return tuple(ports)


def _length_name(schema: Schema, index: int) -> str:
    """Return the name of a sequence's free length, with the feature's name where the exporter takes that."""
    name = schema.sequences[index].name
    return f"{name}_length" if name.isidentifier() and name.isascii() else f"sequence_{index}_length"
