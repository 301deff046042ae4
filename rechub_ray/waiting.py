"""A line on stderr about what is waited for, while there is nothing else to see."""

from __future__ import annotations

import contextlib
import os
import sys
import threading
import time
from collections.abc import Callable

_DRAW_SECONDS = 1.0
_QUIET_SECONDS = 10.0


class Waiting:
    """Shows what is waited for, and for how long: renewed in place on a terminal, elsewhere one line after 10 s.

    A context manager; `done` may end it before.

    Args:
        what: as in "starting Ray".
        detail: returns how far it is, in a few words; called in a thread, on a terminal alone.
        quiet_seconds: before the line where there is no terminal (> 0); None never writes it.
    """

    def __init__(
        self, what: str, *, detail: Callable[[], str] | None = None, quiet_seconds: float | None = _QUIET_SECONDS
    ) -> None:
        self.what = what
        self._detail, self._quiet_seconds = detail, quiet_seconds
        self._over = threading.Event()
        self._thread: threading.Thread | None = None
        # a descriptor of its own: while Ray starts, the other one is redirected, see `cluster._quiet_stderr`
        self._file = -1
        with contextlib.suppress(OSError, ValueError, AttributeError):
            self._file = os.dup(sys.stderr.fileno())
        self._is_terminal = self._file >= 0 and os.isatty(self._file) and os.environ.get("TERM") != "dumb"

    def __enter__(self) -> Waiting:
        if self._is_terminal or self._quiet_seconds is not None:
            self._thread = threading.Thread(target=self._run, name="rechub-waiting", daemon=True)
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
        if self._thread is not None:
            self._thread.join(timeout=2)

    def _run(self) -> None:
        started = time.monotonic()
        with contextlib.suppress(OSError, ValueError):  # the terminal is gone
            if self._is_terminal:
                while not self._over.wait(_DRAW_SECONDS):
                    self._write(f"\r\x1b[K{self._line(time.monotonic() - started)}")
                if time.monotonic() - started > _DRAW_SECONDS:
                    self._write("\r\x1b[K")
            elif self._quiet_seconds is not None and not self._over.wait(self._quiet_seconds):
                self._write(f"{self.what}: {self._quiet_seconds:g} s so far\n")

    def _line(self, seconds: float) -> str:
        """Return the text, cut to the terminal's width: a longer one could not be taken away."""
        detail = "" if self._detail is None else self._detail()
        text = f"{self.what} ... {seconds:.0f} s{', ' if detail else ''}{detail}"
        return text[: (os.get_terminal_size(self._file).columns or 80) - 1]

    def _write(self, text: str) -> None:
        if self._file >= 0:
            os.write(self._file, text.encode())
        else:
            sys.stderr.write(text)
            sys.stderr.flush()
