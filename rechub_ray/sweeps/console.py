"""The display of a running sweep: a live table on a terminal, elsewhere a line for each event."""

from __future__ import annotations

import collections
import contextlib
import dataclasses
import os
import signal
import sys
import threading
import time
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, TextIO

from rechub_ray.tracking.console import clock

if TYPE_CHECKING:
    from rich.console import Group
    from rich.live import Live

QUIET_SECONDS = 60.0  # without an event, before a line says how the sweep stands
_DRAW_SECONDS = 0.2
_CLOSE_SECONDS = 2.0
_LONGEST_LINE = 300
_MOST_LINES = 1000  # kept for a terminal that takes none


@dataclasses.dataclass(frozen=True)
class Row:
    """A trial that runs, or the best one.

    Args:
        trial: its id.
        epochs: epochs trained so far.
        last: its newest score.
        best: its best score.
        params: the values that distinguish it, as text.
    """

    trial: str
    epochs: float
    last: float | None
    best: float | None
    params: str


@dataclasses.dataclass(frozen=True)
class View:
    """A sweep at one moment.

    Args:
        metric: the metric that trials are compared by.
        epochs: epochs of a whole trial.
        counts: state -> number of trials, of all trials.
        running: the trials that train now.
        best: the best trial so far.
        seconds_left: time to the end, where it can be estimated.
        at: `time.monotonic()` of this moment.
        began: `time.monotonic()` of the sweep's start.
    """

    metric: str
    epochs: float
    counts: Mapping[str, int]
    running: tuple[Row, ...]
    best: Row | None
    seconds_left: float | None
    at: float
    began: float

    def text(self, now: float) -> str:
        """Return the counts and times in one line."""
        parts = [f"{number} {state}" for state, number in self.counts.items() if number]
        parts.append(f"{clock(now - self.began)} passed")
        if self.seconds_left is not None:
            parts.append(f"about {clock(self.seconds_left - (now - self.at))} to go")
        return ", ".join(parts)


class SweepConsole:
    """Writes in a thread of its own, so that a terminal that is slow, stopped or gone cannot hold up or end a sweep.

    A context manager. Meanwhile a closed terminal (SIGHUP) does not end this process either.

    Args:
        stream: where to write; it is not used after the end.
        quiet_seconds: time without an event before a line says how the sweep stands (not on a terminal).
    """

    def __init__(self, stream: TextIO | None = None, *, quiet_seconds: float = QUIET_SECONDS) -> None:
        self._stream = stream or sys.stderr
        self._quiet_seconds = quiet_seconds
        self._lines: collections.deque[str] = collections.deque(maxlen=_MOST_LINES)
        self._view: View | None = None
        self._wake = threading.Event()
        self._closing = threading.Event()
        self._thread = threading.Thread(target=self._run, name="rechub-console", daemon=True)
        self._hangup: Any = None

    def __enter__(self) -> SweepConsole:
        with contextlib.suppress(ValueError):  # outside of the main thread no handler can be set
            if signal.getsignal(signal.SIGHUP) == signal.SIG_DFL:
                # before Ray starts, whose processes inherit this
                self._hangup = signal.signal(signal.SIGHUP, signal.SIG_IGN)
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.close()
        if self._hangup is not None:
            signal.signal(signal.SIGHUP, self._hangup)

    def __reduce__(self) -> tuple[Any, ...]:
        """Pickle as None, because Ray Tune writes its callbacks to disk with all that they hold."""
        return type(None), ()

    def say(self, text: str) -> None:
        """Write one line, cut where it is too long to be read."""
        line = " ".join(text.split())
        self._lines.append(line if len(line) <= _LONGEST_LINE else f"{line[: _LONGEST_LINE - 1]}…")
        self._wake.set()

    def show(self, view: View | None) -> None:
        """Show how the sweep stands; None takes the table away."""
        self._view = view
        self._wake.set()

    def close(self) -> None:
        """Write what is left; give up on a terminal that does not take it within 2 seconds."""
        self._closing.set()
        self._wake.set()
        self._thread.join(_CLOSE_SECONDS)

    def _run(self) -> None:
        with contextlib.suppress(Exception):  # the terminal is gone; the sweep's own files hold everything
            sink = _Sink(self._stream)
            live = _live(sink)
            try:
                self._write(sink, live)
            finally:
                if live is not None:
                    live.stop()

    def _write(self, sink: _Sink, live: Live | None) -> None:
        # without a live table: when the next line says how the sweep stands
        quiet_until = time.monotonic() + self._quiet_seconds
        while True:
            self._wake.wait(1.0)
            self._wake.clear()
            is_last = self._closing.is_set()
            while self._lines:
                line = self._lines.popleft()
                if live is not None and live.is_started:
                    live.console.print(line, markup=False, highlight=False, soft_wrap=True)
                else:
                    sink.write(f"{line}\n")
                    sink.flush()
                quiet_until = time.monotonic() + self._quiet_seconds
            view = self._view
            if live is not None:
                _draw(live, None if is_last else view)
            elif view is not None and time.monotonic() >= quiet_until:
                self.say(view.text(time.monotonic()))
            if is_last:
                return
            self._closing.wait(_DRAW_SECONDS)


class _Sink:
    """Writes to a stream's descriptor, past Python's buffers: their locks would hold up the end of the process."""

    def __init__(self, stream: TextIO) -> None:
        self._stream = stream
        self._file: int | None = None
        with contextlib.suppress(OSError, AttributeError):  # not a file: a notebook's output, say
            self._file = stream.fileno()
        self._parts: list[str] = []
        self.encoding = "utf-8"

    def write(self, text: str) -> int:
        self._parts.append(text)
        return len(text)

    def flush(self) -> None:
        text, self._parts = "".join(self._parts), []
        if self._file is None:
            self._stream.write(text)
            self._stream.flush()
            return
        data = text.encode(errors="replace")
        while data:
            data = data[os.write(self._file, data) :]

    def isatty(self) -> bool:
        return self._file is not None and os.isatty(self._file)


def _live(sink: Any) -> Live | None:
    """Return a display that is not started, or None where lines cannot be renewed."""
    if not sink.isatty():
        return None
    from rich.console import Console
    from rich.live import Live

    console = Console(file=sink)
    if console.is_dumb_terminal:
        return None
    return Live(console=console, auto_refresh=False, transient=True, redirect_stdout=False, redirect_stderr=False)


def _draw(live: Live, view: View | None) -> None:
    if view is None:
        live.stop()
        return
    live.start()
    live.update(table(view, time.monotonic(), most_rows=max(live.console.size.height - 5, 3)), refresh=True)


def table(view: View, now: float, *, most_rows: int) -> Group:
    """Return the sweep's counts, its best trial and the table of running trials, best first."""
    from rich.console import Group
    from rich.table import Table
    from rich.text import Text

    def line(text: str, style: str = "") -> Text:
        return Text(text, style=style, no_wrap=True, overflow="ellipsis")

    rows = Table(box=None, pad_edge=False, expand=True)
    for name in ("trial", "epoch", "last", "best"):
        rows.add_column(name, justify="left" if name == "trial" else "right", no_wrap=True)
    rows.add_column("", no_wrap=True, overflow="ellipsis", ratio=1)
    for row in view.running[:most_rows]:
        rows.add_row(row.trial, f"{row.epochs:g}/{view.epochs:g}", _score(row.last), _score(row.best), row.params)
    parts: list[Any] = [line(view.text(now), "bold")]
    if view.best is not None:
        best = view.best
        parts.append(line(f"best {view.metric} {_score(best.best)}  {best.trial}  {best.params}"))
    if view.running:
        parts.append(rows)
    if len(view.running) > most_rows:
        parts.append(line(f"... and {len(view.running) - most_rows} more"))
    return Group(*parts)


def _score(value: float | None) -> str:
    return "" if value is None else f"{value:.6f}"
