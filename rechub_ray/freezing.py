"""Frozen parameters: patterns on names that take parameters and single embedding tables out of training."""

from __future__ import annotations

import fnmatch
from collections.abc import Sequence

from torch import nn

from rechub_ray.errors import ConfigError
from rechub_ray.layers.embedding import EmbeddingView, tables_of
from rechub_ray.optimizers.groups import hint_for
from rechub_ray.table_format import table_rows


def freeze(model: nn.Module, patterns: Sequence[str], *, where: str = "train.freeze") -> list[str]:
    """Freeze parameters and tables of a model: from here on they have neither gradients nor an optimizer.

    A table whose neighbours in the weight of its width are trained moves to a frozen weight of its own
    (`<bank>.weights.<width>_frozen`), so checkpoints, which hold tables by feature, stay as they are. For the move,
    that weight is in memory twice.

    Args:
        model: on any device, also the meta device; no optimizer has its parameters yet.
        patterns: as of fnmatch. Each is compared with the names of parameters (`mlp.*`; a weight stands for all of its
            tables) and of tables (`embedding.tables.item`).
        where: the patterns' place in the configuration, for messages.

    Returns:
        The names of what is frozen, tables by feature, in the model's order.

    Raises:
        ConfigError: a pattern matches nothing, or nothing is left to train.
    """
    rows = table_rows(model)
    weight_of = {part: name for name, _ in model.named_parameters() for part in rows.get(name, (name,))}
    chosen: set[str] = set()
    for i, pattern in enumerate(patterns):
        found = [
            part
            for part, weight in weight_of.items()
            if fnmatch.fnmatchcase(part, pattern) or fnmatch.fnmatchcase(weight, pattern)
        ]
        if not found:
            raise ConfigError(
                f"'{where}.{i}': the pattern '{pattern}' matches no parameter and no table",
                hint=hint_for(pattern, list(weight_of)),
            )
        chosen.update(found)
    if len(chosen) == len(weight_of):
        raise ConfigError(
            f"'{where}' freezes every parameter, so nothing is left to train",
            got=", ".join(patterns),
            hint="`rechub-ray evaluate` measures a model as it is.",
        )
    tables, parameters = tables_of(model), dict(model.named_parameters())
    for name, parameter in parameters.items():
        mine = [part for part in rows.get(name, (name,)) if part in chosen]
        if not mine:
            continue
        if len(mine) == len(rows.get(name, mine)):
            parameter.requires_grad_(False)
            continue
        bank, key = tables[name]
        bank.move([part.rpartition("tables.")[2] for part in mine], f"{key}_frozen")
        bank.weights[f"{key}_frozen"].requires_grad_(False)
        for view in model.modules():
            if isinstance(view, EmbeddingView) and view.bank is bank:
                view.lay_out(bank.tables)
    return [part for part in weight_of if part in chosen]


def frozen_norms(model: nn.Module) -> list[nn.Module]:
    """Return the batch norms whose parameters are all frozen.

    They are to run as in evaluation, by the statistics that they came with, and to leave these alone: what is frozen
    computes the same as before, whatever else is in the batch.
    """
    kinds = (nn.BatchNorm1d, nn.BatchNorm2d, nn.BatchNorm3d, nn.SyncBatchNorm)
    found: list[nn.Module] = []
    for module in model.modules():
        own = list(module.parameters(recurse=False))
        if isinstance(module, kinds) and own and not any(parameter.requires_grad for parameter in own):
            found.append(module)
    return found
