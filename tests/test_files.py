"""Local paths and URIs through one interface."""

from __future__ import annotations

import errno
import uuid
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace

import pyarrow.fs as pafs
import pytest

from rechub_ray import files
from rechub_ray.errors import DataError, WriteError


@pytest.mark.parametrize(
    ("root", "path", "joined"),
    [
        ("data", "train", "data/train"),
        ("data/", "train", "data/train"),
        ("data", "/abs/train", "/abs/train"),
        ("s3://b/data", "train", "s3://b/data/train"),
        ("data", "s3://b/train", "s3://b/train"),
        ("", "train", "train"),
        ("/", "train", "/train"),
        ("s3://b/data?scheme=http&region=eu", "train", "s3://b/data/train?scheme=http&region=eu"),
        ("s3://b?scheme=http", "train", "s3://b/train?scheme=http"),
        ("odd?folder", "train", "odd?folder/train"),
    ],
)
def test_join(root: str, path: str, joined: str) -> None:
    assert files.join(root, path) == joined


@pytest.mark.parametrize(
    ("path", "folder", "name"),
    [
        ("/data/train/", "/data", "train"),
        ("/data", "/", "data"),
        ("data", "", "data"),
        ("s3://b/data/train", "s3://b/data", "train"),
        ("s3://b/data/train?scheme=http", "s3://b/data?scheme=http", "train"),
        ("/odd?folder/a?b", "/odd?folder", "a?b"),
    ],
)
def test_split_is_the_inverse_of_join(path: str, folder: str, name: str) -> None:
    assert files.split(path) == (folder, name)
    assert files.join(folder, name) == path.rstrip("/")


def test_absolute(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("HOME", "/home/someone")
    assert files.absolute("a/../b") == f"{tmp_path}/b"
    assert files.absolute("~/x") == "/home/someone/x"
    assert files.absolute("s3://bucket/x") == "s3://bucket/x"


@pytest.mark.parametrize("kind", ["local", "file", "memory"])
def test_writing_makes_the_folder_and_reading_gives_the_text(kind: str, tmp_path: Path) -> None:
    name = uuid.uuid4().hex
    place = {"local": f"{tmp_path}/{name}", "file": f"file://{tmp_path}/{name}", "memory": f"memory://{name}"}[kind]
    for text in ("first: ä\n", "second"):
        files.write_text(f"{place}/deep/file.txt", text)
        assert files.read_text(f"{place}/deep/file.txt") == text
    filesystem, inner = files.open_filesystem(f"{place}/deep")
    assert files.exists(filesystem, f"{inner}/file.txt")
    assert not files.exists(filesystem, inner)
    assert files.exists(filesystem, inner, kind=pafs.FileType.Directory)
    assert [info.base_name for info in filesystem.get_file_info(pafs.FileSelector(inner))] == ["file.txt"]


def test_a_write_that_fails_leaves_the_old_text(tmp_path: Path) -> None:
    files.write_text(str(tmp_path / "file.txt"), "old")
    with pytest.raises(UnicodeEncodeError):
        files.write_text(str(tmp_path / "file.txt"), "new \ud800")
    assert files.read_text(str(tmp_path / "file.txt")) == "old"


def test_a_full_disk_leaves_the_old_text_and_nothing_half(
    tmp_path: Path, file_limit: Callable[[int | None], None]
) -> None:
    files.write_text(str(tmp_path / "file.txt"), "old")
    file_limit(100)
    with pytest.raises(WriteError, match=r"cannot write '.*file\.txt'\. Got: File too large"):
        files.write_text(str(tmp_path / "file.txt"), "new" * 100)
    file_limit(None)
    assert [path.name for path in tmp_path.iterdir()] == ["file.txt"]
    assert files.read_text(str(tmp_path / "file.txt")) == "old"


def test_why_it_cannot_be_written() -> None:
    full = files.cannot_write("s3://K:S@b/x", OSError(errno.ENOSPC, "No space left on device"))
    assert str(full).startswith("cannot write 's3://***@b/x'. Got: No space left on device. Make room there")
    assert "Name a folder that takes files" in str(files.cannot_write("x", OSError(errno.EROFS, "Read-only")))


def test_a_missing_file_is_an_os_error_that_gives_its_reason(tmp_path: Path) -> None:
    with pytest.raises(OSError) as caught:
        files.read_text(str(tmp_path / "nothing"))
    assert files.reason(caught.value) == "No such file or directory"
    assert files.reason(OSError("told by nobody")) == "told by nobody"


def test_an_unknown_scheme() -> None:
    with pytest.raises(DataError, match=r"cannot open 'nothing://x'.*fsspec"):
        files.open_filesystem("nothing://x")


def test_a_masked_uri_opens_with_the_environment_s_keys(monkeypatch: pytest.MonkeyPatch) -> None:
    asked = []

    def from_uri(uri: str) -> tuple[pafs.FileSystem, str]:
        asked.append(uri)
        return pafs.LocalFileSystem(), "bucket/a"

    monkeypatch.setattr(pafs, "FileSystem", SimpleNamespace(from_uri=from_uri))
    name = uuid.uuid4().hex
    files.open_filesystem(files.masked(f"s3://KEY:SECRET@{name}/folder/file?scheme=http&session_token=T&region=eu"))
    assert asked == [f"s3://{name}/folder?scheme=http&region=eu"]
