"""A linear layer with the initialisation that the rest of the library assumes."""

from __future__ import annotations

from torch import nn


class Linear(nn.Linear):
    """`x W^T + b` with Xavier-normal weights and a bias of zero.

    Args:
        in_features: width of x. out_features: width of the result. bias: whether there is a b.

    Shapes:
        (..., in_features) -> (..., out_features)

    Reference: Glorot and Bengio, Understanding the difficulty of training deep feedforward neural networks (AISTATS
    2010), eq. 12 without the factor 3 of its uniform form.
    """

    def reset_parameters(self) -> None:
        nn.init.xavier_normal_(self.weight)
        if self.bias is not None:
            nn.init.zeros_(self.bias)
