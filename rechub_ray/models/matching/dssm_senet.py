"""Two towers whose features are weighed by what all of a tower's features hold."""

from __future__ import annotations

from typing import Any, Literal

from torch import Tensor

from rechub_ray.batch import Features
from rechub_ray.layers.inputs import VectorInput
from rechub_ray.layers.squeeze_excitation import SqueezeExcitation
from rechub_ray.models.base import MODELS
from rechub_ray.models.matching.dssm import DSSM
from rechub_ray.schema import PositiveInt, Schema


@MODELS.register("dssm_senet")
class DSSMSENet(DSSM):
    """`DSSM` with squeeze and excitation of the embeddings in front of each perceptron.

    With the embeddings e_1, ..., e_K of a tower and their means z, each is multiplied by its factor of
    `a = f(W_2 relu(W_1 z))`: `mlp([a_1 e_1, ..., a_K e_K, dense])`.

    When to use: as `dssm`, with many features of which some matter little.

    Args:
        schema: the features; has items. The embeddings of a tower have one width.
        reduction_ratio: K over the rows of W_1, of which there is one at least; >= 1.
        excitation: f. `relu`, as in FiBiNET and Torch-RecHub, may make all factors of a tower zero for good.
        common: the arguments of `DSSM`.

    Shapes:
        `user` (B, D), `item` (C, D)

    Raises:
        SchemaError: the schema has no items, or the embeddings of a tower differ in width.

    Reference: Hu, Shen and Sun, Squeeze-and-Excitation Networks (CVPR 2018), eq. 2 to 4; for features: Huang, Zhang and
    Zhang, FiBiNET (RecSys 2019), eq. 5 to 7.
    """

    def __init__(
        self,
        schema: Schema,
        *,
        reduction_ratio: PositiveInt = 3,
        excitation: Literal["relu", "sigmoid"] = "sigmoid",
        **common: Any,
    ) -> None:
        super().__init__(schema, **common)
        self.user_vector_input, self.item_vector_input = (
            VectorInput(view, [feature.name for feature in view.features])
            for view in (self.user_embedding, self.item_embedding)
        )
        self.user_senet, self.item_senet = (
            SqueezeExcitation(len(view.features), reduction_ratio=reduction_ratio, excitation=excitation)
            for view in (self.user_embedding, self.item_embedding)
        )

    def read_user(self, features: Features) -> list[Tensor]:
        weighed = self.user_senet(self.user_vector_input(self.user_embedding.flat(features)))
        return self.user_input.parts(weighed.flatten(1), features.dense)

    def read_items(self, items: Features) -> list[Tensor]:
        weighed = self.item_senet(self.item_vector_input(self.item_embedding.flat(items)))
        return self.item_input.parts(weighed.flatten(1), items.dense)
