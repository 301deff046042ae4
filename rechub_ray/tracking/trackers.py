"""The run's list of trackers, none of which can end the run."""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable, Mapping
from typing import Any

from rechub_ray.errors import ConfigError, RechubError
from rechub_ray.tracking.adapter import Logger, LoggerAdapter
from rechub_ray.tracking.base import TRACKERS, RunInfo, Tracker

MAX_FAILURES = 3
CLOSE_SECONDS = 15.0

_log = logging.getLogger(__name__)


def check_trackers(nodes: Any, *, where: str = "trackers") -> list[Any]:
    """Return the list of trackers with all defaults filled in; nothing is opened.

    Args:
        nodes: None, one tracker or a list; each a name, a mapping with `name` and the tracker's arguments, a `Tracker`,
            or a Torch-RecHub logger.
        where: the configuration path of `nodes`, for messages.

    Raises:
        ConfigError: unknown name or argument, a name given twice, a package that is not installed, a foreign object.
    """
    if nodes is None:
        return []
    if not isinstance(nodes, list | tuple):
        nodes = [nodes]
    checked: list[Any] = []
    names: set[str] = set()
    for i, node in enumerate(nodes):
        place = f"{where}.{i}"
        if not isinstance(node, str | Mapping):
            checked.append(_check_object(node, place))
            continue
        node = TRACKERS.validate(node, where=place)
        if node["name"] in names:
            raise ConfigError(f"'{place}': tracker '{node['name']}' is given twice", expected="each tracker once")
        names.add(node["name"])
        try:
            TRACKERS.get(node["name"]).available()
        except RechubError as error:
            raise ConfigError(f"'{place}': {error.message}", hint=error.hint) from None
        checked.append(node)
    return checked


class Trackers:
    """Hands numbers to every tracker; one that fails warns once, and is left out after 3 failures in a row.

    A tracker that cannot be opened (no network, a full disk) warns and is left out. Use it as a context manager, or
    call `close` also after an error.

    Args:
        nodes: as for `check_trackers`.
        run: the run that is tracked.
        where: the configuration path of `nodes`, for messages.
        warn: takes a warning; None logs it.

    Raises:
        ConfigError: as `check_trackers`.
    """

    def __init__(
        self, nodes: Any, run: RunInfo, *, where: str = "trackers", warn: Callable[[str], None] | None = None
    ) -> None:
        self._warn = warn or _log.warning
        self._guards: list[_Guard] = []
        self._every = run.summary_every_steps
        self._summaries = run.start_step // self._every if self._every else 0  # intervals that have had their point
        for node in check_trackers(nodes, where=where):
            if isinstance(node, Tracker):
                self._guards.append(_Guard(node, _name(node), self._warn))
            elif isinstance(node, Mapping):
                self._open(node, run)
            else:
                self._guards.append(_Guard(LoggerAdapter(run, node), _name(node), self._warn))

    def log(self, metrics: Mapping[str, float], *, step: int) -> None:
        """Record numbers at a global optimizer step."""
        is_thinned = False
        if self._every and "train/loss" in metrics:
            is_thinned = step // self._every <= self._summaries
            self._summaries = step // self._every
        for guard in self._guards:
            if not (is_thinned and guard.tracker.is_summary):
                guard.call(lambda tracker: tracker.log(metrics, step=step))

    def hyperparameters(self, config: Mapping[str, Any], score: Mapping[str, float]) -> None:
        """Record the flat configuration: first without scores, last with the best ones."""
        for guard in self._guards:
            guard.call(lambda tracker: tracker.hyperparameters(config, score))

    def close(self) -> None:
        """Close all trackers in parallel; leave one that takes longer than 15 seconds behind with a warning."""
        guards, self._guards = self._guards, []
        # a daemon thread does not keep the process alive when an upload hangs
        threads = [threading.Thread(target=guard.close, name=f"close-{guard.name}", daemon=True) for guard in guards]
        for thread in threads:
            thread.start()
        deadline = time.monotonic() + CLOSE_SECONDS
        for guard, thread in zip(guards, threads, strict=True):
            thread.join(max(0.0, deadline - time.monotonic()))
            if thread.is_alive():
                self._warn(f"tracker '{guard.name}' did not close within {CLOSE_SECONDS:g} seconds; going on")

    def __enter__(self) -> Trackers:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def _open(self, node: Mapping[str, Any], run: RunInfo) -> None:
        try:
            self._guards.append(_Guard(TRACKERS.build(node, run), node["name"], self._warn))
        except Exception as error:
            self._warn(f"tracker '{node['name']}' could not be opened and is left out: {_one_line(error)}")


class _Guard:
    """One tracker, whose exceptions become one warning."""

    def __init__(self, tracker: Tracker, name: str, warn: Callable[[str], None]) -> None:
        self.tracker, self.name = tracker, name
        self._say = warn
        self.failures = 0  # in a row
        self.has_warned = False

    def call(self, action: Callable[[Tracker], None]) -> None:
        if self.failures >= MAX_FAILURES:
            return
        try:
            action(self.tracker)
        except Exception as error:
            self.failures += 1
            self._warn(error)
        else:
            self.failures = 0

    def close(self) -> None:
        try:
            self.tracker.close()
        except Exception as error:
            self._warn(error)

    def _warn(self, error: Exception) -> None:
        if not self.has_warned:
            self.has_warned = True
            self._say(
                f"tracker '{self.name}' failed and the run goes on without it after {MAX_FAILURES} failures in a row: "
                f"{_one_line(error)}"
            )


def _check_object(node: Any, place: str) -> Tracker | Logger:
    if isinstance(node, Tracker) or (isinstance(node, Logger) and not isinstance(node, type)):
        return node
    raise ConfigError(
        f"'{place}': not a tracker",
        expected="a name, a mapping with 'name', a Tracker, or an object with log_metrics, log_hyperparams and finish",
        got=repr(node)[:120],
        hint=f"Known: {', '.join(TRACKERS.names())}.",
    )


def _name(tracker: Any) -> str:
    return str(getattr(tracker, "registered_name", type(tracker).__name__))


def _one_line(error: Exception) -> str:
    return f"{type(error).__name__}: {' '.join(str(error).split())[:300]}"
