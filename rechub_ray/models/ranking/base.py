"""Bases of ranking models: the arguments that most of them have."""

from __future__ import annotations

import functools
from collections.abc import Sequence
from typing import Annotated, Any, Literal

import torch
from annotated_types import Ge
from torch import nn

from rechub_ray.batch import Features, Outputs
from rechub_ray.errors import ConfigError, SchemaError, nearest
from rechub_ray.layers.activation import Activation
from rechub_ray.layers.embedding import EmbeddingBank
from rechub_ray.layers.first_order import FirstOrder
from rechub_ray.layers.inputs import Columns, DeepInput, choose, embedded
from rechub_ray.layers.linear import Linear
from rechub_ray.layers.mlp import MLP, HiddenUnits, Probability
from rechub_ray.models.base import Model
from rechub_ray.schema import PositiveInt, Schema


class Ranker(Model):
    """A model above embeddings; a subclass chooses features, embeds them, and builds what is above.

    Args:
        schema: the features.
        embedding_dim: width of the embeddings of features without their own `embed_dim`, >= 1.
        init_std: standard deviation of the initial embeddings and weights of ids, >= 0.

    Attributes:
        bank: makes banks of some features, by `features` and `name`.

    Shapes:
        `logit` (B,)
    """

    def __init__(
        self, schema: Schema, *, embedding_dim: PositiveInt = 16, init_std: Annotated[float, Ge(0)] = 1e-4
    ) -> None:
        super().__init__(schema)
        self.init_std = init_std
        self.bank = functools.partial(EmbeddingBank, schema, dim=embedding_dim, init_std=init_std)

    def embed(self, names: Sequence[str], *, name: str = "embedding") -> EmbeddingBank:
        """Return a bank of those of the named features that have an embedding."""
        return self.bank(features=embedded(self.schema, names), name=name)

    def first_order(self, names: Sequence[str], *, bias: bool) -> FirstOrder:
        """Return the linear term of the named features."""
        return FirstOrder(self.schema, names, bias=bias, init_std=self.init_std)


class DeepRanker(Ranker):
    """A ranking model with a multi-layer perceptron.

    Args:
        schema: the features.
        hidden_units: widths of the perceptron's hidden layers.
        activation: after each hidden layer.
        dropout: in the hidden layers, in [0, 1).
        batch_norm: whether the hidden layers are batch-normalised.
        **common: `embedding_dim`, `init_std`.

    Attributes:
        hidden_units: as above.
        hidden: the other arguments that hidden layers have.
    """

    def __init__(
        self,
        schema: Schema,
        *,
        hidden_units: HiddenUnits = (256, 128),
        activation: Activation = "relu",
        dropout: Probability = 0.0,
        batch_norm: bool = False,
        **common: Any,
    ) -> None:
        super().__init__(schema, **common)
        self.hidden_units = hidden_units
        self.hidden: dict[str, Any] = {"activation": activation, "dropout": dropout, "batch_norm": batch_norm}

    def perceptron(self, width: int, *, output_dim: int | None = 1) -> MLP:
        """Return the perceptron on an input of the given width."""
        return MLP(width, self.hidden_units, output_dim=output_dim, **self.hidden)


class CrossRanker(DeepRanker):
    """Cross layers for explicit feature products, with a multi-layer perceptron beside or behind them.

    With x = [e_1, ..., e_K, dense]: `parallel` gives `logit = <w, [cross(x), mlp(x)]> + b`, `stacked`
    `<w, mlp(cross(x))> + b`, and `crossnet_only` `<w, cross(x)> + b`. A subclass builds `cross` for an input of the
    given `width`, then calls `join`.

    Args:
        schema: the features.
        structure: where the deep part stands. `crossnet_only` has none and does not read `hidden_units`,
            `activation`, `dropout` and `batch_norm`.
        deep_features: names of the features to use; None takes all.
        **common: `hidden_units`, `activation`, `dropout`, `batch_norm`, `embedding_dim`, `init_std`.

    Attributes:
        width: of x.
    """

    cross: nn.Module

    def __init__(
        self,
        schema: Schema,
        *,
        structure: Literal["parallel", "stacked", "crossnet_only"] = "parallel",
        deep_features: list[str] | None = None,
        **common: Any,
    ) -> None:
        super().__init__(schema, **common)
        names = choose(schema, deep_features, key="deep_features")
        self.embedding = self.embed(names)
        self.deep_input = DeepInput(schema, self.embedding, names)
        self.structure, self.width = structure, self.deep_input.width

    def join(self, cross: nn.Module) -> None:
        """Build the layers beside and behind the cross layers."""
        self.cross, width = cross, self.width
        self.mlp: MLP | None = None
        if self.structure != "crossnet_only":
            self.mlp = self.perceptron(width, output_dim=None)
            width = self.mlp.width + (width if self.structure == "parallel" else 0)
        self.output = Linear(width, 1)

    def forward(self, features: Features) -> Outputs:
        x = self.deep_input(self.embedding.flat(features), features.dense)
        result = self.cross(x)
        if self.mlp is not None:
            result = self.mlp(result) if self.structure == "stacked" else torch.cat([result, self.mlp(x)], 1)
        return {"logit": self.output(result).squeeze(1)}


class BehaviourRanker(DeepRanker):
    """A perceptron on what a user's histories say about the row's item, and on the other features.

    `logit = mlp([interest_1, ..., interest_H, e_1, ..., e_K, dense])`, with one interest for each history, which the
    modules in `interests` compute: of vectors (B, T, D), their mask (B, T) and the target's vector (B, D), (B, D).

    Args:
        schema: the features.
        negatives: names of further sequences that a subclass reads.
        history_features: names of the sequences of what users did before; None takes those that share the table of a
            sparse feature.
        target_features: names of the features that the histories are compared with, one for each, in their order; None
            takes the sparse features that have the histories' tables.
        deep_features: names of the other features of the perceptron; None takes all but the histories. Targets always
            take part.
        **common: `hidden_units`, `activation`, `dropout`, `batch_norm`, `embedding_dim`, `init_std`.

    Attributes:
        pairs: names of each history and its target.
        widths: of each history's vectors.

    Raises:
        SchemaError: no histories, a history that has no target, or one of another width.
        ConfigError: `target_features` and `history_features` differ in number.
    """

    interests: nn.ModuleList

    def __init__(
        self,
        schema: Schema,
        negatives: Sequence[str] = (),
        *,
        history_features: list[str] | None = None,
        target_features: list[str] | None = None,
        deep_features: list[str] | None = None,
        **common: Any,
    ) -> None:
        super().__init__(schema, **common)
        self.pairs = _histories(schema, history_features, target_features)
        histories, targets = [history for history, _ in self.pairs], [target for _, target in self.pairs]
        others = choose(schema, deep_features, key="deep_features")
        if deep_features is None:
            others = [name for name in others if name not in (*histories, *negatives)]
        names = [name for name in schema.feature_names if name in (*others, *targets)]
        self.embedding = self.embed([*names, *histories, *negatives])
        self.others = self.embedding.view(schema, embedded(schema, names))
        self.deep_input = DeepInput(schema, self.others, names)
        self.targets = nn.ModuleList(Columns.of_bank(self.others, [target]) for target in targets)
        width_of = {f.name: width for f, width in zip(self.embedding.features, self.embedding.widths, strict=True)}
        self.widths = [width_of[history] for history in histories]
        for history, target in self.pairs:
            if width_of[history] != width_of[target]:
                raise SchemaError(
                    f"history '{history}' is compared with '{target}', so their embeddings need one width",
                    got=f"{width_of[history]} and {width_of[target]}",
                )

    def add_perceptron(self, width: int | None = None) -> None:
        """Build the perceptron; the interests have the given width together, or that of the histories' vectors."""
        self.mlp = self.perceptron(self.deep_input.width + (sum(self.widths) if width is None else width))

    def forward(self, features: Features) -> Outputs:
        flat = self.others.flat(features)
        found = [
            interest(*self.embedding.sequence(features, history), target(flat))
            for interest, (history, _), target in zip(self.interests, self.pairs, self.targets, strict=True)
        ]
        return {"logit": self.mlp(*found, *self.deep_input.parts(flat, features.dense)).squeeze(1)}


def _histories(schema: Schema, histories: list[str] | None, targets: list[str] | None) -> list[tuple[str, str]]:
    """Return the names of each history and its target."""
    owners = {f.shared_with or f.name: f.name for f in reversed(schema.sparse)}
    sequences = {f.name: f for f in schema.sequences if not f.numbers}
    if histories is None:
        histories = [f.name for f in sequences.values() if (f.shared_with or f.name) in owners]
    for name in choose(schema, histories, key="history_features") if histories else []:
        if name not in sequences:
            raise SchemaError(
                f"'model.history_features': '{name}' is not a history", expected="a sequence of ids", got=name
            )
    if targets is None:
        tables = {name: sequences[name].shared_with or name for name in histories}
        lost = [name for name, table in tables.items() if table not in owners]
        if lost or not histories:
            raise SchemaError(
                "this model compares histories with the row's item",
                expected="sequences that share the table of a sparse feature",
                got=f"'{lost[0]}', which shares none" if lost else "none",
                hint="Set shared_with in the recipe, or name history_features and target_features.",
            )
        targets = [owners[table] for table in tables.values()]
    sparse = [f.name for f in schema.sparse]
    for name in targets:
        if name not in sparse:
            raise ConfigError(f"'model.target_features': no sparse feature '{name}'", hint=nearest(name, sparse))
    if len(targets) != len(histories) or not histories:
        raise ConfigError(
            "'model.target_features': each history is compared with one feature",
            expected=f"{len(histories)} names",
            got=len(targets),
        )
    return list(zip(histories, targets, strict=True))
