"""The check that a resumed run reads the files that it began with, which are listed in the run's folder."""

from __future__ import annotations

import json
import logging

from rechub_ray.data.manifest import DataFile, Manifest
from rechub_ray.data.plan import Position
from rechub_ray.errors import CheckpointError, DataError
from rechub_ray.files import exists, join, masked, open_filesystem, read_text, write_text
from rechub_ray.runtime.preflight import Job

_log = logging.getLogger(__name__)

FILE = "data.json"


def note(job: Job) -> None:
    """Write the files of each split, and their checksums, into the run's folder."""
    splits = {split: manifest.to_dict() for split, manifest in _splits(job).items()}
    write_text(join(job.config.directory(), FILE), masked(json.dumps(splits)))


def check_same(job: Job, position: Position, *, is_alike: bool = False) -> None:
    """Check that a run's files are those that it began with.

    Between two epochs files may come and go, which is logged in one line.

    Args:
        job: the run as it would go on.
        position: where it stands.
        is_alike: the data is known to be encoded as the run's was, so between two epochs other files may take the
            place of those that the run began with.

    Raises:
        DataError: a file has another checksum, or the run stopped in the middle of an epoch of other files.
        CheckpointError: the list of files is damaged.
    """
    place = join(job.config.directory(), FILE)
    filesystem, inside = open_filesystem(place)
    if not exists(filesystem, inside):
        return  # written by an earlier version: the position has a fingerprint, and workers compare it
    try:
        noted = {split: Manifest.from_dict(files) for split, files in json.loads(read_text(place)).items()}
    except (ValueError, TypeError, KeyError, AttributeError) as error:
        hint = "Take it away to go on without a comparison of the data's files."
        raise CheckpointError(f"{place} is damaged", got=error, hint=hint) from None
    for split, now in _splits(job).items():
        if split in noted:
            fixed = split == "train" and position.steps_done > 0
            _compare(f"data.{split}", noted[split], now, fixed=fixed, replaceable=is_alike and not position.steps_done)


def _compare(key: str, before: Manifest, now: Manifest, *, fixed: bool, replaceable: bool) -> None:
    parts = 1
    while parts < 64 and any(len(_by_name(some, parts)) < len(some.files) for some in (before, now)):
        parts += 1
    old, new = _by_name(before, parts), _by_name(now, parts)
    replaced = [name for name in old.keys() & new.keys() if old[name].checksum != new[name].checksum]
    for name in replaced:
        if not replaceable:
            raise DataError(
                f"'{key}': {new[name].path} is not the file that this run began with",
                expected=f"checksum {old[name].checksum}",
                got=new[name].checksum,
                hint="Bring that file back, or start a new run, with init_from=CHECKPOINT to go on from the weights.",
            )
    changes = [f"{old[name].path} is gone" for name in old.keys() - new.keys()]
    changes += [f"{new[name].path} is new" for name in new.keys() - old.keys()]
    changes += [f"{new[name].path} is another file" for name in replaced]
    if not changes and list(old) != list(new):
        changes = ["its files stand in another order"]
    if not changes:
        return
    change = f"'{key}': {min(changes)}" + (f" (and {len(changes) - 1} more changes)" if len(changes) > 1 else "")
    if fixed:
        hint = "Bring back the files as they were, or start a new run, with init_from=CHECKPOINT to keep the weights."
        raise DataError(f"{change}, but the run stopped in the middle of an epoch", hint=hint)
    _log.warning("%s: the run goes on with the files that are there now", change)


def _splits(job: Job) -> dict[str, Manifest]:
    found = {"train": job.train, "valid": job.valid, "test": job.test}
    return {split: manifest for split, manifest in found.items() if manifest is not None}


def _by_name(manifest: Manifest, parts: int) -> dict[str, DataFile]:
    """Return the files by the last `parts` parts of their paths; folders above may differ, as where data was moved."""
    return {"/".join(file.path.split("/")[-parts:]): file for file in manifest.files}
