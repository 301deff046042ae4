"""Waiting for the hosts of cluster.yaml, without hosts."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from rechub_ray.runtime import hosts


def test_hosts_are_read_from_what_the_launcher_leaves(tmp_path: Path) -> None:
    path = tmp_path / "config.yaml"
    path.write_text(json.dumps({"provider": {"head_ip": "10.0.0.1", "worker_ips": ["10.0.0.2", "10.0.0.3"]}}))
    assert hosts.expected_hosts(path) == ["10.0.0.1", "10.0.0.2", "10.0.0.3"]


def test_it_looks_until_the_last_host_has_joined() -> None:
    looks = iter([{"a"}, {"a"}, {"a", "b"}])
    assert hosts.wait(["a", "b"], lambda: next(looks), poll_seconds=0.001)
    with pytest.raises(StopIteration):
        next(looks)


def test_a_host_known_by_name_counts_whatever_its_address() -> None:
    assert hosts.wait(["head.local", "worker.local"], lambda: {"10.0.0.1", "10.0.0.2"}, timeout_seconds=0)


def test_it_gives_up_and_says_whom_it_waits_for(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(hosts, "_REPORT_SECONDS", 0.0)
    assert not hosts.wait(["a", "b"], lambda: {"a"}, timeout_seconds=0.05, poll_seconds=0.01)
    assert "1 of 2 hosts have joined; waiting for b" in capsys.readouterr().out
