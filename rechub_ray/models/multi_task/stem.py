"""Shared and task-specific embeddings."""

from __future__ import annotations

import functools
from typing import Any

import torch
from torch import Tensor, nn

from rechub_ray.batch import Features, Outputs
from rechub_ray.layers.embedding import EmbeddingBank
from rechub_ray.layers.experts import Experts, Gate
from rechub_ray.layers.mlp import HiddenUnits
from rechub_ray.models.base import MODELS
from rechub_ray.models.multi_task.base import MultiTaskModel
from rechub_ray.schema import PositiveInt, Schema


@MODELS.register("stem")
class STEM(MultiTaskModel):
    """Embeddings and experts of each label beside shared ones; each label reads all, and trains its own and the shared.

    With T labels there are T + 1 inputs x_t = [e_1, ..., e_K, dense], from embeddings of their own, x_s from the
    shared ones, and experts E_t(x_t), E_s(x_s). For label t

        y_t = tower_t(the mean of [E_1; ...; E_T; E_s] by softmax(W_t (x_t + x_s)))

    where no gradient flows into E_j of another label j. T + 1 embeddings of each feature take T + 1 times the memory.
    They are `towers.<label>.embedding.*` and `embedding.*`: the pattern `*embedding.*` names all.

    It stands here rather than PEPNet because its evidence can be checked: three public data sets (TikTok, QB-Video,
    KuaiRand-1K) against tuned MMoE, PLE, AITM and others, with code and the settings searched, besides an online test;
    PEPNet's are from data of one company, without code, and concern several domains as much as several tasks.

    When to use: tasks that disagree about users and items themselves, so that even embeddings should be their own.

    Args:
        schema: the features, and the labels, which may be of different kinds.
        num_experts: experts of one label, a label, >= 1.
        num_shared_experts: >= 1.
        expert_units: widths of each expert's layers.
        common: `embedding_dim`, `tower_units`, `activation`, `dropout`, `batch_norm`, `deep_features`, `heads` and
            `init_std`, as in `MultiTaskModel`.

    Shapes:
        an output a label, (B,), or (B, C) of a multiclass one

    Raises:
        SchemaError: the schema has no label.

    Reference: Su et al., STEM: Unleashing the Power of Embeddings for Multi-task Recommendation (AAAI 2024), arXiv
    2308.13537: STEM-Net with one level, its input of the gates as in the authors' code, but gates of one matrix.
    """

    def __init__(
        self,
        schema: Schema,
        *,
        num_experts: PositiveInt = 1,
        num_shared_experts: PositiveInt = 1,
        expert_units: HiddenUnits = (256, 128),
        **common: Any,
    ) -> None:
        super().__init__(schema, **common)
        experts = functools.partial(Experts, self.width, expert_units, **self.hidden)
        self.experts = experts(count=num_shared_experts)
        self.add_towers(self.experts.width)
        for label, tower in zip(schema.labels, self.towers.each, strict=True):
            tower["embedding"] = self.bank(name=f"embedding/{label.name}")
            tower["experts"] = experts(count=num_experts)
            tower["gate"] = Gate(self.width, num_experts * len(schema.labels) + num_shared_experts)

    def forward(self, features: Features) -> Outputs:
        towers = self.towers.each
        shared = self._input(self.embedding, features)
        own = [self._input(tower["embedding"], features) for tower in towers]
        experts = [tower["experts"](x) for tower, x in zip(towers, own, strict=True)]
        fixed = [expert.detach() for expert in experts]
        common = self.experts(shared)
        mixed = []
        for i, (tower, x) in enumerate(zip(towers, own, strict=True)):
            everything = torch.cat([*fixed[:i], experts[i], *fixed[i + 1 :], common], 1)
            mixed.append(tower["gate"](x + shared, everything))
        outputs: Outputs = self.towers(mixed)
        return outputs

    def _input(self, bank: nn.Module, features: Features) -> Tensor:
        assert isinstance(bank, EmbeddingBank)
        x: Tensor = self.deep_input(bank.flat(features), features.dense)
        return x
