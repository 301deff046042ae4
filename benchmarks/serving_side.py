"""One ONNX file in onnxruntime: `python -m benchmarks.serving_side FILE ROWS SECONDS BATCH...`; prints JSON."""

from __future__ import annotations

import json
import sys
import time
from typing import Any

import numpy as np
import onnxruntime
import pyarrow.parquet as pq


def main() -> None:
    file, rows, seconds, *batches = sys.argv[1:]
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = 1
    started = time.process_time()  # of one thread, so that what else the machine does is not measured
    session = onnxruntime.InferenceSession(file, options, providers=["CPUExecutionProvider"])
    found: dict[str, Any] = {"load": time.process_time() - started}
    ports = json.loads(session.get_modelmeta().custom_metadata_map["rechub_ray.inputs"])
    table = pq.read_table(rows)
    columns = {port["name"]: values(port, table[port.get("column", port["name"])].to_pylist()) for port in ports}
    for batch in map(int, batches):
        inputs = [
            {name: column[begin : begin + batch] for name, column in columns.items()}
            for begin in range(0, table.num_rows - batch + 1, batch)
        ][:1000]
        for some in inputs[:10]:
            session.run(None, some)
        done, started = 0, time.process_time()
        while time.process_time() - started < float(seconds):
            session.run(None, inputs[done % len(inputs)])
            done += 1
        found[str(batch)] = done * batch / (time.process_time() - started)
    print(json.dumps(found))


def values(port: dict[str, Any], column: list[Any]) -> np.ndarray[Any, Any]:
    """A column as the file takes it."""
    if isinstance(column[0], list):
        longest = max(map(len, column))
        column = [row + [-1] * (longest - len(row)) for row in column]
    kind = {"string": object, "float64": np.float64, "float32": np.float32, "int64": np.int64}[port["dtype"]]
    return np.array(column, kind)


if __name__ == "__main__":
    main()
