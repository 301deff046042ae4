"""Two hosts, machines to Ray's launcher (network, processes, home folder and sshd of their own), made and removed.

RECHUB_HOSTS_LAB names the script that makes them (`hosts up N --env DIR | run N CMD | kill N | key | down`).
"""

from __future__ import annotations

import dataclasses
import os
import shutil
import signal
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
SCRIPT = Path(os.environ.get("RECHUB_HOSTS_LAB", ROOT.parent / "shared" / "lab" / "hosts"))
HEAD, WORKER = "10.77.0.1", "10.77.0.2"


@dataclasses.dataclass(frozen=True)
class Hosts:
    """The two hosts, and what a user types to work with them.

    Args:
        folder: seen by both hosts and by the tests, as a shared disk is.
    """

    folder: Path

    @property
    def environment(self) -> dict[str, str]:
        # the launcher keeps notes about clusters in temporary folders: not the notes of this machine's own Ray
        own = {"HOSTS_LAB": f"{self.folder}/lab", "TMPDIR": str(self.folder), "RAY_TMPDIR": str(self.folder)}
        return {k: v for k, v in os.environ.items() if not k.startswith(("RAY_", "PYTHONPATH"))} | own

    def lab(self, *arguments: str, timeout: float = 60) -> str:
        """Output of the script; RuntimeError with all that it printed when it fails."""
        return self._run([str(SCRIPT), *arguments], timeout)

    def on(self, host: int, command: str) -> str:
        """Output of a shell command on a host."""
        return self.lab("run", str(host), command)

    def ray(self, command: str, *arguments: str, timeout: float) -> str:
        """Output of `ray COMMAND cluster.yaml ARGUMENTS`, typed in the repository's root."""
        ray = Path(sys.executable).with_name("ray")
        return self._run([str(ray), command, str(self.folder / "cluster.yaml"), *arguments], timeout)

    def start(self, command: str, *arguments: str) -> subprocess.Popen[str]:
        """The same, not waited for."""
        ray = Path(sys.executable).with_name("ray")
        return subprocess.Popen(
            [str(ray), command, str(self.folder / "cluster.yaml"), *arguments],
            cwd=ROOT,
            env=self.environment,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )

    def _run(self, command: list[str], timeout: float) -> str:
        done = subprocess.run(
            command,
            cwd=ROOT,
            env=self.environment,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            timeout=timeout,
        )
        if done.returncode:
            raise RuntimeError(f"{' '.join(command)}: exit code {done.returncode}\n{done.stdout}")
        return done.stdout


def edited(text: str, **values: str) -> str:
    """cluster.yaml's text with its lines `key: ...` set; each must be there once."""
    lines = text.splitlines()
    for key, value in values.items():
        (place,) = [i for i, line in enumerate(lines) if line.startswith(f"  {key}: ")]
        lines[place] = f"  {key}: {value}"
    return "\n".join(lines) + "\n"


@pytest.fixture(scope="session")
def hosts(request: pytest.FixtureRequest) -> Iterator[Hosts]:
    """Two hosts with a running Ray between them, as `ray up cluster.yaml` leaves them."""
    _skip_unless_possible(request.config)
    before = signal.signal(signal.SIGTERM, signal.default_int_handler)  # removes the hosts then, too
    folder = Path(tempfile.mkdtemp(prefix="rechub-cluster-", dir="/tmp"))
    hosts = Hosts(folder)
    try:
        hosts.lab("up", "2", "--env", sys.prefix)
        lines = {"head_ip": HEAD, "worker_ips": f"[{WORKER}]", "ssh_user": "root"}
        lines["ssh_private_key"] = hosts.lab("key").strip()
        (folder / "cluster.yaml").write_text(edited((ROOT / "cluster.yaml").read_text(), **lines))
        (folder / "up.log").write_text(hosts.ray("up", "--yes", timeout=400))
        yield hosts
        hosts.ray("down", "--yes", timeout=100)
    finally:
        hosts.lab("down")
        shutil.rmtree(folder, ignore_errors=True)
        signal.signal(signal.SIGTERM, before)
    assert not _running_hosts()


def _running_hosts() -> bool:
    listed = subprocess.run(["ip", "netns", "list"], capture_output=True, text=True, timeout=10)
    return "hostslab" in listed.stdout


def _skip_unless_possible(config: pytest.Config) -> None:
    if "cluster" not in config.option.markexpr:
        pytest.skip("brings up hosts; `make cluster-test` asks for that")
    if not SCRIPT.is_file():
        pytest.skip(f"no script that makes hosts at {SCRIPT}; RECHUB_HOSTS_LAB names it")
    if os.geteuid() != 0:
        pytest.skip("making hosts (network namespaces) needs root")
    missing = [tool for tool in ("ip", "sshd", "rsync", "ssh-keygen") if shutil.which(tool) is None]
    if missing:
        pytest.skip(f"{', '.join(missing)} not found: apt-get install -y iproute2 openssh-server rsync")
    if Path(sys.prefix).is_relative_to(Path.home()):
        pytest.skip(f"the hosts have home folders of their own: they do not see the environment {sys.prefix}")
    if _running_hosts():
        pytest.fail(f"hosts are up already; `{SCRIPT} down` removes them")
