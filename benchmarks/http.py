"""The service of examples/serving beside its model alone: requests a second, rows a second, and the slowest answers."""

from __future__ import annotations

import json
import os
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request
from typing import Any

from benchmarks.process import run_process
from benchmarks.serving import files
from benchmarks.settings import ROOT, Settings
from benchmarks.workload import middle

CLIENTS = (1, 8, 64)
ROWS = (1, 64)
SERVICE = ROOT / "examples" / "serving" / "service.py"


def run(settings: Settings) -> dict[str, Any]:
    """The service on one core and its clients on another, in turn with the model alone on the first."""
    folder = files(settings, "vocabulary", settings.pick(100_000, 5_000))
    cores = sorted(os.sched_getaffinity(0))
    first, last = f"{cores[0]}", f"{cores[-1]}"
    seconds = str(settings.pick(5, 1))
    bare: list[dict[str, float]] = []
    served: dict[str, list[dict[str, float]]] = {f"{rows} {clients}": [] for rows in ROWS for clients in CLIENTS}
    memory = []
    for _ in range(settings.repeats):
        log = settings.work / "http.txt"
        command = ["taskset", "-c", first, sys.executable, "-m", "benchmarks.serving_side", str(folder / "raw.onnx")]
        run_process([*command, str(folder / "raw.parquet"), seconds, *map(str, ROWS)], log=log)
        bare.append(json.loads(log.read_text().splitlines()[-1]))
        port = _free_port()
        command = ["taskset", "-c", first, sys.executable, str(SERVICE), str(folder / "raw.onnx"), "--port", str(port)]
        with subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL) as service:
            try:
                _wait(service, port)
                for key, values in served.items():
                    side = ["taskset", "-c", last, sys.executable, "-m", "benchmarks.http_side", str(port)]
                    before = _cpu_seconds(service.pid)
                    run_process([*side, str(folder / "raw.parquet"), seconds, *key.split()], log=log)
                    value = json.loads(log.read_text().splitlines()[-1])
                    value["of_cpu"] = value.pop("answers") / (_cpu_seconds(service.pid) - before)
                    values.append(value)
                    print(f"  {key}: {values[-1]}", file=sys.stderr, flush=True)
                memory.append(_resident(service.pid))
            finally:
                service.terminate()
        log.unlink()
    return {
        "bare": {str(rows): middle([one[str(rows)] for one in bare]) for rows in ROWS},
        "served": {
            key: {name: middle([one[name] for one in values]) for name in values[0]} for key, values in served.items()
        },
        "memory": max(memory),
    }


def _free_port() -> int:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        return int(free.getsockname()[1])


def _wait(service: subprocess.Popen[bytes], port: int) -> None:
    """Waits until the service answers; SystemExit where it has ended."""
    for _ in range(600):
        try:
            urllib.request.urlopen(f"http://127.0.0.1:{port}/health", timeout=5).close()
        except (urllib.error.URLError, OSError):
            if service.poll() is not None:
                raise SystemExit("the service has ended: pip install 'rechub_ray[serving]'") from None
            time.sleep(0.1)
        else:
            return
    raise SystemExit("the service does not answer")


def _resident(pid: int) -> int:
    """The largest resident memory of a process so far, in bytes."""
    with open(f"/proc/{pid}/status") as file:
        return next(int(line.split()[1]) << 10 for line in file if line.startswith("VmHWM"))


def _cpu_seconds(pid: int) -> float:
    """The CPU time that a process has taken so far."""
    with open(f"/proc/{pid}/stat") as file:
        user, system = file.read().rpartition(")")[2].split()[11:13]
    return (int(user) + int(system)) / os.sysconf("SC_CLK_TCK")


def table(result: dict[str, Any]) -> str:
    lines = ["The model of `serving` with 100,000 texts in its largest vocabulary, raw values in."]
    lines += ["The service has one core and its clients another; the model alone has the first, in turn with it."]
    lines += ["A second of CPU time is one of a core that does nothing else; the others are those of a clock.", ""]
    lines.append(
        "| rows a request | clients | requests/s | median, ms | 99 of 100, ms | requests a second of its CPU time | "
        "rows, alike | rows of the model alone, alike |"
    )
    lines.append("|---" * 8 + "|")
    for key, values in result["served"].items():
        rows, clients = key.split()
        cells = [f"{values['requests']['median']:,.0f}"]
        cells += [f"{values[name]['median']:,.1f}" for name in ("p50", "p99")]
        of_cpu = values["of_cpu"]["median"]
        cells += [f"{of_cpu:,.0f}", f"{of_cpu * int(rows):,.0f}", f"{result['bare'][rows]['median']:,.0f}"]
        lines.append(f"| {rows} | {clients} | {' | '.join(cells)} |")
    return "\n".join([*lines, "", f"Memory of the service at its peak: {result['memory'] / 2**20:,.0f} MiB."])
