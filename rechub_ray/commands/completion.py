"""Scripts by which shells complete commands and options."""

from __future__ import annotations

import argparse
import importlib.util
from collections.abc import Iterator

from rechub_ray.errors import ConfigError

_FILES = {"config", "recipe", "sweep", "raw", "users", "data", "like"}
_FOLDERS = {"checkpoint", "run_folder", "model_dir", "out", "resume", "sweep_dir", "folder"}


def script(parser: argparse.ArgumentParser, shell: str) -> str:
    """Return the script for a shell: `bash`, `zsh` or `tcsh`.

    Args:
        parser: of the whole command line; its arguments of files and folders are told so.
        shell: which one.

    Raises:
        ConfigError: shtab is not installed.
    """
    if importlib.util.find_spec("shtab") is None:
        raise ConfigError(
            "completion needs the package shtab, which is not installed",
            hint="Run: pip install 'rechub_ray[completion]'.",
        )
    import shtab

    for action in _actions(parser):
        if action.dest in _FILES | _FOLDERS and not action.choices:
            action.complete = shtab.FILE if action.dest in _FILES else shtab.DIRECTORY  # type: ignore[attr-defined]
    return str(shtab.complete(parser, shell))


def _actions(parser: argparse.ArgumentParser) -> Iterator[argparse.Action]:
    for action in parser._actions:
        yield action
        if isinstance(action, argparse._SubParsersAction):
            for inner in action.choices.values():
                yield from _actions(inner)
