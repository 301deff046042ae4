"""Search-based Interest Model."""

from __future__ import annotations

from typing import Any

from torch import nn

from rechub_ray.layers.interest import SearchedInterest
from rechub_ray.models.base import MODELS
from rechub_ray.models.ranking.base import BehaviourRanker
from rechub_ray.schema import PositiveInt, Schema


@MODELS.register("sim")
class SIM(BehaviourRanker):
    """Long histories: a cheap search of all places, then attention to the ones found; see `SearchedInterest`.

    `logit = mlp([g_1, s_1, ..., g_H, s_H, e_1, ..., e_K, dense])`, with the general look g and the exact one s of each
    history. Attention takes time and memory for `keep` places, however long a history is.

    When to use: histories of hundreds of places, of which few have to do with the candidate.

    Args:
        schema: the features.
        keep: places of a history that are attended to, >= 1.
        num_heads: of the attention; divides the histories' width.
        **common: `history_features`, `target_features`, `deep_features`, `hidden_units`, `activation`, `dropout`,
            `batch_norm`, `embedding_dim`, `init_std`.

    Raises:
        SchemaError: as `BehaviourRanker`.
        ConfigError: as `BehaviourRanker`, or a width that is no multiple of `num_heads`.

    Reference: Qi et al., Search-based User Interest Modeling with Lifelong Sequential Behavior Data for Click-Through
    Rate Prediction, arXiv 2006.05639, soft search. Deviation: the search learns from the same loss, as its result
    enters the perceptron, where the paper has a second one.
    """

    def __init__(self, schema: Schema, *, keep: PositiveInt = 20, num_heads: PositiveInt = 2, **common: Any) -> None:
        super().__init__(schema, **common)
        self.interests = nn.ModuleList(SearchedInterest(width, keep=keep, heads=num_heads) for width in self.widths)
        self.add_perceptron(2 * sum(self.widths))
