"""A recurrent network over a user's items."""

from __future__ import annotations

from typing import Annotated

from annotated_types import Ge
from torch import Tensor, nn

from rechub_ray.batch import Features
from rechub_ray.layers.linear import Linear
from rechub_ray.layers.mlp import Probability
from rechub_ray.layers.tokens import Tokens, recurrent
from rechub_ray.models.base import MODELS
from rechub_ray.models.sequential.base import Learning, SequentialRetriever
from rechub_ray.schema import PositiveInt, Schema


@MODELS.register("gru4rec")
class GRU4Rec(SequentialRetriever):
    """Gated recurrent units over the items of a history.

    `h_t = GRU(h_{t-1}, dropout(e_t))`, and a position's vector is h_t, through one linear layer where it is not as wide
    as the items' vectors; an item's vector is its row in the table that the history is read from. Steps are computed
    for the rows that are long enough, without padding.

    It is published with losses of sampled items, some of the step's other rows and some by popularity:
    `losses: [bpr_max]` or `[sampled_softmax]`, with
    `negatives: [in_batch, {name: popularity, number: 2048, alpha: 0.5}]`.

    When to use: sessions and histories in which what came last matters most; time grows with their length, and not with
    its square.

    Args:
        schema: has items, and a history of them.
        embedding_dim: width of the items' vectors, >= 1.
        hidden_units: width of the state; None takes that of the items' vectors.
        num_layers: >= 1.
        dropout: of the items' vectors, and of the states between layers and after the last one, in [0, 1).
        history: the sequence feature that is read; None takes the first one that shares the table of the items' id.
        positions: which ones learn: `all`, or the `last` one of each row alone, for data with a row an item.
        init_std: standard deviation of the initial embeddings, >= 0.

    Shapes:
        `user` (B, D), `item` (C, D)

    Raises:
        SchemaError: the schema has no items.
        ConfigError: there is no history.

    Reference: Hidasi and Karatzoglou, Recurrent Neural Networks with Top-k Gains for Session-based Recommendations,
    arXiv 1706.03847, with shared embeddings (section 3.3 and on); the network is that of arXiv 1511.06939. A history is
    read from its start: no state is carried from one batch to the next.
    """

    def __init__(
        self,
        schema: Schema,
        *,
        embedding_dim: PositiveInt = 64,
        hidden_units: PositiveInt | None = None,
        num_layers: PositiveInt = 1,
        dropout: Probability = 0.2,
        history: str | None = None,
        positions: Learning = "all",
        init_std: Annotated[float, Ge(0)] = 0.02,
    ) -> None:
        super().__init__(schema, embedding_dim=embedding_dim, history=history, positions=positions, init_std=init_std)
        hidden = hidden_units or self.width
        self.dropout = nn.Dropout(dropout)
        between = dropout if num_layers > 1 else 0.0
        self.gru = nn.GRU(self.width, hidden, num_layers, batch_first=True, dropout=between)
        self.project = Linear(hidden, self.width) if hidden != self.width else nn.Identity()

    def encode(self, features: Features, tokens: Tokens) -> Tensor:
        states = recurrent(self.gru, self.dropout(self.look_up(tokens.ids)), tokens)
        result: Tensor = self.project(self.dropout(states))
        return result
