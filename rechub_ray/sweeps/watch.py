"""The driver's side of Ray Tune: a callback that records its events, and a stopper that ends the sweep."""

from __future__ import annotations

import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from rechub_ray.sweeps.console import Row, SweepConsole, View
from rechub_ray.sweeps.heartbeat import Watchdog
from rechub_ray.sweeps.ledger import FINAL, Ledger, Record
from rechub_ray.sweeps.lost import reason
from rechub_ray.sweeps.schedulers import SCORE, TIME
from rechub_ray.sweeps.sweep import CheckedSweep
from rechub_ray.tracking.console import clock

_LOOK_SECONDS = 0.5


class Watch:
    """Keeps the ledger while Tune runs, and decides when the sweep ends.

    Args:
        checked: the sweep.
        ledger: its records.
        total: trials of the whole sweep.
        console: shows each event; None shows nothing.
    """

    def __init__(
        self, checked: CheckedSweep, ledger: Ledger, *, total: int, console: SweepConsole | None = None
    ) -> None:
        self.checked, self.ledger, self.total, self._console = checked, ledger, total, console
        self.ending: str | None = None
        self._began = self._looked = time.monotonic()
        self._started: float | None = None  # when the first trial started; and the epochs trained before
        self._epochs_before = self._epochs()
        self._last: dict[str, float] = {}
        self._without_gain = 0
        self._best = ledger.best_score()
        self._warned: set[str] = set()
        self._killed: dict[str, str] = {}  # why, of trials that Ray Tune has not ended yet

    def result(self, name: str, result: dict[str, Any]) -> None:
        for warning in filter(None, result["warnings"].splitlines()):
            if warning not in self._warned:  # the same in every trial, as a rule
                self._warned.add(warning)
                self.say(f"{name}: {warning}")
        self._last[name] = float(result[SCORE])
        if self.ledger.report(name, result):
            self.say(
                f"{name}: {self.checked.metric} {result[SCORE]:.6f} after {result[TIME]:g} epochs, the best so far"
            )
        self.check_budget()

    def check_budget(self) -> None:
        """End the sweep when all trials together have trained what they may."""
        limit = self.checked.sweep.stop.budget_epochs
        if limit is not None and self._epochs() >= limit:
            self.ending = self.ending or f"the sweep's budget of {limit:g} epochs is used up"

    def started(self, name: str) -> None:
        self._started = self._started or time.monotonic()
        self.ledger.start(name)

    def killed(self, reasons: Mapping[str, str]) -> None:
        """Note why the processes of trials were killed; Ray Tune only sees that they are gone."""
        self._killed |= reasons

    def recovered(self, name: str, error: str) -> None:
        """Record that Ray Tune starts a trial again, or the end of one that cannot get past its error."""
        error = self._killed.pop(name, error)
        if self.ledger.has_failed(name):
            self.ended(name, error)
        else:
            self.ledger.lost(name, error)
            self.say(f"{name} goes on from its last checkpoint: {error}")

    def ended(self, name: str, error: str | None) -> None:
        record = self.ledger.records[name]
        if record["status"] in FINAL:
            return
        if error is not None:
            self.ledger.fail(name, self._killed.pop(name, error))
        elif self.ending is not None:
            self.ledger.end_all(self.ending)
        else:
            self.ledger.end(name, self._stopped(record))
        done = sum(r["status"] in FINAL for r in self.ledger)
        left = self._seconds_left() if done < self.total else None
        eta = "" if left is None else f", about {clock(left)} to go"
        self.say(f"({done}/{self.total}{eta}) {name} {record['status'].replace('_', ' ')}: {self._outcome(record)}")
        self._plateau()

    def is_over(self) -> bool:
        """Return whether the sweep is to end now."""
        limit = self.checked.sweep.stop.seconds
        if limit is not None and time.monotonic() - self._began >= limit:
            self.ending = self.ending or f"the sweep's time of {limit:g} s is over"
        return self.ending is not None

    def say(self, text: str) -> None:
        if self._console is not None:
            self._console.say(text)

    def look(self, states: Mapping[str, str]) -> None:
        """Show how the sweep stands, at most every half second.

        Args:
            states: Tune's word for the state of each of its trials, by their ids.
        """
        now = time.monotonic()
        if self._console is not None and now - self._looked >= _LOOK_SECONDS:
            self._looked = now
            self._console.show(self._view(states, now))

    def leave(self) -> None:
        """Take the table away, because no trial runs any more."""
        if self._console is not None:
            self._console.show(None)

    def _view(self, states: Mapping[str, str], now: float) -> View:
        ended = [r["status"] for r in self.ledger if r["status"] in FINAL]
        running = [r for r in self.ledger if r["status"] not in FINAL and states.get(r["trial_id"]) == "RUNNING"]
        paused = sum(state == "PAUSED" for state in states.values())
        counts = {
            "running": len(running),
            "waiting": self.total - len(ended) - len(running) - paused,
            "paused": paused,
            "finished": ended.count("finished"),
            "stopped early": ended.count("stopped_early"),
            "failed": ended.count("failed"),
        }
        scored = [r for r in self.ledger if r["score"] is not None]
        best = max(scored, key=lambda r: self.ledger.sign * r["score"], default=None)
        running.sort(key=lambda r: float("inf") if r["score"] is None else -self.ledger.sign * r["score"])
        return View(
            metric=self.checked.metric,
            epochs=self.checked.epochs,
            counts=counts,
            running=tuple(self._row(r) for r in running),
            best=None if best is None else self._row(best, best["best_params"]),
            seconds_left=self._seconds_left(),
            at=now,
            began=self._began,
        )

    def _row(self, record: Record, params: dict[str, Any] | None = None) -> Row:
        text = "  ".join(f"{path}={_short(value)}" for path, value in (params or record["params"]).items())
        return Row(record["trial_id"], record["epochs"], self._last.get(record["trial_id"]), record["score"], text)

    def _epochs(self) -> float:
        return float(sum(r["epochs"] for r in self.ledger))

    def _seconds_left(self) -> float | None:
        """Return the seconds left, if trials to come are as long as those that ended; None before any training."""
        now, stop = time.monotonic(), self.checked.sweep.stop
        trained = self._epochs() - self._epochs_before
        if self._started is None or trained <= 0:
            return None
        whole = self.checked.epochs
        ended = [r["epochs"] for r in self.ledger if r["status"] in FINAL and r["status"] != "failed"]
        usual = sum(ended) / len(ended) if ended else whole
        open_ = [r for r in self.ledger if r["status"] not in FINAL]
        left = float((self.total - len(self.ledger.records)) * usual)
        left += sum(max((usual if r["epochs"] < usual else whole) - r["epochs"], 0.0) for r in open_)
        if stop.budget_epochs is not None:
            left = min(left, max(stop.budget_epochs - self._epochs(), 0.0))
        seconds = float(left * (now - self._started) / trained)
        return seconds if stop.seconds is None else min(seconds, max(stop.seconds - (now - self._began), 0.0))

    def _stopped(self, record: Record) -> str:
        return (
            f"{self.checked.sweep.scheduler.name} stopped it at {record['epochs']:g} epochs with {self._score(record)}"
        )

    def _outcome(self, record: Record) -> str:
        if record["status"] != "finished" and record["reason"]:
            return str(record["reason"])
        return f"{self._score(record)} after {record['epochs']:g} epochs"

    def _score(self, record: Record) -> str:
        return "no score" if record["score"] is None else f"{self.checked.metric} {record['score']:.6f}"

    def _plateau(self) -> None:
        stop, best = self.checked.sweep.stop, self.ledger.best_score()
        gain = best is not None and (self._best is None or self.ledger.sign * (best - self._best) > stop.min_delta)
        self._without_gain = 0 if gain else self._without_gain + 1
        self._best = best if gain else self._best
        if stop.plateau_trials is not None and self._without_gain >= stop.plateau_trials:
            self.ending = self.ending or f"{stop.plateau_trials} trials in a row ended without a better score"


def _short(value: Any) -> str:
    return f"{value:.4g}" if isinstance(value, float) else str(value)


def _written(trial: Any) -> str:
    """Return Ray Tune's own file of a trial's errors; the copy that the trial reads is made later."""
    path = Path(trial.error_file or "")
    return path.read_text(encoding="utf-8") if path.is_file() else ""


def callback(watch: Watch, watchdog: Watchdog) -> Any:
    """Return `watch`, and `watchdog` beside it, as Ray Tune's callback."""
    from ray.tune import Callback

    class Relay(Callback):  # type: ignore[misc]
        """Passes events on."""

        def on_trial_start(self, iteration: int, trials: Any, trial: Any, **info: Any) -> None:
            watch.started(trial.config["_trial"])

        def on_step_end(self, iteration: int, trials: Any, **info: Any) -> None:
            states = {trial.config["_trial"]: trial.status for trial in trials if "_trial" in trial.config}
            watch.killed(watchdog.look(name for name, state in states.items() if state == "RUNNING"))
            watch.look(states)

        def on_trial_result(self, iteration: int, trials: Any, trial: Any, result: dict[str, Any], **info: Any) -> None:
            watch.result(trial.config["_trial"], result)

        def on_trial_complete(self, iteration: int, trials: Any, trial: Any, **info: Any) -> None:
            watch.ended(trial.config["_trial"], None)

        def on_trial_recover(self, iteration: int, trials: Any, trial: Any, **info: Any) -> None:
            watch.recovered(trial.config["_trial"], reason(_written(trial)))

        def on_trial_error(self, iteration: int, trials: Any, trial: Any, **info: Any) -> None:
            watch.ended(trial.config["_trial"], reason(_written(trial)))

    return Relay()


def stopper(watch: Watch) -> Any:
    """Return `watch` as Ray Tune's stopper of the whole sweep."""
    from ray.tune.stopper import Stopper

    class Ending(Stopper):  # type: ignore[misc]
        """Ends all trials at once."""

        def __call__(self, trial_id: str, result: dict[str, Any]) -> bool:
            return watch.is_over()

        def stop_all(self) -> bool:
            return watch.is_over()

    return Ending()
