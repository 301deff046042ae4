"""What the arguments of commands mean: overrides, the configuration that they make, lists of files and names."""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Sequence
from typing import Any

from rechub_ray.errors import ConfigError, nearest


def as_overrides(rest: Sequence[str], known: Sequence[str]) -> list[str]:
    """Return the arguments that argparse leaves over as overrides, `path=value` and `--path=value`.

    Raises:
        ConfigError: one is neither.
    """
    for item in rest:
        name, equals, _ = item.partition("=")
        if not item.startswith("-"):
            if not equals:
                raise ConfigError("not an override", expected="path=value, as in optimizers.0.lr=0.01", got=repr(item))
        elif not equals and "." in name:
            raise ConfigError(f"'{item}' has no value", expected=f"{item}=VALUE")
        elif not equals or not item.startswith("--") or ("." not in name and nearest(name, known).startswith("Did")):
            raise ConfigError(f"unknown option '{name}'", hint=nearest(name, known))
    return [item.lstrip("-") for item in rest]


def loaded(options: argparse.Namespace) -> Any:
    """Return the configuration of `train` and `validate`, with all that the command line changes in it.

    Raises:
        ConfigError: the file, an override or an edit is wrong.
    """
    from rechub_ray import config as config_module
    from rechub_ray.easyrec import translated

    pairs = [config_module.parse_override(text) for text in options.overrides]
    if options.edit_config_json is not None:
        try:
            edits = json.loads(options.edit_config_json)
        except (ValueError, RecursionError) as error:
            raise ConfigError("--edit-config-json is not JSON", got=str(error)) from None
        if not isinstance(edits, dict):
            raise ConfigError("--edit-config-json", expected='{"path": value, ...}', got=repr(edits))
        pairs += edits.items()
    data = config_module.read_yaml(options.config)
    for pair in pairs:
        for path, value in translated([pair], data, _say):
            data = config_module.merge(data, {path: value})
    if options.model_dir is not None:
        data["model_dir"] = options.model_dir
    return config_module.validate(data)


def files(options: argparse.Namespace, given: list[str]) -> list[str]:
    """Return the files of an option that takes several values, which takes the overrides behind it too."""
    from rechub_ray.config import RunConfig
    from rechub_ray.runtime.raw_files import READING

    keys = {*RunConfig.model_fields, *READING}
    chosen = [item for item in given if not ("=" in item and item.partition("=")[0].split(".")[0] in keys)]
    options.overrides += [item for item in given if item not in chosen]
    return chosen


def names(text: str | None) -> list[str] | None:
    """Return the names in a text with commas between; None for None."""
    return None if text is None else [name.strip() for name in text.split(",") if name.strip()]


def _say(text: str) -> None:
    print(f"rechub-ray: {text}", file=sys.stderr)
