"""The package's front door."""

from __future__ import annotations

import subprocess
import sys

import pytest

import rechub_ray


def test_every_exported_name_is_there() -> None:
    for name in rechub_ray.__all__:
        assert getattr(rechub_ray, name) is not None
        assert name in dir(rechub_ray)
    assert rechub_ray.__version__[0].isdigit()
    with pytest.raises(AttributeError, match="no attribute 'trian'"):
        _ = rechub_ray.trian


def test_importing_it_imports_nothing_heavy() -> None:
    code = "import sys, rechub_ray; print([m for m in ('torch', 'ray', 'pandas', 'pyarrow') if m in sys.modules])"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"
