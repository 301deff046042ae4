"""The base of models for retrieval: a tower for users, and one for items."""

from __future__ import annotations

import abc
from collections.abc import Sequence
from typing import Any, ClassVar, Literal, TypeAlias

import torch
from torch import Tensor
from torch.nn import functional as F

from rechub_ray.batch import Features, Outputs
from rechub_ray.layers.embedding import EmbeddingBank
from rechub_ray.layers.inputs import DeepInput, embedded
from rechub_ray.models.base import Model
from rechub_ray.outputs import Output
from rechub_ray.schema import Schema

Similarity: TypeAlias = Literal["cosine", "dot"]


class Retriever(Model):
    """Base of models that give users and items vectors: the larger the product of two, the better the item suits.

    A subclass calls `embed` in its constructor, and gives the vectors of users and of items, each from its own side's
    features: so towers are exported and run alone.

    Args:
        schema: has items; see `Schema.items`.
        similarity: `cosine` divides vectors by their lengths, so that their products are cosines; `dot` leaves them.

    Attributes:
        user_schema: what the user tower reads: the features of the rows without the item's id.
        item_schema: what the item tower reads: the id and the features of the item table.
        embedding: the tables of both sides.
        user_embedding: lookups of the user side in them.
        item_embedding: lookups of the item side in them.
        user_input: the user side's embeddings and numbers side by side.
        item_input: the item side's.
        default_losses: what trains it where a run names no losses.
        default_negatives: those of its default losses; None takes the losses' own.

    Raises:
        SchemaError: the schema has no items.
    """

    default_losses: ClassVar[tuple[Any, ...]] = ("sampled_softmax",)
    default_negatives: ClassVar[tuple[Any, ...] | None] = None

    def __init__(self, schema: Schema, *, similarity: Similarity = "dot") -> None:
        super().__init__(schema)
        self.user_schema, self.item_schema, self.similarity = schema.user_side, schema.item_side, similarity
        is_unit = similarity == "cosine"
        self.outputs = (
            Output("user", "vector", part="user", is_unit=is_unit),
            Output("item", "vector", part="item", is_unit=is_unit),
        )

    def embed(
        self, users: Sequence[str], items: Sequence[str], *, dim: int, init_std: float, alone: Sequence[str] = ()
    ) -> None:
        """Make the tables and the inputs of both towers.

        Args:
            users: names of the user tower's features.
            items: names of the item tower's features.
            dim: width of the embeddings of features without their own `embed_dim`, >= 1.
            init_std: standard deviation of the initial rows, >= 0.
            alone: names of features that have tables and are in no input: a tower looks them up itself.
        """
        joined = self.schema.joined
        names = embedded(joined, [*users, *alone, *items])
        self.embedding = EmbeddingBank(joined, dim=dim, features=names, init_std=init_std)
        self.user_embedding = self.embedding.view(self.user_schema, embedded(self.user_schema, users))
        self.item_embedding = self.embedding.view(self.item_schema, embedded(self.item_schema, items))
        self.user_input = DeepInput(self.user_schema, self.user_embedding, users)
        self.item_input = DeepInput(self.item_schema, self.item_embedding, items)

    @abc.abstractmethod
    def user_vectors(self, features: Features) -> Tensor:
        """Return the users' vectors, (B, D), or (B, K, D) of K interests, of features of the user side."""

    @abc.abstractmethod
    def item_vectors(self, items: Features) -> Tensor:
        """Return the items' vectors, (C, D), of features of the item side."""

    def forward(self, features: Features, items: Features | None = None) -> Outputs:
        """Return the users' vectors, and those of the items that are given.

        Args:
            features: of the user side, B rows.
            items: of the item side, C rows.
        """
        outputs = {"user": self.user_vectors(features)}
        if items is not None:
            outputs["item"] = self.item_vectors(items)
        return outputs

    def read_user(self, features: Features) -> list[Tensor]:
        """Return the user tower's input, in parts that lie side by side."""
        return self.user_input.parts(self.user_embedding.flat(features), features.dense)

    def read_items(self, items: Features) -> list[Tensor]:
        """Return the item tower's input, in parts that lie side by side."""
        return self.item_input.parts(self.item_embedding.flat(items), items.dense)

    def scaled(self, vectors: Tensor) -> Tensor:
        """Return the vectors as they are compared: divided by their lengths, or as they are."""
        return F.normalize(vectors, dim=-1, eps=1e-6) if self.similarity == "cosine" else vectors


def without_item(schema: Schema, features: Features) -> tuple[Features, Tensor]:
    """Return the user side of rows, and their items' ids, (B,).

    Args:
        schema: of the rows; has items.
        features: as they are read.
    """
    assert schema.items is not None
    column = [feature.name for feature in schema.sparse].index(schema.items.id)
    sparse = torch.cat([features.sparse[:, :column], features.sparse[:, column + 1 :]], 1)
    return Features(sparse, features.dense, features.sequences), features.sparse[:, column].contiguous()
