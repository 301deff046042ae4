"""The base of models that read a user's items in their order and learn at each of them."""

from __future__ import annotations

import abc
import dataclasses
from collections.abc import Callable
from typing import Literal, TypeAlias

import torch
from torch import Tensor

from rechub_ray.batch import Features, Outputs, RaggedSequences
from rechub_ray.layers.embedding import EmbeddingBank
from rechub_ray.layers.tokens import Tokens
from rechub_ray.models.matching.base import Retriever, Similarity
from rechub_ray.models.matching.history import history_of
from rechub_ray.schema import Schema

Learning: TypeAlias = Literal["all", "last"]


@dataclasses.dataclass(slots=True)
class Positions:
    """The positions of a batch's histories that learn, each with the item that is right there.

    Args:
        features: of the user side, as the model reads them in training.
        rows: the row of each.
        slots: its number within its row, in [0, the model's `slots`).
        ids: the item.
        places: where its vector stands among the tokens of the history in `features`.

    Shapes:
        rows, slots, ids, places: (P,) int64
    """

    features: Features
    rows: Tensor
    slots: Tensor
    ids: Tensor
    places: Tensor


class SequentialRetriever(Retriever):
    """Base of models whose user is a history of items, and whose items are rows of a table.

    In training, every item of a history learns which one comes next, the last one the row's own; so a user needs one
    row a window of the history (`rows: windows` of a recipe's `history`), not one an item. The user's vector is that of
    the last position.

    A subclass gives the vectors of all positions (`encode`).

    Args:
        schema: has items, and a sequence feature that shares the table of their id.
        embedding_dim: width of the items' vectors, >= 1, unless the id has an `embed_dim`.
        history: that sequence feature; None takes the first one.
        positions: which ones learn: `all`, or the `last` one of each row alone, for data with a row an item.
        similarity: `cosine` divides vectors by their lengths; `dot` leaves them.
        init_std: standard deviation of the initial embeddings, >= 0.

    Attributes:
        history: the sequence feature.
        width: of the vectors, D.
        slots: the largest number of positions of a row.

    Raises:
        SchemaError: the schema has no items.
        ConfigError: there is no such sequence feature.
    """

    def __init__(
        self,
        schema: Schema,
        *,
        embedding_dim: int,
        history: str | None = None,
        positions: Learning = "all",
        similarity: Similarity = "dot",
        init_std: float,
    ) -> None:
        super().__init__(schema, similarity=similarity)
        self.history = history_of(schema, history)
        self.slots, self._learning = self.history.max_length, positions
        self._position = [feature.name for feature in self.user_schema.sequences].index(self.history.name)
        self._id = self.item_schema.sparse[0].name
        self.embedding = EmbeddingBank(schema.joined, dim=embedding_dim, features=[self._id], init_std=init_std)
        self.width = self.embedding.widths[0]

    @abc.abstractmethod
    def encode(self, features: Features, tokens: Tokens) -> Tensor:
        """Return a vector a token, of itself and those before it in its row, (N, D).

        Args:
            features: of the user side.
            tokens: of the history.
        """

    def positions(self, features: Features, own: Tensor, numbers: Callable[[int], Tensor]) -> Positions:
        """Return what learns in a step; here, every item of a history learns the next one.

        Args:
            features: of the user side, ragged.
            own: ids of the rows' items, (B,).
            numbers: returns so many random numbers in [0, 1) a row, (B, number) float64, the same ones however the rows
                are spread over workers.
        """
        values, lengths = self._lists(features)
        ends = lengths.cumsum(0)
        every = torch.arange(len(values), device=values.device)
        rows = torch.repeat_interleave(torch.arange(len(own), device=own.device), lengths, output_size=len(values))
        slots = every - (ends - lengths)[rows]
        has_any = lengths > 0
        last = ends[has_any] - 1
        ids = torch.cat([values[1:], values[:1]]).scatter(0, last, own[has_any])
        if self._learning == "last":
            return Positions(features, rows[last], slots[last], own[has_any], last)
        return Positions(features, rows, slots, ids, every)

    def user_vectors(self, features: Features) -> Tensor:
        tokens = Tokens.of(features, self._position)
        return self.scaled(tokens.of_last(self.encode(features, tokens)))

    def item_vectors(self, items: Features) -> Tensor:
        return self.scaled(self.look_up(items.sparse[:, 0]))

    def forward(self, features: Features, items: Features | None = None, places: Tensor | None = None) -> Outputs:
        """Return the users' vectors, and those of the items that are given.

        Args:
            features: of the user side, B rows.
            items: of the item side, C rows.
            places: of positions, among the tokens of the history: the vectors are theirs instead of the rows'.
        """
        if places is None:
            return super().forward(features, items)
        outputs = {"user": self.scaled(self.position_vectors(features, places))}
        return outputs if items is None else {**outputs, "item": self.item_vectors(items)}

    def position_vectors(self, features: Features, places: Tensor) -> Tensor:
        """Return the vectors of positions, (P, D), before they are scaled; `places` are as for `forward`."""
        tokens = Tokens.of(features, self._position)
        return self.encode(features, tokens)[tokens.order[places]]

    def look_up(self, ids: Tensor) -> Tensor:
        """Return the rows of the items' table, (*ids.shape, D)."""
        return self.embedding.rows(self._id, ids)

    def _lists(self, features: Features) -> tuple[Tensor, Tensor]:
        """Return the histories one behind the other, and their lengths."""
        sequences, rows = features.sequences, features.rows
        assert isinstance(sequences, RaggedSequences)
        offsets = sequences.offsets[self._position * rows : (self._position + 1) * rows + 1]
        return sequences.values[int(offsets[0]) : int(offsets[-1])], offsets.diff()

    def _with_lists(self, features: Features, values: Tensor, lengths: Tensor) -> Features:
        """Return the features with other histories, as `_lists` returns them."""
        sequences, rows, i = features.sequences, features.rows, self._position
        assert isinstance(sequences, RaggedSequences)
        first, last = int(sequences.offsets[i * rows]), int(sequences.offsets[(i + 1) * rows])
        every = sequences.offsets.diff().view(-1, rows)
        every[i] = lengths
        offsets = torch.cat([lengths.new_zeros(1), every.view(-1).cumsum(0)])
        changed = torch.cat([sequences.values[:first], values, sequences.values[last:]])
        return Features(features.sparse, features.dense, RaggedSequences(changed, offsets))
