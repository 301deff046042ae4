"""Several interests a user, of which the one that suits an item best counts."""

from __future__ import annotations

import abc
from typing import Any

import torch
from torch import Tensor, nn

from rechub_ray.batch import Features
from rechub_ray.layers.attention import AttentionWeights
from rechub_ray.layers.capsule import route
from rechub_ray.layers.inputs import choose
from rechub_ray.layers.linear import Linear
from rechub_ray.models.base import MODELS
from rechub_ray.models.matching.history import HistoryRetriever, history_of
from rechub_ray.schema import PositiveInt, Schema


class ComiRec(HistoryRetriever):
    """Base of the two models of Cen et al.: a subclass says how a history becomes interests.

    In training, a row's vector is the interest whose product with the row's own item is largest.

    Args:
        schema: the features; has items, and a list of them.
        interest_num: number K of interests, >= 1.
        user_features: names of features beside the history; with them a user's vectors are `W [features, interest]`.
            None takes none: the vectors are the interests.
        common: `history`, `embedding_dim`, `similarity` and `init_std`, as in `HistoryRetriever`.

    Shapes:
        `user` (B, K, D), `item` (C, D)

    Raises:
        SchemaError: the schema has no items.
        ConfigError: it has no list of them.
    """

    def __init__(
        self,
        schema: Schema,
        *,
        interest_num: PositiveInt = 4,
        user_features: list[str] | None = None,
        **common: Any,
    ) -> None:
        users: list[str] = []
        if user_features is not None:
            own = history_of(schema, common.get("history")).name
            users = [name for name in choose(schema.user_side, user_features, key="user_features") if name != own]
        super().__init__(schema, users, **common)
        self.interest_num = interest_num
        self.convert = Linear(self.user_input.width + self.dim, self.dim, bias=False) if users else None

    @abc.abstractmethod
    def interests(self, items: Tensor, mask: Tensor) -> Tensor:
        """Return the interests of histories.

        Shapes:
            items (B, T, D), mask (B, T) -> (B, K, D)
        """

    def user_vectors(self, features: Features) -> Tensor:
        vectors = self.interests(*self.read_history(features))
        if self.convert is not None:
            beside = [part.unsqueeze(1).expand(-1, self.interest_num, -1) for part in self.read_user(features)]
            vectors = self.convert(torch.cat([*beside, vectors], 2))
        return self.scaled(vectors)


@MODELS.register("comirec_sa")
class ComiRecSA(ComiRec):
    """Interests by self-attention: `u_k = sum_t a_kt e_t` with `a = softmax_t(W_2 tanh(W_1 (e_t + p_t)))`.

    e_t are the vectors of the history's items and p_t those of their places, counted from the last one.

    When to use: as `mind`; attention is the faster and simpler way to several interests.

    Args:
        schema: the features; has items, and a list of them.
        hidden_dim: rows of W_1, >= 1; None takes 4 D.
        positions: whether there are vectors of places.
        common: the arguments of `ComiRec`.

    Shapes:
        `user` (B, K, D), `item` (C, D)

    Raises:
        SchemaError: the schema has no items.
        ConfigError: it has no list of them.

    Reference: Cen et al., Controllable Multi-Interest Framework for Recommendation (KDD 2020), section 3.2, with the
    places in the weights alone, as in the authors' code.
    """

    def __init__(
        self, schema: Schema, *, hidden_dim: PositiveInt | None = None, positions: bool = True, **common: Any
    ) -> None:
        super().__init__(schema, **common)
        self.weights = AttentionWeights(self.dim, hidden_dim or 4 * self.dim, self.interest_num)
        self.positions = nn.Parameter(torch.randn(self.max_length, self.dim) * 0.01) if positions else None

    def interests(self, items: Tensor, mask: Tensor) -> Tensor:
        placed = items if self.positions is None else items + self.positions[self.places_from_end(mask)]
        weights: Tensor = self.weights(placed, mask)
        return weights @ items


@MODELS.register("comirec_dr")
class ComiRecDR(ComiRec):
    """Interests by dynamic routing: item t of the history votes `v_kt = W_tk e_t` for interest k.

    `u_k = squash(sum_t w_kt v_kt)` with `w = softmax_k(b)`, where b starts at 0 and grows by `u_k v_kt` each time.
    There is a matrix for each place of the history and each interest: `max_length K D^2` numbers. With `positions:
    false` all places share those of an interest, `W_k`, which learns faster where histories differ in length.

    When to use: as `mind`, with long histories of a fixed length; else without positions.

    Args:
        schema: the features; has items, and a list of them.
        routing_times: how often capsules are computed, >= 1.
        positions: whether each place has matrices of its own, as in the paper.
        common: the arguments of `ComiRec`.

    Shapes:
        `user` (B, K, D), `item` (C, D)

    Raises:
        SchemaError: the schema has no items.
        ConfigError: it has no list of them.

    Reference: Cen et al., Controllable Multi-Interest Framework for Recommendation (KDD 2020), section 3.2 and
    algorithm 1.
    """

    logits: Tensor

    def __init__(
        self, schema: Schema, *, routing_times: PositiveInt = 3, positions: bool = True, **common: Any
    ) -> None:
        super().__init__(schema, **common)
        self.routing_times, self.positions = routing_times, positions
        matrices = torch.randn(self.max_length if positions else 1, self.dim, self.interest_num * self.dim)
        self.votes = nn.Parameter(matrices * self.dim**-0.5)
        self.register_buffer("logits", torch.zeros(self.interest_num, 1), persistent=False)

    def interests(self, items: Tensor, mask: Tensor) -> Tensor:
        if self.positions:
            votes = torch.bmm(items.transpose(0, 1), self.votes[self.places(mask)]).transpose(0, 1)
        else:
            votes = items @ self.votes[0]
        votes = votes.view(*votes.shape[:2], self.interest_num, self.dim).transpose(1, 2)
        logits = self.logits.expand(-1, items.shape[1])
        return route(votes, logits, mask, routing_times=self.routing_times)
