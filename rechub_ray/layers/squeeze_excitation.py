"""Factors of features, by what all of them hold."""

from __future__ import annotations

from typing import Literal

from torch import Tensor, nn

from rechub_ray.layers.activation import build_activation
from rechub_ray.layers.linear import Linear


class SqueezeExcitation(nn.Module):
    """Each feature's vector times a factor: `a = f(W_2 relu(W_1 z))` of the means z of all features' vectors.

    Args:
        num_fields: number of features, K.
        reduction_ratio: K over the rows of W_1, of which there is one at least; >= 1.
        excitation: f. `relu`, as in FiBiNET, may make all factors zero for good where nothing stands beside them.

    Shapes:
        (B, K, D) -> (B, K, D)

    Reference: Huang, Zhang and Zhang, FiBiNET (RecSys 2019), eq. 5 to 7; `sigmoid`: Hu, Shen and Sun,
    Squeeze-and-Excitation Networks (CVPR 2018), eq. 3.
    """

    def __init__(
        self, num_fields: int, *, reduction_ratio: int = 3, excitation: Literal["relu", "sigmoid"] = "relu"
    ) -> None:
        super().__init__()
        reduced = max(1, num_fields // reduction_ratio)
        self.squeeze = Linear(num_fields, reduced, bias=False)
        self.expand = Linear(reduced, num_fields, bias=False)
        self.excitation = build_activation(excitation)

    def forward(self, vectors: Tensor) -> Tensor:
        factors: Tensor = self.excitation(self.expand(self.squeeze(vectors.mean(2)).relu()))
        return vectors * factors.unsqueeze(2)
