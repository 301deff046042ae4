"""Deep Interest Network."""

from __future__ import annotations

from typing import Any

from torch import nn

from rechub_ray.layers.activation import Activation
from rechub_ray.layers.interest import LocalActivation
from rechub_ray.layers.mlp import HiddenUnits
from rechub_ray.models.base import MODELS
from rechub_ray.models.ranking.base import BehaviourRanker
from rechub_ray.schema import Schema


@MODELS.register("din")
class DIN(BehaviourRanker):
    """Histories pooled by how much each id has to do with the row's item; see `LocalActivation`.

    `logit = mlp([sum_t a(h_t, v) h_t, e_1, ..., e_K, dense])`, one sum for each history.

    When to use: rows with a history and a candidate: the first to try of the models that read histories.

    Args:
        schema: the features.
        attention_units: widths of the hidden layers of a.
        attention_activation: after each of them.
        attention_softmax: whether a row's weights are normalised.
        **common: `history_features`, `target_features`, `deep_features`, `hidden_units`, `activation`, `dropout`,
            `batch_norm`, `embedding_dim`, `init_std`.

    Raises:
        SchemaError: as `BehaviourRanker`.
        ConfigError: as `BehaviourRanker`.

    Reference: Zhou et al., Deep Interest Network, arXiv 1706.06978, eq. 3. Deviation: histories of several columns
    (items, shops) have weights of their own.
    """

    def __init__(
        self,
        schema: Schema,
        *,
        attention_units: HiddenUnits = (36,),
        attention_activation: Activation = "dice",
        attention_softmax: bool = False,
        **common: Any,
    ) -> None:
        super().__init__(schema, **common)
        self.interests = nn.ModuleList(
            LocalActivation(width, attention_units, activation=attention_activation, softmax=attention_softmax)
            for width in self.widths
        )
        self.add_perceptron()
