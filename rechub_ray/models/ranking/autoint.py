"""Automatic feature interactions by self-attention."""

from __future__ import annotations

from typing import Any

from torch import nn

from rechub_ray.batch import Features, Outputs
from rechub_ray.layers.field_attention import FieldAttention
from rechub_ray.layers.inputs import DeepInput, FieldInput, choose
from rechub_ray.layers.linear import Linear
from rechub_ray.layers.mlp import HiddenUnits, Probability
from rechub_ray.models.base import MODELS
from rechub_ray.models.ranking.base import DeepRanker
from rechub_ray.schema import PositiveInt, Schema


@MODELS.register("autoint")
class AutoInt(DeepRanker):
    """Self-attention between features: `logit = <w, attention layers([e_1, ..., e_K])> + b (+ mlp(x))`.

    With `hidden_units`, it is the paper's AutoInt+.

    When to use: where numeric features should interact as others do, and attention may say which features go together.

    Args:
        schema: the features; those with embeddings all have one width (no `embed_dim` of their own).
        num_layers: attention layers, >= 1.
        num_heads: >= 1.
        attention_dim: width of a layer's result, all heads together; a multiple of `num_heads`.
        residual: whether a layer adds its input, projected.
        scale: whether products of queries and keys are divided by the root of a head's width.
        layer_norm: whether a layer's result is normalised.
        attention_dropout: of the attention's weights, in [0, 1).
        hidden_units: widths of the deep part's hidden layers; none leaves the deep part out.
        deep_features: names of the features to use; None takes all.
        **common: `activation`, `dropout`, `batch_norm`, `embedding_dim`, `init_std`.

    Raises:
        SchemaError: features that differ in width, or none with an embedding.
        ConfigError: `attention_dim` is no multiple of `num_heads`.

    Reference: Song et al., AutoInt, arXiv 1810.11921, eq. 5 to 9. A numeric feature's vector is `sum_j x_j v_j`.
    """

    def __init__(
        self,
        schema: Schema,
        *,
        num_layers: PositiveInt = 3,
        num_heads: PositiveInt = 2,
        attention_dim: PositiveInt = 64,
        residual: bool = True,
        scale: bool = False,
        layer_norm: bool = False,
        attention_dropout: Probability = 0.0,
        hidden_units: HiddenUnits = (),
        deep_features: list[str] | None = None,
        **common: Any,
    ) -> None:
        super().__init__(schema, hidden_units=hidden_units, **common)
        names = choose(schema, deep_features, key="deep_features")
        self.embedding = self.embed(names)
        self.field_input = FieldInput(schema, self.embedding, names)
        self.attention = nn.Sequential(
            *(
                FieldAttention(
                    attention_dim if i else self.field_input.width,
                    attention_dim,
                    heads=num_heads,
                    residual=residual,
                    scale=scale,
                    layer_norm=layer_norm,
                    dropout=attention_dropout,
                )
                for i in range(num_layers)
            )
        )
        self.output = Linear(self.field_input.count * attention_dim, 1)
        self.deep_input = DeepInput(schema, self.embedding, names) if hidden_units else None
        self.mlp = self.perceptron(self.deep_input.width) if self.deep_input is not None else None

    def forward(self, features: Features) -> Outputs:
        flat = self.embedding.flat(features)
        attended = self.attention(self.field_input(flat, features.dense))
        logit = self.output(attended.flatten(1)).squeeze(1)
        if self.deep_input is not None and self.mlp is not None:
            logit = logit + self.mlp(*self.deep_input.parts(flat, features.dense)).squeeze(1)
        return {"logit": logit}
