"""What Ray Tune tells the driver, and what the driver tells Ray Tune: callback and stopper."""

from __future__ import annotations

import sys
import time
from typing import Any

from rechub_ray.runtime.tune.ledger import Ledger
from rechub_ray.runtime.tune.schedulers import SCORE, TIME
from rechub_ray.runtime.tune.sweep import CheckedSweep


class Watch:
    """Keeps the ledger while Tune runs, and says when the sweep is to end.

    Args:
        checked: the sweep. ledger: its books. total: trials of the whole sweep. verbose: a line for each event.
    """

    def __init__(self, checked: CheckedSweep, ledger: Ledger, *, total: int, verbose: bool) -> None:
        self.checked, self.ledger, self.total, self.verbose = checked, ledger, total, verbose
        self.ending: str | None = None
        self._began = time.monotonic()
        self._without_gain = 0
        self._best = ledger.best_score()
        self._warned: set[str] = set()

    def result(self, name: str, result: dict[str, Any]) -> None:
        for warning in filter(None, result["warnings"].splitlines()):
            if warning not in self._warned:  # the same in every trial, as a rule
                self._warned.add(warning)
                self.say(f"{name}: {warning}")
        if self.ledger.report(name, result):
            self.say(
                f"{name}: {self.checked.metric} {result[SCORE]:.6f} after {result[TIME]:g} epochs, the best so far"
            )
        self.check_budget()

    def check_budget(self) -> None:
        """Ends the sweep when all trials together have trained what they may."""
        limit = self.checked.sweep.stop.budget_epochs
        if limit is not None and sum(r["epochs"] for r in self.ledger) >= limit:
            self.ending = self.ending or f"the sweep's budget of {limit:g} epochs is used up"

    def ended(self, name: str, error: str | None) -> None:
        record = self.ledger.records[name]
        if record["status"] in ("finished", "stopped_early", "failed"):
            return
        if error is not None:
            self.ledger.fail(name, error)
        elif self.ending is not None:
            self.ledger.end_all(self.ending)
        else:
            self.ledger.end(name, self._stopped(record))
        outcome = f"{record['status']}{': ' + record['reason'] if record['reason'] else ''}"
        done = sum(r["status"] in ("finished", "stopped_early", "failed") for r in self.ledger)
        self.say(f"{name}: {outcome} ({done} of {self.total} done{self._eta(done)})")
        self._plateau()

    def is_over(self) -> bool:
        """Whether the sweep is to end now."""
        limit = self.checked.sweep.stop.seconds
        if limit is not None and time.monotonic() - self._began >= limit:
            self.ending = self.ending or f"the sweep's time of {limit:g} s is over"
        return self.ending is not None

    def say(self, text: str) -> None:
        if self.verbose:
            print(text, file=sys.stderr, flush=True)

    def _stopped(self, record: dict[str, Any]) -> str:
        score = "no score" if record["score"] is None else f"{self.checked.metric} {record['score']:.6f}"
        return f"{self.checked.sweep.scheduler.name} stopped it at {record['epochs']:g} epochs with {score}"

    def _eta(self, done: int) -> str:
        passed = time.monotonic() - self._began
        return f", about {passed / done * (self.total - done):.0f} s to go" if 0 < done < self.total else ""

    def _plateau(self) -> None:
        stop, best = self.checked.sweep.stop, self.ledger.best_score()
        gain = best is not None and (self._best is None or self.ledger.sign * (best - self._best) > stop.min_delta)
        self._without_gain = 0 if gain else self._without_gain + 1
        self._best = best if gain else self._best
        if stop.plateau_trials is not None and self._without_gain >= stop.plateau_trials:
            self.ending = self.ending or f"{stop.plateau_trials} trials in a row ended without a better score"


def callback(watch: Watch) -> Any:
    """`watch` as Ray Tune's callback."""
    from ray.tune import Callback

    class Relay(Callback):  # type: ignore[misc]
        """Passes events on."""

        def on_trial_start(self, iteration: int, trials: Any, trial: Any, **info: Any) -> None:
            watch.ledger.start(trial.config["_trial"])

        def on_trial_result(self, iteration: int, trials: Any, trial: Any, result: dict[str, Any], **info: Any) -> None:
            watch.result(trial.config["_trial"], result)

        def on_trial_complete(self, iteration: int, trials: Any, trial: Any, **info: Any) -> None:
            watch.ended(trial.config["_trial"], None)

        def on_trial_error(self, iteration: int, trials: Any, trial: Any, **info: Any) -> None:
            error = trial.get_error()
            lines = [line for line in str(error).strip().splitlines() if line.strip()] if error else []
            watch.ended(trial.config["_trial"], lines[-1].strip() if lines else "its process was lost")

    return Relay()


def stopper(watch: Watch) -> Any:
    """`watch` as Ray Tune's stopper of the whole sweep."""
    from ray.tune.stopper import Stopper

    class Ending(Stopper):  # type: ignore[misc]
        """Ends all trials at once."""

        def __call__(self, trial_id: str, result: dict[str, Any]) -> bool:
            return watch.is_over()

        def stop_all(self) -> bool:
            return watch.is_over()

    return Ending()
