"""cluster.yaml without hosts: what Ray's launcher makes of it, and its shell commands on a pretended host."""

from __future__ import annotations

import json
import subprocess
import sys
import tomllib
from pathlib import Path
from typing import Any

import jsonschema
import pytest
import ray.autoscaler
import yaml
from ray.autoscaler._private.util import prepare_config, validate_config

ROOT = Path(__file__).resolve().parents[1]
TEXT = (ROOT / "cluster.yaml").read_text(encoding="utf-8")


@pytest.fixture(scope="module")
def cluster() -> dict[str, Any]:
    content: dict[str, Any] = yaml.safe_load(TEXT)
    return content


def test_it_fits_the_schema_of_the_launcher(cluster: dict[str, Any]) -> None:
    schema = json.loads(Path(ray.autoscaler.__file__).with_name("ray-schema.json").read_text())
    jsonschema.validate(cluster, schema)
    with pytest.raises(jsonschema.ValidationError):
        jsonschema.validate(cluster | {"worker_nodes": {}}, schema)


def test_the_launcher_prepares_one_head_and_all_workers(cluster: dict[str, Any]) -> None:
    config = prepare_config(cluster)
    validate_config(config)
    workers = config["available_node_types"]["local.cluster.node"]
    assert workers["min_workers"] == workers["max_workers"] == len(cluster["provider"]["worker_ips"])
    assert config["head_setup_commands"] == cluster["setup_commands"] + cluster["head_setup_commands"]


def test_hosts_user_and_key_are_what_there_is_to_edit(cluster: dict[str, Any]) -> None:
    begin, end = TEXT.index("# ---- edit these four lines"), TEXT.index("  # ----\n")
    marked = [line.strip() for line in TEXT[begin:end].splitlines()[1:]]
    keys = [line.partition(":")[0] for line in marked]
    assert keys == ["head_ip", "worker_ips", "auth", "ssh_user", "ssh_private_key"]
    values = [cluster["provider"]["head_ip"], *cluster["provider"]["worker_ips"], *cluster["auth"].values()]
    rest = TEXT[:begin] + TEXT[end:]
    assert not [value for value in values if value in rest]


def test_what_it_ships_is_in_the_repository(cluster: dict[str, Any]) -> None:
    assert [source for source in cluster["file_mounts"].values() if not (ROOT / source).exists()] == []
    # beside ~/train.py, under the names they have here
    beside = {f"~/{name}": name for name in ("rechub_ray", "configs", "tune_configs")}
    assert beside.items() <= cluster["file_mounts"].items()


def test_ray_starts_with_a_token_and_the_autoscaler_that_starts_workers(cluster: dict[str, Any]) -> None:
    (head,) = [c for c in cluster["head_start_ray_commands"] if "ray start" in c]
    (worker,) = [c for c in cluster["worker_start_ray_commands"] if "ray start" in c]
    for command in (head, worker):
        before = command.partition("ray start")[0]
        assert "unset OMP_NUM_THREADS" in before
        assert "RAY_AUTH_MODE=token" in before
    assert "RAY_enable_autoscaler_v2=0" in head.partition("ray start")[0]
    assert "--autoscaling-config=~/ray_bootstrap_config.yaml" in head
    assert "~/.ray/auth_token" in cluster["cluster_synced_files"]


class Host:
    """A home folder, and a PATH with nothing but the given programs and the system's."""

    def __init__(self, folder: Path) -> None:
        self.home, self.bin, self.log = folder / "home", folder / "bin", folder / "log"
        self.home.mkdir()
        self.bin.mkdir()
        self.log.touch()

    def program(self, name: str, script: str) -> None:
        path = self.bin / name
        path.write_text(f'#!/bin/bash\necho "{name} $*" >> {self.log}\n{script}\n')
        path.chmod(0o755)

    def run(self, command: str) -> None:
        environment = {"HOME": str(self.home), "PATH": f"{self.bin}:/usr/bin:/bin", "SSH_CONNECTION": "a 1 10.0.0.5 22"}
        subprocess.run(["bash", "-c", f"({command})"], env=environment, check=True, cwd=self.home, timeout=30)


@pytest.fixture
def host(tmp_path: Path) -> Host:
    return Host(tmp_path)


def test_a_host_without_an_environment_gets_one_once(host: Host, cluster: dict[str, Any]) -> None:
    host.program("python", "exit 1")  # as `python` of the system answers: not in a virtual environment
    host.program("python3.11", 'mkdir -p "$3/bin" && touch "$3/bin/pip" && chmod +x "$3/bin/pip"')
    for _ in range(2):
        host.run(cluster["setup_commands"][0])
    assert host.log.read_text().count("python3.11 -m venv") == 1
    assert (host.home / ".bashrc").read_text() == "export PATH=~/.rechub-ray/venv/bin:$PATH\n"


def test_a_host_with_an_environment_keeps_it(host: Host, cluster: dict[str, Any]) -> None:
    host.program("python", "exit 0")
    host.run(cluster["setup_commands"][0])
    assert list(host.home.iterdir()) == []


def test_the_setup_fails_where_no_environment_can_be_made(host: Host, cluster: dict[str, Any]) -> None:
    host.program("python", "exit 1")
    host.program("python3.11", "exit 1")
    with pytest.raises(subprocess.CalledProcessError):
        host.run(cluster["setup_commands"][0])
    assert not (host.home / ".bashrc").exists()


def test_the_package_requirements_are_installed_as_pinned(host: Host, cluster: dict[str, Any]) -> None:
    folder = host.home / ".rechub-ray"
    folder.mkdir()
    for name in ("pyproject.toml", "constraints.txt"):
        (folder / name).write_bytes((ROOT / name).read_bytes())
    host.program("python", f'[ "$1" = -c ] && exec {sys.executable} "$@" || exit 0')
    host.run(cluster["setup_commands"][1])
    wanted = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["dependencies"]
    assert (folder / "requirements.txt").read_text().splitlines() == wanted
    assert "-m pip install" in host.log.read_text()
    assert "-c constraints.txt" in host.log.read_text()


def test_the_head_takes_the_address_at_which_it_was_reached(host: Host, cluster: dict[str, Any]) -> None:
    host.program("ray", 'echo "$RAY_AUTH_MODE $RAY_enable_autoscaler_v2 ${OMP_NUM_THREADS-unset}" >> ' + str(host.log))
    (head,) = [c for c in cluster["head_start_ray_commands"] if "ray start" in c]
    host.run(f"export OMP_NUM_THREADS=1 RAY_enable_autoscaler_v2=1; {head}")
    command, environment = host.log.read_text().splitlines()
    assert "--node-ip-address=10.0.0.5" in command
    assert environment == "token 0 unset"


def test_shell_commands_are_valid(cluster: dict[str, Any]) -> None:
    commands = [c for key, value in cluster.items() if key.endswith("_commands") for c in value]
    assert len(commands) == 8
    for command in commands:
        checked = subprocess.run(["bash", "-n", "-c", command], capture_output=True, text=True, timeout=10)
        assert checked.returncode == 0, checked.stderr
