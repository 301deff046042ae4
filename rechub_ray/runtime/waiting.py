"""A line on stderr about what a run waits for, while there is nothing else to see."""

from __future__ import annotations

import contextlib
import os
import sys
import threading
import time

_DRAW_SECONDS = 1.0
_QUIET_SECONDS = 10.0


class Waiting:
    """Shows what is waited for, and for how long: renewed in place on a terminal, elsewhere one line after 10 s.

    A context manager; `done` may end it before.

    Args:
        what: as in "starting Ray".
        quiet_seconds: before the line where there is no terminal (> 0).
    """

    def __init__(self, what: str, *, quiet_seconds: float = _QUIET_SECONDS) -> None:
        self.what = what
        self._quiet_seconds = quiet_seconds
        self._over = threading.Event()
        self._thread = threading.Thread(target=self._run, name="rechub-waiting", daemon=True)
        # a descriptor of its own: while Ray starts, the other one is redirected, see `cluster._quiet_stderr`
        self._file = -1
        with contextlib.suppress(OSError, ValueError, AttributeError):
            self._file = os.dup(sys.stderr.fileno())

    def __enter__(self) -> Waiting:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.done()
        if self._file >= 0:
            os.close(self._file)
            self._file = -1

    def done(self) -> None:
        """Take the text away: the wait is over."""
        self._over.set()
        self._thread.join(timeout=2)

    def _run(self) -> None:
        started = time.monotonic()
        with contextlib.suppress(OSError, ValueError):  # the terminal is gone
            if self._file >= 0 and os.isatty(self._file):
                while not self._over.wait(_DRAW_SECONDS):
                    self._write(f"\r\x1b[K{self.what} ... {time.monotonic() - started:.0f} s")
                if time.monotonic() - started > _DRAW_SECONDS:
                    self._write("\r\x1b[K")
            elif not self._over.wait(self._quiet_seconds):
                self._write(f"{self.what}: {self._quiet_seconds:g} s so far\n")

    def _write(self, text: str) -> None:
        if self._file >= 0:
            os.write(self._file, text.encode())
        else:
            sys.stderr.write(text)
            sys.stderr.flush()
