"""Activation functions by name."""

from __future__ import annotations

from typing import Literal, TypeAlias

from torch import nn

Activation: TypeAlias = Literal["relu", "leaky_relu", "prelu", "gelu", "silu", "tanh", "sigmoid"]


def build_activation(name: Activation) -> nn.Module:
    """Return the activation called `name`.

    ReLU works in place: linear and batch norm layers do not need their results backward, and a batch of activations
    is written once less.
    """
    match name:
        case "relu":
            return nn.ReLU(inplace=True)
        case "leaky_relu":
            return nn.LeakyReLU()
        case "prelu":
            return nn.PReLU()
        case "gelu":
            return nn.GELU()
        case "silu":
            return nn.SiLU()
        case "tanh":
            return nn.Tanh()
        case "sigmoid":
            return nn.Sigmoid()
