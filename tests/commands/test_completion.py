"""Scripts for shells, and what to install for them."""

from __future__ import annotations

import importlib.util
import subprocess

import pytest

from rechub_ray import cli


def test_without_the_package_it_says_what_to_install(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    assert cli.main(["completion", "bash"]) == 2
    assert "pip install 'rechub_ray[completion]'" in capsys.readouterr().err


def test_bash_completes_commands_and_options(capsys: pytest.CaptureFixture[str]) -> None:
    pytest.importorskip("shtab")
    assert cli.main(["completion", "bash"]) == 0
    script = capsys.readouterr().out

    def completed(*words: str) -> list[str]:
        line = f"COMP_WORDS=(rechub-ray {' '.join(words)}); COMP_CWORD={len(words)}"
        ask = f"{line}; _shtab_rechub_ray; printf '%s\\n' \"${{COMPREPLY[@]}}\""
        done = subprocess.run(["bash", "-c", f"{script}\n{ask}"], capture_output=True, text=True, check=True)
        return done.stdout.split()

    assert completed("va") == ["validate"]
    assert completed("train", "--res") == ["--resume"]
    assert completed("demo", "--family", "r") == ["ranking", "retrieval"]
