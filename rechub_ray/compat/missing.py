"""Errors for names and modules that Torch-RecHub has and this package does not."""

from __future__ import annotations

import importlib
import importlib.abc
import pkgutil
import sys
from collections.abc import Collection
from typing import Any, Never

from rechub_ray.errors import ConfigError

_PACKAGE = __name__.rpartition(".")[0]


def refuse(module: str, name: str, *, known: Collection[str], missing: Collection[str]) -> Never:
    """Raise the error for a name that `module` does not have: one that says so where Torch-RecHub has it.

    Raises:
        ImportError: for a name in `missing`.
        AttributeError: for any other one.
    """
    if name in missing:
        raise ImportError(
            f"rechub_ray does not have Torch-RecHub's {name} yet. {module} has: {', '.join(sorted(known))}.",
            name=module,
        )
    raise AttributeError(f"module '{module}' has no attribute '{name}'")


def package(name: str, what: str, command: str) -> Any:
    """Import a package that `what` needs.

    Args:
        name: of the package.
        what: who needs it, at the start of the message.
        command: installs it.

    Raises:
        ConfigError: the package is not installed.
    """
    try:
        return importlib.import_module(name)
    except ImportError:
        raise ConfigError(f"{what} needs the package {name}, which is not installed", hint=f"Run: {command}.") from None


class _Refusal(importlib.abc.MetaPathFinder):
    """The last finder, which is asked for modules that no other one finds: refuses those of this package."""

    def find_spec(self, fullname: str, path: Any = None, target: Any = None) -> None:
        """Raise ImportError for a module of this package; return None for any other one."""
        if fullname.startswith(f"{_PACKAGE}."):
            raise ImportError(
                f"rechub_ray does not have Torch-RecHub's {fullname.removeprefix(f'{_PACKAGE}.')} yet. {_PACKAGE} has: "
                f"{'; '.join(_contents())}.",
                name=fullname,
            )


def refuse_modules() -> None:
    """Let the import of a module that this package lacks say which ones there are."""
    if not any(type(finder).__qualname__ == _Refusal.__qualname__ for finder in sys.meta_path):
        sys.meta_path.append(_Refusal())


def _contents() -> list[str]:
    """Return the modules of this package, each with its public names."""
    below = pkgutil.walk_packages(importlib.import_module(_PACKAGE).__path__, f"{_PACKAGE}.")
    names = {info.name: getattr(importlib.import_module(info.name), "__all__", ()) for info in below}
    return [f"{module.removeprefix(f'{_PACKAGE}.')} ({', '.join(sorted(own))})" for module, own in names.items() if own]
