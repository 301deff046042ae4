"""A linear layer with the initialisation that the rest of the library assumes."""

from __future__ import annotations

from torch import Tensor, nn

from rechub_ray.cpu.products import linear


class Linear(nn.Linear):
    """`x W^T + b` with Xavier-normal weights and a bias of zero.

    x may come in parts that lie side by side, which saves copying them together, and the gradient of those that need
    none.

    Args:
        in_features: width of x.
        out_features: width of the result.
        bias: whether there is a b.

    Shapes:
        (..., in_features) -> (..., out_features); in parts (B, n_1), (B, n_2), ... -> (B, out_features)

    Example:
        >>> layer, x = Linear(5, 2), torch.randn(3, 5)
        >>> torch.allclose(layer(x[:, :4], x[:, 4:]), layer(x), atol=1e-6)
        True

    Reference: Glorot and Bengio, Understanding the difficulty of training deep feedforward neural networks (AISTATS
    2010), eq. 12 without the factor 3 of its uniform form.
    """

    def forward(self, x: Tensor, *more: Tensor) -> Tensor:
        return linear(self.weight, self.bias, x, *more)

    def reset_parameters(self) -> None:
        if self.weight.is_meta:  # checks build models without memory, and this would be half of their time
            return
        nn.init.xavier_normal_(self.weight)
        if self.bias is not None:
            nn.init.zeros_(self.bias)
