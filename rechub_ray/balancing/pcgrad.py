"""PCGrad."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor

from rechub_ray.balancing.base import BALANCING, Balancing


@BALANCING.register("pcgrad")
class PCGrad(Balancing):
    """Gradient surgery: of each task's gradient, what opposes another task's gradient is projected away; then the sum.

    For each task i, in random order of the others j: `g_i <- g_i - <g_i, g_j> / |g_j|^2 g_j` where `<g_i, g_j> < 0`,
    with the original g_j. The gradients are those of all shared parameters, as one vector. Only inner products are
    needed: g_i stays a combination of the original gradients.

    Args:
        tasks: the labels that have losses, at least two.

    Reference: Yu et al., Gradient Surgery for Multi-Task Learning, arXiv 2001.06782, algorithm 1.
    """

    needs_gradients = True
    fewest_tasks = 2

    @torch.no_grad()
    def coefficients(
        self, products: Mapping[str, Tensor], losses: Tensor, generator: torch.Generator
    ) -> dict[str, Tensor]:
        if not products:
            return {}
        gram = torch.stack(list(products.values())).sum(0).cpu()
        count = len(gram)
        result = torch.zeros(count, dtype=gram.dtype)
        for i in range(count):
            mine = torch.zeros(count, dtype=gram.dtype)
            mine[i] = 1
            for j in torch.randperm(count, generator=generator).tolist():
                if j == i:
                    continue
                product, length = torch.dot(mine, gram[:, j]), gram[j, j]
                if product < 0 and length > 0:
                    mine[j] -= product / length
            result += mine
        return {name: result.to(matrix.device) for name, matrix in products.items()}
