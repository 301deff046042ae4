"""The run's own history: one JSON object a line."""

from __future__ import annotations

import json
import math
import time
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from rechub_ray.errors import DataError
from rechub_ray.files import write_text
from rechub_ray.tracking.base import TRACKERS, RunInfo, Tracker

FILE_NAME = "metrics.jsonl"


@TRACKERS.register("jsonl")
class JsonlTracker(Tracker):
    """Appends `{"step": ..., "time": ..., <numbers>}` to metrics.jsonl in the run's directory, each line at once.

    `time` is in seconds since 1970. JSON has no NaN and no infinity: both are written as null, and `read_history`
    gives NaN for them. A resumed run continues the file; lines of steps that are trained again are dropped first, and
    so is a last line that was cut off. A new run replaces the file.
    """

    def __init__(self, run: RunInfo) -> None:
        super().__init__(run)
        run.directory.mkdir(parents=True, exist_ok=True)
        path = run.directory / FILE_NAME
        records = _records(path) if run.resumed and path.exists() else ()
        write_text(str(path), "".join(line for line, record in records if record["step"] <= run.start_step))
        self._file = path.open("a", encoding="utf-8")

    def log(self, metrics: Mapping[str, float], *, step: int) -> None:
        record = {"step": step, "time": round(time.time(), 3)}
        numbers = {name: value if isinstance(value, int) else float(value) for name, value in metrics.items()}
        finite = {
            name: value if math.isfinite(value) else None for name, value in numbers.items() if name not in record
        }
        self._file.write(json.dumps({**record, **finite}, allow_nan=False) + "\n")
        self._file.flush()

    def close(self) -> None:
        self._file.close()


def read_history(path: str | Path) -> list[dict[str, float]]:
    """Return the lines of a metrics.jsonl file, in their order, with NaN for null.

    A last line that is cut off (the run is being written to, or was killed) is left out.

    Raises:
        DataError: no such file, or a line before the last is not a JSON object; names the line.
    """
    return [
        {name: math.nan if value is None else value for name, value in record.items()}
        for _, record in _records(Path(path))
    ]


def _records(path: Path) -> Iterator[tuple[str, dict[str, Any]]]:
    try:
        file = path.open(encoding="utf-8", errors="replace")
    except OSError as error:
        raise DataError(f"cannot read the history {path}", got=error.strerror or error) from None
    with file:
        for number, line in enumerate(file, start=1):
            if not line.endswith("\n"):  # the last one, cut off
                return
            try:
                record = json.loads(line)
            except json.JSONDecodeError:
                record = None
            if not isinstance(record, dict) or not isinstance(record.get("step"), int):
                raise DataError(f"line {number} of {path} is not a JSON object with a step", got=line.strip()[:120])
            yield line, record
