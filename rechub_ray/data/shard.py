"""One parquet file with checksums: written with them, and read so that no damaged byte becomes a value.

Between the last row group and the footer, in bytes that readers of parquet skip, stands a seal: the CRC-32 of every
64 KiB of the file up to there, of the footer, and of the seal itself. Parquet's own page checksums leave out page
headers and the footer, and a single flipped bit in a page header can change values. Any tool reads a sealed file; one
that writes it anew writes no seal.
"""

from __future__ import annotations

import bisect
import contextlib
import dataclasses
import functools
import hashlib
import io
import itertools
import struct
import zlib
from collections.abc import Collection, Iterator
from pathlib import Path
from types import TracebackType
from typing import Any, BinaryIO

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.parquet as pq

_BLOCK = 64 * 2**10
_SEAL = struct.Struct("<8sIQII")  # mark, bytes a block, bytes before the seal's checksums, CRC of the footer, of these
_MARK = b"RECHUB\x00\x01"
_MAGIC = b"PAR1"
_TAIL = 64 * 2**10  # bytes that are read first; they hold footer and seal of most files


class SealedWriter:
    """Writes one sealed parquet file.

    Args:
        sink: the file to write, or an open binary stream, which stays open.
        schema: of the tables.
        options: as of `pyarrow.parquet.ParquetWriter`.
    """

    def __init__(self, sink: Path | BinaryIO, schema: pa.Schema, **options: Any) -> None:
        self._own = sink.open("wb") if isinstance(sink, Path) else None
        self._out = _Sealing(self._own or sink)
        self._writer = pq.ParquetWriter(self._out, schema, **options)

    def write_table(self, table: pa.Table, row_group_size: int) -> None:
        """Write `table` in row groups of at most `row_group_size` rows (>= 1)."""
        self._writer.write_table(table, row_group_size=row_group_size)

    def close(self) -> None:
        """Write seal and footer."""
        self._out.held = bytearray()
        self._writer.close()
        self._out.seal()
        if self._own is not None:
            self._own.close()

    def __enter__(self) -> SealedWriter:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, value: BaseException | None, trace: TracebackType | None
    ) -> None:
        if kind is None:
            self.close()
            return
        with contextlib.suppress(Exception):
            self._out.held = bytearray()  # without a footer it is no parquet file, so nothing takes it for a whole one
            self._writer.close()
        if self._own is not None:
            self._own.close()


class _Sealing(io.RawIOBase):
    """Passes on what parquet writes, and takes the checksum of each block on the way.

    Args:
        sink: where it goes.

    Attributes:
        held: bytes kept back since closing began; they end with the footer.
    """

    def __init__(self, sink: Any) -> None:
        self._sink, self._size, self._blocks = sink, 0, [0]
        self.held: bytearray | None = None

    def writable(self) -> bool:
        return True

    def tell(self) -> int:
        return self._size + len(self.held or b"")

    def write(self, data: Any) -> int:
        view = memoryview(data).cast("B")
        if self.held is not None:
            self.held += view
            return len(view)
        self._sink.write(view)
        rest = view
        while rest:
            filled = self._size % _BLOCK
            if not filled and self._size:
                self._blocks.append(0)
            part, rest = rest[: _BLOCK - filled], rest[_BLOCK - filled :]
            self._blocks[-1] = zlib.crc32(part, self._blocks[-1])
            self._size += len(part)
        return len(view)

    def seal(self) -> None:
        held, self.held = bytes(self.held or b""), None
        start = len(held) - 8 - int.from_bytes(held[-8:-4], "little")
        self.write(held[:start])
        blocks = np.array(self._blocks, "<u4").tobytes()
        head = _SEAL.pack(_MARK, _BLOCK, self._size, zlib.crc32(held[start:]), 0)[:-4]
        self._sink.write(blocks + head + zlib.crc32(blocks + head).to_bytes(4, "little") + held[start:])


@dataclasses.dataclass(frozen=True)
class Footer:
    """The end of a parquet file: its footer, and its seal if it has one.

    Args:
        metadata: the parquet footer.
        checksum: 16 hex digits of footer and seal, which change with the values of a sealed file (of another one with
            its sizes and statistics).
        block_bytes: bytes a checksum stands for; 0 without a seal.
        blocks: their CRC-32, from the start of the file.
        size: bytes that have a checksum.
    """

    metadata: pq.FileMetaData
    checksum: str
    block_bytes: int = 0
    blocks: npt.NDArray[np.uint32] = dataclasses.field(default_factory=lambda: np.empty(0, np.uint32))
    size: int = 0

    @property
    def is_sealed(self) -> bool:
        return self.block_bytes > 0

    @functools.cached_property
    def _paths(self) -> list[str]:
        """The path of each column chunk of a row group; those of a list begin with the column's name and a dot."""
        schema = self.metadata.schema
        return [schema.column(i).path for i in range(len(schema))]

    def spans(self, row_group: int, columns: Collection[str]) -> Iterator[tuple[int, int]]:
        """Yield where the columns' bytes lie in a sealed file: [start, stop) of whole blocks, in order and apart."""
        starts = tuple(f"{name}." for name in columns)
        names = set(columns)
        wanted = [i for i, path in enumerate(self._paths) if path in names or path.startswith(starts)]
        group = self.metadata.row_group(row_group)
        begin = end = 0
        # chunks that are neighbours by number are neighbours in the file
        for _, run in itertools.groupby(enumerate(wanted), lambda pair: pair[1] - pair[0]):
            numbers = [number for _, number in run]
            first, last = group.column(numbers[0]), group.column(numbers[-1])
            start = _start(first) // self.block_bytes * self.block_bytes
            if start > end:
                if end:
                    yield begin, end
                begin = start
            stop = _start(last) + last.total_compressed_size
            end = min(-(-stop // self.block_bytes) * self.block_bytes, self.size)
        if end:
            yield begin, end

    def check(self, data: memoryview, start: int) -> None:
        """Check bytes of the file against their checksums.

        Args:
            data: whole blocks, but for the last one of the file.
            start: where they lie in the file: at the start of a block.

        Raises:
            ArrowInvalid: they are not the bytes that were written.
        """
        first = start // self.block_bytes
        for i, at in enumerate(range(0, len(data), self.block_bytes), start=first):
            if zlib.crc32(data[at : at + self.block_bytes]) != self.blocks[i]:
                stop = min((i + 1) * self.block_bytes, self.size)
                raise pa.ArrowInvalid(f"bytes {i * self.block_bytes} to {stop} do not fit their checksum")


def _start(chunk: Any) -> int:
    """Return where a column chunk begins, in bytes of the file."""
    start: int = chunk.data_page_offset
    return min(start, chunk.dictionary_page_offset) if chunk.has_dictionary_page else start


def read_footer(stream: pa.NativeFile) -> Footer:
    """Return the end of a parquet file, after checking it against its seal, if it has one.

    Raises:
        ArrowInvalid: it is no parquet file, or damaged; ArrowException of other kinds where Arrow finds so.
        OSError: it cannot be read.
    """
    file_size = stream.size()
    tail = b""

    def end(count: int) -> bytes:
        nonlocal tail
        if count > file_size:
            raise pa.ArrowInvalid(f"it has {file_size} bytes and should have at least {count}")
        if count > len(tail):
            tail = stream.read_at(count, file_size - count)
            if len(tail) < count:
                raise pa.ArrowInvalid("it became shorter while it was read")
        return tail[len(tail) - count :]

    end(min(file_size, _TAIL))
    if not tail.endswith(_MAGIC):
        raise pa.ArrowInvalid("it does not end as a parquet file does")
    footer = end(8 + int.from_bytes(end(8)[:4], "little"))
    before = file_size - len(footer)
    seal = end(len(footer) + _SEAL.size)[: _SEAL.size] if before >= _SEAL.size else b""
    if not seal.startswith(_MARK):
        return Footer(_parsed(footer), _digest(footer))
    _, block_bytes, size, footer_crc, seal_crc = _SEAL.unpack(seal)
    count = -(-size // block_bytes) if block_bytes else 0
    if size + 4 * count + _SEAL.size != before:
        raise pa.ArrowInvalid("its checksums are damaged")
    blocks = end(len(footer) + _SEAL.size + 4 * count)[: 4 * count]
    if zlib.crc32(blocks + seal[:-4]) != seal_crc:
        raise pa.ArrowInvalid("its checksums are damaged")
    if zlib.crc32(footer) != footer_crc:
        raise pa.ArrowInvalid("its footer does not fit its checksum")
    return Footer(_parsed(footer), _digest(blocks + seal + footer), block_bytes, np.frombuffer(blocks, "<u4"), size)


def _parsed(footer: bytes) -> pq.FileMetaData:
    return pq.read_metadata(pa.BufferReader(_MAGIC + footer))


def _digest(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()[:16]


def read_row_group(stream: pa.NativeFile, footer: Footer, row_group: int, columns: list[str]) -> pa.Table:
    """Return columns of a row group. Of a sealed file every byte is checked, of another one the pages with a checksum.

    Raises:
        ArrowInvalid: it is damaged; ArrowException of other kinds where Arrow finds so.
        OSError: it cannot be read.
    """
    if not footer.is_sealed:
        file = pq.ParquetFile(stream, metadata=footer.metadata, pre_buffer=True, page_checksum_verification=True)
        return file.read_row_group(row_group, columns=columns, use_threads=False)
    parts = []
    for start, stop in footer.spans(row_group, columns):
        data = memoryview(stream.read_at(stop - start, start))
        if len(data) < stop - start:
            raise pa.ArrowInvalid("it became shorter while it was read")
        footer.check(data, start)
        parts.append((start, data))
    checked = pa.PythonFile(_Parts(parts), mode="r")
    return pq.ParquetFile(checked, metadata=footer.metadata).read_row_group(
        row_group, columns=columns, use_threads=False
    )


class _Parts(io.RawIOBase):
    """A file of which some parts are in memory."""

    def __init__(self, parts: list[tuple[int, memoryview]]) -> None:
        self._starts, self._parts, self._at = [start for start, _ in parts], parts, 0

    def readable(self) -> bool:
        return True

    def seekable(self) -> bool:
        return True

    def tell(self) -> int:
        return self._at

    def seek(self, offset: int, whence: int = io.SEEK_SET) -> int:
        stop = self._parts[-1][0] + len(self._parts[-1][1]) if self._parts else 0
        self._at = offset + {io.SEEK_SET: 0, io.SEEK_CUR: self._at, io.SEEK_END: stop}[whence]
        return self._at

    def read(self, size: int = -1) -> Any:  # not a copy: pyarrow takes whatever has a buffer
        start, data = self._parts[bisect.bisect_right(self._starts, self._at) - 1]
        if self._at < start:
            return b""
        found = data[self._at - start :][:size]
        self._at += len(found)
        return found
