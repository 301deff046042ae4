"""eXtreme DeepFM."""

from __future__ import annotations

from typing import Annotated, Any

from annotated_types import MinLen

from rechub_ray.batch import Features, Outputs
from rechub_ray.layers.cin import CIN
from rechub_ray.layers.inputs import DeepInput, VectorInput, choose
from rechub_ray.layers.linear import Linear
from rechub_ray.layers.mlp import HiddenUnits
from rechub_ray.models.base import MODELS
from rechub_ray.models.ranking.base import DeepRanker
from rechub_ray.schema import Schema


@MODELS.register("xdeepfm")
class XDeepFM(DeepRanker):
    """Explicit products of growing degree beside a deep part: `logit = linear(x) + <w, cin(e)> + b + mlp(x)`.

    Sparse features and pooled sequences interact in the compressed interaction network (`CIN`); numeric features take
    part in the linear term and the deep part.

    When to use: products of three and more features whose degree should stay bounded; slower than `dcn_v2` with many
    features.

    Args:
        schema: the features; those of `fm_features` that interact all have the width `embedding_dim`.
        cin_units: vectors of each layer of the CIN; at least one layer.
        hidden_units: widths of the deep part's hidden layers; none leaves the deep part out.
        fm_features: names of the features of the linear term and the CIN; None takes all.
        deep_features: names of the deep part's features; None takes all.
        **common: `activation`, `dropout`, `batch_norm`, `embedding_dim`, `init_std`.

    Raises:
        SchemaError: interacting features that differ in width.

    Reference: Lian et al., xDeepFM, arXiv 1803.05170, section 3. Deviation: numeric features are not embedded.
    """

    def __init__(
        self,
        schema: Schema,
        *,
        cin_units: Annotated[HiddenUnits, MinLen(1)] = (64, 64),
        hidden_units: HiddenUnits = (256, 128),
        fm_features: list[str] | None = None,
        deep_features: list[str] | None = None,
        **common: Any,
    ) -> None:
        super().__init__(schema, hidden_units=hidden_units, **common)
        fm = choose(schema, fm_features, key="fm_features")
        deep = choose(schema, deep_features, key="deep_features") if hidden_units else []
        self.linear = self.first_order(fm, bias=False)
        self.embedding = self.embed([*fm, *deep])
        self.fm_input = VectorInput(self.embedding, fm)
        self.cin = CIN(self.fm_input.count, cin_units)
        self.output = Linear(self.cin.width, 1)
        self.deep_input = DeepInput(schema, self.embedding, deep) if hidden_units else None
        self.mlp = self.perceptron(self.deep_input.width) if self.deep_input is not None else None

    def forward(self, features: Features) -> Outputs:
        flat = self.embedding.flat(features)
        logit = self.linear(features) + self.output(self.cin(self.fm_input(flat))).squeeze(1)
        if self.deep_input is not None and self.mlp is not None:
            logit = logit + self.mlp(*self.deep_input.parts(flat, features.dense)).squeeze(1)
        return {"logit": logit}
