"""Ctrl-C: a command ends within seconds, even where something hangs, with one line, and leaves no process behind."""

from __future__ import annotations

import contextlib
import math
import os
import select
import signal
import sys
import threading
import time
from pathlib import Path
from types import TracebackType
from typing import Any

CODE = 130  # what shells report of a command that Ctrl-C ended
GRACE_SECONDS = 3.0  # from the first Ctrl-C to the end of what hangs


class Interrupts:
    """Ends a command within seconds after Ctrl-C, even where something hangs.

    The first Ctrl-C raises KeyboardInterrupt in the main thread. If the process still runs 3 s later, because something
    hangs or swallows the exception, or at a second Ctrl-C, it writes the line and ends. The signal is noticed in C, so
    neither code that never returns to the interpreter nor another library's handler can delay it.

    A context manager. It does nothing outside of the main thread, and where the signal is ignored (`command &`).

    Args:
        line: written to standard error before the process ends.
        grace_seconds: from the first Ctrl-C to the end, > 0; None takes GRACE_SECONDS.
    """

    def __init__(self, line: str, *, grace_seconds: float | None = None) -> None:
        self.line = line
        self.is_hit = self._has_raised = False
        self._grace_seconds = GRACE_SECONDS if grace_seconds is None else grace_seconds
        self._over = threading.Event()
        self._said = threading.Lock()
        self._before: tuple[Any, int] | None = None
        self._pipe = (-1, -1)
        self._thread = threading.Thread(target=self._watch, name="rechub-interrupts", daemon=True)
        self._stderr = -1

    def __enter__(self) -> Interrupts:
        handler = signal.getsignal(signal.SIGINT)
        if threading.current_thread() is not threading.main_thread() or handler in (signal.SIG_IGN, None):
            return self
        with contextlib.suppress(OSError, ValueError, AttributeError):
            self._stderr = os.dup(sys.stderr.fileno())  # a copy, because the stream may be closed until then
        self._pipe = os.pipe()
        for end in self._pipe:
            os.set_blocking(end, False)
        signal.signal(signal.SIGINT, self._raise)
        self._before = (handler, signal.set_wakeup_fd(self._pipe[1], warn_on_full_buffer=False))
        self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._before is None:
            return
        handler, descriptor = self._before
        signal.set_wakeup_fd(descriptor)
        signal.signal(signal.SIGINT, handler)
        self._over.set()
        os.write(self._pipe[1], b"\0")
        self._thread.join(timeout=5)
        for end in (*self._pipe, self._stderr):
            with contextlib.suppress(OSError):
                os.close(end)

    def say(self) -> None:
        """Write the line, unless it is written already."""
        if self._said.acquire(blocking=False):
            print(self.line, file=sys.stderr, flush=True)

    def _raise(self, *_: object) -> None:
        self.is_hit = True
        if not self._has_raised:  # a second one would break into the clean-up; the thread ends the process instead
            self._has_raised = True
            raise KeyboardInterrupt

    def _watch(self) -> None:
        count, ends_at = 0, math.inf
        reading = self._pipe[0]
        while not self._over.is_set():
            left = max(ends_at - time.monotonic(), 0)
            ready, _, _ = select.select([reading], [], [], None if left == math.inf else left)
            if self._over.is_set():
                break
            count += os.read(reading, 512).count(signal.SIGINT) if ready else 0
            if count:
                self.is_hit = True
                ends_at = min(ends_at, time.monotonic() + self._grace_seconds)
            if count > 1 or time.monotonic() >= ends_at:
                if self._said.acquire(blocking=False):
                    with contextlib.suppress(OSError):
                        os.write(self._stderr if self._stderr >= 0 else 2, f"{self.line}\n".encode())
                leave(CODE)


def leave(code: int) -> None:
    """End this process and all processes below it at once, without Python's clean-up.

    Args:
        code: the exit code.
    """
    end_processes(processes_below(os.getpid()))
    os._exit(code)


Process = tuple[int, int]  # id, and when it started in ticks since boot: an id alone may be given again


def processes_below(root: int) -> list[Process]:
    """Return all children of a process, their children and so on; nothing where there is no /proc."""
    children: dict[int, list[Process]] = {}
    with contextlib.suppress(OSError):
        for entry in Path("/proc").iterdir():
            if entry.name.isdigit():
                with contextlib.suppress(OSError):  # the process has just ended
                    fields = (entry / "stat").read_text().rpartition(")")[2].split()
                    children.setdefault(int(fields[1]), []).append((int(entry.name), int(fields[19])))
    found: list[Process] = []
    waiting = [root]
    while waiting:
        below = children.pop(waiting.pop(), [])
        found += below
        waiting += [pid for pid, _ in below]
    return found


def started_at(pid: int) -> int:
    """Return when a process started, in ticks since boot.

    Raises:
        OSError: there is no such process, or no /proc.
    """
    return int(Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[19])


def end_processes(processes: list[Process]) -> None:
    """Kill processes, stopped ones too, but none that has taken over the id of one that ended."""
    for pid, started in processes:
        with contextlib.suppress(OSError, IndexError):
            if started_at(pid) == started:
                os.kill(pid, signal.SIGKILL)
