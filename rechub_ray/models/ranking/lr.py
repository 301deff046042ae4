"""Logistic regression."""

from __future__ import annotations

from typing import Annotated

from annotated_types import Ge

from rechub_ray.batch import Features, Outputs
from rechub_ray.layers.first_order import FirstOrder
from rechub_ray.layers.inputs import choose
from rechub_ray.models.base import MODELS, Model
from rechub_ray.schema import Schema


@MODELS.register("lr")
class LR(Model):
    """One weight for each id and each numeric value: `logit = sum_f w_f[id_f] + <v, dense> + b`.

    When to use: the baseline that every other model has to beat; small and fast, and it knows no pairs of features.

    Args:
        schema: the features.
        wide_features: names of the features to use; None takes all.
        init_std: standard deviation of the initial weights of ids, >= 0.

    Shapes:
        `logit` (B,)

    Example:
        >>> from rechub_ray.schema import Label, SparseFeature
        >>> model = LR(Schema((SparseFeature("user", 10), SparseFeature("item", 5)), (Label("click"),)))
        >>> sum(p.numel() for p in model.parameters())
        16

    Reference: McMahan et al., Ad Click Prediction: a View from the Trenches (KDD 2013), section 3, the model alone.
    """

    def __init__(
        self,
        schema: Schema,
        *,
        wide_features: list[str] | None = None,
        init_std: Annotated[float, Ge(0)] = 1e-4,
    ) -> None:
        super().__init__(schema)
        names = choose(schema, wide_features, key="wide_features")
        self.linear = FirstOrder(schema, names, bias=True, init_std=init_std)

    def forward(self, features: Features) -> Outputs:
        return {"logit": self.linear(features)}
