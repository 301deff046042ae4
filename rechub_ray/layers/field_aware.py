"""Embeddings of factorisation machines that have a vector of each feature for each other one."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence

from torch import Tensor, nn

from rechub_ray.errors import SchemaError
from rechub_ray.layers.embedding import EmbeddingBank
from rechub_ray.layers.inputs import embedded
from rechub_ray.layers.pairs import Pairs
from rechub_ray.schema import DenseFeature, Schema


def field_aware_bank(schema: Schema, names: Sequence[str], *, dim: int, init_std: float) -> EmbeddingBank:
    """Return a bank whose rows hold K - 1 vectors side by side, one for each other feature of K.

    A table of V ids has V (K - 1) dim numbers, K - 1 times those of a plain one, and so has the state of its
    optimizer. A row of a batch looks K rows up, not K (K - 1). Features that share a table share whole rows.

    Args:
        schema: has the features.
        names: the features; numeric ones have no embedding and are passed over.
        dim: width of a vector, where the features do not have an `embed_dim`.
        init_std: standard deviation of the initial rows, >= 0.

    Raises:
        SchemaError: features that differ in width, or fewer than two with an embedding.
    """
    fields = embedded(schema, names)
    if len(fields) < 2:
        raise SchemaError(
            "this model multiplies embeddings of different features",
            expected="two or more sparse or sequence features",
            got=", ".join(fields) or "none",
        )
    by_name = {f.name: f for f in schema.embedded}
    widths = {name: by_name[by_name[name].shared_with or name].embed_dim or dim for name in fields}
    if len(set(widths.values())) > 1:
        raise SchemaError(
            "this model multiplies embeddings with one another, so they need one width",
            got=", ".join(f"{name} {width}" for name, width in widths.items()),
            hint="Drop `embed_dim` from the schema, or name the features that interact in `fm_features`.",
        )
    plain = [f if isinstance(f, DenseFeature) else dataclasses.replace(f, embed_dim=None) for f in schema.features]
    return EmbeddingBank(
        dataclasses.replace(schema, features=tuple(plain)),
        dim=(len(fields) - 1) * widths[fields[0]],
        features=fields,
        init_std=init_std,
    )


class FieldAwareInput(nn.Module):
    """The vectors of a `field_aware_bank`: of each feature i for each other one j.

    The row of feature i holds its vectors for j = 0, ..., i-1, i+1, ..., K-1, in this order.

    Args:
        bank: from `field_aware_bank`.

    Attributes:
        count: K, the number of features.
        width: D, of a vector.

    Shapes:
        flat (B, bank.flat_dim), from `bank.flat` -> (B, K (K-1), D)
    """

    def __init__(self, bank: EmbeddingBank) -> None:
        super().__init__()
        self.count = len(bank.features)
        self.width = bank.widths[0] // (self.count - 1)

    def forward(self, flat: Tensor) -> Tensor:
        return flat.view(flat.shape[0], self.count * (self.count - 1), self.width)


class FieldAwarePairs(nn.Module):
    """For each pair i < j, the vector of i for j and that of j for i.

    Args:
        count: K, the number of features.

    Attributes:
        number: P, of pairs.

    Shapes:
        (B, K (K-1), D), from `FieldAwareInput` -> two of (B, P, D)

    Reference: Juan et al., Field-aware Factorization Machines for CTR Prediction (RecSys 2016), eq. 4.
    """

    left: Tensor
    right: Tensor

    def __init__(self, count: int) -> None:
        super().__init__()
        pairs = Pairs(count)
        self.number = pairs.number
        self.register_buffer("left", pairs.left * (count - 1) + pairs.right - 1, persistent=False)
        self.register_buffer("right", pairs.right * (count - 1) + pairs.left, persistent=False)

    def forward(self, vectors: Tensor) -> tuple[Tensor, Tensor]:
        return vectors.index_select(1, self.left), vectors.index_select(1, self.right)
