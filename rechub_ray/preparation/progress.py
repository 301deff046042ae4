"""Progress of `prepare`: a line on a terminal, nothing elsewhere."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterable, Iterator
from types import TracebackType
from typing import TypeVar

from rich.console import Console
from rich.progress import BarColumn, DownloadColumn, TextColumn, TimeRemainingColumn
from rich.progress import Progress as Display

T = TypeVar("T")
_listener: Callable[[int, int, float], None] | None = None
_described: Callable[[str | None], None] | None = None


def tick(rows: int, *, size: int = 0, share: float = 0.0) -> None:
    """Report that a block was read.

    Only blocks read in the process of `prepare` count; a task that runs elsewhere counts when it is done.

    Args:
        rows: in the block.
        size: bytes of the file that it stood for, where they are known.
        share: else the part of its task that it is, in [0, 1].
    """
    if _listener is not None:
        _listener(rows, size, share)


def waits_for(what: str | None) -> None:
    """Show what a pass waits for, in the place of its name; None: for nothing any more."""
    if _described is not None:
        _described(what)


class Progress:
    """A bar for each pass: bytes of raw input, rows, the time that is left."""

    def __init__(self) -> None:
        console = Console(file=sys.stderr)
        shown = sys.stderr.isatty() and not console.is_dumb_terminal
        columns = (
            TextColumn("{task.description}"),
            BarColumn(),
            DownloadColumn(),
            TextColumn("{task.fields[rows]:,} rows"),
            TimeRemainingColumn(),
        )
        self._display = Display(*columns, console=console, transient=True) if shown else None

    def __enter__(self) -> Progress:
        if self._display is not None:
            self._display.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, value: BaseException | None, trace: TracebackType | None
    ) -> None:
        global _listener, _described
        _listener = _described = None
        if self._display is not None:
            self._display.stop()

    def over(self, what: str, results: Iterable[T], sizes: list[int]) -> Iterator[T]:
        """Yield the results of a pass and show its progress.

        Args:
            what: the pass, in a word.
            results: one a task, in the order of the tasks.
            sizes: the bytes of each task.
        """
        global _listener, _described
        if self._display is None:
            yield from results
            return
        display = self._display
        bar = display.add_task(what, total=max(sum(sizes), 1), rows=0)
        done = seen = number = 0
        inside, is_here = 0.0, False

        def listen(rows: int, size: int, share: float) -> None:
            nonlocal inside, is_here, seen
            is_here = True
            inside, seen = min(inside + size + share * sizes[number], sizes[number]), seen + rows
            display.update(bar, completed=done + inside, rows=seen)

        _listener, _described = listen, lambda text: display.update(bar, description=text or what)
        for result in results:
            done, inside = done + sizes[number], 0.0
            number = min(number + 1, len(sizes) - 1)
            if not is_here:  # the blocks were read elsewhere; most results count them
                seen += int(getattr(result, "rows", 0))
            display.update(bar, completed=done, rows=seen)
            yield result
        _listener = _described = None
        display.remove_task(bar)
