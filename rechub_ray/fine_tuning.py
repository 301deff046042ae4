"""Fine-tuning: a model that starts with weights of another one's checkpoint."""

from __future__ import annotations

import dataclasses
from collections.abc import Collection, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import torch
from torch import Tensor

from rechub_ray.checkpoint import Checkpoint, Store, read, read_shapes
from rechub_ray.config import RunConfig
from rechub_ray.data.fingerprint import FILE as TRANSFORMS
from rechub_ray.data.fingerprint import encodings_in, find, homes, is_there
from rechub_ray.errors import CheckpointError, nearest
from rechub_ray.files import exists, join, masked, open_filesystem
from rechub_ray.models.base import Model
from rechub_ray.preparation.encoder import Encoder
from rechub_ray.preparation.transforms import Vocabulary
from rechub_ray.schema import Schema
from rechub_ray.table_format import pack_tables, table_rows, tables_named

FILE = "fine_tuning.json"


@dataclasses.dataclass(frozen=True)
class Start:
    """What a model takes from a checkpoint, by the names of `pack_tables`: parameters, buffers, tables by feature.

    Args:
        source: the checkpoint.
        taken: for each name of the model that gets values, the name in the checkpoint.
        resized: of the names in `taken` whose shapes differ: the shape there, and the one here.
        by_key: of the tables in `taken` whose vocabularies differ: the number of rows with a key that both have (and of
            row 0, the unknown), of all rows there, and of all rows here.
        skipped: names in the checkpoint that nothing takes.
        new: names of the model that keep their initial values.
        frozen: names of the model that are not trained.
    """

    source: str
    taken: dict[str, str]
    resized: dict[str, tuple[tuple[int, ...], tuple[int, ...]]]
    by_key: dict[str, tuple[int, int, int]]
    skipped: list[str]
    new: list[str]
    frozen: list[str]

    def to_dict(self) -> dict[str, Any]:
        """Return the report that a run's folder keeps as `fine_tuning.json`."""
        return {
            "source": self.source,
            "restored": {n: old for n, old in self.taken.items() if n not in {*self.resized, *self.by_key}},
            "restored_by_key": {
                new: {"from": self.taken[new], "rows": rows, "rows_there": there, "rows_here": here}
                for new, (rows, there, here) in self.by_key.items()
            },
            "restored_in_part": {
                new: {"from": self.taken[new], "shape_there": list(old), "shape_here": list(own)}
                for new, (old, own) in self.resized.items()
            },
            "new": self.new,
            "skipped": self.skipped,
            "frozen": self.frozen,
        }

    def __str__(self) -> str:
        lists = {
            "by key": [f"{name} {rows:,} of {here:,} rows" for name, (rows, _, here) in self.by_key.items()],
            "in part": [f"{name} {old} -> {own}" for name, (old, own) in self.resized.items()],
            "new": self.new,
            "skipped": self.skipped,
            "frozen": self.frozen,
            "frozen with initial values": [name for name in self.frozen if name in set(self.new)],
        }
        counts = "".join(f", {len(names)} {key}" for key, names in lists.items() if names and "with" not in key)
        whole = len(self.taken) - len({*self.resized, *self.by_key})
        lines = [f"weights from {masked(self.source)}: {whole} restored{counts}"]
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
    transforms = transforms_of(config)
    return _plan(model, read_shapes(config.init_from), config.init_map, config.init_resize, frozen, transforms)[0]


def transforms_of(config: RunConfig) -> str | None:
    """Return the folder with the vocabularies of a run's training data; None where it has none."""
    found = homes(config.data.root, config.data.schema_file, config.data.train).values()
    return next((home for home in found if is_there(join(home, TRANSFORMS))), None)


def without_transforms(config: RunConfig) -> str:
    """Return what to do where a run keeps no transforms, which its raw values are to be encoded by."""
    if transforms_of(config) is not None:
        return "A run from before runs kept them gets them with `rechub-ray prepare --adopt RUN`."
    return f"Its data, {config.data.root}, has none either: `rechub-ray prepare` did not make it, or it is gone."


def initialise_from(
    model: Model,
    source: str,
    map_file: str | None,
    *,
    resize: str = "error",
    frozen: Sequence[str] = (),
    transforms: str | None = None,
) -> Start:
    """Take weights from another checkpoint (fine-tuning).

    Tables go by feature, `<bank>.tables.<feature>`, whatever other tables the two models have; rows of one go by key
    where its vocabulary differs from the one that it was trained on.

    Args:
        model: takes the weights, in place.
        source: the checkpoint.
        map_file: lines `current<TAB>old`; None takes every parameter under its own name. `<bank>.weights.<width>`
            stands for all tables of that width.
        resize: `copy_overlap` copies the part that both have where shapes differ; `error` raises.
        frozen: names that are not trained, for the report.
        transforms: folder or URI with the vocabularies of the data that the model is for; None: there are none.

    Returns:
        What was taken and what was not.

    Raises:
        CheckpointError: the checkpoint or the map cannot be read, a name does not exist, shapes differ, a vocabulary
            that differs is gone, or the two have no parameter in common.
    """
    old, current = read(source), pack_tables(model, model.state_dict())
    start, rows = _plan(model, old, map_file, resize, frozen, transforms)
    with torch.no_grad():
        for new, name in start.taken.items():
            here, there = current[new], old.model[name]
            part = tuple(slice(min(pair)) for pair in zip(here.shape, there.shape, strict=True))
            if new not in rows:
                here[part].copy_(there[part])
                continue
            for to in torch.split((rows[new] >= 0).nonzero().squeeze(1), _ROWS_AT_ONCE):
                here[:, part[1]].index_copy_(0, to.to(here.device), there[rows[new][to]][:, part[1]].to(here))
    return start


_ROWS_AT_ONCE = 1 << 20


def is_own(config: RunConfig) -> bool:
    """Return whether `init_from` lies in the run's own folder: what a trainer object was given to train."""
    return config.init_from is not None and config.init_from.startswith(config.directory().rstrip("/") + "/")


def _plan(
    model: Model,
    source: Checkpoint,
    map_file: str | None,
    resize: str,
    frozen: Sequence[str],
    transforms: str | None,
) -> tuple[Start, dict[str, Tensor]]:
    """Return what to take, and of each table that goes by key which old row each of its rows takes (-1: none), (V,)."""
    old, current = source.model, pack_tables(model, model.state_dict())
    pairs = {name: name for name in current if name in old} if map_file is None else _read_map(map_file, current, old)
    if not pairs:
        raise CheckpointError(f"'{source.path}' has no parameter of this model", hint="init_map can rename them.")
    shapes = {new: (tuple(old[name].shape), tuple(current[new].shape)) for new, name in pairs.items()}
    vocabularies = _Vocabularies(model.schema, transforms), _Vocabularies(*_trained_on(source))
    tables = {table for weight in table_rows(model).values() for table in weight}
    rows = {}
    for new in sorted(tables & pairs.keys()):
        found = _rows_by_key(pairs[new], new, shapes[new], *vocabularies, is_checked=resize == "error")
        if found is not None:
            rows[new] = found
    resized = {
        new: (there, here) for new, (there, here) in shapes.items() if there[new in rows :] != here[new in rows :]
    }
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
    start = Start(
        source=source.path,
        taken=dict(sorted(pairs.items())),
        resized=dict(sorted(resized.items())),
        by_key={new: (int((rows[new] >= 0).sum()), shapes[new][0][0], shapes[new][1][0]) for new in sorted(rows)},
        skipped=sorted(name for name in old if name not in taken),
        new=sorted(name for name in current if name not in pairs),
        frozen=list(frozen),
    )
    return start, rows


class _Vocabularies:
    """The vocabularies that the ids of some features come from; they are read when one is asked for.

    Args:
        schema: the features.
        folder: has `preprocess.json` and `vocab/`; None: there are none.
    """

    def __init__(self, schema: Schema, folder: str | None) -> None:
        self.encodings = {feature.name: feature.encoding for feature in schema.all_features}
        self.folder = folder
        self._encoder: Encoder | None = None

    def of(self, feature: str, rows: int) -> pa.Array | None:
        """Return the keys of the ids from 1 on; None where they are not known.

        They are not where the folder was written anew since: with another fingerprint, or for tables of other `rows`.
        """
        if self.folder is None:
            return None
        encoding = self.encodings.get(feature)
        if encoding and encodings_in(self.folder).get(feature, encoding) != encoding:
            return None
        self._encoder = self._encoder or Encoder.load(self.folder)
        ids = next((getattr(t, "ids", None) for t in self._encoder.transforms if t.spec.name == feature), None)
        return ids.values if isinstance(ids, Vocabulary) and ids.size == rows else None


def _trained_on(source: Checkpoint) -> tuple[Schema, str | None]:
    """Return a checkpoint's schema with fingerprints, where they are known, and the folder of its vocabularies."""
    kept = find(source.path)
    if kept is None:
        return source.schema, transforms_of(source.config)
    known = any(feature.encoding for feature in source.schema.all_features)
    return source.schema if known else source.schema.encoded(encodings_in(kept)), kept


def _rows_by_key(
    name: str,
    new: str,
    shapes: tuple[tuple[int, ...], tuple[int, ...]],
    own: _Vocabularies,
    other: _Vocabularies,
    *,
    is_checked: bool,
) -> Tensor | None:
    """Return for each row of a table the row of the old one with the same key, -1 where there is none, (V,) int64.

    Row 0 stands for unknown keys in both.

    Returns:
        None where rows go by number: the vocabularies are the same, or not known.

    Raises:
        CheckpointError: they are known to differ and one of them is gone, with `is_checked`.
    """
    theirs, mine = (table.rpartition("tables.")[2] for table in (name, new))
    encodings = other.encodings.get(theirs), own.encodings.get(mine)
    if name.rpartition("tables.")[1] == "" or len(shapes[0]) != 2:
        return None
    if (encodings[0] and encodings[0] == encodings[1]) or (own.folder, mine) == (other.folder, theirs):
        return None
    keys = own.of(mine, shapes[1][0])
    if keys is None:
        return None
    old = other.of(theirs, shapes[0][0])
    if old is not None:
        if old.equals(keys):
            return None
        found = np.concatenate([[0], Vocabulary(old)(keys)])
        found[1:][found[1:] == 0] = -1
        return torch.from_numpy(found)
    if is_checked and all(encodings):
        raise CheckpointError(
            f"'{name}' was trained on another vocabulary than that of '{mine}' in {own.folder}, and its own is gone",
            expected="preprocess.json and vocab/ in the run's checkpoints, or in the data that it was trained on",
            got=other.folder or "neither",
            hint="Bring them back, leave the table out with an init_map, or copy rows by their numbers with "
            "init_resize=copy_overlap.",
        )
    return None


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
