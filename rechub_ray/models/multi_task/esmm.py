"""Entire space multi-task model."""

from __future__ import annotations

from typing import Annotated

import torch
from annotated_types import Ge
from torch import Tensor

from rechub_ray.batch import Features, Outputs
from rechub_ray.errors import ConfigError
from rechub_ray.layers.activation import Activation
from rechub_ray.layers.embedding import EmbeddingBank
from rechub_ray.layers.inputs import DeepInput, choose, embedded
from rechub_ray.layers.mlp import MLP, HiddenUnits, Probability
from rechub_ray.layers.towers import Towers
from rechub_ray.models.base import MODELS, Model
from rechub_ray.outputs import Output
from rechub_ray.schema import PositiveInt, Schema


@MODELS.register("esmm")
class ESMM(Model):
    """A chain of binary labels, each of which can be 1 only where the one before is: click, then conversion.

    A tower a label gives the logit of its probability, given that the label before is 1; the outputs are the products:

        pCTR = sigmoid(a),  pCVR = sigmoid(b),  pCTCVR = pCTR pCVR = sigmoid(-log(e^-a + e^-b + e^-(a+b)))

    so that the losses of both labels count over all rows, also those without a click, and none reads pCVR. The logit of
    the product is exact, where a product of probabilities would be 0 or 1 too early. More than two labels go on in the
    same way.

    The outputs of the labels come first: `logit/<label>` is the logit of pCTR and of pCTCVR. `conditional/<label>`,
    for each label but the first, is the logit of pCVR; it is served beside them, as the probability.

    When to use: conversion rates, where conversions are known of clicked rows alone and shall be right for all rows.

    Args:
        schema: the features, and the labels, in the order of the chain: all binary.
        embedding_dim: width of the embeddings of features without their own `embed_dim`, >= 1.
        bottom_units: widths of layers that the towers share; none, as in the paper, shares the embeddings alone.
        tower_units: widths of each tower's hidden layers.
        activation: after each hidden layer.
        dropout: in the hidden layers, in [0, 1).
        batch_norm: whether the hidden layers are batch-normalised.
        deep_features: names of the features to use; None takes all.
        init_std: standard deviation of the initial embeddings, >= 0.

    Shapes:
        (B,) each

    Raises:
        SchemaError: the schema has no label.
        ConfigError: a label is not binary.

    Reference: Ma et al., Entire Space Multi-Task Model, arXiv 1804.07931, eq. 1 and 3; the logit of the product is
    derived here.
    """

    def __init__(
        self,
        schema: Schema,
        *,
        embedding_dim: PositiveInt = 16,
        bottom_units: HiddenUnits = (),
        tower_units: HiddenUnits = (256, 128),
        activation: Activation = "relu",
        dropout: Probability = 0.0,
        batch_norm: bool = False,
        deep_features: list[str] | None = None,
        init_std: Annotated[float, Ge(0)] = 1e-4,
    ) -> None:
        super().__init__(schema)
        for label in schema.labels:
            if label.kind != "binary":
                raise ConfigError(
                    f"model 'esmm': label '{label.name}' is not binary",
                    expected="labels of which each can be 1 only where the one before is, such as click, conversion",
                    got=f"kind: {label.kind}",
                    hint="data.labels=[...] leaves labels out; other multi-task models take labels of all kinds.",
                )
        names = choose(schema, deep_features, key="deep_features")
        self.embedding = EmbeddingBank(schema, dim=embedding_dim, features=embedded(schema, names), init_std=init_std)
        self.deep_input = DeepInput(schema, self.embedding, names)
        self.bottom = MLP(
            self.deep_input.width, bottom_units, activation=activation, dropout=dropout, batch_norm=batch_norm
        )
        self.towers = Towers(
            schema, self.bottom.width, tower_units, activation=activation, dropout=dropout, batch_norm=batch_norm
        )
        given = (Output(f"conditional/{label.name}", "logit", label.name) for label in schema.labels[1:])
        self.outputs = (*self.towers.outputs, *given)

    def forward(self, features: Features) -> Outputs:
        x = self.bottom(*self.deep_input.parts(self.embedding.flat(features), features.dense))
        first, *given = self.towers([x] * len(self.towers)).values()
        logits = [first]
        for logit in given:
            logits.append(_logit_of_both(logits[-1], logit))
        return {output.name: value for output, value in zip(self.outputs, [*logits, *given], strict=True)}


def _logit_of_both(a: Tensor, b: Tensor) -> Tensor:
    """Return the logit of `sigmoid(a) sigmoid(b)`.

    1 / (sigmoid(a) sigmoid(b)) = (1 + e^-a)(1 + e^-b), and e^-logit is that minus 1.
    """
    return -torch.logsumexp(torch.stack([-a, -b, -a - b]), 0)
