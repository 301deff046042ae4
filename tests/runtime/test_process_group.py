"""The network interface that gloo is told to use."""

from __future__ import annotations

import os
import socket

import pytest
import ray

from rechub_ray.runtime.process_group import ProcessGroup, use_ray_interface


def test_it_is_the_one_with_the_address_that_ray_uses(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("GLOO_SOCKET_IFNAME", "")  # so that what is set below is unset again
    monkeypatch.delenv("GLOO_SOCKET_IFNAME")
    monkeypatch.setattr(ray.util, "get_node_ip_address", lambda: "127.0.0.1")
    use_ray_interface()
    loopback = os.environ["GLOO_SOCKET_IFNAME"]
    assert loopback in {name for _, name in socket.if_nameindex()}
    assert loopback.startswith("lo")


def test_the_users_choice_stays(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("GLOO_SOCKET_IFNAME", "mine")
    use_ray_interface()
    assert os.environ["GLOO_SOCKET_IFNAME"] == "mine"


def test_an_address_of_no_interface_changes_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("GLOO_SOCKET_IFNAME", raising=False)
    monkeypatch.setattr(ray.util, "get_node_ip_address", lambda: "192.0.2.1")
    use_ray_interface()
    assert "GLOO_SOCKET_IFNAME" not in os.environ


def test_it_is_a_torch_config_with_its_own_backend() -> None:
    config = ProcessGroup(timeout_s=7)
    assert config.timeout_s == 7
    assert config.backend_cls.__module__ == "rechub_ray.runtime.process_group"
