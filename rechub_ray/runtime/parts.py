"""The folder of predictions: written in parts, each of which appears as a whole, so that a killed command goes on."""

from __future__ import annotations

import contextlib
import dataclasses
import json
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
from pyarrow.fs import FileSelector, copy_files

from rechub_ray.errors import ConfigError, DataError
from rechub_ray.files import exists, join, open_filesystem, read_text, write_text, writing
from rechub_ray.preparation.sources import BadRow

QUARANTINE = "quarantine"
_UNFINISHED = "_unfinished"


@dataclasses.dataclass(frozen=True)
class Parts:
    """Predictions in a folder, `part-<number>.parquet` each.

    While some are missing, `_unfinished` in that folder says what they are predictions of, and which parts are whole.

    Args:
        out: the folder, or a URI.
        count: how many parts there are.
        missing: the numbers of those that were not whole when the command started.
    """

    out: str
    count: int
    missing: tuple[int, ...]

    @classmethod
    def begin(cls, out: str, count: int, about: Mapping[str, Any]) -> Parts:
        """Take up the predictions in `out`, or start them.

        Args:
            out: the folder, or a URI.
            count: how many parts to make; those that were begun keep their number.
            about: what is predicted, in words or digests; all parts must be of the same.

        Raises:
            ConfigError: the folder holds whole predictions, or some parts of others.
            WriteError: the folder cannot be written.
        """
        filesystem, root = open_filesystem(out)
        with writing(out):
            found = filesystem.get_file_info(FileSelector(root, allow_not_found=True))
        state = join(out, f"{_UNFINISHED}/job.json")
        if exists(*open_filesystem(state)):
            job = json.loads(read_text(state))
            differing = [key for key in about if job["about"].get(key) != about[key]]
            if differing:
                raise ConfigError(
                    f"'{out}' holds a part of other predictions",
                    got=f"another {', '.join(differing)}",
                    hint="Give the command that began them, name another folder, or remove this one.",
                )
            count = int(job["count"])
        elif any(info.extension == "parquet" for info in found):
            raise ConfigError(f"'{out}' holds predictions already", hint="Name another folder.")
        else:
            write_text(state, json.dumps({"about": about, "count": count}))
        parts = cls(out, count, ())
        return dataclasses.replace(parts, missing=tuple(n for n in range(count) if parts._whole(n) is None))

    def write(self, number: int, blocks: Iterator[tuple[pa.Table | None, list[BadRow]]]) -> None:
        """Write one part from its rows in blocks, and the rows that could not be used beside it.

        Args:
            number: of the part; nothing is done where it is whole by now.
            blocks: predictions (None where there are none), and bad rows.

        Raises:
            WriteError: the disk is full, for instance.
        """
        if self._whole(number) is not None:
            return
        rows = bad = 0
        with (
            _File(join(self.out, f"part-{number:05d}.parquet")) as part,
            _File(join(self.out, f"{QUARANTINE}/part-{number:05d}.jsonl")) as aside,
        ):
            for table, flawed in blocks:
                if table is not None:
                    part.add_table(table)
                    rows += table.num_rows
                for row in flawed:
                    aside.add_line(json.dumps(vars(row), ensure_ascii=False))
                bad += len(flawed)
            part.close()
            aside.close()
        write_text(self._note(number), json.dumps({"rows": rows, "bad": bad}))

    @property
    def unfinished(self) -> str:
        """The folder of what is gone when the predictions are whole; a path on the filesystem of `out`."""
        return f"{open_filesystem(self.out)[1]}/{_UNFINISHED}"

    def take_bad(self, folder: Path) -> None:
        """Copy files of rows that could not be used, from a local folder, to those of the parts."""
        filesystem, root = open_filesystem(self.out)
        with writing(self.out):
            filesystem.create_dir(f"{root}/{QUARANTINE}", recursive=True)
            copy_files(str(folder), f"{root}/{QUARANTINE}", destination_filesystem=filesystem)

    def finish(self) -> tuple[int, int]:
        """Check that all parts are there, and end the predictions.

        Returns:
            Rows in all parts, and bad rows.

        Raises:
            DataError: a part is missing.
        """
        found = [self._whole(number) for number in range(self.count)]
        whole = [note for note in found if note is not None]
        if len(whole) < self.count:
            raise DataError(
                f"part {found.index(None)} of the predictions is not in {self.out}",
                hint="On several hosts it must be a folder that all of them share.",
            )
        with writing(self.out):
            open_filesystem(self.out)[0].delete_dir(self.unfinished)
        return sum(note["rows"] for note in whole), sum(note["bad"] for note in whole)

    def abandon(self) -> None:
        """Leave nothing behind where no part is whole."""
        with contextlib.suppress(OSError):
            if all(self._whole(number) is None for number in range(self.count)):
                open_filesystem(self.out)[0].delete_dir(self.unfinished)

    def _note(self, number: int) -> str:
        return join(self.out, f"{_UNFINISHED}/{number:05d}.json")

    def _whole(self, number: int) -> dict[str, int] | None:
        """Return a part's counts; None where it is not whole."""
        place = self._note(number)
        if not exists(*open_filesystem(place)):
            return None
        return {str(key): int(value) for key, value in json.loads(read_text(place)).items()}


class _File:
    """A file that appears as a whole when it is closed, and only if something was added."""

    def __init__(self, place: str) -> None:
        self._filesystem, self._path = open_filesystem(place)
        self._sink: Any = None
        self._writer: pq.ParquetWriter | None = None

    def __enter__(self) -> _File:
        return self

    def __exit__(self, *_: object) -> None:
        if self._sink is not None:
            with contextlib.suppress(OSError):  # it was moved, or could not be opened
                self._filesystem.delete_file(f"{self._path}.writing")

    def add_table(self, table: pa.Table) -> None:
        """Add rows to a parquet file."""
        with writing(self._path):
            self._writer = self._writer or pq.ParquetWriter(self._open(), table.schema)
            self._writer.write_table(table)

    def add_line(self, line: str) -> None:
        """Add a line to a text file."""
        with writing(self._path):
            self._open().write(line.encode() + b"\n")

    def close(self) -> None:
        if self._sink is None:
            return
        with writing(self._path):
            if self._writer is not None:
                self._writer.close()
            self._sink.close()
            self._filesystem.move(f"{self._path}.writing", self._path)

    def _open(self) -> Any:
        if self._sink is None:
            self._filesystem.create_dir(self._path.rpartition("/")[0], recursive=True)
            self._sink = self._filesystem.open_output_stream(f"{self._path}.writing")
        return self._sink
