"""Joining and starting Ray: what is at an address, and what is said where that does not work. No Ray is started."""

from __future__ import annotations

import contextlib
import os
import socket
import sys
import threading
from collections.abc import Callable, Iterator
from types import SimpleNamespace
from typing import Any

import pytest

from rechub_ray.config import ScalingSection
from rechub_ray.errors import ResourceError
from rechub_ray.runtime import cluster
from rechub_ray.runtime.cluster import LocalRaylet, _join_or_start, answers

TOKEN_LINE = (
    "[2026-11-26 22:35:45,403 W 298 298] gcs_client.cc:210: Failed to get cluster ID from GCS server: Unauthenticated: "
    "RPC error: InvalidAuthToken: Authentication token is missing or incorrect\n"
)


@contextlib.contextmanager
def listening(answer: Callable[[socket.socket], None]) -> Iterator[str]:
    """The address of a server that treats a connection as `answer` does."""
    with socket.create_server(("127.0.0.1", 0)) as server:

        def serve() -> None:
            with contextlib.suppress(OSError):
                while True:
                    connection, _ = server.accept()
                    with connection:
                        answer(connection)

        threading.Thread(target=serve, daemon=True).start()
        yield f"127.0.0.1:{server.getsockname()[1]}"
        server.shutdown(socket.SHUT_RDWR)  # closed alone it would go on listening for the thread


def silent(connection: socket.socket) -> None:
    with contextlib.suppress(OSError):
        while connection.recv(1024):
            pass


def closes(connection: socket.socket) -> None:
    connection.recv(1024)


def web(connection: socket.socket) -> None:
    connection.recv(1024)
    connection.sendall(b"HTTP/1.1 400 Bad Request\r\n\r\n")


def head(connection: socket.socket) -> None:
    assert connection.recv(1024).startswith(b"PRI * HTTP/2.0")
    connection.sendall(bytes([0, 0, 0x18, 4, 0, 0, 0, 0, 0]))


@pytest.mark.parametrize(("answer", "expected"), [(silent, False), (closes, False), (web, False), (head, True)])
def test_only_what_speaks_as_a_head_does_answers(
    answer: Callable[[socket.socket], None], expected: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(cluster, "_ANSWER_SECONDS", 1.0)
    with listening(answer) as address:
        assert answers(address) is expected
        assert answers(f"ray://{address}") is expected


def test_nothing_answers_at_a_closed_port_or_at_what_is_no_address() -> None:
    with listening(head) as address:
        pass
    assert not answers(address)
    assert not answers("nowhere")
    assert not answers("host:port")


def ray(init: Callable[..., None]) -> Any:
    return SimpleNamespace(init=init)


@pytest.fixture
def started(monkeypatch: pytest.MonkeyPatch) -> list[dict[str, Any]]:
    """How `ray.init` was called."""
    for name in ("RAY_ADDRESS", "RAY_AUTH_MODE", "RAY_AUTH_TOKEN", "RAY_AUTH_TOKEN_PATH", "RAY_NUM_REDIS_GET_RETRIES"):
        monkeypatch.setenv(name, "")  # so that what is set below is unset again
        monkeypatch.delenv(name)
    monkeypatch.setenv("HOME", "/nonexistent")
    return []


def test_the_note_of_a_dead_head_is_ignored(started: list[dict[str, Any]], monkeypatch: pytest.MonkeyPatch) -> None:
    with listening(head) as address:
        pass
    monkeypatch.setattr(cluster, "noted_address", lambda: address)
    _join_or_start(ray(lambda **given: started.append(given)), ScalingSection(num_workers=1), None)
    assert started[0]["address"] == "local", "with null Ray would follow the note itself"
    with pytest.raises(ResourceError, match="no Ray cluster runs on this machine"):
        _join_or_start(ray(lambda **given: started.append(given)), ScalingSection(num_workers=1), "auto")


def test_the_note_of_a_head_that_answers_is_followed(
    started: list[dict[str, Any]], monkeypatch: pytest.MonkeyPatch
) -> None:
    with listening(head) as address:
        monkeypatch.setattr(cluster, "noted_address", lambda: address)
        _join_or_start(ray(lambda **given: started.append(given)), ScalingSection(num_workers=1), None)
        assert started[0]["address"] == "auto", "only then Ray takes the token too"
        _join_or_start(ray(lambda **given: started.append(given)), ScalingSection(num_workers=1), "local")
    assert started[1]["address"] == "local"


def test_an_address_where_nothing_answers_is_one_line(started: list[dict[str, Any]]) -> None:
    with listening(head) as address:
        pass
    with pytest.raises(ResourceError, match=f"no Ray cluster answers at '{address}'"):
        _join_or_start(ray(lambda **given: started.append(given)), ScalingSection(num_workers=1), address)
    assert not started


@pytest.mark.parametrize("token", [None, "b" * 40])
def test_a_wrong_token_is_one_line_that_says_what_to_set(
    token: str | None, started: list[dict[str, Any]], monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    def init(**_: Any) -> None:
        os.write(2, TOKEN_LINE.encode())  # as Ray's C++ does
        os.write(2, b"somebody else's line\n")
        raise ConnectionError("Failed to connect to Ray cluster at 10.0.0.1:6379")

    if token is not None:
        monkeypatch.setenv("RAY_AUTH_TOKEN", token)
    with listening(head) as address, pytest.raises(ResourceError) as caught:
        _join_or_start(ray(init), ScalingSection(num_workers=1), address)
    assert "RAY_AUTH_TOKEN or ~/.ray/auth_token" in str(caught.value)
    assert f"Got: {'none' if token is None else 'another one'}." in str(caught.value)
    assert capfd.readouterr().err == "somebody else's line\n"


@pytest.mark.parametrize("error", [SystemExit(15), Exception("a start that took too long"), ValueError("what else")])
def test_a_start_that_fails_is_one_line(
    error: BaseException, started: list[dict[str, Any]], monkeypatch: pytest.MonkeyPatch
) -> None:
    def init(**_: Any) -> None:
        raise error

    monkeypatch.setattr(cluster, "noted_address", lambda: None)
    with pytest.raises(ResourceError, match="cannot start Ray on this machine"):
        _join_or_start(ray(init), ScalingSection(num_workers=1), None)


@pytest.mark.parametrize("token", [None, "b" * 40])
def test_a_token_is_sent_to_an_address_and_ray_is_told_so_before_it_is_imported(
    token: str | None, started: list[dict[str, Any]], monkeypatch: pytest.MonkeyPatch
) -> None:
    if token is not None:
        monkeypatch.setenv("RAY_AUTH_TOKEN", token)
    monkeypatch.setitem(sys.modules, "ray", None)  # its import fails
    with pytest.raises(ImportError), cluster.connected(ScalingSection(num_workers=1, address="127.0.0.1:1")):
        pass
    assert os.environ.get("RAY_AUTH_MODE") == (None if token is None else "token")
    assert os.environ["RAY_NUM_REDIS_GET_RETRIES"] == "5"


def test_ctrl_c_during_the_start_is_ctrl_c(
    started: list[dict[str, Any]], monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    def init(**_: Any) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(cluster, "noted_address", lambda: None)
    with pytest.raises(KeyboardInterrupt):
        _join_or_start(ray(init), ScalingSection(num_workers=1), None)
    os.write(2, b"stderr is there again\n")
    assert capfd.readouterr().err == "stderr is there again\n"


def test_a_raylet_is_alive_as_long_as_it_listens() -> None:
    with listening(silent) as address:
        host, _, port = address.partition(":")
        node = {"NodeID": "n", "NodeManagerAddress": host, "NodeManagerPort": int(port)}
        context = SimpleNamespace(get_node_id=lambda: "n")
        other = {"NodeID": "m", "NodeManagerAddress": "192.0.2.1", "NodeManagerPort": 1}
        raylet = LocalRaylet(SimpleNamespace(nodes=lambda: [other, node], get_runtime_context=lambda: context))
        assert raylet.host == "127.0.0.1"
        assert raylet.is_alive()
    assert not raylet.is_alive()
