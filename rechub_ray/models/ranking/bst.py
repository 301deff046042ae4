"""Behavior Sequence Transformer."""

from __future__ import annotations

from typing import Any, cast

from torch import nn

from rechub_ray.layers.interest import BehaviourTransformer
from rechub_ray.layers.mlp import Probability
from rechub_ray.models.base import MODELS
from rechub_ray.models.ranking.base import BehaviourRanker
from rechub_ray.schema import PositiveInt, Schema, SequenceFeature


@MODELS.register("bst")
class BST(BehaviourRanker):
    """A transformer on each history and the row's item: `logit = mlp([t_1, ..., t_H, e_1, ..., e_K, dense])`.

    t is what becomes of the item's vector among the history's; see `BehaviourTransformer`.

    When to use: histories of up to some tens of places, where their order matters.

    Args:
        schema: the features.
        num_layers: of a transformer, >= 1.
        num_heads: >= 1; divides the histories' width.
        feed_forward_units: of a layer's feed-forward part, >= 1.
        attention_dropout: in the transformers, in [0, 1).
        **common: `history_features`, `target_features`, `deep_features`, `hidden_units`, `activation`, `dropout`,
            `batch_norm`, `embedding_dim`, `init_std`.

    Raises:
        SchemaError: as `BehaviourRanker`.
        ConfigError: as `BehaviourRanker`, or a width that is no multiple of `num_heads`.

    Reference: Chen et al., Behavior Sequence Transformer, arXiv 1905.06874, section 2. Deviations: see
    `BehaviourTransformer`; histories of several columns have a transformer each.
    """

    def __init__(
        self,
        schema: Schema,
        *,
        num_layers: PositiveInt = 1,
        num_heads: PositiveInt = 2,
        feed_forward_units: PositiveInt = 64,
        attention_dropout: Probability = 0.0,
        **common: Any,
    ) -> None:
        super().__init__(schema, **common)
        self.interests = nn.ModuleList(
            BehaviourTransformer(
                width,
                heads=num_heads,
                num_layers=num_layers,
                units=feed_forward_units,
                max_length=cast(SequenceFeature, schema.feature(history)).max_length,
                dropout=attention_dropout,
            )
            for (history, _), width in zip(self.pairs, self.widths, strict=True)
        )
        self.add_perceptron()
