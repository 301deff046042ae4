"""x W^T + b at the speed of the CPU."""

from __future__ import annotations

import functools
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.autograd.function import once_differentiable

from rechub_ray.cpu import is_on


def linear(weight: Tensor, bias: Tensor | None, *parts: Tensor) -> Tensor:
    """Return `[x_1, x_2, ...] W^T + b` of parts that lie side by side, without copying them together.

    In float32 on AMD processors, oneDNN multiplies by large weights instead of MKL, which does not use their widest
    instructions, with the same rounding error. Everywhere else this is `torch.nn.functional.linear`.

    Shapes:
        weight (M, N), bias (M,), parts (..., N_1), (B, N_2), ... with N_1 + N_2 + ... = N -> (..., M)
    """
    is_large = weight.numel() >= _LARGE and parts[0].dim() == 2 and parts[0].shape[0] > 0
    if is_large and _is_faster() and _takes(weight, bias, *parts):
        result: Tensor = _Linear.apply(weight, bias, *parts)  # type: ignore[no-untyped-call]
        return result
    if len(parts) == 1:
        return F.linear(parts[0], weight, bias)
    weights = torch.split(weight, [part.shape[1] for part in parts], dim=1)
    result = F.linear(parts[0], weights[0], bias)
    for part, its_weight in zip(parts[1:], weights[1:], strict=True):
        result = torch.addmm(result, part, its_weight.t())
    return result


_LARGE = 2**14
"""Numbers of a weight from which oneDNN is faster: by 8% at 400 x 400, and slower by 9% at 64 x 64."""


def _is_faster() -> bool:
    return is_on("products") and _is_amd()


@functools.cache
def _is_amd() -> bool:
    if not (torch.backends.mkl.is_available() and torch.backends.mkldnn.is_available()):  # type: ignore[no-untyped-call]
        return False
    try:
        is_amd = "AuthenticAMD" in Path("/proc/cpuinfo").read_text()
    except OSError:
        return False
    return is_amd and hasattr(torch.ops.mkldnn, "_linear_pointwise")


def _takes(*tensors: Tensor | None) -> bool:
    if torch.compiler.is_compiling() or torch.is_autocast_enabled("cpu"):
        return False
    return all(t is None or (t.device.type == "cpu" and t.dtype == torch.float32) for t in tensors)


def _product(a: Tensor, b: Tensor, bias: Tensor | None = None) -> Tensor:
    """Return a b^T + bias."""
    result: Tensor = torch.ops.mkldnn._linear_pointwise(_whole(a), _whole(b), bias, "none", [], "")
    return result


def _whole(matrix: Tensor) -> Tensor:
    """Return the matrix whole: for a part of one, oneDNN falls back to a loop that is a hundred times slower."""
    return matrix if matrix.is_contiguous() or matrix.t().is_contiguous() else matrix.contiguous()


class _Linear(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, weight: Tensor, bias: Tensor | None, *parts: Tensor) -> Tensor:
        ctx.save_for_backward(weight, *parts)
        weights = torch.split(weight, [part.shape[1] for part in parts], dim=1)
        result = _product(parts[0], weights[0], bias)
        for part, its_weight in zip(parts[1:], weights[1:], strict=True):
            result += _product(part, its_weight)
        return result

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor | None, ...]:
        weight, *parts = ctx.saved_tensors
        wants_weight, wants_bias, *wanted = ctx.needs_input_grad
        weights = torch.split(weight, [part.shape[1] for part in parts], dim=1)
        to_weight = None
        if wants_weight:
            pieces = [_outer(gradient, part) for part in parts]
            to_weight = pieces[0] if len(pieces) == 1 else torch.cat(pieces, 1)
        return (
            to_weight,
            gradient.sum(0) if wants_bias else None,
            *(_product(gradient, w.t()) if wanted_ else None for w, wanted_ in zip(weights, wanted, strict=True)),
        )


def _outer(gradient: Tensor, x: Tensor) -> Tensor:
    """Return gradient^T x; the kernel wants the longer side last."""
    if x.shape[1] >= gradient.shape[1]:
        return _product(gradient.t(), x.t())
    return _product(x.t(), gradient.t()).t()
