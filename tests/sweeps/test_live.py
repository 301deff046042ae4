"""The page of a sweep while it runs."""

from __future__ import annotations

import urllib.error
import urllib.request
from pathlib import Path

import pytest

from rechub_ray.errors import ConfigError
from rechub_ray.sweeps import tune
from rechub_ray.sweeps.live import served


def test_it_is_served_to_this_host_and_ends_with_the_sweep(tmp_path: Path) -> None:
    with served(str(tmp_path / "sweep"), 0) as address:
        with urllib.request.urlopen(address, timeout=10) as answer:
            assert answer.headers["Cache-Control"] == "no-store"
            assert b"The sweep is starting" in answer.read()
        with urllib.request.urlopen(urllib.request.Request(address, method="HEAD"), timeout=10) as answer:
            assert answer.read() == b""
        with pytest.raises(urllib.error.HTTPError, match="403"):
            urllib.request.urlopen(urllib.request.Request(address, headers={"Host": "evil.example"}), timeout=10)
    with pytest.raises(urllib.error.URLError):
        urllib.request.urlopen(address, timeout=10)


@pytest.mark.parametrize("port", [None, 70_000])
def test_a_port_that_is_not_free_is_an_error_before_the_sweep_starts(tmp_path: Path, port: int | None) -> None:
    with served(str(tmp_path), 0) as address:
        taken = int(address.rstrip("/").rpartition(":")[2]) if port is None else port
        with pytest.raises(ConfigError, match=rf"--serve: cannot serve .* {taken}"), served(str(tmp_path), taken):
            pytest.fail("it was served")


def test_tune_checks_the_sweep_first(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="one of a sweep file and a folder"):
        tune(serve=0)
