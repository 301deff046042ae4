"""Two perceptrons and their products."""

from __future__ import annotations

from typing import Annotated, Any

import torch
from annotated_types import MinLen
from torch import Tensor, nn

from rechub_ray.batch import Features, Outputs
from rechub_ray.layers.field_attention import check_heads
from rechub_ray.layers.inputs import DeepInput, choose
from rechub_ray.layers.linear import Linear
from rechub_ray.layers.mlp import MLP, HiddenUnits
from rechub_ray.models.base import MODELS
from rechub_ray.models.ranking.base import DeepRanker
from rechub_ray.schema import PositiveInt, Schema


@MODELS.register("finalmlp")
class FinalMLP(DeepRanker):
    """Two perceptrons, each behind a gate of the features, and their bilinear fusion.

    `logit = b + <w_1, o_1> + <w_2, o_2> + sum_h o_{1,h}^T W_h o_{2,h}` with `o_s = mlp_s(g_s * x)`, x = [e_1, ..., e_K,
    dense], in heads h. A gate is `g = 2 sigmoid(mlp(context))`; the context is some features' vectors, from tables of
    its own, or nothing: then g is the same for all rows.

    When to use: the highest published figure on Frappe of the models here: two plain perceptrons, gated by user and
    item.

    Args:
        schema: the features.
        hidden_units: widths of the first perceptron's hidden layers; at least one.
        second_units: those of the second one.
        num_heads: H; divides the last width of both.
        feature_gates: whether there are gates.
        gate_units: widths of a gate's hidden layers.
        first_gate_features: names of the context of the first gate; None for no context.
        second_gate_features: names of the context of the second gate.
        deep_features: names of the features to use; None takes all.
        **common: `activation`, `dropout`, `batch_norm`, `embedding_dim`, `init_std`.

    Raises:
        ConfigError: a last width that is no multiple of `num_heads`.

    Reference: Mao et al., FinalMLP: An Enhanced Two-Stream MLP Model for CTR Prediction, arXiv 2304.00902, section 3.
    """

    def __init__(
        self,
        schema: Schema,
        *,
        hidden_units: Annotated[HiddenUnits, MinLen(1)] = (256,),
        second_units: Annotated[HiddenUnits, MinLen(1)] = (128,),
        num_heads: PositiveInt = 1,
        feature_gates: bool = True,
        gate_units: HiddenUnits = (256,),
        first_gate_features: list[str] | None = None,
        second_gate_features: list[str] | None = None,
        deep_features: list[str] | None = None,
        **common: Any,
    ) -> None:
        super().__init__(schema, hidden_units=hidden_units, **common)
        names = choose(schema, deep_features, key="deep_features")
        self.embedding = self.embed(names)
        self.deep_input = DeepInput(schema, self.embedding, names)
        width = self.deep_input.width
        for units, key in ((hidden_units, "hidden_units"), (second_units, "second_units")):
            check_heads(units[-1], num_heads, key=f"the last of {key},")
        contexts = {"first_gate_features": first_gate_features, "second_gate_features": second_gate_features}
        self.gates = nn.ModuleList(
            self._gate(key, chosen, gate_units, width) for key, chosen in contexts.items() if feature_gates
        )
        self.streams = nn.ModuleList(MLP(width, units, **self.hidden) for units in (hidden_units, second_units))
        self.output, self.num_heads = Linear(hidden_units[-1] + second_units[-1], 1), num_heads
        self.fusion = nn.Parameter(torch.empty(num_heads, hidden_units[-1] // num_heads, second_units[-1] // num_heads))
        # as one linear layer on all products of two heads: with matrices of a layer each, logits would start far from 0
        nn.init.normal_(self.fusion, std=(2 / (self.fusion.numel() + 1)) ** 0.5)

    def _gate(self, key: str, chosen: list[str] | None, units: HiddenUnits, width: int) -> nn.Module:
        if chosen is None:
            return _Gate(None, None, units, width)
        names = choose(self.schema, chosen, key=key)
        bank = self.embed(names, name=key)
        return _Gate(bank, DeepInput(self.schema, bank, names), units, width)

    def forward(self, features: Features) -> Outputs:
        x = self.deep_input(self.embedding.flat(features), features.dense)
        inputs = [gate(features) * x for gate in self.gates] if len(self.gates) else [x, x]
        first, second = (stream(part) for stream, part in zip(self.streams, inputs, strict=True))
        heads = [part.view(part.shape[0], self.num_heads, -1) for part in (first, second)]
        turned = torch.bmm(heads[0].transpose(0, 1), self.fusion).transpose(0, 1)
        return {"logit": self.output(first, second).squeeze(1) + (turned * heads[1]).sum((1, 2))}


class _Gate(nn.Module):
    """Factors of x's columns, in (0, 2): (B, width), or (width,) without a context."""

    def __init__(self, bank: Any, context: DeepInput | None, units: HiddenUnits, width: int) -> None:
        super().__init__()
        self.embedding, self.context = bank, context
        self.mlp = None if context is None else MLP(context.width, units, output_dim=width)
        self.constant = nn.Parameter(torch.zeros(width)) if context is None else None

    def forward(self, features: Features) -> Tensor:
        if self.context is None or self.mlp is None:
            assert self.constant is not None
            return 2 * torch.sigmoid(self.constant)
        return 2 * torch.sigmoid(self.mlp(*self.context.parts(self.embedding.flat(features), features.dense)))
