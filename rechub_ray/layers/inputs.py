"""Which features a part of a model reads, and where they lie in the stacked tensors."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from rechub_ray.errors import ConfigError, SchemaError, nearest
from rechub_ray.layers.embedding import Embeddings
from rechub_ray.layers.linear import Linear
from rechub_ray.schema import Schema


def choose(schema: Schema, names: Sequence[str] | None, *, key: str) -> list[str]:
    """Return the names of the chosen features in the schema's order; None chooses all.

    Args:
        schema: has the features.
        names: what the user asked for.
        key: the argument that holds `names`, for the error.

    Raises:
        ConfigError: unknown name, or none at all.
    """
    if names is None:
        return schema.feature_names
    for name in names:
        if name not in schema.feature_names:
            raise ConfigError(
                f"'model.{key}': the schema has no feature '{name}'", hint=nearest(name, schema.feature_names)
            )
    if not names:
        raise ConfigError(f"'model.{key}' is empty", expected="names of features; leave it out for all of them")
    return [name for name in schema.feature_names if name in names]


def embedded(schema: Schema, names: Sequence[str]) -> list[str]:
    """Return those of `names` that have an embedding: sparse features, then sequences, as they lie in `Embeddings`."""
    return [f.name for f in schema.embedded if f.name in names]


class Columns(nn.Module):
    """Picks blocks of neighbouring columns; all of them, or one stretch, without a copy.

    Args:
        widths: number of columns of each block, in the order in which they lie.
        chosen: for each block, whether it is picked.

    Shapes:
        (B, sum of all widths) -> (B, sum of the chosen widths)

    Example:
        >>> Columns([2, 1, 1], [True, False, True])(torch.tensor([[1, 2, 3, 4]])).tolist()
        [[1, 2, 4]]
    """

    def __init__(self, widths: Sequence[int], chosen: Sequence[bool]) -> None:
        super().__init__()
        self.width = sum(width for width, one in zip(widths, chosen, strict=True) if one)
        self._all = all(chosen)
        self._stretches: list[tuple[int, int]] = []
        start = 0
        for width, one in zip(widths, chosen, strict=True):
            if one and self._stretches and self._stretches[-1][1] == start:
                self._stretches[-1] = (self._stretches[-1][0], start + width)
            elif one:
                self._stretches.append((start, start + width))
            start += width

    @classmethod
    def of_dense(cls, schema: Schema, names: Sequence[str]) -> Columns:
        """Return the choice of the named numeric features' columns in `Features.dense`."""
        return cls([f.dim for f in schema.dense], [f.name in names for f in schema.dense])

    @classmethod
    def of_bank(cls, bank: Embeddings, names: Sequence[str]) -> Columns:
        """Return the choice of the named features' columns in `bank.flat`."""
        return cls(bank.widths, [f.name in names for f in bank.features])

    def forward(self, x: Tensor) -> Tensor:
        if self._all:
            return x
        parts = [x[:, start:stop] for start, stop in self._stretches]
        if len(parts) == 1:
            return parts[0]
        return torch.cat(parts, 1) if parts else x[:, :0]


class VectorInput(nn.Module):
    """The embeddings of some features stacked, for layers that compare them: all must have one width.

    Args:
        bank: a bank or a view; embeds at least the named features.
        names: the features; numeric ones have no embedding and are passed over.

    Attributes:
        count: K, the number of vectors.
        width: D, their width.

    Shapes:
        flat: (B, bank.flat_dim), from `bank.flat`.
        Result: (B, K, D).

    Raises:
        SchemaError: features that differ in width, or none with an embedding.
    """

    def __init__(self, bank: Embeddings, names: Sequence[str]) -> None:
        super().__init__()
        widths = {f.name: width for f, width in zip(bank.features, bank.widths, strict=True) if f.name in names}
        if not widths:
            raise SchemaError(
                "this model multiplies embeddings, and none of its features has one",
                expected="a sparse or sequence feature",
                got=", ".join(names),
            )
        if len(set(widths.values())) > 1:
            raise SchemaError(
                "this model multiplies embeddings with one another, so they need one width",
                got=", ".join(f"{name} {width}" for name, width in widths.items()),
                hint="Drop `embed_dim` from the schema, or name the features that interact in `fm_features`.",
            )
        self.columns = Columns.of_bank(bank, names)
        self.count, self.width = len(widths), next(iter(widths.values()))

    def forward(self, flat: Tensor) -> Tensor:
        vectors: Tensor = self.columns(flat).view(flat.shape[0], self.count, self.width)
        return vectors


class FieldInput(nn.Module):
    """A vector for each feature, stacked: the embeddings, then `sum_j x_j v_j` for each numeric feature.

    Args:
        schema: has the features.
        bank: a bank or a view; embeds at least the named features.
        names: the features; at least one has an embedding.

    Attributes:
        count: K, the number of vectors.
        width: D, their width.

    Shapes:
        flat: (B, bank.flat_dim), from `bank.flat`.
        dense: (B, number of numeric values).
        Result: (B, K, D).

    Raises:
        SchemaError: features that differ in width, or none with an embedding.
    """

    def __init__(self, schema: Schema, bank: Embeddings, names: Sequence[str]) -> None:
        super().__init__()
        self.vectors = VectorInput(bank, names)
        self.numbers = Columns.of_dense(schema, names)
        self.dims = [f.dim for f in schema.dense if f.name in names]
        self.count, self.width = self.vectors.count + len(self.dims), self.vectors.width
        self.maps = nn.ModuleList(Linear(dim, self.width, bias=False) for dim in self.dims)

    def forward(self, flat: Tensor, dense: Tensor) -> Tensor:
        vectors: Tensor = self.vectors(flat)
        if not self.dims:
            return vectors
        parts = torch.split(self.numbers(dense), self.dims, 1)
        return torch.cat([vectors, torch.stack([to(x) for to, x in zip(self.maps, parts, strict=True)], 1)], 1)


class DeepInput(nn.Module):
    """The embeddings and the numeric values of some features side by side: `[e_1, ..., e_K, dense]`.

    Args:
        schema: has the features.
        bank: a bank or a view; embeds at least the named features.
        names: the features.

    Attributes:
        width: number of columns of the result.

    Shapes:
        flat: (B, bank.flat_dim), from `bank.flat`.
        dense: (B, D).
        Result: (B, width); of `parts`, the one or two parts of it.
    """

    def __init__(self, schema: Schema, bank: Embeddings, names: Sequence[str]) -> None:
        super().__init__()
        self.embedded = Columns.of_bank(bank, names)
        self.dense = Columns.of_dense(schema, names)
        self.width = self.embedded.width + self.dense.width

    def forward(self, flat: Tensor, dense: Tensor) -> Tensor:
        parts = self.parts(flat, dense)
        return parts[0] if len(parts) == 1 else torch.cat(parts, 1)

    def parts(self, flat: Tensor, dense: Tensor) -> list[Tensor]:
        """Return the tensors that lie side by side in the result, for layers that take them so."""
        return [part for part in (self.embedded(flat), self.dense(dense)) if part.shape[1] > 0]
