"""Clients of the service: `python -m benchmarks.http_side PORT ROWS SECONDS ROWS_A_REQUEST CLIENTS`; prints JSON."""

from __future__ import annotations

import asyncio
import json
import sys
import time
from itertools import count

import numpy as np
import pyarrow.parquet as pq

WARM_UP = 1.0


async def client(port: int, requests: list[bytes], number: int, until: float, found: list[tuple[float, float]]) -> None:
    """Asks again and again on one connection; notes when each answer came, and after how many seconds."""
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    for turn in count(number):
        started = time.perf_counter()
        if started > until:
            break
        writer.write(requests[turn % len(requests)])
        head = await reader.readuntil(b"\r\n\r\n")
        if not head.startswith(b"HTTP/1.1 200"):
            raise SystemExit(f"an answer begins with {head[:100]!r}")
        length = head.lower().partition(b"content-length:")[2].split()[0]
        await reader.readexactly(int(length))
        ended = time.perf_counter()
        found.append((ended, ended - started))
    writer.close()


async def main() -> None:
    port, path, seconds, rows, clients = sys.argv[1:]
    table = pq.read_table(path).drop_columns(["y"]).slice(0, 64 * int(rows)).to_pylist()
    requests = []
    for start in range(0, len(table), int(rows)):
        body = json.dumps({"rows": table[start : start + int(rows)]}).encode()
        head = "POST /predict HTTP/1.1\r\nhost: a\r\ncontent-type: application/json\r\n"
        head += f"content-length: {len(body)}\r\n\r\n"
        requests.append(head.encode() + body)
    begin = time.perf_counter() + WARM_UP
    end = begin + float(seconds)
    found: list[tuple[float, float]] = []
    await asyncio.gather(*(client(int(port), requests, 7 * i, end, found) for i in range(int(clients))))
    taken = [1000 * spent for moment, spent in found if begin <= moment <= end]
    print(
        json.dumps(
            {
                "requests": len(taken) / float(seconds),
                "p50": float(np.percentile(taken, 50)),
                "p99": float(np.percentile(taken, 99)),
                "answers": len(found),
            }
        )
    )


if __name__ == "__main__":
    asyncio.run(main())
