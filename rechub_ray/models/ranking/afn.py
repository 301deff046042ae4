"""Adaptive factorisation network."""

from __future__ import annotations

from typing import Any

import torch

from rechub_ray.batch import Features, Outputs
from rechub_ray.layers.inputs import DeepInput, FieldInput, choose
from rechub_ray.layers.linear import Linear
from rechub_ray.layers.mlp import MLP, HiddenUnits, Probability
from rechub_ray.layers.norm import BatchNorm1d
from rechub_ray.models.base import MODELS
from rechub_ray.models.ranking.base import DeepRanker
from rechub_ray.schema import PositiveInt, Schema

_SMALLEST = 1e-5


@MODELS.register("afn")
class AFN(DeepRanker):
    """Products of any learned degree: `y_j = exp(sum_i w_ij ln |e_i|)`, by elements, under a perceptron.

    Logarithms and products are batch-normalised, over rows and elements. With `hidden_units`, it is the paper's AFN+: a
    deep part with tables of its own stands beside, and `logit = u afn(x) + v deep(x) + b`.

    When to use: where it is unknown of what degree the products are that matter; it trains slowly and wants many
    neurons.

    Args:
        schema: the features; those with embeddings all have one width (no `embed_dim` of their own).
        log_neurons: number of products y_j, >= 1.
        afn_units: widths of the hidden layers on the products.
        afn_dropout: in these layers, in [0, 1).
        hidden_units: widths of the deep part's hidden layers; none leaves the deep part out.
        deep_features: names of the features to use; None takes all.
        **common: `activation`, `dropout` (of the deep part), `batch_norm`, `embedding_dim`, `init_std`.

    Raises:
        SchemaError: features that differ in width, or none with an embedding.

    Reference: Cheng et al., Adaptive Factorization Network, arXiv 1909.03276; |e_i| is at least 1e-5. A
    numeric feature's vector is `sum_j x_j v_j`.
    """

    def __init__(
        self,
        schema: Schema,
        *,
        log_neurons: PositiveInt = 256,
        afn_units: HiddenUnits = (256,),
        afn_dropout: Probability = 0.0,
        hidden_units: HiddenUnits = (),
        deep_features: list[str] | None = None,
        **common: Any,
    ) -> None:
        super().__init__(schema, hidden_units=hidden_units, **common)
        names = choose(schema, deep_features, key="deep_features")
        self.embedding = self.embed(names)
        self.field_input = FieldInput(schema, self.embedding, names)
        count, dim = self.field_input.count, self.field_input.width
        self.log_norm, self.exp_norm = BatchNorm1d(count), BatchNorm1d(log_neurons)
        self.powers = Linear(count, log_neurons, bias=False)
        self.afn = MLP(log_neurons * dim, afn_units, output_dim=1, **{**self.hidden, "dropout": afn_dropout})
        self.deep_input: DeepInput | None = None
        if hidden_units:
            self.deep_embedding = self.embed(names, name="deep")
            self.deep_input = DeepInput(schema, self.deep_embedding, names)
            self.mlp, self.output = self.perceptron(self.deep_input.width), Linear(2, 1)

    def forward(self, features: Features) -> Outputs:
        vectors = self.field_input(self.embedding.flat(features), features.dense)

        logs = torch.log(vectors.abs().clamp(min=_SMALLEST)).transpose(1, 2).flatten(0, 1)  # (B D, K)
        products = self.exp_norm(self.powers(self.log_norm(logs)).exp_())
        logit = self.afn(products.view(vectors.shape[0], -1))
        if self.deep_input is not None:
            parts = self.deep_input.parts(self.deep_embedding.flat(features), features.dense)
            logit = self.output(logit, self.mlp(*parts))
        return {"logit": logit.squeeze(1)}
