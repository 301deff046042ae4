"""Checkpoints: self-describing, versioned directories that are whole or not there, and that hold no code.

A checkpoint is a directory `step_<number>` with

- `manifest.json`: format, version, and the size and CRC-32 of every other file; written last,
- `config.yaml`, `schema.json`: all that is needed to build the model again,
- `model.safetensors`: parameters and buffers; embedding tables one by one, by feature (see `table_format`),
- `objective.safetensors`: parameters and buffers of losses and balancing, where they have any,
- `optimizers.pt`: the optimizers' states, and that of the average of the weights (`averaging`) where there is one, by
  the same names (read with `weights_only`),
- `state.json`: step, data position, schedules, early stopping, metrics.

Reading one runs no code that is in it; the modules that its configuration `imports` are looked for where Python looks.
Random numbers need no state: the loop seeds every step from (seed, step, rank).
"""

from __future__ import annotations

import contextlib
import dataclasses
import datetime
import json
import os
import pickle
import re
import shutil
import tempfile
import zlib
from collections.abc import Callable, Collection, Iterator
from pathlib import Path
from typing import Any

import pyarrow.fs as pafs
import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor

from rechub_ray import config as config_module
from rechub_ray.config import RunConfig
from rechub_ray.errors import CheckpointError, RechubError
from rechub_ray.files import cannot_write, exists, join, open_filesystem, read_text, reason, split, strict_json
from rechub_ray.lock import remove_stale, writing_folder
from rechub_ray.models import MODELS
from rechub_ray.models.base import Model
from rechub_ray.optimizers import build_optimizers
from rechub_ray.saved_state import check_of_run, check_state
from rechub_ray.schema import Schema
from rechub_ray.table_format import (
    load_packed,
    pack_optimizer,
    pack_tables,
    parameter_names,
    table_rows,
    unpack_optimizer,
)

FORMAT, VERSION = "rechub_ray.checkpoint", 2
_FILES = ("config.yaml", "schema.json", "model.safetensors", "optimizers.pt", "state.json")
_OBJECTIVE = "objective.safetensors"
_WEIGHTS = ("model.safetensors", _OBJECTIVE)
_INDEX = "index.json"


@dataclasses.dataclass(frozen=True)
class Checkpoint:
    """A complete checkpoint that has been read (model and optimizer tensors on the CPU).

    Args:
        path: where it was read.
        config: the run's configuration.
        schema: the run's features and labels.
        model: parameters and buffers, as `pack_tables` names them.
        state: the content of `state.json`.
        optimizers: the optimizers' states, as `pack_optimizer` returns them; None where they were not asked for.
        objective: parameters and buffers of losses and balancing, by name; empty where there are none.
    """

    path: str
    config: RunConfig
    schema: Schema
    model: dict[str, Tensor]
    state: dict[str, Any]
    optimizers: list[dict[str, Any]] | None = None
    objective: dict[str, Tensor] = dataclasses.field(default_factory=dict)

    def build_model(self) -> Model:
        """Return the model with its weights, in evaluation mode, on the CPU."""
        with torch.device("meta"):  # compared before it takes memory: the configuration may ask for more than there is
            self._check_fits(MODELS.build(self.config.model, self.schema, where="model"))
        model = MODELS.build(self.config.model, self.schema, where="model")
        load_packed(model, self.model)
        return model.eval()

    def restore_model(self, model: torch.nn.Module) -> None:
        """Copy the weights into a model.

        Raises:
            CheckpointError: the model has other parameters.
        """
        self._check_fits(model)
        load_packed(model, self.model)

    def _check_fits(self, model: torch.nn.Module) -> None:
        own, saved = _shapes(pack_tables(model, model.state_dict())), _shapes(self.model)
        if own != saved:
            raise CheckpointError(
                f"the weights in {self.path} do not fit the model '{self.config.model['name']}'",
                expected=_some(own.items() - saved.items()),
                got=_some(saved.items() - own.items()),
                hint="The checkpoint was written by another version of that model.",
            )

    def restore_optimizers(self, model: torch.nn.Module, optimizers: list[torch.optim.Optimizer]) -> None:
        """Give the optimizers of a model the states that they had; the checkpoint must have been read with them.

        Raises:
            CheckpointError: the optimizers update other parameters.
        """
        rows = table_rows(model)
        for optimizer, packed in zip(optimizers, self.optimizers or [], strict=True):
            names = parameter_names(optimizer, model)
            optimizer.load_state_dict(unpack_optimizer(packed, optimizer.state_dict(), names, rows))


def write(
    directory: Path,
    *,
    config: RunConfig,
    schema: Schema,
    model: torch.nn.Module,
    optimizers: list[torch.optim.Optimizer],
    state: dict[str, Any],
    objective: dict[str, Tensor] | None = None,
) -> None:
    """Write the files of a checkpoint into an existing empty folder, `manifest.json` last."""
    (directory / "config.yaml").write_text(config_module.dump(config), encoding="utf-8")
    schema.save(directory / "schema.json")
    packed = pack_tables(model, model.state_dict())
    tensors = {name: tensor.detach().cpu().contiguous() for name, tensor in packed.items()}
    save_file(tensors, directory / "model.safetensors")
    if objective:
        own = {name: tensor.detach().cpu().contiguous() for name, tensor in objective.items()}
        save_file(own, directory / _OBJECTIVE)
    rows = table_rows(model)
    states = [pack_optimizer(o.state_dict(), parameter_names(o, model), rows) for o in optimizers]
    torch.save(states, directory / "optimizers.pt")
    (directory / "state.json").write_text(strict_json(state), encoding="utf-8")
    files = {path.name: {"bytes": path.stat().st_size, "crc32": _crc32(path)} for path in sorted(directory.iterdir())}
    manifest = {
        "format": FORMAT,
        "version": VERSION,
        "created": datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"),
        "torch": torch.__version__,
        "files": files,
    }
    (directory / "manifest.json").write_text(json.dumps(manifest, indent=1), encoding="utf-8")


def read(path: str | Path, *, optimizers: bool = False, weights: bool = True) -> Checkpoint:
    """Return the checkpoint in the folder or URI `path`; every file that is read is checked against the manifest.

    Args:
        path: one `step_...` folder, or a run's folder (then its best checkpoint, or else its newest).
        optimizers: read the optimizers' states too.
        weights: read the weights; without them the result has configuration, schema and state alone.

    Raises:
        CheckpointError: missing, incomplete, damaged, or of a newer version.
    """
    filesystem, root = open_filesystem(str(path))
    if not exists(filesystem, f"{root}/manifest.json"):
        store = Store(str(path))
        chosen = store.best() or store.newest()
        if chosen is None:
            raise CheckpointError(
                f"no complete checkpoint in '{path}'",
                hint="Name a run's folder (model_dir) or one of its step_... folders.",
            )
        return read(join(store.location, chosen), optimizers=optimizers, weights=weights)
    skip = () if optimizers else ("optimizers.pt",) if weights else ("optimizers.pt", *_WEIGHTS)
    with _local_copy(filesystem, root, skip=skip) as folder:
        return _read_local(folder, str(path), skip)


def read_shapes(path: str) -> Checkpoint:
    """Return one checkpoint with the names and shapes of its weights, as tensors on the meta device.

    Raises:
        CheckpointError: see `read`.
    """
    found = read(path, weights=False)
    filesystem, root = open_filesystem(path)
    try:
        with filesystem.open_input_file(f"{root}/model.safetensors") as file:  # its header: a length, then JSON
            header = json.loads(file.read(int.from_bytes(file.read(8), "little")))
        shapes = {name: entry["shape"] for name, entry in header.items() if name != "__metadata__"}
        model = {name: torch.empty(shape, device="meta") for name, shape in shapes.items()}
        version = json.loads(read_text(join(path, "manifest.json")))["version"]
    except (OSError, ValueError, LookupError, TypeError, AttributeError, RuntimeError, OverflowError) as error:
        raise CheckpointError(f"checkpoint '{path}' is damaged: model.safetensors", got=error) from None
    found = dataclasses.replace(found, model=model)
    return _from_version_1(found) if version == 1 else found


def load_model(path: str | Path) -> Model:
    """Return the model in a checkpoint or run folder, in evaluation mode, on the CPU.

    Raises:
        CheckpointError: see `read`.

    Example:
        >>> load_model("runs/demo")  # doctest: +SKIP
    """
    return read(path).build_model()


def _read_local(folder: Path, name: str, skip: Collection[str]) -> Checkpoint:
    manifest = _json(folder / "manifest.json", name)
    version = manifest.get("version")
    if manifest.get("format") != FORMAT or version not in range(1, VERSION + 1):
        raise CheckpointError(
            f"'{name}' is not a checkpoint that this version reads",
            expected=f"{FORMAT} up to version {VERSION}",
            got=f"{manifest.get('format')} version {version}",
        )
    files = manifest.get("files")
    for file in (*_FILES, *([_OBJECTIVE] if isinstance(files, dict) and _OBJECTIVE in files else [])):
        path, facts = folder / file, files.get(file) if isinstance(files, dict) else None
        if file in skip:
            # a resumed run reads it later: a file that was cut off is found now, before anything is written
            if "model.safetensors" not in skip or not path.is_file() or not isinstance(facts, dict):
                continue
            found: Any = {**facts, "bytes": path.stat().st_size}
        else:
            found = {"bytes": path.stat().st_size, "crc32": _crc32(path)} if path.is_file() else None
        if found is None or found != facts:
            raise CheckpointError(f"checkpoint '{name}' is damaged: {file} is missing or not what was written")
    try:
        states = None
        if "optimizers.pt" not in skip:  # mapped: the optimizers take copies
            states = torch.load(folder / "optimizers.pt", map_location="cpu", weights_only=True, mmap=True)
        checkpoint = Checkpoint(
            path=name,
            config=config_module.load(folder / "config.yaml"),
            schema=Schema.load(folder / "schema.json"),
            model={} if "model.safetensors" in skip else load_file(folder / "model.safetensors"),
            state=_state(folder, name),
            optimizers=states,
            objective=load_file(folder / _OBJECTIVE) if _OBJECTIVE in (files or {}) and _OBJECTIVE not in skip else {},
        )
        return _from_version_1(checkpoint) if version == 1 else checkpoint
    except SafetensorError as error:
        raise CheckpointError(f"checkpoint '{name}' is damaged: model.safetensors", got=str(error)) from None
    except (pickle.UnpicklingError, EOFError, RuntimeError) as error:  # more than tensors and plain values, or no zip
        raise CheckpointError(
            f"checkpoint '{name}': optimizers.pt holds something else than optimizers' states",
            got=str(error).strip().split("\n")[0][:200],
        ) from None
    except CheckpointError:
        raise
    except RechubError as error:
        raise CheckpointError(f"checkpoint '{name}' does not fit this version: {error}") from None


def _from_version_1(found: Checkpoint) -> Checkpoint:
    """Return a checkpoint of version 1 in the form of version 2: tables by feature, optimizer states by name."""
    with torch.device("meta"):
        model = MODELS.build(found.config.model, found.schema, where="model")
        built = build_optimizers(found.config.optimizers, model)
    states, rows = found.optimizers, table_rows(model)
    if states is not None:
        try:
            states = [pack_optimizer(s, item.parameters, rows) for s, item in zip(states, built, strict=True)]
        except (LookupError, TypeError, ValueError, AttributeError) as error:
            raise CheckpointError(f"checkpoint '{found.path}': optimizers.pt does not fit", got=str(error)) from None
    return dataclasses.replace(found, model=pack_tables(model, found.model), optimizers=states)


def _shapes(tensors: dict[str, Tensor]) -> dict[str, tuple[int, ...]]:
    return {name: tuple(tensor.shape) for name, tensor in tensors.items()}


def _some(shapes: Collection[tuple[str, tuple[int, ...]]], limit: int = 5) -> str:
    texts = [f"{name} {shape}" for name, shape in sorted(shapes)]
    return ", ".join(texts[:limit]) + (f" and {len(texts) - limit} more" if len(texts) > limit else "") or "no others"


class Store:
    """The checkpoints of one run, in `<model_dir>/checkpoints` on a local or shared disk or in an object store.

    `index.json` names the newest and the best one, and is replaced as a whole; where it is lost, the newest
    checkpoint's own state names the best. Only rank 0 writes.

    Args:
        model_dir: the run's folder or URI.
        keep: newest checkpoints to keep; the best one is kept beside them.
    """

    def __init__(self, model_dir: str, *, keep: int = 2) -> None:
        self.location = join(str(model_dir), "checkpoints")
        self.keep = keep
        self._fs, self._root = open_filesystem(self.location)
        self._is_local = isinstance(self._fs, pafs.LocalFileSystem)
        self._held: set[str] = set()
        self._uploaded: dict[str, Any] = {}  # files of the last checkpoint in the object store

    def path(self, step: int) -> str:
        """Return the path or URI of the checkpoint of `step`, whether or not it exists."""
        return join(self.location, _name(step))

    def name(self, step: int) -> str:
        """Return the name of the checkpoint of `step`, whether or not it exists."""
        return _name(step)

    def names(self) -> list[str]:
        """Return the names of the complete checkpoints, oldest first.

        Raises:
            CheckpointError: the folder cannot be listed.
        """
        try:
            found = self._fs.get_file_info(pafs.FileSelector(self._root, allow_not_found=True))
        except NotADirectoryError:
            return []
        except OSError as error:
            raise CheckpointError(f"cannot look for checkpoints in '{self.location}'", got=reason(error)) from None
        names = [info.base_name for info in found if info.type == pafs.FileType.Directory]
        names = sorted(name for name in names if name.startswith("step_"))
        return [name for name in names if exists(self._fs, f"{self._root}/{name}/manifest.json")]

    def newest(self) -> str | None:
        """Return the name of the newest complete checkpoint, or None."""
        names = self.names()
        return names[-1] if names else None

    def best(self) -> str | None:
        """Return the name of the best checkpoint; None before the first evaluation, or where it is incomplete."""
        index, newest = self._json(_INDEX), self.newest()
        if index is None and newest is not None:
            stopping = (self._json(f"{newest}/state.json") or {}).get("early_stopping")
            step = stopping.get("best_step") if isinstance(stopping, dict) else None
            index = {"best": _name(step)} if isinstance(step, int) and 0 <= step < 2**63 else None
        name = (index or {}).get("best")
        return (
            name
            if isinstance(name, str)
            and re.fullmatch(r"step_\d{10,}", name)
            and exists(self._fs, f"{self._root}/{name}/manifest.json")
            else None
        )

    def hold(self, steps: Collection[int]) -> None:
        """Keep the checkpoints of these steps, and no others, whatever is saved after them."""
        self._held = {_name(step) for step in steps}

    def set_best(self, step: int) -> None:
        """Name the checkpoint of `step` the best one, now that it is known.

        Raises:
            WriteError: the folder takes no files.
        """
        try:
            self._replace_index({"newest": self.newest(), "best": _name(step)})
        except OSError as error:
            raise cannot_write(self.path(step), error) from None

    def save(self, step: int, fill: Callable[[Path], None], *, is_best: bool) -> str:
        """Save the checkpoint `step_<step>`, whole or not at all, then delete the ones that are no longer kept.

        Args:
            step: global optimizer step.
            fill: writes the files into the folder it is given, `manifest.json` last.
            is_best: this is the best model so far.

        Returns:
            The checkpoint's path or URI.

        Raises:
            WriteError: the disk is full, for instance; the checkpoints that were there are whole.
        """
        name, best = _name(step), self.best()
        if best is not None and best > name:
            best = None
        best = name if is_best else best
        try:
            if self._is_local:
                self._save_on_disk(name, fill)
            else:
                self._upload(name, fill)
            self._replace_index({"newest": name, "best": best})
            self._prune(name, best)
        except (OSError, SafetensorError) as error:
            raise cannot_write(self.path(step), error) from None
        return self.path(step)

    def _save_on_disk(self, name: str, fill: Callable[[Path], None]) -> None:
        os.makedirs(self._root, exist_ok=True)
        with writing_folder(self._root) as temporary:
            _fill(temporary, fill)
            os.chmod(temporary, 0o755)
            _sync(temporary)
            final = Path(self._root) / name
            old = final.with_name(f"{name}.old")  # the same step again: it counts until the new one is there
            if final.exists():
                _remove(old)
                os.replace(final, old)
            os.replace(temporary, final)
        _sync(Path(self._root), files=False)
        _remove(old)

    def _upload(self, name: str, fill: Callable[[Path], None]) -> None:
        with tempfile.TemporaryDirectory() as folder:
            _fill(Path(folder), fill)
            target = f"{self._root}/{name}"
            facts = json.loads((Path(folder) / "manifest.json").read_text(encoding="utf-8"))["files"]
            there = self._uploaded.pop(name, {})  # the end of a run saves its last step again, which changes a flag
            files = [
                path for path in Path(folder).iterdir() if there.get(path.name) != facts.get(path.name, "manifest")
            ]
            files.sort(key=lambda path: path.name == "manifest.json")
            self._fs.create_dir(target)
            if not there and exists(self._fs, f"{target}/manifest.json"):
                self._fs.delete_file(f"{target}/manifest.json")
            for file in files:  # the manifest comes last: without it the folder does not count
                with file.open("rb") as source, self._fs.open_output_stream(f"{target}/{file.name}") as sink:
                    shutil.copyfileobj(source, sink, 1 << 22)
            self._uploaded = {name: facts}

    def read_newest(self, *, weights: bool = True, say: Callable[[str], None] | None = None) -> Checkpoint | None:
        """Return the newest checkpoint from which a run can go on, None where there is none.

        Args:
            weights: read weights and optimizers too, and so find out whether they are damaged.
            say: called with one line where it is not the newest one: which, why, and how many steps are repeated.

        Raises:
            CheckpointError: there are checkpoints, and none of them can be read.
        """
        damaged: CheckpointError | None = None
        names = self.names()
        for name in reversed(names):
            try:
                found = read(join(self.location, name), optimizers=weights, weights=weights)
                check_of_run(found.state, found.path)
            except CheckpointError as error:
                damaged = damaged or error
                continue
            if damaged is not None and say is not None:
                again = max(int(re.sub(r"\D", "", names[-1]) or 0) - found.state["step"], 0)
                say(f"{damaged} Going on from {name}: {again:,} steps are trained again.")
            return found
        if damaged is not None:
            raise damaged
        return None

    def set_aside(self) -> str | None:
        """Move the checkpoints to `checkpoints.<k>`, so that a new run does not overwrite them; return the new place.

        Returns:
            The path or URI, or None where there are no checkpoints.
        """
        if not self.names():
            return None
        k = 1
        while exists(self._fs, f"{self._root}.{k}", kind=pafs.FileType.Directory):
            k += 1
        target = f"{self._root}.{k}"
        if self._is_local:
            os.replace(self._root, target)
        else:  # an object store has no folders that could be moved
            pafs.copy_files(self._root, target, source_filesystem=self._fs, destination_filesystem=self._fs)
            self._fs.delete_dir(self._root)
        folder, name = split(self.location)
        return join(folder, f"{name}.{k}")

    def _json(self, path: str) -> dict[str, Any] | None:
        try:
            with self._fs.open_input_stream(f"{self._root}/{path}") as stream:
                data = json.loads(stream.read())
        except (OSError, ValueError, RecursionError):
            return None
        return data if isinstance(data, dict) else None

    def _replace_index(self, index: dict[str, Any]) -> None:
        temporary = f"{self._root}/.{_INDEX}" if self._is_local else f"{self._root}/{_INDEX}"
        with self._fs.open_output_stream(temporary) as stream:
            stream.write(json.dumps(index).encode())
        if self._is_local:
            os.replace(temporary, f"{self._root}/{_INDEX}")

    def _prune(self, newest: str, best: str | None) -> None:
        # checkpoints of later steps are damaged: otherwise the run would have gone on from them
        kept = {newest, best, *self._held, *[name for name in self.names() if name <= newest][-self.keep :]}
        for name in self.names():
            if name not in kept:
                # the manifest goes first: a half-deleted checkpoint must not look complete
                self._fs.delete_file(f"{self._root}/{name}/manifest.json")
                self._fs.delete_dir(f"{self._root}/{name}")
        if self._is_local:
            remove_stale(self._root)


def _fill(folder: Path, fill: Callable[[Path], None]) -> None:
    """Call `fill`; raise OSError where torch only reports that its file is shorter than it should be."""
    try:
        fill(folder)
    except RuntimeError as error:
        if not any(word in str(error) for word in ("inline_container", "PytorchStreamWriter", "iostream")):
            raise
        (folder / "probe").write_bytes(bytes(1 << 20))  # fails with the cause, a full disk for instance
        raise OSError(" ".join(str(error).split())[:200]) from None


def _name(step: int) -> str:
    return f"step_{step:010d}"


@contextlib.contextmanager
def _local_copy(filesystem: pafs.FileSystem, root: str, *, skip: tuple[str, ...]) -> Iterator[Path]:
    """Yield the folder itself where it is local, else a temporary download without the files in `skip`."""
    if isinstance(filesystem, pafs.LocalFileSystem):
        yield Path(root)
        return
    with tempfile.TemporaryDirectory() as folder:
        for info in filesystem.get_file_info(pafs.FileSelector(root)):
            if info.type == pafs.FileType.File and info.base_name not in skip:
                with (
                    filesystem.open_input_stream(info.path) as source,
                    open(f"{folder}/{info.base_name}", "wb") as sink,
                ):
                    shutil.copyfileobj(source, sink, 1 << 22)
        yield Path(folder)


def _json(path: Path, name: str) -> dict[str, Any]:
    try:
        data = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError) as error:
        raise CheckpointError(f"checkpoint '{name}' is damaged: {path.name}", got=str(error)) from None
    if not isinstance(data, dict):
        raise CheckpointError(f"checkpoint '{name}' is damaged: {path.name} is not an object")
    return data


def _state(folder: Path, name: str) -> dict[str, Any]:
    state = _json(folder / "state.json", name)
    check_state(state, name)
    return state


def _crc32(path: Path) -> int:
    value = 0
    with path.open("rb") as stream:
        while block := stream.read(1 << 22):
            value = zlib.crc32(block, value)
    return value


def _remove(folder: Path) -> None:
    """Delete a checkpoint, its manifest first: a half-deleted one must not look complete."""
    (folder / "manifest.json").unlink(missing_ok=True)
    shutil.rmtree(folder, ignore_errors=True)


def _sync(folder: Path, *, files: bool = True) -> None:
    """Flush a folder and its files to disk: a power cut must not leave a manifest without its files."""
    for path in [*(sorted(folder.iterdir()) if files else ()), folder]:
        handle = os.open(path, os.O_RDONLY)
        try:
            os.fsync(handle)
        finally:
            os.close(handle)
