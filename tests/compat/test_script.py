"""Scripts written for Torch-RecHub: here with our imports, and with theirs where that library is installed."""

from __future__ import annotations

import importlib.util
import os
import re
import runpy
import subprocess
import sys
from pathlib import Path

import pytest

from tests.worlds import said_by

EXAMPLES = Path(__file__).resolve().parents[2] / "examples"


def run(script: Path, folder: Path, *arguments: str) -> str:
    done = subprocess.run(
        [sys.executable, str(script), *arguments],
        cwd=folder,
        env=os.environ | {"OMP_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


def theirs(script: Path, folder: Path) -> Path:
    """The script with Torch-RecHub's imports; skips where that is not installed."""
    if importlib.util.find_spec("torch_rechub") is None:
        pytest.skip("torch-rechub is not installed, so there is nothing to compare with")
    changed = folder / "theirs.py"
    changed.write_text(script.read_text().replace("rechub_ray.compat", "torch_rechub"))
    return changed


@pytest.mark.slow
def test_only_the_imports_differ(tmp_path: Path) -> None:
    def auc(said: str) -> float:
        assert "2400 predictions" in said
        [line] = [line for line in said.splitlines() if line.startswith("test auc:")]
        return float(line.split()[-1])

    script = EXAMPLES / "torch_rechub_script.py"
    code, said, errors = said_by(tmp_path, _as_main, str(script), "12000", "3")
    assert code == 0, errors
    ours = auc(said)
    assert ours > 0.72
    assert abs(ours - auc(run(theirs(script, tmp_path), tmp_path, "12000", "3"))) < 0.02


@pytest.mark.slow
@pytest.mark.parametrize(
    "model", ["ESMM", "MMOE", *(pytest.param(m, marks=pytest.mark.long) for m in ("SharedBottom", "PLE", "AITM"))]
)
def test_only_the_imports_of_multi_task_models_differ(model: str, tmp_path: Path) -> None:
    tasks = 3 if model == "ESMM" else 2

    def scores(said: str) -> list[float]:
        assert f"predictions: (4800, {tasks}) in [0, 1]: True" in said
        [line] = re.findall(r"^test scores: (.*)$", said, re.MULTILINE)
        return [float(score) for score in line.split()]

    script = EXAMPLES / "torch_rechub_multi_task.py"
    code, said, errors = said_by(tmp_path, _as_main, str(script), model, "24000", "4")
    assert code == 0, errors
    ours = scores(said)
    assert len(ours) == tasks
    assert min(ours) > 0.6
    # theirs scores a conversion given a click on all rows, ours on those with a click
    other = scores(run(theirs(script, tmp_path), tmp_path, model, "24000", "4"))
    assert other[-2:] == pytest.approx(ours[-2:], abs=0.03)


@pytest.mark.slow
@pytest.mark.parametrize("model", ["DSSM", pytest.param("YoutubeDNN", marks=pytest.mark.long)])
def test_only_the_imports_of_matching_models_differ(model: str, tmp_path: Path) -> None:
    def hits(said: str) -> float:
        assert f"vectors: (1500, {32 if model == 'DSSM' else 16}) and (200, " in said
        [line] = re.findall(r"^hit@20: (.*)$", said, re.MULTILINE)
        return float(line)

    script = EXAMPLES / "torch_rechub_matching.py"
    code, said, errors = said_by(tmp_path, _as_main, str(script), model, "1500", "3")
    assert code == 0, errors
    ours = hits(said)
    assert ours > 0.4, "20 of 200 items drawn at random have a tenth of the hits"
    assert ours > hits(run(theirs(script, tmp_path), tmp_path, model, "1500", "3")) - 0.08


def _as_main(*arguments: str) -> None:
    sys.argv = list(arguments)
    runpy.run_path(arguments[0], run_name="__main__")
