"""A script written for Torch-RecHub: here with our imports, and with theirs where that library is installed."""

from __future__ import annotations

import importlib.util
import os
import subprocess
import sys
from pathlib import Path

import pytest

SCRIPT = Path(__file__).resolve().parents[2] / "examples" / "torch_rechub_script.py"


def run(script: Path, folder: Path) -> float:
    done = subprocess.run(
        [sys.executable, str(script), "12000", "3"],
        cwd=folder,
        env=os.environ | {"OMP_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert "2400 predictions" in done.stdout
    [line] = [line for line in done.stdout.splitlines() if line.startswith("test auc:")]
    return float(line.split()[-1])


@pytest.mark.slow
def test_only_the_imports_differ(tmp_path: Path) -> None:
    ours = run(SCRIPT, tmp_path)
    assert ours > 0.72
    if importlib.util.find_spec("torch_rechub") is None:
        pytest.skip("torch-rechub is not installed, so there is nothing to compare with")
    theirs = tmp_path / "theirs.py"
    theirs.write_text(SCRIPT.read_text().replace("rechub_ray.compat", "torch_rechub"))
    assert abs(ours - run(theirs, tmp_path)) < 0.02
