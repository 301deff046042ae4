"""One table for spreadsheets and pandas."""

from __future__ import annotations

import csv
import io
from collections.abc import Iterable, Mapping
from pathlib import Path

from rechub_ray.errors import DataError
from rechub_ray.files import write_text
from rechub_ray.tracking.base import TRACKERS, RunInfo, Tracker

FILE_NAME = "metrics.csv"


@TRACKERS.register("csv")
class CsvTracker(Tracker):
    """Appends a line for each log point to metrics.csv in the run's directory, each line at once.

    The first column is `step`; the others are named after the numbers, in the order of their first appearance. A cell
    is empty where its number was not given; NaN and infinity are written as `nan` and `inf`. The file is rewritten
    when a new number appears, which happens once or twice a run. A resumed run continues the file; lines of steps that
    are trained again are dropped first. A new run replaces the file.

    Raises:
        DataError: the file of a resumed run was written by something else; names it.
    """

    def __init__(self, run: RunInfo) -> None:
        super().__init__(run)
        run.directory.mkdir(parents=True, exist_ok=True)
        self._path = run.directory / FILE_NAME
        self._columns = ["step"]
        kept: list[list[str]] = []
        if run.resumed and self._path.exists():
            self._columns, rows = _read(self._path)
            kept = [row for row in rows if int(row[0]) <= run.start_step]
        self._rewrite(kept)

    def log(self, metrics: Mapping[str, float], *, step: int) -> None:
        new = [name for name in metrics if name not in self._columns]
        if new:
            self._file.close()
            rows = _read(self._path)[1]
            self._columns += new
            self._rewrite(rows)
        values: dict[str, object] = {**metrics, "step": step}
        self._writer.writerow([values.get(name, "") for name in self._columns])
        self._file.flush()

    def close(self) -> None:
        self._file.close()

    def _rewrite(self, rows: Iterable[list[str]]) -> None:
        text = io.StringIO()
        writer = csv.writer(text, lineterminator="\n")
        writer.writerow(self._columns)
        writer.writerows([*row, *[""] * (len(self._columns) - len(row))] for row in rows)
        write_text(str(self._path), text.getvalue())
        self._file = self._path.open("a", encoding="utf-8", newline="")
        self._writer = csv.writer(self._file, lineterminator="\n")


def _read(path: Path) -> tuple[list[str], list[list[str]]]:
    """Return the columns and the rows, without a last row that was cut off."""
    text = path.read_text(encoding="utf-8")
    whole = text[: text.rfind("\n") + 1]
    columns, *rows = list(csv.reader(whole.splitlines(keepends=True))) or [["step"]]
    if columns[0] != "step" or not all(row and row[0].isdigit() for row in rows):
        raise DataError(f"{path} is not a table of metrics", expected="'step' as the first column", got=columns[0])
    return columns, rows
