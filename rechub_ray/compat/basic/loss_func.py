"""Losses under Torch-RecHub's names, for training loops of one's own."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from rechub_ray.compat.missing import refuse
from rechub_ray.regularization import embedding_weights

__all__ = ["BPRLoss", "RegularizationLoss"]

_NORMALISATION = (
    *(nn.BatchNorm1d, nn.BatchNorm2d, nn.BatchNorm3d, nn.SyncBatchNorm, nn.LayerNorm, nn.GroupNorm),
    *(nn.InstanceNorm1d, nn.InstanceNorm2d, nn.InstanceNorm3d),
)


class RegularizationLoss(nn.Module):
    """The penalty l1 * sum |w| + l2 * sum w^2, with coefficients of their own for embeddings and for the rest.

    Normalisation layers and parameters without `requires_grad` are left out.

    Args:
        embedding_l1: of embedding tables, >= 0.
        embedding_l2: likewise.
        dense_l1: of all other weights and biases, >= 0.
        dense_l2: likewise.

    Shapes:
        a model -> scalar, differentiable

    Example:
        >>> model = nn.Linear(2, 1, bias=False)
        >>> nn.init.constant_(model.weight, 3.0).shape
        torch.Size([1, 2])
        >>> float(RegularizationLoss(dense_l2=0.5)(model).detach())
        9.0
    """

    def __init__(
        self, embedding_l1: float = 0.0, embedding_l2: float = 0.0, dense_l1: float = 0.0, dense_l2: float = 0.0
    ) -> None:
        super().__init__()
        self.embedding_l1, self.embedding_l2 = embedding_l1, embedding_l2
        self.dense_l1, self.dense_l2 = dense_l1, dense_l2

    def forward(self, model: nn.Module) -> Tensor:
        own = embedding_weights(model)
        tables = {id(weight) for name, weight in model.named_parameters() if name in own}
        left_out = set()
        for module in model.modules():
            if isinstance(module, _NORMALISATION):
                left_out |= {id(weight) for weight in module.parameters()}
        weights = [weight for weight in model.parameters() if weight.requires_grad and id(weight) not in left_out]
        total = weights[0].new_zeros(()) if weights else torch.zeros(())
        for weight in weights:
            embedding = id(weight) in tables
            l1 = self.embedding_l1 if embedding else self.dense_l1
            l2 = self.embedding_l2 if embedding else self.dense_l2
            if l1:
                total = total + l1 * weight.abs().sum()
            if l2:
                total = total + l2 * weight.square().sum()
        return total


class BPRLoss(nn.Module):
    """Bayesian personalised ranking: the mean of -log sigmoid(positive - negative), finite for any scores.

    Shapes:
        pos_score (B,) or (B, 1); neg_score (B,), or (B, N) for N negatives a row -> scalar

    Reference: Rendle et al., BPR: Bayesian Personalized Ranking from Implicit Feedback, arXiv 1205.2618, section 4.
    """

    def forward(self, pos_score: Tensor, neg_score: Tensor) -> Tensor:
        positive = pos_score.reshape(-1)
        difference = positive - neg_score if neg_score.dim() == 1 else positive.unsqueeze(1) - neg_score
        return -F.logsigmoid(difference).mean()


def __getattr__(name: str) -> Any:
    refuse(__name__, name, known=__all__, missing=("HingeLoss", "InBatchNCELoss", "NCELoss"))
