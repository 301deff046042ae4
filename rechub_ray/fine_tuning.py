"""Fine-tuning: a model that starts with weights of another one's checkpoint."""

from __future__ import annotations

from pathlib import Path

from torch import Tensor

from rechub_ray.checkpoint import read
from rechub_ray.errors import CheckpointError, nearest
from rechub_ray.models.base import Model
from rechub_ray.table_format import load_packed, pack_tables, tables_named


def initialise_from(model: Model, source: str, map_file: str | None) -> dict[str, list[str]]:
    """Take weights from another checkpoint (fine-tuning).

    Tables go by feature, `<bank>.tables.<feature>`, whatever other tables the two models have.

    Args:
        model: takes the weights, in place.
        source: checkpoint or run folder.
        map_file: lines `current<TAB>old`; None takes every parameter under its own name. `<bank>.weights.<width>`
            stands for all tables of that width.

    Returns:
        The names `restored` and `not_restored` (which keep their initial values).

    Raises:
        CheckpointError: the checkpoint or the map cannot be read, a name does not exist, shapes differ, or the two
            have no parameter in common.
    """
    old, current = read(source).model, pack_tables(model, model.state_dict())
    pairs = {name: name for name in current if name in old} if map_file is None else _read_map(map_file, current, old)
    for new, name in pairs.items():
        if current[new].shape != old[name].shape:
            raise CheckpointError(
                f"'{name}' of {source} does not fit '{new}'",
                expected=f"shape {tuple(current[new].shape)}",
                got=f"shape {tuple(old[name].shape)}",
                hint="Leave it out with an init_map that lists only what fits.",
            )
    if not pairs:
        raise CheckpointError(f"'{source}' has no parameter of this model", hint="init_map can rename them.")
    load_packed(model, {new: old[name] for new, name in pairs.items()})
    return {"restored": sorted(pairs), "not_restored": sorted(set(current) - set(pairs))}


def _read_map(map_file: str, current: dict[str, Tensor], old: dict[str, Tensor]) -> dict[str, str]:
    """Return the old name of each current one that the file lists."""
    pairs: dict[str, str] = {}
    try:
        text = Path(map_file).read_text(encoding="utf-8")
    except OSError as error:
        raise CheckpointError(f"cannot read init_map '{map_file}'", got=error.strerror) from None
    for number, line in enumerate(filter(str.strip, text.splitlines()), start=1):
        place = f"{map_file}, line {number}"
        new, tab, name = line.partition("\t")
        if not tab:
            raise CheckpointError(place, expected="current<TAB>old", got=repr(line))
        found = []
        for known, wanted, what in ((current, new, "model"), (old, name.strip(), "checkpoint")):
            found.append(tables_named(wanted, known))
            if not found[-1]:
                raise CheckpointError(f"{place}: the {what} has no '{wanted}'", hint=nearest(wanted, known))
        if len(found[0]) == len(found[1]) == 1:
            pairs[found[0][0]] = found[1][0]
            continue
        features = [{table.rpartition("tables.")[2]: table for table in tables} for tables in found]
        if features[0].keys() != features[1].keys():
            raise CheckpointError(
                f"{place}: '{new}' and '{name.strip()}' hold different tables",
                expected=", ".join(sorted(features[0])),
                got=", ".join(sorted(features[1])),
                hint=f"Name tables one by one, such as {found[0][0]}.",
            )
        pairs.update({table: features[1][feature] for feature, table in features[0].items()})
    return pairs
