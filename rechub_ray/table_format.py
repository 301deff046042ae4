"""The form of embedding tables, and of the optimizers' states of them, in a checkpoint: one by one, by feature.

In memory all tables of a width are rows of one parameter, `<bank>.weights.<width>` (those of them that are frozen, of
another one, where others are not): a batch then costs one lookup. On
disk each is on its own, `<bank>.tables.<feature>`, so that it can be mapped, resized, and read by another model. Packed
tables are views of the weight: writing takes no second copy of them.
"""

from __future__ import annotations

import itertools
import re
from collections.abc import Mapping, Sequence
from typing import Any, TypeAlias

import torch
from torch import Tensor, nn

from rechub_ray.errors import CheckpointError
from rechub_ray.layers.embedding import tables_of

TableRows: TypeAlias = Mapping[str, Mapping[str, range]]
"""For each weight `<bank>.weights.<width>`: the rows of each of its tables `<bank>.tables.<feature>`."""


def table_rows(model: nn.Module) -> TableRows:
    """Return which tables the embedding weights of a model hold, and where."""
    result = {}
    for weight, (bank, key) in tables_of(model).items():
        prefix = weight.removesuffix(f"weights.{key}")
        tables = [table for table in bank.tables.values() if table.weight == key]
        result[weight] = {f"{prefix}tables.{table.name}": table.rows for table in tables}
    return result


def pack_tables(model: nn.Module, tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Return a model's tensors with each embedding weight cut into its tables: views, not copies.

    Args:
        model: has the tables; it may be on the meta device.
        tensors: parameters and buffers by the names of `model.state_dict()`, or a part of them.
    """
    rows = table_rows(model)
    packed = {}
    for name, tensor in tensors.items():
        fits = name in rows and tensor.dim() == 2 and tensor.shape[0] == _size(rows[name])
        packed.update(_cut(tensor, rows[name]) if fits else {name: tensor})
    return packed


def load_packed(model: nn.Module, packed: Mapping[str, Tensor]) -> None:
    """Copy packed tensors into a model; those it does not have are passed over.

    Args:
        model: takes them, in place.
        packed: as `pack_tables` returns them, of the shapes that `model` has.
    """
    state = model.state_dict()
    own = pack_tables(model, state)
    with torch.no_grad():
        for name, tensor in packed.items():
            if name in own and name not in state:
                own[name].copy_(tensor)
    model.load_state_dict({name: tensor for name, tensor in packed.items() if name in state}, strict=False)


def pack_optimizer(state: Mapping[str, Any], names: Sequence[str], rows: TableRows) -> dict[str, Any]:
    """Return an optimizer's state by the names of parameters and tables, in place of the parameters' positions.

    A table's entry is `{"rows": ..., "whole": ...}`: values with one row for each row of the weight (accumulators,
    moments), cut as the weight is, and values of the whole weight (a count of steps), the same in each of its tables.

    Args:
        state: as `optimizer.state_dict()` returns it.
        names: the parameters' names in the optimizer's order.
        rows: where the model's tables are.
    """
    entries: dict[str, Any] = {}
    for position, values in state["state"].items():
        name = names[position]
        if name not in rows:
            entries[name] = values
            continue
        size = _size(rows[name])
        by_row = {k: v for k, v in values.items() if isinstance(v, Tensor) and v.dim() and v.shape[0] == size}
        cut = {key: _cut(value, rows[name]) for key, value in by_row.items()}
        whole = {key: value for key, value in values.items() if key not in by_row}
        for table in rows[name]:
            entries[table] = {"rows": {key: parts[table] for key, parts in cut.items()}, "whole": whole}
    groups = [{**group, "params": _names(group["params"], names, rows)} for group in state["param_groups"]]
    return {"state": entries, "param_groups": groups}


def unpack_optimizer(
    packed: Mapping[str, Any], own: Mapping[str, Any], names: Sequence[str], rows: TableRows
) -> dict[str, Any]:
    """Return the state that `optimizer.load_state_dict` takes; tensors are copies.

    Args:
        packed: as `pack_optimizer` returned it.
        own: `optimizer.state_dict()` of the optimizer that is to go on.
        names: the parameters' names in that optimizer's order.
        rows: where the tables of its model are.

    Raises:
        CheckpointError: the saved optimizer updated other parameters or tables.
    """
    groups = []
    for saved, mine in itertools.zip_longest(packed["param_groups"], own["param_groups"], fillvalue={"params": ()}):
        theirs, ours = set(saved["params"]), set(_names(mine["params"], names, rows))
        if theirs != ours:
            raise CheckpointError(
                "an optimizer in the checkpoint has updated other parameters",
                expected=", ".join(sorted(ours - theirs)) or "only some of them",
                got=", ".join(sorted(theirs - ours)) or "only some of them",
            )
        groups.append({**saved, "params": mine["params"]})
    entries, state = packed["state"], {}
    for position, name in enumerate(names):
        if name in entries:
            state[position] = {key: _copy(value) for key, value in entries[name].items()}
            continue
        if any(table in entries for table in rows.get(name, ())):
            tables = [entries[table] for table in rows[name]]
            state[position] = {key: torch.cat([table["rows"][key] for table in tables]) for key in tables[0]["rows"]}
            state[position].update({key: _copy(value) for key, value in tables[0]["whole"].items()})
    return {"state": state, "param_groups": groups}


def parameter_names(optimizer: torch.optim.Optimizer, model: nn.Module) -> list[str]:
    """Return the names of an optimizer's parameters, in its order; the position stands for one outside of the model."""
    names = {id(parameter): name for name, parameter in model.named_parameters()}
    parameters = [parameter for group in optimizer.param_groups for parameter in group["params"]]
    return [names.get(id(parameter), str(position)) for position, parameter in enumerate(parameters)]


def tables_named(name: str, packed: Mapping[str, Tensor]) -> list[str]:
    """Return the names that `name` stands for: itself, or all tables of `<bank>.weights.<width>`; none if unknown."""
    if name in packed:
        return [name]
    match = re.fullmatch(r"(.*\.)?weights\.(\d+)", name)
    if match is None:
        return []
    start, width = f"{match[1] or ''}tables.", int(match[2])
    return [table for table, tensor in packed.items() if table.startswith(start) and tensor.shape[1:] == (width,)]


def _cut(tensor: Tensor, tables: Mapping[str, range]) -> dict[str, Tensor]:
    return {name: tensor[rows.start : rows.stop] for name, rows in tables.items()}


def _names(positions: Sequence[int], names: Sequence[str], rows: TableRows) -> list[str]:
    return [part for position in positions for part in rows.get(names[position], (names[position],))]


def _size(tables: Mapping[str, range]) -> int:
    return max(rows.stop for rows in tables.values())


def _copy(value: Any) -> Any:
    return value.clone() if isinstance(value, Tensor) else value
