"""Enhanced Deep & Cross Network."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Annotated, Any, Literal, TypeAlias

import torch
from annotated_types import Gt
from torch import Tensor, nn

from rechub_ray.batch import Features, Outputs
from rechub_ray.layers.activation import Activation
from rechub_ray.layers.inputs import DeepInput, choose
from rechub_ray.layers.linear import Linear
from rechub_ray.layers.mlp import MLP, Probability
from rechub_ray.layers.norm import BatchNorm1d
from rechub_ray.models.base import MODELS
from rechub_ray.models.ranking.base import Ranker
from rechub_ray.schema import PositiveInt, Schema

BridgeType: TypeAlias = Literal["hadamard_product", "pointwise_addition", "concatenation", "attention_pooling"]


@MODELS.register("edcn")
class EDCN(Ranker):
    """Cross and deep layers side by side that exchange what they found after each layer.

    In layer l, with b_0 = [e_1, ..., e_K, dense]: gates split b_l into c and d, `c_{l+1} = c_0 <w_l, c> + v_l + c`,
    `d_{l+1} = act(W_l d + u_l)`, and the bridge is `b_{l+1} = c_{l+1} * d_{l+1}` (or what `bridge_type` says). At the
    end, `logit = <w, [c_L, d_L, b_L]> + b`. A gate multiplies each feature's numbers by one of
    `softmax(g / temperature)`, g a number for each feature.

    When to use: as `dcn`, with few weights: the layers on both sides share what they find.

    Args:
        schema: the features.
        num_cross_layers: L, >= 1.
        bridge_type: `hadamard_product`, `pointwise_addition`, `concatenation` (`relu(W [c, d] + b)`), or
            `attention_pooling` (a c + (1 - a) d, with a softmax of what a small layer says of each).
        regulation: whether there are gates; otherwise c = d = b_l.
        temperature: > 0; the higher, the more alike a gate's weights.
        activation: of the deep layers, which are as wide as b_0.
        dropout: in the deep layers, in [0, 1).
        batch_norm: whether what a gate gives is batch-normalised.
        deep_features: names of the features to use; None takes all.
        **common: `embedding_dim`, `init_std`.

    Reference: Chen et al., Enhancing Explicit and Implicit Feature Interactions via Information Sharing for Parallel
    Deep CTR Models (CIKM 2021), bridge and regulation modules.
    """

    def __init__(
        self,
        schema: Schema,
        *,
        num_cross_layers: PositiveInt = 3,
        bridge_type: BridgeType = "hadamard_product",
        regulation: bool = True,
        temperature: Annotated[float, Gt(0)] = 1.0,
        activation: Activation = "relu",
        dropout: Probability = 0.0,
        batch_norm: bool = False,
        deep_features: list[str] | None = None,
        **common: Any,
    ) -> None:
        super().__init__(schema, **common)
        names = choose(schema, deep_features, key="deep_features")
        self.embedding = self.embed(names)
        self.deep_input = DeepInput(schema, self.embedding, names)
        width, layers = self.deep_input.width, range(num_cross_layers)
        widths = [*self.embedding.widths, *(f.dim for f in schema.dense if f.name in names)]
        self.gates = nn.ModuleList(_Gates(widths, temperature, batch_norm) for _ in layers if regulation)
        self.cross = nn.ModuleList(Linear(width, 1, bias=False) for _ in layers)
        self.biases = nn.ParameterList(nn.Parameter(torch.zeros(width)) for _ in layers)
        self.deep = nn.ModuleList(MLP(width, (width,), activation=activation, dropout=dropout) for _ in layers)
        self.bridges = nn.ModuleList(_Bridge(width, bridge_type) for _ in layers)
        self.output = Linear(3 * width, 1)

    def forward(self, features: Features) -> Outputs:
        bridge = self.deep_input(self.embedding.flat(features), features.dense)
        first: Tensor | None = None
        for i, (cross, bias, layer) in enumerate(zip(self.cross, self.biases, self.deep, strict=True)):
            explicit, implicit = self.gates[i](bridge) if len(self.gates) else (bridge, bridge)
            first = explicit if first is None else first
            explicit = explicit + first * cross(explicit) + bias
            implicit = layer(implicit)
            bridge = self.bridges[i](explicit, implicit)
        return {"logit": self.output(explicit, implicit, bridge).squeeze(1)}


class _Gates(nn.Module):
    """What the cross layer and the deep layer get of x: (B, width) -> twice (B, width)."""

    field: Tensor

    def __init__(self, widths: Sequence[int], temperature: float, batch_norm: bool) -> None:
        super().__init__()
        self.temperature = temperature
        self.logits = nn.Parameter(torch.ones(2, len(widths)))
        field = [i for i, width in enumerate(widths) for _ in range(width)]
        self.register_buffer("field", torch.tensor(field, dtype=torch.int64), persistent=False)
        self.norms = nn.ModuleList(BatchNorm1d(len(field)) for _ in range(2) if batch_norm)

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        weights = torch.softmax(self.logits / self.temperature, 1).index_select(1, self.field)
        gated = [x * weights[0], x * weights[1]]
        if len(self.norms):
            gated = [norm(part) for norm, part in zip(self.norms, gated, strict=True)]
        return gated[0], gated[1]


class _Bridge(nn.Module):
    """One vector of the cross layer's and the deep layer's: twice (B, width) -> (B, width)."""

    def __init__(self, width: int, kind: BridgeType) -> None:
        super().__init__()
        self.kind = kind
        self.joined = Linear(2 * width, width) if kind == "concatenation" else None
        self.scores = nn.ModuleList(
            nn.Sequential(Linear(width, width), nn.ReLU(), Linear(width, 1, bias=False))
            for _ in range(2)
            if kind == "attention_pooling"
        )

    def forward(self, explicit: Tensor, implicit: Tensor) -> Tensor:
        if self.joined is not None:
            return torch.relu(self.joined(explicit, implicit))
        if len(self.scores):
            # a softmax over two numbers
            weight = torch.sigmoid(self.scores[0](explicit) - self.scores[1](implicit))
            return weight * explicit + (1 - weight) * implicit
        return explicit * implicit if self.kind == "hadamard_product" else explicit + implicit
