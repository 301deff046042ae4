"""Deep Interest Evolution Network."""

from __future__ import annotations

from typing import Annotated, Any, cast

import torch
import torch.nn.functional as F
from annotated_types import Ge
from torch import Tensor, nn

from rechub_ray.batch import Features, Outputs
from rechub_ray.errors import ConfigError
from rechub_ray.layers.attention import masked_softmax
from rechub_ray.layers.interest import AttentionalGRU
from rechub_ray.layers.linear import Linear
from rechub_ray.models.base import MODELS
from rechub_ray.models.ranking.base import BehaviourRanker
from rechub_ray.outputs import Output
from rechub_ray.schema import Schema, SequenceFeature


@MODELS.register("dien")
class DIEN(BehaviourRanker):
    """Histories read by a GRU, and by a second one whose gates follow the attention to the row's item.

    `logit = mlp([i_1, ..., i_H, e_1, ..., e_K, dense])`. For each history, `h_t = GRU(e_1, ..., e_t)`, `a = softmax_t
    <h_t, W v>` with the item's vector v, and i is the last state of `AttentionalGRU` on h and a. In training, the
    output `auxiliary` teaches h_t to know the next id from another one: `auxiliary_weight` times the mean over t of
    `-ln sigmoid(<h_t, e_{t+1}>) - ln(1 - sigmoid(<h_t, n_{t+1}>))`; elsewhere it is 0.

    When to use: histories in the order of time, where interests drift; its recurrent layers take their time on long
    ones.

    Args:
        schema: the features.
        auxiliary_weight: of the auxiliary loss, >= 0.
        negative_features: names of sequences with the other ids n, one for each history and as long, in their order.
            None draws them from all ids, with equal probability.
        **common: `history_features`, `target_features`, `deep_features`, `hidden_units`, `activation`, `dropout`,
            `batch_norm`, `embedding_dim`, `init_std`.

    Shapes:
        `logit` (B,); `auxiliary`, a number, unless its weight is 0

    Raises:
        SchemaError: as `BehaviourRanker`.
        ConfigError: as `BehaviourRanker`, or `negative_features` and histories differ in number.

    Reference: Zhou et al., Deep Interest Evolution Network, arXiv 1809.03672 (AUGRU, auxiliary loss). Deviation:
    histories of several columns have GRUs of their own. A drawn id that is the next one does not count.
    """

    def __init__(
        self,
        schema: Schema,
        *,
        auxiliary_weight: Annotated[float, Ge(0)] = 0.2,
        negative_features: list[str] | None = None,
        **common: Any,
    ) -> None:
        super().__init__(schema, negative_features or (), **common)
        if negative_features is not None and len(negative_features) != len(self.pairs):
            raise ConfigError(
                "'model.negative_features': each history has one sequence of other ids",
                expected=f"{len(self.pairs)} names",
                got=len(negative_features),
            )
        self.auxiliary_weight, self.negatives = auxiliary_weight, negative_features
        self.sizes = [cast(SequenceFeature, schema.feature(history)).vocab_size for history, _ in self.pairs]
        self.extract = nn.ModuleList(AttentionalGRU(width) for width in self.widths)
        self.attention = nn.ModuleList(Linear(width, width, bias=False) for width in self.widths)
        self.interests = nn.ModuleList(AttentionalGRU(width) for width in self.widths)
        self.add_perceptron()
        if auxiliary_weight > 0:
            self.outputs = (Output("logit"), Output("auxiliary", "loss"))

    def forward(self, features: Features) -> Outputs:
        flat, found, losses = self.others.flat(features), [], []
        for i, (history, _) in enumerate(self.pairs):
            vectors, mask = self.embedding.sequence(features, history)
            states, _ = self.extract[i](vectors, mask)
            item = self.attention[i](self.targets[i](flat)).unsqueeze(1)
            weights = masked_softmax((states * item).sum(2), mask)
            found.append(self.interests[i](states, mask, weights)[1])
            if self.training and self.auxiliary_weight > 0:
                others = self._negatives(features, i, mask)
                losses.append(_auxiliary(states[:, :-1], vectors[:, 1:], others[:, 1:], mask[:, 1:]))
        logit = self.mlp(*found, *self.deep_input.parts(flat, features.dense)).squeeze(1)
        if self.auxiliary_weight == 0:
            return {"logit": logit}
        return {"logit": logit, "auxiliary": self.auxiliary_weight * sum(losses, logit.new_zeros(()))}

    def _negatives(self, features: Features, i: int, mask: Tensor) -> Tensor:
        """Return the vectors of other ids, as many as the i-th history has, (B, T, D)."""
        if self.negatives is not None:
            return self.embedding.sequence(features, self.negatives[i])[0]
        first = min(1, self.sizes[i] - 1)  # 0 stands for ids that are not known
        ids = torch.randint(first, self.sizes[i], mask.shape, device=mask.device)
        return self.embedding.rows(self.pairs[i][0], ids)


def _auxiliary(states: Tensor, following: Tensor, others: Tensor, mask: Tensor) -> Tensor:
    """Return the mean loss of telling the following ids from others; all (B, T, D), mask (B, T)."""
    counts = (mask & (following != others).any(2)).to(states.dtype)
    losses = F.softplus(-(states * following).sum(2)) + F.softplus((states * others).sum(2))
    return (losses * counts).sum() / counts.sum().clamp(min=1)
