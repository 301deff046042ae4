"""One run at a time in a folder, and no lock that outlives its process."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import threading
import time
import uuid
from pathlib import Path

import pyarrow.fs as pafs
import pytest

from rechub_ray import files, lock
from rechub_ray.errors import ConfigError, WriteError
from rechub_ray.lock import locked

HOLD = """
import sys, time
from rechub_ray.lock import locked
with locked(sys.argv[1], what="'model_dir'", hint="Wait."):
    print("held", flush=True)
    time.sleep(120)
"""


def held(folder: Path) -> subprocess.Popen[str]:
    """Another process that holds the folder."""
    process = subprocess.Popen([sys.executable, "-c", HOLD, str(folder)], stdout=subprocess.PIPE, text=True)
    assert process.stdout is not None
    assert process.stdout.readline() == "held\n"
    return process


def take(folder: object) -> None:
    with locked(str(folder), what="'model_dir'", hint="Wait."):
        pass


def test_the_second_process_is_refused_and_told_of_the_first(tmp_path: Path) -> None:
    process = held(tmp_path / "run")
    try:
        with pytest.raises(ConfigError, match=rf"'model_dir': another run.*process {process.pid}, since 2.*Wait"):
            take(tmp_path / "run")
    finally:
        process.kill()
        process.wait()


@pytest.mark.usefixtures("default_signals")
@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGTERM])
def test_a_killed_process_leaves_no_lock(tmp_path: Path, number: signal.Signals) -> None:
    process = held(tmp_path / "run")
    process.send_signal(number)
    process.wait(timeout=60)
    take(tmp_path / "run")
    assert not (tmp_path / "run" / lock.NAME).exists()


def test_a_forked_child_does_not_hold_its_dead_parent_s_lock(tmp_path: Path) -> None:
    code = HOLD.replace(
        '    print("held", flush=True)',
        "    import os\n    child = os.fork()\n    os.write(1, f'held {child}\\n'.encode() if child else b'child\\n')",
    )
    process = subprocess.Popen([sys.executable, "-c", code, str(tmp_path / "run")], stdout=subprocess.PIPE, text=True)
    assert process.stdout is not None
    # both have run past the fork: until then the child holds what it inherited
    said = sorted(process.stdout.readline().split() for _ in range(2))
    assert said[0] == ["child"], said
    child = int(said[1][1])
    try:
        process.kill()
        process.wait()
        os.kill(child, 0)
        take(tmp_path / "run")
    finally:
        os.kill(child, signal.SIGKILL)


@pytest.mark.parametrize("kind", ["local", "memory"])
def test_the_same_process_is_refused_too_and_the_end_frees(
    tmp_path: Path, kind: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(lock, "BEAT_SECONDS", 0.5)
    folder = str(tmp_path / "run") if kind == "local" else f"memory://{uuid.uuid4().hex}"
    for _ in range(2):
        with locked(folder, what="'model_dir'", hint="Wait."):
            with pytest.raises(ConfigError, match=f"process {os.getpid()}"):
                take(folder)
            files.write_text(f"{folder}/mine", "x")
    assert files.read_text(f"{folder}/mine") == "x"
    assert not files.exists(*in_(folder, lock.NAME))


def in_(folder: str, name: str) -> tuple[pafs.FileSystem, str]:
    return files.open_filesystem(f"{folder}/{name}")


def test_a_folder_that_stays_empty_is_not_left(tmp_path: Path) -> None:
    take(tmp_path / "run")
    assert not (tmp_path / "run").exists()
    (tmp_path / "mine").mkdir()
    take(tmp_path / "mine")
    assert (tmp_path / "mine").exists()


def test_of_many_at_once_one_gets_it(tmp_path: Path) -> None:
    begin, end, got = threading.Barrier(8), threading.Event(), list[str]()

    def one() -> None:
        begin.wait()
        try:
            with locked(str(tmp_path), what="'model_dir'", hint="Wait."):
                got.append("held")
                end.wait(30)
        except ConfigError:
            got.append("refused")

    threads = [threading.Thread(target=one) for _ in range(8)]
    for thread in threads:
        thread.start()
    bound = time.monotonic() + 30
    while len(got) < 8 and time.monotonic() < bound:
        time.sleep(0.01)
    end.set()
    for thread in threads:
        thread.join()
    assert sorted(got) == ["held"] + ["refused"] * 7


# --- where there are no locks ---------------------------------------------------------------------------------------


def note(folder: str, **changes: object) -> None:
    files.write_text(f"{folder}/{lock.NAME}", json.dumps({"host": "elsewhere", "pid": 7, "since": "then", **changes}))


@pytest.mark.parametrize("content", ["note", "garbage", "list"])
def test_a_note_that_stands_still_is_of_a_dead_process(monkeypatch: pytest.MonkeyPatch, content: str) -> None:
    monkeypatch.setattr(lock, "BEAT_SECONDS", 0.05)
    folder = f"memory://{uuid.uuid4().hex}"
    if content == "note":
        note(folder, token="x", beat=3)
    else:
        files.write_text(f"{folder}/{lock.NAME}", "{" if content == "garbage" else "[]")
    take(folder)
    assert not files.exists(*in_(folder, lock.NAME))


def test_a_note_of_this_host_s_dead_process_is_not_waited_for(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(lock.time, "sleep", lambda seconds: None)
    monkeypatch.setattr(lock._log, "warning", lambda *words: pytest.fail("it waits"))
    dead = subprocess.Popen([sys.executable, "-c", ""])
    dead.wait()
    folder = f"memory://{uuid.uuid4().hex}"
    note(folder, host=lock.socket.gethostname(), pid=dead.pid, token="x", beat=3)
    take(folder)


def test_a_note_that_is_renewed_refuses_and_names_its_writer(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(lock, "BEAT_SECONDS", 0.05)
    folder, beats = f"memory://{uuid.uuid4().hex}", iter(range(10**6))
    note(folder, token="x", beat=0)
    monkeypatch.setattr(lock.time, "sleep", lambda seconds: note(folder, token="x", beat=next(beats)))
    with pytest.raises(ConfigError, match="host elsewhere, process 7, since then"):
        take(folder)
    assert files.exists(*in_(folder, lock.NAME))


def test_a_disk_without_locks_gets_a_note(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def no_locks(*_: object) -> None:
        raise OSError(lock.errno.ENOLCK, "No locks available")

    monkeypatch.setattr(lock.fcntl, "flock", no_locks)
    monkeypatch.setattr(lock, "BEAT_SECONDS", 0.5)
    with locked(str(tmp_path), what="'model_dir'", hint="Wait."):
        assert "token" in json.loads((tmp_path / lock.NAME).read_text())
        with pytest.raises(ConfigError, match="another run"):
            take(tmp_path)
    assert not (tmp_path / lock.NAME).exists()


def test_a_folder_that_takes_no_files_is_told_in_one_line(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(WriteError, match=r"cannot write '.*/file/run'"):
        take(tmp_path / "file" / "run")
