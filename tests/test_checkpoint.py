"""Checkpoints are whole or not there, tell what is damaged, keep the best, and run no code when read."""

from __future__ import annotations

import json
import os
import pickle
import subprocess
import sys
import uuid
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

from rechub_ray import checkpoint, config
from rechub_ray.checkpoint import Store, read
from rechub_ray.data.synthetic import write_click_logs
from rechub_ray.errors import CheckpointError, DataError, WriteError
from rechub_ray.learner import Progress
from rechub_ray.models import MODELS
from rechub_ray.models.base import Model
from rechub_ray.optimizers import build_optimizers
from rechub_ray.runtime.inference import evaluate, predict
from rechub_ray.runtime.launch import train
from rechub_ray.schema import DenseFeature, Label, Schema, SparseFeature

CONFIG = config.load({"model": {"name": "fm", "embedding_dim": 2}, "optimizers": ["adam"]})
RUN = {**Progress().to_dict(), "fingerprint": {}}
SCHEMA = Schema((SparseFeature("user", 5), DenseFeature("age")), (Label("click"),))


def make_model(fill: float) -> Model:
    model = MODELS.build(CONFIG.model, SCHEMA)
    for parameter in model.parameters():
        nn.init.constant_(parameter, fill)
    return model


def filler(fill: float, **state: Any) -> Callable[[Path], None]:
    """Writes a checkpoint whose weights are all `fill`, after one step of Adam that does not move them."""
    model = make_model(fill)
    optimizer = build_optimizers(CONFIG.optimizers, model)[0].optimizer
    for parameter in model.parameters():
        parameter.grad = torch.zeros_like(parameter)
    optimizer.step()
    return lambda folder: checkpoint.write(
        folder,
        config=CONFIG,
        schema=SCHEMA,
        model=model,
        optimizers=[optimizer],
        state={**RUN, "step": int(fill), **state},
    )


@pytest.fixture(params=["local", "file", "memory"])
def place(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    """A run's folder on each kind of filesystem."""
    name = uuid.uuid4().hex
    places = {"local": tmp_path / name, "file": f"file://{tmp_path}/{name}", "memory": f"memory://{name}"}
    return str(places[request.param])


def tampered(folder: Path, name: str, content: bytes) -> None:
    """Replaces a file and makes the manifest fit it, as one would who means harm."""
    (folder / name).write_bytes(content)
    manifest = json.loads((folder / "manifest.json").read_text())
    manifest["files"][name] = {"bytes": len(content), "crc32": checkpoint._crc32(folder / name)}
    (folder / "manifest.json").write_text(json.dumps(manifest))


@pytest.fixture
def one(tmp_path: Path) -> Path:
    folder = tmp_path / "one"
    folder.mkdir()
    filler(3.0)(folder)
    return folder


# --- writing and reading --------------------------------------------------------------------------------------------


def test_what_was_written_is_read(one: Path) -> None:
    found = read(one, optimizers=True)
    assert found.config == CONFIG
    assert found.schema == SCHEMA
    assert found.state == {**RUN, "step": 3}
    assert {float(value) for tensor in found.model.values() for value in tensor.flatten()} == {3.0}
    assert found.optimizers is not None
    assert {float(s.get("whole", s)["step"]) for s in found.optimizers[0]["state"].values()} == {1.0}
    assert read(one).optimizers is None
    model = found.build_model()
    assert not model.training
    names = {
        "embedding.weights.2": "embedding.tables.user",
        "linear.embedding.weights.1": "linear.embedding.tables.user",
    }
    assert {names.get(name, name) for name in model.state_dict()} == found.model.keys()
    assert all(torch.equal(tensor, found.model[names.get(name, name)]) for name, tensor in model.state_dict().items())


@pytest.mark.parametrize("name", ["config.yaml", "schema.json", "model.safetensors", "optimizers.pt", "state.json"])
@pytest.mark.parametrize("damage", ["missing", "shorter", "flipped", "empty", "not listed"])
def test_every_damage_is_seen_and_named(one: Path, name: str, damage: str) -> None:
    content = (one / name).read_bytes()
    if damage == "missing":
        (one / name).unlink()
    elif damage == "not listed":
        manifest = json.loads((one / "manifest.json").read_text())
        del manifest["files"][name]
        (one / "manifest.json").write_text(json.dumps(manifest))
    else:
        middle = len(content) // 2
        changed = {
            "shorter": content[:-1],
            "flipped": content[:middle] + bytes([content[middle] ^ 1]) + content[middle + 1 :],
            "empty": b"",
        }
        (one / name).write_bytes(changed[damage])
    with pytest.raises(CheckpointError, match=f"is damaged: {name}"):
        read(one, optimizers=True)
    if name == "optimizers.pt":
        read(one)  # evaluation has no use for it


@pytest.mark.parametrize(
    ("manifest", "words"),
    [
        ("", "damaged: manifest.json"),
        ("[]", "damaged: manifest.json"),
        ("{}", "not a checkpoint that this version reads"),
        ('{"format": "rechub_ray.checkpoint", "version": 3, "files": {}}', "up to version 2. Got: .* version 3"),
        ('{"format": "rechub_ray.checkpoint", "version": "x", "files": {}}', "Got: .* version x"),
        ('{"format": "something", "version": 1, "files": {}}', "Got: something version 1"),
        ('{"format": "rechub_ray.checkpoint", "version": 1}', "damaged: config.yaml"),
        ('{"format": "rechub_ray.checkpoint", "version": 1, "files": []}', "damaged: config.yaml"),
        ('{"format": "rechub_ray.checkpoint", "version": 1, "files": {"config.yaml": 5}}', "damaged: config.yaml"),
    ],
)
def test_manifests_that_are_wrong(one: Path, manifest: str, words: str) -> None:
    (one / "manifest.json").write_text(manifest)
    with pytest.raises(CheckpointError, match=words):
        read(one)


class Bomb:
    """Runs a command when it is unpickled."""

    def __init__(self, marker: Path) -> None:
        self.marker = marker

    def __reduce__(self) -> Any:
        return os.system, (f"touch {self.marker}",)


@pytest.mark.parametrize("name", ["optimizers.pt", "model.safetensors"])
@pytest.mark.parametrize("how", ["torch", "pickle"])
def test_no_code_runs_when_it_is_read(one: Path, tmp_path: Path, name: str, how: str) -> None:
    marker, bomb = tmp_path / "exploded", tmp_path / "bomb"
    pickle.loads(pickle.dumps(Bomb(tmp_path / "would")))
    assert (tmp_path / "would").exists(), "this one does explode"
    if how == "torch":
        torch.save([{"state": {}, "param_groups": Bomb(marker)}], bomb)
    else:
        bomb.write_bytes(pickle.dumps(Bomb(marker), protocol=2))
    tampered(one, name, bomb.read_bytes())
    with pytest.raises(CheckpointError, match=name.replace(".", r"\.")) as caught:
        read(one, optimizers=True)
    assert "\n" not in str(caught.value)
    assert not marker.exists()


@pytest.mark.parametrize("content", [b"", b"PK\x03\x04", b"x" * 100])
def test_states_that_are_no_states(one: Path, content: bytes) -> None:
    tampered(one, "optimizers.pt", content)
    with pytest.raises(CheckpointError, match=r"optimizers\.pt"):
        read(one, optimizers=True)


def test_a_zip_without_a_pickle_is_refused(one: Path, tmp_path: Path) -> None:
    with zipfile.ZipFile(tmp_path / "x.zip", "w") as archive:
        archive.writestr("x/version", "3")
    tampered(one, "optimizers.pt", (tmp_path / "x.zip").read_bytes())
    with pytest.raises(CheckpointError, match=r"optimizers\.pt"):
        read(one, optimizers=True)


def test_an_object_in_the_configuration_is_refused(one: Path, tmp_path: Path) -> None:
    marker = tmp_path / "exploded"
    tampered(one, "config.yaml", f"model: !!python/object/apply:os.system ['touch {marker}']".encode())
    with pytest.raises(CheckpointError, match="does not fit this version"):
        read(one)
    assert not marker.exists()


def test_a_key_of_another_version_names_it(one: Path) -> None:
    tampered(one, "config.yaml", b"model: lr\nfancy_new_key: 1\n")
    with pytest.raises(CheckpointError, match="does not fit this version: unknown key 'fancy_new_key'"):
        read(one)


def test_weights_of_another_model(one: Path) -> None:
    tampered(one, "config.yaml", config.dump(config.load({"model": {"name": "fm", "embedding_dim": 3}})).encode())
    with pytest.raises(CheckpointError, match="do not fit the model 'fm'") as caught:
        read(one).build_model()
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("name", ["nothing", "a_file", "empty"])
def test_where_there_is_none(tmp_path: Path, name: str) -> None:
    (tmp_path / "a_file").write_text("")
    (tmp_path / "empty").mkdir()
    with pytest.raises(CheckpointError, match=f"no complete checkpoint in '.*{name}'"):
        read(tmp_path / name)


def test_an_unknown_filesystem() -> None:
    with pytest.raises(DataError, match="nothing://x"):
        read("nothing://x")


# --- the store ------------------------------------------------------------------------------------------------------


def test_newest_and_best_on_every_filesystem(place: str) -> None:
    store = Store(place, keep=2)
    assert (store.names(), store.newest(), store.best(), store.read_newest()) == ([], None, None, None)
    for step in (1, 2, 10):
        path = store.save(step, filler(step), is_best=step == 2)
        assert path == f"{store.location}/step_{step:010d}"
    assert store.newest() == "step_0000000010"
    assert store.best() == "step_0000000002"
    assert read(place).state["step"] == 2
    assert read(path).state["step"] == 10
    newest = store.read_newest()
    assert newest is not None
    assert newest.state["step"] == 10
    assert newest.optimizers is not None


def test_pruning_keeps_the_newest_and_the_best(place: str) -> None:
    store = Store(place, keep=2)
    for step in range(1, 7):
        store.save(step, filler(step), is_best=step in (1, 2))
    assert store.names() == [f"step_{step:010d}" for step in (2, 5, 6)]
    store.save(7, filler(7), is_best=True)
    assert store.names() == [f"step_{step:010d}" for step in (6, 7)]


def test_the_same_step_may_be_saved_again(place: str) -> None:
    store = Store(place, keep=1)
    store.save(5, filler(1.0), is_best=True)
    store.save(5, filler(2.0), is_best=False)
    assert store.names() == ["step_0000000005"]
    assert store.best() == "step_0000000005"
    assert read(place, optimizers=True).state["step"] == 2.0


def test_an_index_that_is_lost_or_damaged_is_made_up_from_the_newest_state(place: str) -> None:
    store = Store(place, keep=1)
    store.save(1, filler(1, early_stopping={"best_step": 1}), is_best=True)
    store.save(2, filler(2, early_stopping={"best_step": 1}), is_best=False)
    for damage in ("delete", "{", "[]"):
        if damage == "delete":
            store._fs.delete_file(f"{store._root}/index.json")
        else:
            with store._fs.open_output_stream(f"{store._root}/index.json") as stream:
                stream.write(damage.encode())
        assert store.best() == "step_0000000001"
        assert read(place).state["step"] == 1
    store.save(3, filler(3, early_stopping={"best_step": 1}), is_best=False)
    assert store.names() == ["step_0000000001", "step_0000000003"], "the best one was not forgotten"


def test_an_index_that_names_what_is_gone(place: str) -> None:
    store = Store(place)
    store.save(1, filler(1), is_best=False)
    store._replace_index({"newest": "step_0000000009", "best": "step_0000000009"})
    assert (store.best(), store.newest()) == (None, "step_0000000001")
    assert read(place).state["step"] == 1


@pytest.mark.parametrize("moment", ["before", "between", "after"])
@pytest.mark.parametrize("kind", [KeyboardInterrupt, OSError])
def test_a_crash_while_filling_leaves_nothing(place: str, moment: str, kind: type[BaseException]) -> None:
    store = Store(place)
    store.save(1, filler(1), is_best=True)

    def crash(folder: Path) -> None:
        if moment != "before":
            filler(2)(folder)
        if moment == "between":
            (folder / "manifest.json").unlink()
        raise kind

    for step in (1, 2):  # also where the step is there already
        with pytest.raises(WriteError if kind is OSError else kind):
            store.save(step, crash, is_best=True)
        assert store.names() == ["step_0000000001"]
        assert store.best() == "step_0000000001"
        assert read(place, optimizers=True).state["step"] == 1
    if store._is_local:
        assert {path.name for path in Path(store._root).iterdir()} == {"step_0000000001", "index.json"}


@pytest.mark.parametrize(("at", "left"), [(1, 1.0), (2, 1.0), (3, 2.0)])
def test_a_crash_while_replacing_leaves_the_old_or_the_new(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, at: int, left: float
) -> None:
    store = Store(str(tmp_path), keep=1)
    store.save(5, filler(1.0), is_best=True)
    replace, calls = os.replace, []

    def dying(source: Any, target: Any) -> None:
        calls.append(target)
        if len(calls) == at:  # out of the way, into its place, the index
            raise KeyboardInterrupt
        replace(source, target)

    with monkeypatch.context() as patch:
        patch.setattr(os, "replace", dying)
        with pytest.raises(KeyboardInterrupt):
            store.save(5, filler(2.0), is_best=False)
    newest = store.read_newest()
    assert newest is not None
    assert newest.state["step"] == left
    store.save(5, filler(3.0), is_best=False)
    assert read(tmp_path).state["step"] == 3.0
    store.save(6, filler(6.0), is_best=False)
    assert store.newest() == "step_0000000006"
    assert not list((tmp_path / "checkpoints").glob("*.old"))


@pytest.mark.parametrize("size", [0, 100, 600, 1000, 1400, 2000])  # ends in another file each
def test_a_full_disk_is_one_line_and_the_last_checkpoint_stays_whole(
    tmp_path: Path, file_limit: Callable[[int | None], None], size: int
) -> None:
    store = Store(str(tmp_path), keep=1)
    store.save(1, filler(1.0), is_best=True)
    for step in (1, 2):
        fill = filler(2.0)
        file_limit(size)
        with pytest.raises(WriteError, match=f"cannot write '.*step_{step:010d}'") as caught:
            store.save(step, fill, is_best=True)
        file_limit(None)
        assert "\n" not in str(caught.value)
        assert {path.name for path in Path(store._root).iterdir()} == {"step_0000000001", "index.json"}
        assert read(tmp_path, optimizers=True).state["step"] == 1.0
    store.save(2, filler(2.0), is_best=True)
    assert read(tmp_path).state["step"] == 2.0


def test_what_torch_cannot_write_is_told_with_the_system_s_reason(tmp_path: Path) -> None:
    def fill(folder: Path) -> None:
        (folder / "probe").mkdir()  # what asks for the reason fails too
        raise RuntimeError("[enforce fail at inline_container.cc:672] . unexpected pos 6464 vs 6356")

    with pytest.raises(WriteError, match=r"cannot write .*Got: Is a directory"):
        Store(str(tmp_path)).save(1, fill, is_best=True)


def test_other_errors_of_a_model_are_not_taken_for_the_disk_s(tmp_path: Path) -> None:
    def fill(folder: Path) -> None:
        raise RuntimeError("DefaultCPUAllocator: can't allocate memory")

    with pytest.raises(RuntimeError, match="allocate memory"):
        Store(str(tmp_path)).save(1, fill, is_best=True)


WRITE = """
import sys, time
from rechub_ray.lock import writing_folder
with writing_folder(sys.argv[1]) as folder:
    (folder / "model.safetensors").write_text("x")
    print(folder.name, flush=True)
    time.sleep(120)
"""


def test_pruning_spares_what_another_process_writes_and_removes_what_a_dead_one_left(tmp_path: Path) -> None:
    store = Store(str(tmp_path), keep=1)
    store.save(1, filler(1), is_best=True)
    process = subprocess.Popen([sys.executable, "-c", WRITE, store._root], stdout=subprocess.PIPE, text=True)
    assert process.stdout is not None
    other = Path(store._root, process.stdout.readline().strip())
    try:
        store.save(2, filler(2), is_best=True)
        assert (other / "model.safetensors").exists()
    finally:
        process.kill()
        process.wait()
    assert other.exists()
    store.save(3, filler(3), is_best=True)
    assert not other.exists()


def test_a_folder_without_its_manifest_does_not_count(tmp_path: Path) -> None:
    store = Store(str(tmp_path))
    store.save(1, filler(1), is_best=False)
    store.save(2, filler(2), is_best=True)
    (tmp_path / "checkpoints" / "step_0000000002" / "manifest.json").unlink()
    assert store.names() == ["step_0000000001"]
    assert read(tmp_path).state["step"] == 1


def test_a_damaged_newest_one_falls_back_and_is_then_dropped(place: str) -> None:
    store = Store(place, keep=1)
    store.save(4, filler(4), is_best=True)
    store.save(9, filler(9), is_best=True)
    store.save(9, filler(9), is_best=True)
    store.save(12, filler(12), is_best=False)
    with store._fs.open_output_stream(f"{store._root}/step_0000000012/model.safetensors") as stream:
        stream.write(b"x")
    newest = store.read_newest()
    assert newest is not None
    assert newest.state["step"] == 9
    store.save(10, filler(10), is_best=False)
    assert store.names() == ["step_0000000009", "step_0000000010"]


def test_where_all_are_damaged_the_newest_damage_is_told(tmp_path: Path) -> None:
    store = Store(str(tmp_path))
    for step in (1, 2):
        store.save(step, filler(step), is_best=False)
        (tmp_path / "checkpoints" / f"step_{step:010d}" / "state.json").write_text("{}")
    with pytest.raises(CheckpointError, match=r"step_0000000002' is damaged: state\.json"):
        store.read_newest()


@pytest.mark.parametrize("name", ["optimizers.pt", "model.safetensors"])
def test_a_file_that_was_cut_off_is_found_without_reading_it(tmp_path: Path, name: str) -> None:
    store = Store(str(tmp_path))
    store.save(1, filler(1), is_best=False)
    file = tmp_path / "checkpoints" / "step_0000000001" / name
    assert store.read_newest(weights=False) is not None
    file.write_bytes(file.read_bytes()[:-1])
    with pytest.raises(CheckpointError, match=f"damaged: {name}"):
        store.read_newest(weights=False)


def test_setting_aside_loses_nothing(place: str) -> None:
    store = Store(place)
    assert store.set_aside() is None
    for k in (1, 2):
        store.save(k, filler(k), is_best=True)
        assert store.set_aside() == f"{store.location}.{k}"
        assert store.names() == []
    for k in (1, 2):
        assert read(f"{store.location}.{k}/step_{k:010d}").state["step"] == k


# --- a whole run behind a URI ---------------------------------------------------------------------------------------


def test_a_run_in_an_object_store(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)  # logs are local files
    write_click_logs(tmp_path / "data", rows=1500, seed=3, files=2, row_group_rows=256)
    base = {
        "name": "remote",
        "data": {"root": "data", "batch_size": 64},
        "model": {"name": "deepfm", "embedding_dim": 4, "hidden_units": [8]},
        "train": {"epochs": 1, "threads": 1},
        "trackers": ["jsonl"],
        "export": {"onnx": False},
    }
    uri = f"memory://{uuid.uuid4().hex}"
    first = train(config.load(base, {"model_dir": uri, "export.onnx": True}))
    assert first.onnx == f"{uri}/model.onnx"
    longer = train(config.load(base, {"model_dir": uri, "train.epochs": 2}), resume="must")
    local = train(config.load(base, {"model_dir": str(tmp_path / "local"), "train.epochs": 2}))
    assert (first.details["steps"], longer.details["steps"]) == (18, 36)
    assert longer.metrics == local.metrics
    assert first.best_checkpoint.startswith(f"{uri}/checkpoints/step_")
    remote, here = Store(uri), Store(str(tmp_path / "local"))
    assert remote.names() == here.names()
    theirs, ours = (read(f"{store.location}/{store.newest()}").model for store in (remote, here))
    assert all(torch.equal(theirs[name], ours[name]) for name in ours)
    assert evaluate(uri) == local.test_metrics
    assert predict(uri, f"{uri}/predictions") == 150
    assert (tmp_path / "runs" / "remote" / "metrics.jsonl").exists()
