"""Whatever a user gets wrong ends with one paragraph that names it, exit code 2, and an untouched run folder."""

from __future__ import annotations

import sys
from collections.abc import Callable
from pathlib import Path

import pytest
import torch

from benchmarks.mutations import SOURCES, Case, Mutation, all_mutations, build_stage, thought_of
from rechub_ray import cli
from tests.worlds import said_by

ALL = all_mutations()
OF_DEMO = {mutation.name for mutation in ALL if mutation.base == "demo"}
# a key of both configurations is spoiled in one of them; `python -m benchmarks.mutations` spoils it in both
MUTATIONS = [mutation for mutation in ALL if mutation.base == "demo" or mutation.name not in OF_DEMO]


@pytest.fixture(scope="module")
def stages(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """Sound data and a finished run of each base: what is mutated below is right before."""
    folder = tmp_path_factory.mktemp("stages")
    return {base: build_stage(folder, base) for base in SOURCES}


@pytest.fixture
def check(
    stages: dict[str, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> Callable[[Mutation], None]:
    def run(mutation: Mutation) -> None:
        case = Case(mutation, stages[mutation.base], tmp_path)
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
@pytest.mark.parametrize("mutation", list(thought_of("without_gpu")), ids=lambda m: m.name)
def test_a_gpu_that_is_not_there(mutation: Mutation, check: Callable[[Mutation], None]) -> None:
    check(mutation)


@pytest.mark.slow
@pytest.mark.parametrize("name", ["$ trian @CONFIG", pytest.param("last row: city = 21", marks=pytest.mark.long)])
def test_as_a_command_of_its_own(name: str, stages: dict[str, Path], tmp_path: Path) -> None:
    mutation = next(m for m in MUTATIONS if m.name == name)
    assert not Case(mutation, stages[mutation.base], tmp_path).run_alone()


def _enter(arguments: list[str]) -> None:
    sys.argv = ["rechub-ray", *arguments]
    cli.entry()


@pytest.mark.slow
@pytest.mark.parametrize(
    "name", ["model.dropout is text", "a file is cut off", "scaling.num_workers = 1000, data.batch_size = 1"]
)
def test_in_a_process_of_its_own(name: str, stages: dict[str, Path], tmp_path: Path) -> None:
    mutation = next(m for m in MUTATIONS if m.name == name)
    case = Case(mutation, stages[mutation.base], tmp_path)
    code, _, stderr = said_by(tmp_path, _enter, case.arguments)
    assert not case.complaints(code, stderr), stderr
