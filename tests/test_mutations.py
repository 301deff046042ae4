"""Whatever a user gets wrong ends with one paragraph that names it, exit code 2, and an untouched run folder."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
import torch

from benchmarks.mutations import ROOT, SOURCES, Case, Mutation, Stage, all_mutations, without_gpu
from rechub_ray import cli

MUTATIONS = all_mutations()


@pytest.fixture(scope="module")
def stages(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Stage]:
    """Sound data and a finished run of each base: what is mutated below is right before."""
    folder = tmp_path_factory.mktemp("stages")
    return {base: Stage.build(folder, base) for base in SOURCES}


@pytest.fixture
def check(
    stages: dict[str, Stage], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> Callable[[Mutation], None]:
    def run(mutation: Mutation) -> None:
        case = Case.set_up(mutation, stages[mutation.base], tmp_path)
        monkeypatch.chdir(tmp_path)
        capsys.readouterr()
        code = cli.main(case.arguments)
        stderr = capsys.readouterr().err
        assert not case.complaints(code, stderr), stderr

    return run


def test_there_are_more_than_a_hundred_different_ones() -> None:
    assert len({(m.base, m.name) for m in MUTATIONS}) == len(MUTATIONS) > 500


@pytest.mark.parametrize("mutation", MUTATIONS, ids=lambda m: f"{m.base}: {m.name}")
def test_mutation(mutation: Mutation, check: Callable[[Mutation], None]) -> None:
    check(mutation)


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a GPU here")
@pytest.mark.parametrize("mutation", list(without_gpu()), ids=lambda m: m.name)
def test_a_gpu_that_is_not_there(mutation: Mutation, check: Callable[[Mutation], None]) -> None:
    check(mutation)


@pytest.mark.slow
@pytest.mark.parametrize(
    "name",
    [
        "model.dropout is text",
        "$ trian @CONFIG",
        "an id beyond the vocabulary",
        "a file is cut off",
        "1000 workers on this machine",
    ],
)
def test_in_a_process_of_its_own(name: str, stages: dict[str, Stage], tmp_path: Path) -> None:
    mutation = next(m for m in MUTATIONS if m.name == name)
    case = Case.set_up(mutation, stages[mutation.base], tmp_path)
    command = [sys.executable, "-m", "rechub_ray.cli", *case.arguments]
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    done = subprocess.run(command, cwd=tmp_path, env=environment, capture_output=True, text=True, check=False)
    assert not case.complaints(done.returncode, done.stderr), done.stderr
