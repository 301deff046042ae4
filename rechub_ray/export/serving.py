"""The model as it is served: one named input a feature, one named output a prediction."""

from __future__ import annotations

import dataclasses
from typing import Any

import torch
from torch import Tensor, nn

from rechub_ray.batch import Features, PaddedSequences
from rechub_ray.errors import ExportError
from rechub_ray.models.base import Model
from rechub_ray.schema import DenseFeature, Schema, SequenceFeature


@dataclasses.dataclass(frozen=True)
class Port:
    """An input or output of a served model.

    Args:
        name: the feature's name, or the output's.
        dtype: `int64` or `float32`.
        shape: sizes; the free ones by name (`batch`, and one length a sequence).
        meaning: what the values are, for people.
    """

    name: str
    dtype: str
    shape: tuple[str | int, ...]
    meaning: str

    def to_dict(self) -> dict[str, Any]:
        return dataclasses.asdict(self)


class ServingModel(nn.Module):
    """Stacks one tensor a feature into `Features`, runs the model, and turns logits into probabilities.

    It takes what production sends: an id outside [0, vocab_size) counts as id 0, the unseen one. In a sequence,
    negative ids are padding, on the right; ids from vocab_size on count as id 0.

    A logit of a binary label becomes `1 / (1 + exp(-logit))` and is renamed: `logit` to `probability`,
    `logit/<label>` to `probability/<label>`. Logits of regression labels and other outputs stay as they are.

    Args:
        model: the model.
        schema: its features, one input each, in the schema's order.
        probabilities: False leaves all logits as they are.

    Attributes:
        inputs, outputs: what goes in and comes out, in order.

    Shapes:
        sparse (B,) int64; dense (B,) or (B, dim) float32; sequence (B, T) int64, T >= 1. Results: as the model's.

    Raises:
        ExportError: no feature, or an output's name is a feature's too.
    """

    vocab_sizes: Tensor

    def __init__(self, model: Model, schema: Schema, *, probabilities: bool) -> None:
        super().__init__()
        self.model = model
        self.schema = schema
        self.inputs = _inputs(schema)
        named = [_output(name, schema, probabilities) for name in model.output_names]
        self.outputs = tuple(port for port, _ in named)
        self._squashed = tuple(squashed for _, squashed in named)
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
        values = (outputs[name] for name in self.model.output_names)
        return tuple(
            value.sigmoid() if squashed else value for value, squashed in zip(values, self._squashed, strict=True)
        )

    def stack(self, inputs: tuple[Tensor, ...]) -> Features:
        """The inputs, one a feature in the schema's order, as the model takes them."""
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
    """The free length of a sequence, by the feature's name where that is a word that the exporter takes."""
    name = schema.sequences[index].name
    return f"{name}_length" if name.isidentifier() and name.isascii() else f"sequence_{index}_length"


def _output(name: str, schema: Schema, probabilities: bool) -> tuple[Port, bool]:
    """The output called `name` in the model as it is served, and whether it becomes a probability."""
    kind, _, label_name = name.partition("/")
    if kind != "logit":
        return Port(name, "float32", ("batch",), f"the model's '{name}'"), False
    label = schema.label(label_name or None)
    if label.kind == "regression":
        return Port(name, "float32", ("batch",), f"predicted value of '{label.name}'"), False
    if not probabilities:
        return Port(name, "float32", ("batch",), f"log-odds that '{label.name}' is 1"), False
    return Port(
        "probability" + name[len("logit") :], "float32", ("batch",), f"probability that '{label.name}' is 1"
    ), True
