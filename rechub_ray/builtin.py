"""The configurations, recipes and sweeps that come with the package: `builtin:NAME` stands for a file."""

from __future__ import annotations

import os
from pathlib import Path

from rechub_ray.errors import ConfigError, nearest

PREFIX = "builtin:"
FOLDERS = {"configuration": "configs", "recipe": "configs/data", "sweep": "tune_configs"}


def root() -> Path:
    """Return the folder that holds `configs` and `tune_configs`: inside the package, or beside it in a checkout.

    Raises:
        ConfigError: the installation lacks them.
    """
    package = Path(__file__).resolve().parent
    for place in (package / "shipped", package.parent):
        if (place / FOLDERS["configuration"]).is_dir():
            return place
    raise ConfigError("the configurations of the package are missing", hint="Install rechub_ray again.")


def names(kind: str) -> list[str]:
    """Return the names of one kind, sorted; a file in a folder is called `folder/name`.

    Args:
        kind: `configuration`, `recipe` or `sweep`.
    """
    folder = root() / FOLDERS[kind]
    found = sorted(path.relative_to(folder).with_suffix("").as_posix() for path in folder.rglob("*.yaml"))
    return [name for name in found if kind != "configuration" or not name.startswith("data/")]


def located(source: str | Path, kind: str) -> Path:
    """Return the file that `builtin:NAME` stands for; the path of any other source.

    Args:
        source: a path, or `builtin:NAME`.
        kind: as for `names`.

    Raises:
        ConfigError: nothing of that kind has the name.
    """
    text = os.fspath(source)
    if not text.startswith(PREFIX):
        return Path(source)
    name, known = text.removeprefix(PREFIX).removesuffix(".yaml"), names(kind)
    if name not in known:
        meant = nearest(name, known)
        every = f"Known: {', '.join(known)}."
        raise ConfigError(
            f"no {kind} is called '{text}'", hint=every if meant.startswith("Known") else f"{meant} {every}"
        )
    return root() / FOLDERS[kind] / f"{name}.yaml"
