"""Interests by dynamic routing."""

from __future__ import annotations

import dataclasses
from typing import Annotated, Any

import torch
from annotated_types import Ge
from torch import Tensor

from rechub_ray.batch import Features
from rechub_ray.layers.activation import Activation
from rechub_ray.layers.capsule import interests_of, route
from rechub_ray.layers.inputs import choose
from rechub_ray.layers.linear import Linear
from rechub_ray.layers.mlp import MLP, HiddenUnits, Probability
from rechub_ray.models.base import MODELS
from rechub_ray.models.matching.history import HistoryRetriever, history_of
from rechub_ray.schema import PositiveInt, Schema


@MODELS.register("mind")
class MIND(HistoryRetriever):
    """Several vectors a user, to which the items of the history are routed; the largest product with an item counts.

    The items' vectors e_t give the votes `S e_t`, the same for all interests, and routing makes capsules c_k of them,
    from logits that were drawn once, for each interest and place of the history. A vector of the user is
    `u_k = mlp([user's features, c_k])`. A history of n items has `max(1, min(interest_num, log2(n)))` interests; the
    others are copies of the first one.

    In training a row has one vector, the mean of its interests weighted by how much they suit the row's own item: see
    `attention_power`.

    When to use: users with several interests at a time, where a search may ask once for each of them.

    Args:
        schema: the features; has items, and a list of them.
        interest_num: largest number K of interests, >= 1.
        dynamic_interest: whether short histories have fewer interests; otherwise all have K.
        routing_times: how often capsules are computed, >= 1.
        attention_power: p >= 1 of the weights `softmax_k((u_k v)^p)`, where v is the vector of the row's item; None,
            the limit, takes the interest of the largest product alone.
        hidden_units: widths of the perceptron's hidden layers.
        activation: after each hidden layer.
        dropout: in the hidden layers, in [0, 1).
        user_features: names of the features beside the history; None takes all of the rows but the item's id.
        common: `history`, `embedding_dim`, `similarity` and `init_std`, as in `HistoryRetriever`.

    Shapes:
        `user` (B, K, D), `item` (C, D)

    Raises:
        SchemaError: the schema has no items.
        ConfigError: it has no list of them.

    Reference: Li et al., Multi-Interest Network with Dynamic Routing for Recommendation at Tmall (CIKM 2019), section
    4. Deviations: the first logits are drawn once and not for each user, so that a model has one answer; there is one
    more layer, without activation, from the last hidden one to the vectors; the power keeps the product's sign.
    """

    logits: Tensor

    def __init__(
        self,
        schema: Schema,
        *,
        interest_num: PositiveInt = 4,
        dynamic_interest: bool = True,
        routing_times: PositiveInt = 3,
        attention_power: Annotated[float, Ge(1)] | None = 1.0,
        hidden_units: HiddenUnits = (128,),
        activation: Activation = "relu",
        dropout: Probability = 0.0,
        user_features: list[str] | None = None,
        **common: Any,
    ) -> None:
        own = history_of(schema, common.get("history")).name
        users = [name for name in choose(schema.user_side, user_features, key="user_features") if name != own]
        super().__init__(schema, users, **common)
        user, item = self.outputs
        self.outputs = dataclasses.replace(user, attention_power=attention_power), item
        self.interest_num, self.dynamic_interest, self.routing_times = interest_num, dynamic_interest, routing_times
        self.votes = Linear(self.dim, self.dim, bias=False)
        self.register_buffer("logits", torch.randn(interest_num, self.max_length))
        self.mlp = MLP(
            self.user_input.width + self.dim,
            hidden_units,
            output_dim=self.dim,
            activation=activation,
            dropout=dropout,
        )

    def user_vectors(self, features: Features) -> Tensor:
        items, mask = self.read_history(features)
        active = interests_of(mask.sum(1), self.interest_num) if self.dynamic_interest else None
        capsules = route(
            self.votes(items),
            self.logits[:, self.places(mask)],
            mask,
            routing_times=self.routing_times,
            active=active,
        )
        beside = [part.unsqueeze(1).expand(-1, self.interest_num, -1) for part in self.read_user(features)]
        vectors = self.mlp(torch.cat([*beside, capsules], 2).flatten(0, 1)).view(-1, self.interest_num, self.dim)
        if active is not None:
            vectors = torch.where(active.unsqueeze(2), vectors, vectors[:, :1])
        return self.scaled(vectors)
