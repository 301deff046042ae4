"""MaskNet."""

from __future__ import annotations

from typing import Annotated, Any, Literal

import torch
import torch.nn.functional as F
from annotated_types import Gt
from torch import Tensor, nn

from rechub_ray.batch import Features, Outputs
from rechub_ray.layers.inputs import Columns, VectorInput, choose
from rechub_ray.layers.linear import Linear
from rechub_ray.layers.mask_block import MaskBlock
from rechub_ray.models.base import MODELS
from rechub_ray.models.ranking.base import DeepRanker
from rechub_ray.schema import PositiveInt, Schema


@MODELS.register("masknet")
class MaskNet(DeepRanker):
    """Layers whose input is multiplied by a mask made of the whole input, one after the other or side by side.

    With v = [e_1, ..., e_K, dense] and n = [LN(e_1), ..., LN(e_K), dense], see `MaskBlock`:
    `parallel`: `logit = mlp([block_1(v, n), ..., block_L(v, n)])`; `serial`: x_0 = n, `x_{l+1} = block(v, x_l)`,
    `logit = <w, x_L> + b`.

    When to use: where a feature's meaning depends on the whole row: masks rescale each layer by it.

    Args:
        schema: the features; those with embeddings all have one width (no `embed_dim` of their own).
        structure: `parallel`, or `serial`, which does not read `hidden_units`, `activation`, `batch_norm`.
        num_blocks: L, >= 1.
        block_dim: width of a block's result, >= 1.
        reduction_ratio: units of a mask's inner layer over the width of v, > 0.
        embedding_norm: whether each embedding is normalised in n.
        deep_features: names of the features to use; None takes all.
        **common: `hidden_units`, `activation`, `dropout` (of the perceptron, and of what blocks give), `batch_norm`,
            `embedding_dim`, `init_std`.

    Raises:
        SchemaError: features that differ in width, or none with an embedding.

    Reference: Wang et al., MaskNet, arXiv 2102.07619, section 3. Deviation: numeric features are not embedded.
    """

    def __init__(
        self,
        schema: Schema,
        *,
        structure: Literal["parallel", "serial"] = "parallel",
        num_blocks: PositiveInt = 3,
        block_dim: PositiveInt = 64,
        reduction_ratio: Annotated[float, Gt(0)] = 2.0,
        embedding_norm: bool = True,
        deep_features: list[str] | None = None,
        **common: Any,
    ) -> None:
        super().__init__(schema, **common)
        names = choose(schema, deep_features, key="deep_features")
        self.embedding = self.embed(names)
        self.vectors, self.numbers = VectorInput(self.embedding, names), Columns.of_dense(schema, names)
        count, dim = self.vectors.count, self.vectors.width
        width, self.structure = count * dim + self.numbers.width, structure
        self.scale = nn.Parameter(torch.ones(count, dim)) if embedding_norm else None
        self.shift = nn.Parameter(torch.zeros(count, dim)) if embedding_norm else None
        self.blocks = nn.ModuleList(
            MaskBlock(width, block_dim if i and structure == "serial" else width, block_dim, reduction_ratio)
            for i in range(num_blocks)
        )
        self.dropout = nn.Dropout(self.hidden["dropout"])
        self.mlp = self.perceptron(num_blocks * block_dim) if structure == "parallel" else None
        self.output = Linear(block_dim, 1) if structure == "serial" else None

    def forward(self, features: Features) -> Outputs:
        vectors = self.vectors(self.embedding.flat(features))
        normed = vectors
        if self.scale is not None and self.shift is not None:  # a norm of its own for each feature
            normed = F.layer_norm(vectors, vectors.shape[2:]) * self.scale + self.shift
        v, x = (self._beside_numbers(part, features) for part in (vectors, normed))
        if self.mlp is not None:
            return {"logit": self.mlp(self.dropout(torch.cat([block(v, x) for block in self.blocks], 1))).squeeze(1)}
        for block in self.blocks:
            x = self.dropout(block(v, x))
        assert self.output is not None
        return {"logit": self.output(x).squeeze(1)}

    def _beside_numbers(self, vectors: Tensor, features: Features) -> Tensor:
        flat = vectors.flatten(1)
        return torch.cat([flat, self.numbers(features.dense)], 1) if self.numbers.width else flat
