"""Disks that are full, folders that take nothing: one line, no half data set, and the old one stays."""

from __future__ import annotations

import errno
import os
import resource
import threading
import time
from pathlib import Path
from typing import Any

import fsspec
import pyarrow.fs as pafs
import pyarrow.parquet as pq
import pytest

from rechub_ray.errors import ConfigError, DataError, RechubError
from rechub_ray.lock import writing_folder
from rechub_ray.preparation import encoder, prepare, staging

RAW = "user,item,price,tags,rating\n1,a,2,x,5\n2,b,3,y,1\n"


def full(*arguments: Any, **options: Any) -> Any:
    raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))


PLACES = [
    (pq.ParquetWriter, "write_table"),
    (pq.ParquetWriter, "__init__"),
    (pq.ParquetWriter, "close"),
    (pq, "write_table"),
    (Path, "write_text"),
    (Path, "mkdir"),
    (Path, "rename"),
]


@pytest.mark.parametrize(("owner", "name"), PLACES, ids=[f"{owner.__name__}.{name}" for owner, name in PLACES])
@pytest.mark.parametrize("how", ["plain", "history", "cluster"])
def test_a_full_disk_is_one_line_wherever_it_shows(
    lab: Any, owner: Any, name: str, how: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    lab.write(train__csv=RAW, test__csv=RAW)
    changes: dict[str, Any] = {"overwrite": True}
    if how == "cluster":
        changes["cluster_by"] = "user"
    if how == "history":
        changes["history"] = {"user": "user", "item": "item", "order": "price"}
        changes |= {"split": None, "files": "train.csv"}
    lab.prepare(**changes)
    before = {path: path.read_bytes() for path in lab.out.rglob("*") if path.is_file()}
    with monkeypatch.context() as patch:
        patch.setattr(owner, name, full)
        with pytest.raises(DataError) as caught:
            lab.prepare(**changes)
    message = str(caught.value)
    assert "No space left on device" in message
    assert str(lab.out) in message
    assert "\n" not in message
    assert {path: path.read_bytes() for path in lab.out.rglob("*") if path.is_file()} == before
    assert sorted(path.name for path in lab.folder.iterdir()) == ["out", "raw"]


@pytest.mark.parametrize("changes", [{}, {"cluster_by": "u"}])
def test_a_file_that_may_not_grow(lab: Any, changes: dict[str, Any]) -> None:
    """The system's own refusal in the middle of a shard, nothing patched."""
    lab.write(train__csv="u,x,y\n" + "".join(f"{i},{i * 7919 % 100003}.{i},{i % 2}\n" for i in range(40_000)))
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (100_000, limits[1]))
    try:
        with pytest.raises(DataError, match=r"cannot write into .*out'. Got: File too large") as caught:
            prepare(lab.single(features=[{"kind": "numeric", "name": "x"}], **changes))
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    assert "\n" not in str(caught.value)
    assert [path.name for path in lab.folder.iterdir()] == ["raw"]


def test_a_quarantine_that_cannot_be_written(lab: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    lab.write(train__csv=RAW + "1,a,cheap,x,5\n", test__csv=RAW)
    monkeypatch.setattr(Path, "open", full)
    with pytest.raises(DataError, match="No space left"):
        lab.prepare(on_bad_rows="quarantine")
    assert [path.name for path in lab.folder.iterdir()] == ["raw"]


class Broken(pafs.FSSpecHandler):
    """A store that takes no more files after a number of them."""

    left = 0

    def open_output_stream(self, path: str, metadata: Any) -> Any:
        Broken.left -= 1
        return full() if Broken.left < 0 else super().open_output_stream(path, metadata)

    def copy_file(self, src: str, dest: str) -> None:
        Broken.left -= 1
        return full() if Broken.left < 0 else super().copy_file(src, dest)


@pytest.mark.parametrize("left", range(0, 12, 3))
def test_an_upload_that_breaks_off_leaves_the_old_data_set_or_one_that_the_next_prepare_puts_in_place(
    lab: Any, left: int, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    memory = fsspec.filesystem("memory")
    out = f"memory://bucket/broken-{left}"
    lab.write(train__csv=RAW, test__csv=RAW)
    store = pafs.PyFileSystem(Broken(memory))
    monkeypatch.setattr(staging, "open_filesystem", lambda path: (store, path.removeprefix("memory://")))
    monkeypatch.setattr(staging, "check_writable", lambda *_, **__: None)
    Broken.left = 1000
    prepare(lab.recipe(out=out))
    files = 1000 - Broken.left
    old = memory.cat(f"/bucket/broken-{left}/schema.json")
    lab.write(train__csv=RAW + "3,c,4,z,5\n")
    Broken.left = left
    with pytest.raises(RechubError, match="No space left") as caught:
        prepare(lab.recipe(out=out, overwrite=True))
    if left < files:
        assert memory.cat(f"/bucket/broken-{left}/schema.json") == old
        assert not memory.glob(f"/bucket/broken-{left}.replacement/*")
        Broken.left = 1000
        prepare(lab.recipe(out=out, overwrite=True))
        assert memory.cat(f"/bucket/broken-{left}/schema.json") != old
    else:
        assert "the new data set is whole in" in str(caught.value)
        new = memory.cat(f"/bucket/broken-{left}.replacement/schema.json")
        assert new != old
        assert "its files are replaced one by one now" in caplog.text
        assert not memory.exists(f"/bucket/broken-{left}/schema.json"), "half a data set is none"
        Broken.left = 1000
        with pytest.raises(ConfigError, match="exists already"):
            prepare(lab.recipe(out=out))
        assert "its data set is put in place now" in caplog.text
        assert memory.cat(f"/bucket/broken-{left}/schema.json") == new
        assert {path.rpartition("/")[2] for path in memory.ls(f"/bucket/broken-{left}", detail=False)} >= {
            "train",
            "vocab",
        }
    Broken.left = 1000
    prepare(lab.recipe(out=out, overwrite=True))
    assert not memory.exists(f"/bucket/broken-{left}.replacement")


def test_the_disk_of_a_temporary_folder_is_named(lab: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    lab.write(train__csv=RAW, test__csv=RAW)
    monkeypatch.setenv("TMPDIR", str(lab.folder))
    monkeypatch.setattr("tempfile.tempdir", None)
    monkeypatch.setattr(encoder.Path, "write_text", full)
    with pytest.raises(DataError, match=str(lab.folder)):
        prepare(lab.recipe(out="memory://elsewhere/out"))


def contents(lab: Any) -> dict[str, bytes]:
    return {str(path.relative_to(lab.folder)): path.read_bytes() for path in lab.folder.rglob("*") if path.is_file()}


@pytest.mark.parametrize("exchanges", [True, False])
def test_a_data_set_is_replaced_with_nothing_left_over(
    lab: Any, exchanges: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    lab.write(train__csv=RAW, test__csv=RAW)
    lab.prepare()
    lab.write(train__csv=RAW + "3,c,4,z,5\n")
    lab.prepare(out=str(lab.folder / "expected"))
    if not exchanges:
        monkeypatch.setattr(staging, "_exchange", lambda *_: False)
    lab.prepare(overwrite=True)
    found = {name.removeprefix("out/"): text for name, text in contents(lab).items() if name.startswith("out/")}
    assert {name: found[name] for name in found if name != "recipe.json"} == {
        name.removeprefix("expected/"): text
        for name, text in contents(lab).items()
        if name.startswith("expected/") and "recipe" not in name
    }
    assert sorted(path.name for path in lab.folder.iterdir()) == ["expected", "out", "raw"]
    assert (lab.out / "train").stat().st_mode == lab.raw.stat().st_mode == lab.out.stat().st_mode


def test_folders_are_exchanged_at_once(tmp_path: Path) -> None:
    for name in ("one", "two"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "schema.json").write_text(name)
    seen: set[str] = set()
    done = threading.Event()

    def look() -> None:
        while not done.is_set():
            seen.add((tmp_path / "two" / "schema.json").read_text())  # raises where it is missing for a moment
        seen.add("looked")

    thread = threading.Thread(target=look)
    thread.start()
    for _ in range(1000):
        assert staging._exchange(tmp_path / "one", str(tmp_path / "two")), "Linux on an ordinary disk"
    while len(seen) < 2:  # the test's own timeout bounds it
        staging._exchange(tmp_path / "one", str(tmp_path / "two"))
        time.sleep(0.001)
    done.set()
    thread.join()
    assert seen == {"one", "two", "looked"}
    with pytest.raises(FileNotFoundError):
        staging._exchange(tmp_path / "none", str(tmp_path / "two"))


def test_what_dead_processes_left_is_removed_and_the_rest_is_not(lab: Any) -> None:
    lab.write(train__csv=RAW, test__csv=RAW)
    for name in (".out.preparing-4711", ".other.preparing-1"):
        (lab.folder / name / "train").mkdir(parents=True)
    with writing_folder(str(lab.folder), ".out.preparing-") as live:
        lab.prepare()
        names = {path.name for path in lab.folder.iterdir()}
        assert names == {"raw", "out", ".other.preparing-1", live.name}


def test_a_crash_between_two_renames_is_mended(lab: Any) -> None:
    """On disks that cannot exchange folders."""
    lab.write(train__csv=RAW, test__csv=RAW)
    lab.prepare()
    before = contents(lab)
    os.rename(lab.out, lab.folder / ".out.replaced")
    with pytest.raises(ConfigError, match="exists already"):
        lab.prepare()
    assert contents(lab) == before
    (lab.folder / ".out.replaced").mkdir()  # a crash after them
    lab.prepare(overwrite=True)
    assert sorted(path.name for path in lab.folder.iterdir()) == ["out", "raw"]


def test_a_link_to_the_data_set_stays(lab: Any) -> None:
    lab.write(train__csv=RAW, test__csv=RAW)
    lab.prepare()
    link = lab.folder / "link"
    link.symlink_to(lab.out)
    lab.write(train__csv=RAW + "3,c,4,z,5\n")
    lab.prepare(out=str(link), overwrite=True)
    assert link.is_symlink()
    assert len(lab.split()["user"]) == 3
    assert sorted(path.name for path in lab.folder.iterdir()) == ["link", "out", "raw"]
