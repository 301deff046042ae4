"""`builtin:NAME` stands for the files of the package, wherever a file is read."""

from __future__ import annotations

import tomllib
from pathlib import Path

import pytest

from rechub_ray import builtin
from rechub_ray import config as config_module
from rechub_ray.errors import ConfigError
from rechub_ray.preparation.recipe import Recipe
from rechub_ray.sweeps import sweep as sweep_module

ROOT = Path(__file__).resolve().parents[1]


def test_a_name_is_the_file() -> None:
    assert config_module.load("builtin:deepfm_frappe") == config_module.load(ROOT / "configs" / "deepfm_frappe.yaml")
    assert Recipe.load("builtin:frappe") == Recipe.load(ROOT / "configs" / "data" / "frappe.yaml")
    ours, theirs = (sweep_module.load(s) for s in ("builtin:smoke", ROOT / "tune_configs" / "smoke.yaml"))
    assert ours == theirs
    assert ours.base["model"]["name"] == "deepfm"


def test_a_base_of_ones_own_sweep(tmp_path: Path) -> None:
    (tmp_path / "s.yaml").write_text("base: builtin:demo\nspace: {seed: {choice: [1, 2]}}\n")
    assert sweep_module.load(tmp_path / "s.yaml").base["name"] == "demo"


@pytest.mark.parametrize("kind", builtin.FOLDERS)
def test_every_file_has_a_name(kind: str) -> None:
    files = set((ROOT / builtin.FOLDERS[kind]).rglob("*.yaml"))
    files -= {path for path in files if kind == "configuration" and path.parent.name == "data"}
    assert {builtin.located(f"builtin:{name}", kind) for name in builtin.names(kind)} == files


def test_files_in_folders(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("configs/data/logs.yaml", "configs/frappe/fm.yaml", "configs/a.yaml", "tune_configs/s.yaml"):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text("{}")
    monkeypatch.setattr(builtin, "root", lambda: tmp_path)
    assert builtin.names("configuration") == ["a", "frappe/fm"]
    assert builtin.names("recipe") == ["logs"]
    assert builtin.located("builtin:frappe/fm", "configuration") == tmp_path / "configs" / "frappe" / "fm.yaml"


def test_the_package_comes_before_what_lies_beside_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(builtin, "__file__", str(tmp_path / "rechub_ray" / "builtin.py"))
    with pytest.raises(ConfigError, match="are missing"):
        builtin.root()
    (tmp_path / "configs").mkdir()
    assert builtin.root() == tmp_path
    (tmp_path / "rechub_ray" / "shipped" / "configs").mkdir(parents=True)
    assert builtin.root() == tmp_path / "rechub_ray" / "shipped"


def test_an_unknown_name_gives_the_known_ones() -> None:
    with pytest.raises(
        ConfigError, match=r"no configuration is called 'builtin:deepfm_frape'.*deepfm_frappe.*lr_frappe"
    ):
        config_module.load("builtin:deepfm_frape")
    with pytest.raises(ConfigError, match=r"no recipe is called 'builtin:zzz'.*Known: .*frappe"):
        Recipe.load("builtin:zzz")
    with pytest.raises(ConfigError, match="no sweep is called"):
        sweep_module.load("builtin:deepfm_frappe")


def test_the_wheel_takes_them_along() -> None:
    wheel = tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["hatch"]["build"]["targets"]["wheel"]
    places = wheel["force-include"]
    assert places["configs"] == "rechub_ray/shipped/configs"
    assert places["tune_configs"] == "rechub_ray/shipped/tune_configs"
    assert all((ROOT / source).exists() for source in places)
