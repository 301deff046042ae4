"""One side of a measurement as a process of its own, with its time and the memory of all that it starts."""

from __future__ import annotations

import contextlib
import dataclasses
import os
import re
import subprocess
import tempfile
import threading
import time
import uuid
from pathlib import Path

from benchmarks.settings import ROOT

_MARK = "RECHUB_RAY_BENCHMARK"
_INTERVAL_SECONDS = 0.25


@dataclasses.dataclass(frozen=True)
class Finished:
    """What a process took.

    Args:
        started: when, in seconds since 1970. seconds: from its start to its end. cpu_seconds: of all its threads, and
            of the processes that it waited for.
        peak_rss: bytes, of the process itself (VmHWM).
        peaks: bytes by group, the largest sum over the group's processes at one moment, without shared memory;
            `object store` is the shared memory of all. Only where memory was watched.
    """

    started: float
    seconds: float
    cpu_seconds: float
    peak_rss: int
    peaks: dict[str, int]


def run_process(command: list[str], *, log: Path, memory: bool = False) -> Finished:
    """Runs the command to its end; SystemExit with the end of its output where it fails."""
    mark = uuid.uuid4().hex
    # a folder of its own for Ray, so that no cluster on this machine is joined; short, since it holds sockets
    with tempfile.TemporaryDirectory(prefix="rb-", dir="/tmp", ignore_cleanup_errors=True) as ray_folder:
        environment = {k: v for k, v in os.environ.items() if k != "RAY_ADDRESS"}
        environment |= {_MARK: mark, "RAY_TMPDIR": ray_folder, "PYTHONPATH": str(ROOT)}
        with log.open("wb") as output:
            started, clock = time.time(), time.perf_counter()
            process = subprocess.Popen(command, cwd=ROOT, env=environment, stdout=output, stderr=output)
            watch = _Watch(process.pid, mark, everything=memory)
            with watch:
                try:
                    _, status, usage = os.wait4(process.pid, 0)
                    process.returncode = os.waitstatus_to_exitcode(status)
                except BaseException:  # Ctrl-C: nothing may go on running and disturb the next measurement
                    process.terminate()
                    process.wait()
                    raise
            seconds = time.perf_counter() - clock
    if process.returncode != 0:
        tail = "\n".join(log.read_text(errors="replace").splitlines()[-25:])
        raise SystemExit(f"{' '.join(command)} failed with {process.returncode}:\n{tail}")
    return Finished(started, seconds, usage.ru_utime + usage.ru_stime, watch.peak_rss, watch.peaks)


class _Watch:
    """Samples memory in a thread.

    Args:
        pid: the process. mark: value of an environment variable that its descendants inherit.
        everything: also watch the descendants.
    """

    def __init__(self, pid: int, mark: str, *, everything: bool) -> None:
        self._pid, self._mark, self._everything = pid, f"{_MARK}={mark}".encode(), everything
        self._ours: dict[int, bool] = {}
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._run, daemon=True)
        self.peak_rss = 0
        self.peaks: dict[str, int] = {}

    def __enter__(self) -> _Watch:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stop.set()
        self._thread.join()

    def _run(self) -> None:
        while not self._stop.wait(_INTERVAL_SECONDS):
            with contextlib.suppress(OSError, ValueError):  # the process has just ended
                status = Path(f"/proc/{self._pid}/status").read_text()
                found = re.search(r"VmHWM:\s+(\d+) kB", status)
                self.peak_rss = max(self.peak_rss, int(found[1]) * 1024 if found else 0)
            if self._everything:
                self._sample()

    def _sample(self) -> None:
        now: dict[str, int] = {}
        for entry in os.listdir("/proc"):
            if not entry.isdigit() or not self._is_ours(int(entry)):
                continue
            with contextlib.suppress(OSError):
                group = self._group(int(entry))
                sizes = {
                    key: int(value) * 1024
                    for key, value in re.findall(
                        r"^(Pss|Pss_Shmem):\s+(\d+) kB", Path(f"/proc/{entry}/smaps_rollup").read_text(), re.MULTILINE
                    )
                }
                now[group] = now.get(group, 0) + sizes["Pss"] - sizes["Pss_Shmem"]
                now["object store"] = now.get("object store", 0) + sizes["Pss_Shmem"]
        now["all"] = sum(now.values())
        for group, size in now.items():
            self.peaks[group] = max(self.peaks.get(group, 0), size)

    def _is_ours(self, pid: int) -> bool:
        if pid not in self._ours:
            try:
                parent = int(Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[1])
                # the title that a Ray worker gives itself may overwrite its environment
                marked = self._mark in Path(f"/proc/{pid}/environ").read_bytes()
            except OSError:
                return False
            self._ours[pid] = marked or self._ours.get(parent, False)
        return self._ours[pid]

    def _group(self, pid: int) -> str:
        if pid == self._pid:
            return "driver"
        name = Path(f"/proc/{pid}/cmdline").read_bytes().replace(b"\0", b" ").decode(errors="replace")
        if not name.startswith("ray::"):
            return "services"
        return "training workers" if "TrainWorker" in name else "other ray processes"
