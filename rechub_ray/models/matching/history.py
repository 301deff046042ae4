"""The base of models for retrieval whose user tower reads the items that the user has had before, in order."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Annotated

import torch
from annotated_types import Ge
from torch import Tensor

from rechub_ray.batch import Features
from rechub_ray.errors import ConfigError
from rechub_ray.models.matching.base import Retriever, Similarity
from rechub_ray.schema import PositiveInt, Schema, SequenceFeature


class HistoryRetriever(Retriever):
    """Base of models that read a history of items, whose vectors they compare users with.

    An item's vector is its row in the table of its id, which the history reads too; its other features are not read. A
    subclass says what the user's vectors are.

    Args:
        schema: has items, and a list of them.
        users: features of the user that `read_user` gives beside the history.
        history: the list of items, oldest first; None takes the first one that shares the table of the items' ids.
        embedding_dim: width of the embeddings of features without their own `embed_dim`, >= 1; that of the item's id
            is the width D of the vectors.
        similarity: `cosine` divides the vectors by their lengths; `dot` leaves them.
        init_std: standard deviation of the initial embeddings, >= 0.

    Attributes:
        dim: D.
        max_length: of the history.

    Raises:
        SchemaError: the schema has no items.
        ConfigError: there is no such list.
    """

    def __init__(
        self,
        schema: Schema,
        users: Sequence[str] = (),
        *,
        history: str | None = None,
        embedding_dim: PositiveInt = 64,
        similarity: Similarity = "dot",
        init_std: Annotated[float, Ge(0)] = 0.1,
    ) -> None:
        super().__init__(schema, similarity=similarity)
        found = history_of(schema, history)
        self.history, self.max_length = found.name, found.max_length
        item = self.item_schema.sparse[0].name
        self.embed(users, [item], dim=embedding_dim, init_std=init_std, alone=[self.history])
        self.history_embedding = self.embedding.view(self.user_schema, [self.history])
        self.dim = self.item_input.width

    def read_history(self, features: Features) -> tuple[Tensor, Tensor]:
        """Return the vectors of the history's items, zeros behind its end, and where there is one.

        Shapes:
            (B, T, D), (B, T) bool; T >= 1
        """
        return self.history_embedding.sequence(features, self.history)

    def places(self, mask: Tensor) -> Tensor:
        """Return the places 0 to T - 1 of histories, none beyond `max_length - 1`.

        Shapes:
            (B, T) -> (T,) int64
        """
        return torch.arange(mask.shape[1], device=mask.device).clamp(max=self.max_length - 1)

    def places_from_end(self, mask: Tensor) -> Tensor:
        """Return how many items come after each place of the histories; 0 behind their end.

        Shapes:
            (B, T) -> (B, T) int64
        """
        last = mask.sum(1, keepdim=True) - 1
        return (last - torch.arange(mask.shape[1], device=mask.device)).clamp(min=0, max=self.max_length - 1)

    def item_vectors(self, items: Features) -> Tensor:
        return self.scaled(self.item_embedding.flat(items))


def history_of(schema: Schema, name: str | None) -> SequenceFeature:
    """Return the sequence of items called `name`, or the first one.

    Raises:
        SchemaError: the schema has no items.
        ConfigError: there is no such sequence.
    """
    own = schema.item_side.sparse[0].name
    fitting = [feature for feature in schema.sequences if feature.shared_with == own]
    for feature in fitting:
        if name in (None, feature.name):
            return feature
    raise ConfigError(
        f"'model.history': the model reads a sequence of items, and there is none{f' called {name!r}' if name else ''}",
        expected=f"a sequence feature with shared_with: {own}",
        got=", ".join(feature.name for feature in fitting or schema.sequences) or "no sequence feature",
    )
