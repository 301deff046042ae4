"""Attention between stacked vectors."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from rechub_ray.errors import ConfigError
from rechub_ray.layers.linear import Linear


def split_heads(x: Tensor, heads: int) -> Tensor:
    """Return (B, T, D) as (B, heads, T, D / heads)."""
    return x.view(x.shape[0], x.shape[1], heads, -1).transpose(1, 2)


def join_heads(x: Tensor) -> Tensor:
    """Return (B, heads, T, D) as (B, T, heads D)."""
    return x.transpose(1, 2).flatten(2)


def check_heads(width: int, heads: int, *, key: str) -> None:
    """Check that attention can be split into heads.

    Args:
        width: of queries, keys and values.
        heads: >= 1.
        key: what the width is called, for the message.

    Raises:
        ConfigError: the width is not a multiple of the heads.
    """
    if width % heads:
        raise ConfigError(
            "'model.num_heads': every head has equally many of the attention's numbers",
            expected=f"a divisor of {key} {width}",
            got=heads,
        )


class FieldAttention(nn.Module):
    """`relu([head_1, ..., head_H] + W_r x)` with `head_h = softmax(Q_h K_h^T) V_h` over the vectors of a row.

    Args:
        in_dim: width of the vectors.
        dim: width of the result, a multiple of `heads`.
        heads: H, >= 1.
        residual: whether W_r x is added; W_r is the identity where the widths are equal.
        scale: whether the products are divided by the root of a head's width.
        layer_norm: whether the sum is normalised before the activation.
        dropout: of the weights, in [0, 1).

    Shapes:
        (B, K, in_dim) -> (B, K, dim)

    Raises:
        ConfigError: `dim` is no multiple of `heads`.

    Reference: Song et al., AutoInt, arXiv 1810.11921, eq. 5 to 8. Deviation: W_r is left out where widths are equal,
    as in the published results.
    """

    def __init__(
        self,
        in_dim: int,
        dim: int,
        *,
        heads: int,
        residual: bool = True,
        scale: bool = False,
        layer_norm: bool = False,
        dropout: float = 0.0,
    ) -> None:
        super().__init__()
        check_heads(dim, heads, key="attention_dim")
        self.heads, self.residual = heads, residual
        self.factor = (dim // heads) ** -0.5 if scale else 1.0
        self.query, self.key, self.value = (Linear(in_dim, dim, bias=False) for _ in range(3))
        self.shortcut = Linear(in_dim, dim, bias=False) if residual and in_dim != dim else None
        self.norm = nn.LayerNorm(dim) if layer_norm else None
        self.dropout = nn.Dropout(dropout)

    def forward(self, x: Tensor) -> Tensor:
        query, key, value = (split_heads(layer(x), self.heads) for layer in (self.query, self.key, self.value))
        if (self.training and self.dropout.p > 0) or torch.compiler.is_compiling():
            weights = self.dropout(torch.softmax(query @ key.transpose(2, 3) * self.factor, 3))
            result = join_heads(weights @ value)
        else:  # the same without the weights in memory; with dropout it would take longer on a CPU
            result = join_heads(F.scaled_dot_product_attention(query, key, value, scale=self.factor))
        if self.residual:
            result = result + (x if self.shortcut is None else self.shortcut(x))
        if self.norm is not None:
            result = self.norm(result)
        return torch.relu(result)


class DisentangledAttention(nn.Module):
    """`relu(A V + W_r x)` with `A = softmax((Q - mean Q)(K - mean K)^T) + softmax(U x)`, in heads.

    The first term has the relation of two vectors alone, since what each has in common with all was subtracted; the
    second has the importance of a vector by itself, U x, one number a head.

    Args:
        in_dim: width of the vectors.
        dim: width of the result, a multiple of `heads`.
        heads: >= 1.
        residual: whether W_r x is added.
        scale: whether the products are divided by the root of a head's width.
        dropout: of the weights, in [0, 1).

    Shapes:
        (B, K, in_dim) -> (B, K, dim)

    Raises:
        ConfigError: `dim` is no multiple of `heads`.

    Reference: Xu et al., Disentangled Self-Attentive Neural Networks for Click-Through Rate Prediction, arXiv
    2101.03654, section 3.
    """

    def __init__(
        self, in_dim: int, dim: int, *, heads: int, residual: bool, scale: bool = False, dropout: float = 0.0
    ) -> None:
        super().__init__()
        check_heads(dim, heads, key="attention_dim")
        self.heads = heads
        self.factor = (dim // heads) ** -0.5 if scale else 1.0
        self.query, self.key, self.value = (Linear(in_dim, dim) for _ in range(3))
        self.unary = Linear(in_dim, heads)
        self.shortcut = Linear(in_dim, dim) if residual else None
        self.dropout = nn.Dropout(dropout)

    def forward(self, x: Tensor) -> Tensor:
        query, key, value = (split_heads(layer(x), self.heads) for layer in (self.query, self.key, self.value))
        query, key = query - query.mean(2, keepdim=True), key - key.mean(2, keepdim=True)
        pairwise = torch.softmax(query @ key.transpose(2, 3) * self.factor, 3)
        unary = torch.softmax(self.unary(x), 1).transpose(1, 2).unsqueeze(2)  # (B, heads, 1, K): by key
        result = join_heads(self.dropout(pairwise + unary) @ value)
        return torch.relu(result if self.shortcut is None else result + self.shortcut(x))
