"""Fine-tuning: a model that starts with weights of another one's checkpoint."""

from __future__ import annotations

import dataclasses
from collections.abc import Collection, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from rechub_ray.checkpoint import Checkpoint, Store, read, read_shapes
from rechub_ray.config import RunConfig
from rechub_ray.errors import CheckpointError, nearest
from rechub_ray.files import exists, join, masked, open_filesystem
from rechub_ray.models.base import Model
from rechub_ray.table_format import pack_tables, tables_named

FILE = "fine_tuning.json"


@dataclasses.dataclass(frozen=True)
class Start:
    """What a model takes from a checkpoint, by the names of `pack_tables`: parameters, buffers, tables by feature.

    Args:
        source: the checkpoint.
        taken: for each name of the model that gets values, the name in the checkpoint.
        resized: of the names in `taken` whose shapes differ: the shape there, and the one here.
        skipped: names in the checkpoint that nothing takes.
        new: names of the model that keep their initial values.
        frozen: names of the model that are not trained.
    """

    source: str
    taken: dict[str, str]
    resized: dict[str, tuple[tuple[int, ...], tuple[int, ...]]]
    skipped: list[str]
    new: list[str]
    frozen: list[str]

    def to_dict(self) -> dict[str, Any]:
        """Return the report that a run's folder keeps as `fine_tuning.json`."""
        return {
            "source": self.source,
            "restored": {new: old for new, old in self.taken.items() if new not in self.resized},
            "restored_in_part": {
                new: {"from": self.taken[new], "shape_there": list(old), "shape_here": list(own)}
                for new, (old, own) in self.resized.items()
            },
            "new": self.new,
            "skipped": self.skipped,
            "frozen": self.frozen,
        }

    def __str__(self) -> str:
        in_part = [f"{name} {old} -> {own}" for name, (old, own) in self.resized.items()]
        lists = {
            "in part": in_part,
            "new": self.new,
            "skipped": self.skipped,
            "frozen": self.frozen,
            "frozen with initial values": [name for name in self.frozen if name in set(self.new)],
        }
        counts = "".join(f", {len(names)} {key}" for key, names in lists.items() if names and "with" not in key)
        lines = [f"weights from {masked(self.source)}: {len(self.taken) - len(in_part)} restored{counts}"]
        return "\n".join(lines + [f"  {key}: {_some(names)}" for key, names in lists.items() if names])


def start_of(place: str, *, best: bool = False) -> str:
    """Return the checkpoint that `init_from` names: itself, or the newest one of a run.

    Args:
        place: checkpoint or run folder.
        best: take a run's best one.

    Raises:
        CheckpointError: there is none.
    """
    filesystem, root = open_filesystem(place)
    if exists(filesystem, f"{root}/manifest.json"):
        return place
    store = Store(place)
    name, newest = store.best() if best else store.newest(), store.newest()
    if newest is None:
        raise CheckpointError(
            f"'init_from': no checkpoint in '{place}'",
            hint="Name a run's folder (model_dir) or one of its step_... folders.",
        )
    if name is None:
        raise CheckpointError(
            f"'init_best': nothing has been evaluated yet in '{place}', so no checkpoint is the best",
            hint=f"Without init_best, the newest one is taken ({newest}).",
        )
    return join(store.location, name)


def check_start(config: RunConfig, model: Model, frozen: Sequence[str] = ()) -> Start:
    """Return what the run's model will take from `init_from`, a checkpoint, without reading its weights.

    Args:
        config: the run.
        model: on any device, also the meta device.
        frozen: as `freeze` returns it.

    Raises:
        CheckpointError: as `initialise_from`.
    """
    assert config.init_from is not None
    return _plan(model, read_shapes(config.init_from), config.init_map, config.init_resize, frozen)


def initialise_from(
    model: Model, source: str, map_file: str | None, *, resize: str = "error", frozen: Sequence[str] = ()
) -> Start:
    """Take weights from another checkpoint (fine-tuning).

    Tables go by feature, `<bank>.tables.<feature>`, whatever other tables the two models have.

    Args:
        model: takes the weights, in place.
        source: the checkpoint.
        map_file: lines `current<TAB>old`; None takes every parameter under its own name. `<bank>.weights.<width>`
            stands for all tables of that width.
        resize: `copy_overlap` copies the part that both have where shapes differ; `error` raises.
        frozen: names that are not trained, for the report.

    Returns:
        What was taken and what was not.

    Raises:
        CheckpointError: the checkpoint or the map cannot be read, a name does not exist, shapes differ, or the two
            have no parameter in common.
    """
    old = read(source)
    start, current = _plan(model, old, map_file, resize, frozen), pack_tables(model, model.state_dict())
    with torch.no_grad():
        for new, name in start.taken.items():
            part = tuple(slice(min(pair)) for pair in zip(current[new].shape, old.model[name].shape, strict=True))
            current[new][part].copy_(old.model[name][part])
    return start


def is_own(config: RunConfig) -> bool:
    """Return whether `init_from` lies in the run's own folder: what a trainer object was given to train."""
    return config.init_from is not None and config.init_from.startswith(config.directory().rstrip("/") + "/")


def _plan(model: Model, source: Checkpoint, map_file: str | None, resize: str, frozen: Sequence[str]) -> Start:
    old, current = source.model, pack_tables(model, model.state_dict())
    pairs = {name: name for name in current if name in old} if map_file is None else _read_map(map_file, current, old)
    if not pairs:
        raise CheckpointError(f"'{source.path}' has no parameter of this model", hint="init_map can rename them.")
    shapes = {new: (tuple(old[name].shape), tuple(current[new].shape)) for new, name in pairs.items()}
    resized = {new: (there, here) for new, (there, here) in shapes.items() if there != here}
    cut = resize == "copy_overlap"
    unfit = sorted(new for new, (there, here) in resized.items() if not cut or len(there) != len(here))
    if unfit:
        (first, *more), (there, here) = unfit, resized[unfit[0]]
        raise CheckpointError(
            f"'{pairs[first]}' of {source.path} does not fit '{first}'"
            + (f", nor do others: {_some(more)}" if more else ""),
            expected=f"shape {here}",
            got=f"shape {there}",
            hint="Leave it out with an init_map that lists only what fits"
            + (", or copy the part that both have with init_resize=copy_overlap." if not cut else "."),
        )
    taken = set(pairs.values())
    return Start(
        source=source.path,
        taken=dict(sorted(pairs.items())),
        resized=dict(sorted(resized.items())),
        skipped=sorted(name for name in old if name not in taken),
        new=sorted(name for name in current if name not in pairs),
        frozen=list(frozen),
    )


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


def _some(names: Collection[str], limit: int = 5) -> str:
    more = f" and {len(names) - limit} more" if len(names) > limit else ""
    return ", ".join(list(names)[:limit]) + more
