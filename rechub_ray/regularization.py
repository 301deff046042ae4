"""L1 and L2 penalties on a model's weights."""

from __future__ import annotations

from typing import Annotated

import torch
from annotated_types import Ge
from torch import Tensor, nn

from rechub_ray.layers.embedding import tables_of


class Regularization:
    """The penalty l1 * sum |w| + l2 * sum w^2, with coefficients of their own for embeddings and for all the rest.

    "Embedding" are the tables of every `EmbeddingBank`, the width-1 ones of a first-order term too, and those of
    PyTorch's own embeddings. "Dense" is every other parameter: weights, biases, normalisation. Its gradient
    l1 * sign(w) + 2 * l2 * w is added after backward (see `Gradients`): to the whole table where the table's gradients
    are dense, to the rows in the batch where they are sparse.

    Args:
        embedding_l1: >= 0.
        embedding_l2: >= 0.
        dense_l1: >= 0.
        dense_l2: >= 0.

    Example:
        >>> Regularization(dense_l2=0.5).value(nn.Linear(2, 1, bias=False)).shape
        torch.Size([])
    """

    def __init__(
        self,
        *,
        embedding_l1: Annotated[float, Ge(0)] = 0.0,
        embedding_l2: Annotated[float, Ge(0)] = 0.0,
        dense_l1: Annotated[float, Ge(0)] = 0.0,
        dense_l2: Annotated[float, Ge(0)] = 0.0,
    ) -> None:
        self.embedding_l1, self.embedding_l2 = embedding_l1, embedding_l2
        self.dense_l1, self.dense_l2 = dense_l1, dense_l2

    @torch.no_grad()
    def value(self, model: nn.Module) -> Tensor:
        """Return the penalty of the model as it is, over all rows of all tables that are trained; reads each once."""
        tables = embedding_weights(model)
        total = torch.zeros((), device=next(model.parameters()).device)
        for name, parameter in model.named_parameters():
            if not parameter.requires_grad:
                continue
            l1, l2 = self.coefficients(embedding=name in tables)
            if l1:
                total += l1 * torch.linalg.vector_norm(parameter, 1)
            if l2:
                total += l2 * torch.linalg.vector_norm(parameter).square()
        return total

    @torch.no_grad()
    def add_gradient(self, gradient: Tensor, weight: Tensor, *, embedding: bool) -> None:
        """Add the penalty's gradient at `weight` to `gradient`, in place."""
        l1, l2 = self.coefficients(embedding=embedding)
        if l1:
            gradient.add_(weight.sign(), alpha=l1)
        if l2:
            gradient.add_(weight, alpha=2 * l2)

    def coefficients(self, *, embedding: bool) -> tuple[float, float]:
        """Return (l1, l2) of embeddings, or of all other parameters."""
        return (self.embedding_l1, self.embedding_l2) if embedding else (self.dense_l1, self.dense_l2)


def embedding_weights(model: nn.Module) -> set[str]:
    """Return the names of a model's embedding weights: those of banks, and of PyTorch's own embeddings."""
    found = {*tables_of(model)}
    for prefix, module in model.named_modules():
        if isinstance(module, nn.Embedding | nn.EmbeddingBag):
            found.add(f"{prefix}.weight" if prefix else "weight")
    return found
