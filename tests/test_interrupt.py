"""Ctrl-C ends a command, whatever hangs, with one line and code 130, and nothing is left behind."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import textwrap
import time
from pathlib import Path

import pytest

from rechub_ray import cli
from rechub_ray.interrupt import CODE, Interrupts, end_processes, processes_below

ROOT = Path(__file__).resolve().parents[1]
LINE = "interrupted; do it again"

# what the main thread does when the first Ctrl-C comes; it has said "ready" before
BODIES = {
    "nothing": "sleep()",
    "swallows it": """
        while True:
            try:
                sleep()
            except KeyboardInterrupt:
                pass
    """,
    "has another handler": """
        signal.signal(signal.SIGINT, lambda *_: None)
        while True:
            sleep()
    """,
    "does not come back from C": """
        import ctypes
        lock, mutex = ctypes.CDLL(None).pthread_mutex_lock, (ctypes.c_char * 64)()
        lock(mutex)
        print("ready", flush=True)
        lock(mutex)  # for ever, and no signal ends it
    """,
    "has a stopped child": """
        child = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(100)"])
        os.kill(child.pid, signal.SIGSTOP)
        sleep()
    """,
    "raises something else": """
        try:
            sleep()
        except KeyboardInterrupt:
            raise RechubError("an error that the interrupt brought about") from None
    """,
    "exits": """
        try:
            sleep()
        except KeyboardInterrupt:
            sys.exit(0)
    """,
}


def start(body: str, *, grace_seconds: float) -> subprocess.Popen[str]:
    """The command line with a command that does `body`; returns when it has got there."""
    script = textwrap.dedent(
        """
        import os, signal, subprocess, sys, threading, time
        signal.signal(signal.SIGINT, signal.default_int_handler)  # however the shell was started
        from rechub_ray import cli, interrupt
        from rechub_ray.errors import RechubError
        interrupt.GRACE_SECONDS = {grace}

        def sleep():
            global told
            if not told:  # not before: a body's `try` has begun
                told = True
                print("ready", flush=True)
            time.sleep(100)

        told = False

        def command(options):
        {body}

        cli._list = command
        sys.argv = ["rechub-ray", "list"]
        cli.entry()
        """
    )
    body = textwrap.indent(textwrap.dedent(body).strip("\n"), "    ")
    process = subprocess.Popen(
        [sys.executable, "-c", script.format(grace=grace_seconds, body=body)],
        stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env={**os.environ, "PYTHONPATH": str(ROOT)},
    )  # fmt: skip
    assert process.stdout is not None
    assert process.stdout.readline() == "ready\n"
    return process


def is_running(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] not in "ZX"
    except OSError:
        return False


@pytest.mark.parametrize("name", BODIES)
def test_the_first_one_ends_it(name: str) -> None:
    process = start(BODIES[name], grace_seconds=0.5)
    below = {pid for pid, _ in processes_below(process.pid)}
    assert len(below) == (name == "has a stopped child")
    process.send_signal(signal.SIGINT)
    _, err = process.communicate(timeout=60)
    assert (process.returncode, err) == (CODE, "rechub-ray: interrupted; the same command starts again\n")
    while any(is_running(pid) for pid in below):  # killed, but not yet gone; the test's own timeout bounds it
        time.sleep(0.02)


def test_a_second_one_ends_it_at_once() -> None:
    process = start(BODIES["swallows it"], grace_seconds=1000)
    process.send_signal(signal.SIGINT)
    with pytest.raises(subprocess.TimeoutExpired):
        process.wait(timeout=0.5)
    process.send_signal(signal.SIGINT)
    _, err = process.communicate(timeout=60)
    assert (process.returncode, err.count("interrupted")) == (CODE, 1)


def test_a_command_that_ends_well_leaves_everything_as_it_was() -> None:
    before = signal.getsignal(signal.SIGINT), signal.set_wakeup_fd(-1)
    signal.set_wakeup_fd(before[1])
    with Interrupts(LINE) as interrupts:
        pass
    assert not interrupts.is_hit
    assert (signal.getsignal(signal.SIGINT), signal.set_wakeup_fd(before[1])) == before


def test_an_ignored_signal_stays_ignored() -> None:
    before = signal.signal(signal.SIGINT, signal.SIG_IGN)
    try:
        with Interrupts(LINE):
            assert signal.getsignal(signal.SIGINT) == signal.SIG_IGN
            os.kill(os.getpid(), signal.SIGINT)
    finally:
        signal.signal(signal.SIGINT, before)


def test_the_processes_below_are_found_and_ended_with_their_children() -> None:
    script = "import subprocess, sys; p = subprocess.Popen(['sleep', '100']); print(p.pid, flush=True); p.wait()"
    child = subprocess.Popen([sys.executable, "-c", script], stdout=subprocess.PIPE, text=True)
    assert child.stdout is not None
    grandchild = int(child.stdout.readline())
    found = processes_below(os.getpid())
    assert {child.pid, grandchild} <= {pid for pid, _ in found}
    mine = [process for process in found if process[0] in (child.pid, grandchild)]
    end_processes([(pid, started + 1) for pid, started in mine])  # others that have got the same ids
    assert child.poll() is None
    end_processes(mine)
    assert child.wait(timeout=30) == -signal.SIGKILL
    child.stdout.close()


@pytest.mark.parametrize(
    ("arguments", "expected"),
    [
        (["train", "c.yaml"], "the same command goes on from the last checkpoint"),
        (["train", "c.yaml", "--resume", "never"], "the same command without `--resume never` goes on"),
        (["tune", "s.yaml", "--sweep-dir", "mine"], "mine` goes on from the last checkpoints"),
        (["tune", "--resume", "other"], "`rechub-ray tune --resume other` goes on"),
        (["export", "run"], "the same command starts again"),
    ],
)
def test_the_line_says_how_to_go_on(
    arguments: list[str],
    expected: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    def interrupted(*_: object, **__: object) -> None:
        raise KeyboardInterrupt

    for place in ("runtime.launch.train", "sweeps.tune", "checkpoint.read"):
        monkeypatch.setattr(f"rechub_ray.{place}", interrupted)
    monkeypatch.chdir(tmp_path)
    Path("c.yaml").write_text("{name: c, model: lr, data: {root: data}}")
    Path("s.yaml").write_text("{base: c.yaml, name: s, space: {seed: [1, 2]}, search: grid}")
    assert cli.main(arguments) == CODE
    said = capsys.readouterr().err
    assert said.startswith("rechub-ray: interrupted; ")
    assert expected in said
    assert said.count("\n") == 1
