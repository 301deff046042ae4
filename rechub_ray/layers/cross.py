"""Cross layers: each multiplies the input into what has been computed so far."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from rechub_ray.layers.linear import Linear


class CrossNet(nn.Module):
    """`x_{l+1} = x_0 * (W_l x_l + b_l) + x_l`, with `W = U V^T` where `low_rank` is given.

    Args:
        dim: width of x.
        num_layers: number of cross layers.
        low_rank: columns of U and V; None for a full matrix.

    Shapes:
        (B, dim) -> (B, dim)

    Reference: Wang et al., DCN V2, arXiv 2008.13535, eq. 1 and 2.
    """

    def __init__(self, dim: int, num_layers: int, *, low_rank: int | None = None) -> None:
        super().__init__()

        def layer() -> nn.Module:
            if low_rank is None:
                return Linear(dim, dim)
            return nn.Sequential(Linear(dim, low_rank, bias=False), Linear(low_rank, dim))

        self.layers = nn.ModuleList(layer() for _ in range(num_layers))

    def forward(self, x0: Tensor) -> Tensor:
        x = x0
        for layer in self.layers:
            x = x + x0 * layer(x)
        return x


class VectorCrossNet(nn.Module):
    """`x_{l+1} = x_0 <w_l, x_l> + b_l + x_l`.

    Args:
        dim: width of x.
        num_layers: number of cross layers.

    Shapes:
        (B, dim) -> (B, dim)

    Reference: Wang et al., Deep & Cross Network for Ad Click Predictions, arXiv 1708.05123, eq. 3.
    """

    def __init__(self, dim: int, num_layers: int) -> None:
        super().__init__()
        self.layers = nn.ModuleList(Linear(dim, 1, bias=False) for _ in range(num_layers))
        self.biases = nn.ParameterList(nn.Parameter(torch.zeros(dim)) for _ in range(num_layers))

    def forward(self, x0: Tensor) -> Tensor:
        x = x0
        for layer, bias in zip(self.layers, self.biases, strict=True):
            x = x + x0 * layer(x) + bias
        return x


class GatedCrossNet(nn.Module):
    """`x_{l+1} = x_0 * (W_l x_l + b_l) * sigmoid(G_l x_l) + x_l`.

    Args:
        dim: width of x.
        num_layers: number of cross layers.

    Shapes:
        (B, dim) -> (B, dim)

    Reference: Wang et al., Towards Deeper, Lighter and Interpretable Cross Network for CTR Prediction (CIKM 2023),
    gated cross layer.
    """

    def __init__(self, dim: int, num_layers: int) -> None:
        super().__init__()
        self.layers = nn.ModuleList(Linear(dim, dim) for _ in range(num_layers))
        self.gates = nn.ModuleList(Linear(dim, dim, bias=False) for _ in range(num_layers))

    def forward(self, x0: Tensor) -> Tensor:
        x = x0
        for layer, gate in zip(self.layers, self.gates, strict=True):
            x = x + x0 * layer(x) * torch.sigmoid(gate(x))
        return x


class CrossNetMix(nn.Module):
    """Cross layers that are mixtures of low-rank experts.

    `x_{l+1} = x_0 * (sum_e G_e(x_l) U_e g(C_e g(V_e^T x_l)) + b) + x_l`, g = tanh, G = softmax over the experts.

    Args:
        dim: width of x.
        num_layers: number of cross layers.
        low_rank: columns of U and V.
        num_experts: experts a layer, at least 2.

    Shapes:
        (B, dim) -> (B, dim)

    Reference: Wang et al., DCN V2, arXiv 2008.13535, eq. 3 to 5. As in the authors' code, the bias is added once after
    the mixture (the gates sum to 1).
    """

    def __init__(self, dim: int, num_layers: int, *, low_rank: int, num_experts: int) -> None:
        super().__init__()
        self.layers = nn.ModuleList(_ExpertMixture(dim, low_rank, num_experts) for _ in range(num_layers))

    def forward(self, x0: Tensor) -> Tensor:
        x = x0
        for layer in self.layers:
            x = x + x0 * layer(x)
        return x


class _ExpertMixture(nn.Module):
    """`sum_e G_e(x) U_e g(C_e g(V_e^T x)) + b`, (B, dim) -> (B, dim)."""

    def __init__(self, dim: int, rank: int, num_experts: int) -> None:
        super().__init__()
        self.num_experts = num_experts
        self.gate = Linear(dim, num_experts, bias=False)
        self.down = nn.Parameter(torch.empty(num_experts, rank, dim))
        self.core = nn.Parameter(torch.empty(num_experts, rank, rank))
        self.up = nn.Parameter(torch.empty(num_experts, dim, rank))
        self.bias = nn.Parameter(torch.zeros(dim))
        for matrices in (self.down, self.core, self.up):
            for matrix in matrices:
                nn.init.xavier_normal_(matrix)

    def forward(self, x: Tensor) -> Tensor:
        # the gates move inside U, so that down and up are one matrix product each over all experts
        hidden = torch.tanh(x @ self.down.flatten(0, 1).t()).view(x.shape[0], self.num_experts, -1)
        hidden = torch.tanh(torch.einsum("ber,esr->bes", hidden, self.core))
        gated = hidden * torch.softmax(self.gate(x), 1).unsqueeze(2)
        return gated.flatten(1) @ self.up.transpose(1, 2).flatten(0, 1) + self.bias
