"""The records of a sweep's trials: `trials.jsonl`, whole at every moment, for resuming and for reports."""

from __future__ import annotations

import datetime
import json
import math
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from rechub_ray.errors import CheckpointError
from rechub_ray.files import write_text
from rechub_ray.reports.front import front
from rechub_ray.space import Point, Space
from rechub_ray.sweeps.objectives import SIZES, Objective, values_of
from rechub_ray.sweeps.population import Exploit
from rechub_ray.sweeps.schedulers import SCORE, TIME
from rechub_ray.sweeps.trial import FAILURE, RESULT

Record = dict[str, Any]
FINAL = ("finished", "stopped_early", "failed")


class Ledger:
    """One record a trial; every change is written at once.

    Args:
        directory: the sweep's folder.
        space: the paths that vary.
        objectives: all objectives, with their modes; the first one is the score.
        rungs: epochs at which trials are compared.
    """

    def __init__(self, directory: str, space: Space, *, objectives: Sequence[Objective], rungs: list[float]) -> None:
        self.path = Path(directory, "trials.jsonl")
        self.trials = Path(directory, "trials")
        self.space, self.rungs = space, rungs
        self.objectives = objectives
        self.sign = 1.0 if objectives[0].mode == "max" else -1.0
        self.records: dict[str, Record] = {}

    def __iter__(self) -> Iterator[Record]:
        return iter(self.records.values())

    def read(self) -> None:
        """Read the records of an earlier start of the sweep.

        Raises:
            CheckpointError: the file is missing or damaged.
        """
        try:
            lines = self.path.read_text(encoding="utf-8").splitlines()
            self.records = {record["trial_id"]: record for record in map(json.loads, lines)}
        except (OSError, ValueError, KeyError, TypeError) as error:
            raise CheckpointError(f"'{self.path}' is not a sweep's list of trials", got=str(error)) from None

    def write(self) -> None:
        """Replace the file as a whole."""
        write_text(str(self.path), "".join(json.dumps(record) + "\n" for record in self.records.values()))

    def open(self, point: Point, seed: int, group: int) -> Record:
        """Add a new trial and return its record.

        Args:
            point: where in the space the trial is.
            seed: of its run.
            group: number of its point; trials of one group differ in their seed.
        """
        number = len(self.records)
        record: Record = {
            "trial_id": f"trial_{number:05d}",
            "number": number,
            "params": self.space.params(point),
            "best_params": None,
            "status": "pending",
            "reason": None,
            "seed": seed,
            "steps": 0,
            "epochs": 0.0,
            "rows": 0,
            "seconds": 0.0,
            "started": None,
            "ended": None,
            "score": None,
            "metrics": {},
            "test_metrics": {},
            "onnx": None,
            "train_seconds": 0.0,
            **dict.fromkeys(SIZES),
            "exploits": [],
            "rung": None,
            "point": point,
            "starts": 0,
            "lost": [],
            "goes_on": False,
            "group": group,
        }
        self.records[record["trial_id"]] = record
        return record

    def start(self, trial_id: str) -> None:
        record = self.records[trial_id]
        if self.has_failed(trial_id):  # Ray Tune starts it once more, but it will not be run
            return
        record["status"], record["started"] = "running", record["started"] or _now()
        record["starts"] += 1
        record["onnx"] = None  # a file that is there belongs to an earlier end
        self.write()

    def has_failed(self, trial_id: str) -> bool:
        """Return whether the trial met an error that another start cannot get past."""
        return (self.trials / trial_id / FAILURE).is_file()

    def lost(self, trial_id: str, reason: str) -> None:
        """Note that the trial lost a process, or the like, and is started again."""
        self.records[trial_id].setdefault("lost", []).append(reason)
        self.write()

    def report(self, trial_id: str, result: dict[str, Any]) -> bool:
        """Record one evaluation and return whether it is the best of the whole sweep so far."""
        record = self.records[trial_id]
        score, before = float(result[SCORE]), self.best_score()
        record["steps"], record["rows"] = int(result["step"]), int(result["rows"])
        record["epochs"] = float(result[TIME])
        record["seconds"] += float(result["busy_seconds"])
        record["train_seconds"] += float(result["train_seconds"])
        record.update({name: int(result[name]) for name in SIZES})
        if self.rungs:
            record["rung"] = sum(record["epochs"] >= rung for rung in self.rungs)
        if record["score"] is None or self.sign * score > self.sign * record["score"]:
            record["score"] = score
            record["best_params"] = self.space.params(json.loads(result["point"]))
            record["metrics"] = {k.removeprefix("val/"): v for k, v in result.items() if k.startswith("val/")}
        self.write()
        return before is None or self.sign * score > self.sign * before

    def exploit(self, exploit: Exploit) -> None:
        """Record that a trial goes on from a copy of the donor, at another point."""
        record = self.records[exploit.trial["_trial"]]
        point, donor = ({k: v for k, v in x.items() if not k.startswith("_")} for x in (exploit.trial, exploit.donor))
        old, new, donors = record["params"], self.space.params(point), self.space.params(donor)
        changed = [path for path in new if not old.get(path) == new[path] == donors.get(path)]
        record["exploits"].append(
            {
                "from_trial": exploit.donor["_trial"],
                "at_step": exploit.step,
                "score": exploit.score,
                "donor_score": exploit.donor_score,
                "old": {path: old.get(path) for path in changed},
                "donor": {path: donors.get(path) for path in changed},
                "new": {path: new[path] for path in changed},
            }
        )
        record["params"], record["point"] = new, point
        self.write()

    def end(self, trial_id: str, reason: str | None) -> None:
        """Record that Tune no longer runs a trial; `reason` says why, where it did not come to its end by itself."""
        record = self.records[trial_id]
        if record["status"] in FINAL:
            return
        directory = self.trials / trial_id
        record["ended"] = _now()
        if self.has_failed(trial_id):
            record["status"], record["reason"] = "failed", _json(directory / FAILURE)["reason"]
        elif (directory / RESULT).is_file():
            result = _json(directory / RESULT)
            record["status"], record["test_metrics"] = "finished", result["test_metrics"]
            record["onnx"] = result.get("onnx")
            if result["stopped_early"]:
                record["reason"] = "early stopping: no gain"
        else:
            record["status"], record["reason"] = "stopped_early", reason
        self.write()

    def end_all(self, reason: str) -> None:
        """End all running trials with the sweep; they go on when it is resumed with more to spend."""
        for record in self:
            if record["status"] == "running":
                self.end(record["trial_id"], reason)
                record["goes_on"] = record["status"] == "stopped_early"
        self.write()

    def fail(self, trial_id: str, reason: str) -> None:
        """Record the failure of a trial whose process was lost more often than it is started again."""
        self.end(trial_id, None)
        record = self.records[trial_id]
        if record["status"] != "failed":
            record.update(status="failed", reason=reason, ended=_now())
            self.write()

    def best_score(self) -> float | None:
        """Return the best score of any trial so far, or None."""
        scores = [r["score"] for r in self if r["score"] is not None]
        return max(scores, key=lambda score: self.sign * score, default=None)

    def front(self) -> list[Record]:
        """Return the trials that no other one beats in all objectives, best first by the first one.

        Empty with a single objective.
        """
        if len(self.objectives) < 2:
            return []
        scored = [(record, v) for record in self if (v := values_of(record, self.objectives)) is not None]
        places = front([v for _, v in scored], [str(o.mode) for o in self.objectives])
        return sorted((scored[i][0] for i in places), key=lambda record: -self.sign * record["score"])

    def ranking(self) -> list[list[Record]]:
        """Return the points by their mean score over seeds, best first; each with its trials, best first.

        A point with trials that failed ranks behind those whose trials all have scores. With several objectives the
        front comes first, by the first objective; then the rest, by the first objective too.
        """
        ahead = {record["trial_id"] for record in self.front()}
        groups: dict[int, list[Record]] = {}
        for record in self:
            groups.setdefault(record["group"], []).append(record)
        scored = [[r for r in group if r["score"] is not None] for group in groups.values()]
        whole = {id(s): len(s) == len(g) for s, g in zip(scored, groups.values(), strict=True)}
        scored = [group for group in scored if group]
        for group in scored:
            group.sort(key=lambda r: -self.sign * r["score"])

        def place(group: list[Record]) -> tuple[bool, bool, float]:
            mean = math.fsum(r["score"] for r in group) / len(group)
            return group[0]["trial_id"] not in ahead, not whole[id(group)], -self.sign * mean

        return sorted(scored, key=place)


def _json(path: Path) -> dict[str, Any]:
    data: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
    return data


def _now() -> str:
    return datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds")
