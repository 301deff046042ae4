"""`python -m rechub_ray.runtime.hosts`, on the head: waits until every host of cluster.yaml has joined.

`ray up` runs it last: otherwise it would return as soon as the head is there, and a run that is submitted then would
start on the head alone.
"""

from __future__ import annotations

import logging
import sys
import time
from collections.abc import Callable, Collection
from pathlib import Path

import yaml

CONFIG = Path("~/ray_bootstrap_config.yaml")  # where the launcher leaves cluster.yaml on the head
_TIMEOUT_SECONDS = 1800.0  # a host's first set-up downloads torch
_REPORT_SECONDS = 15.0


def expected_hosts(path: Path = CONFIG) -> list[str]:
    """Return the hosts that cluster.yaml names, the head first."""
    provider = yaml.safe_load(path.expanduser().read_text(encoding="utf-8"))["provider"]
    return [provider["head_ip"], *provider["worker_ips"]]


def wait(
    expected: list[str],
    alive: Callable[[], Collection[str]],
    *,
    timeout_seconds: float = _TIMEOUT_SECONDS,
    poll_seconds: float = 1.0,
) -> bool:
    """Wait until as many hosts as expected are alive; print every 15 s which are missing.

    Args:
        expected: hosts as in cluster.yaml (addresses or names).
        alive: returns the addresses of the hosts that have joined.
        timeout_seconds: how long to wait (> 0).
        poll_seconds: time between two calls of `alive` (> 0).

    Returns:
        Whether they are alive before the time is up.
    """
    started = reported = time.monotonic()
    while len(joined := alive()) < len(expected):
        now = time.monotonic()
        if now - started > timeout_seconds:
            return False
        if now - reported > _REPORT_SECONDS:
            reported = now
            missing = [host for host in expected if host not in joined]
            print(f"{len(joined)} of {len(expected)} hosts have joined; waiting for {', '.join(missing)}", flush=True)
        time.sleep(poll_seconds)
    return True


def main() -> int:
    """Wait for the hosts; return the exit code."""
    import ray

    expected = expected_hosts()
    ray.init(address="auto", log_to_driver=False, logging_level=logging.ERROR)
    try:
        complete = wait(expected, lambda: {node["NodeManagerAddress"] for node in ray.nodes() if node["Alive"]})
    finally:
        ray.shutdown()
    if not complete:
        print(
            f"not all of {', '.join(expected)} have joined in {_TIMEOUT_SECONDS:.0f} s. What the head tried: "
            "ray exec cluster.yaml 'tail -n 100 /tmp/ray/session_latest/logs/monitor.*'",
            file=sys.stderr,
        )
        return 1
    print(f"{len(expected)} of {len(expected)} hosts have joined")
    return 0


if __name__ == "__main__":
    sys.exit(main())
