"""A few interests out of many prototypes, which a history activates, and the one that comes next."""

from __future__ import annotations

from typing import Annotated, Any

import torch
from annotated_types import Ge, Gt
from torch import Tensor, nn

from rechub_ray.batch import Features, Outputs
from rechub_ray.errors import ConfigError
from rechub_ray.layers.attention import AttentionWeights
from rechub_ray.layers.linear import Linear
from rechub_ray.models.base import MODELS
from rechub_ray.models.matching.history import HistoryRetriever
from rechub_ray.outputs import Output
from rechub_ray.schema import PositiveInt, Schema


@MODELS.register("sine")
class SINE(HistoryRetriever):
    """Interests by prototypes that all users share, of which a history activates some; one vector a user.

    x_t are the vectors of the history's items with those of their places, C the prototypes, N_1 to N_4 layer
    normalisation, and `att(X) = softmax_t(W_2 tanh(W_1 x_t))` with matrices of its own each time:

        s = C z with z = sum_t att(X)_t x_t;   c_k = sigmoid(s_j) C_j of the largest `num_intention` s_j
        p_kt = softmax_k(N_1(W_3 x_t) N_2(c_k));   f_k = N_3(sum_t p_kt att_k(X)_t x_t)
        y_t = sum_k p_kt c_k;   c' = N_4(sum_t att(Y)_t y_t)
        u = sum_k softmax_k(c' f_k / temperature) f_k

    When to use: many topics among the items, and one vector a user: a search asks once.

    Args:
        schema: the features; has items, and a list of them.
        num_concept: number of prototypes, >= 1.
        num_intention: how many of them a history activates, in [1, num_concept].
        hidden_dim: rows of the matrices W_1, >= 1; None takes D.
        temperature: see above, > 0.
        prototype_weight: factor of the loss `(|M|^2 - |diag M|^2) / 2` that keeps prototypes apart, >= 0, where M is
            the covariance of the rows of C; 0 leaves it out.
        common: `history`, `embedding_dim`, `similarity` and `init_std`, as in `HistoryRetriever`.

    Shapes:
        `user` (B, D), `item` (C, D), `prototypes` scalar where it has a weight

    Raises:
        SchemaError: the schema has no items.
        ConfigError: it has no list of them, or `num_intention` is above `num_concept`.

    Reference: Tan et al., Sparse-Interest Network for Sequential Recommendation (WSDM 2021), section 3; places are
    counted from the last one.
    """

    def __init__(
        self,
        schema: Schema,
        *,
        num_concept: PositiveInt = 50,
        num_intention: PositiveInt = 4,
        hidden_dim: PositiveInt | None = None,
        temperature: Annotated[float, Gt(0)] = 1.0,
        prototype_weight: Annotated[float, Ge(0)] = 0.0,
        **common: Any,
    ) -> None:
        super().__init__(schema, **common)
        if num_intention > num_concept:
            raise ConfigError(
                "'model.num_intention'", expected=f"at most num_concept, {num_concept}", got=num_intention
            )
        self.num_intention, self.temperature, self.prototype_weight = num_intention, temperature, prototype_weight
        dim, hidden = self.dim, hidden_dim or self.dim
        self.positions = nn.Parameter(torch.randn(self.max_length, dim) * 0.01)
        self.prototypes = nn.Parameter(torch.randn(num_concept, dim) * dim**-0.5)
        self.concept, self.next = AttentionWeights(dim, hidden), AttentionWeights(dim, hidden)
        self.each = nn.ModuleList(AttentionWeights(dim, hidden) for _ in range(num_intention))
        self.assign = Linear(dim, dim, bias=False)
        # what is added to all intentions alike leaves the softmax over them as it is
        self.norms = nn.ModuleList(nn.LayerNorm(dim, bias=number != 1) for number in range(4))
        if prototype_weight:
            self.outputs = (*self.outputs, Output("prototypes", "loss"))

    def user_vectors(self, features: Features) -> Tensor:
        items, mask = self.read_history(features)
        x = items + self.positions[self.places_from_end(mask)]
        concept = (self.concept(x, mask) @ x).squeeze(1)
        strength, chosen = (concept @ self.prototypes.T).topk(self.num_intention)
        intentions = strength.sigmoid().unsqueeze(2) * self.prototypes[chosen]
        shares = (self.norms[1](intentions) @ self.norms[0](self.assign(x)).transpose(1, 2)).softmax(1)
        attention = torch.cat([weights(x, mask) for weights in self.each], 1)
        interests = self.norms[2]((shares * attention) @ x)
        seen = shares.transpose(1, 2) @ intentions
        coming = self.norms[3]((self.next(seen, mask) @ seen).squeeze(1))
        weights = ((interests @ coming.unsqueeze(2)).squeeze(2) / self.temperature).softmax(1)
        return self.scaled((weights.unsqueeze(1) @ interests).squeeze(1))

    def forward(self, features: Features, items: Features | None = None) -> Outputs:
        outputs = super().forward(features, items)
        if self.prototype_weight and items is not None:
            centred = self.prototypes - self.prototypes.mean(1, keepdim=True)
            products = centred @ centred.T / self.dim
            outside = products.square().sum() - products.diagonal().square().sum()
            outputs["prototypes"] = self.prototype_weight * outside / 2
        return outputs
