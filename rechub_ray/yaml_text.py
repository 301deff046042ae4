"""Reading YAML: doubled keys are errors, and nothing comes out but what JSON knows."""

from __future__ import annotations

import datetime
import os
import typing
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import yaml

from rechub_ray.errors import ConfigError, nearest
from rechub_ray.files import reason


def read_yaml(source: str | Path | Mapping[str, Any], *, what: str = "configuration") -> dict[str, Any]:
    """The mapping in a YAML file; a mapping is copied.

    Raises:
        ConfigError: there is no such file (suggests the nearest one), or it holds something else. Calls it a `what`.
    """
    if isinstance(source, Mapping):
        return typing.cast(dict[str, Any], plain(source))
    path = Path(source)
    try:
        text = path.read_text(encoding="utf-8")
    except OSError as error:
        siblings = [str(p) for p in path.parent.glob("*.y*ml")] if path.parent.is_dir() else []
        siblings += [str(path / "config.yaml")] if (path / "config.yaml").is_file() else []
        raise ConfigError(
            f"cannot read the {what} '{source}'",
            got=reason(error),
            hint=nearest(str(path), siblings) if siblings else None,
        ) from None
    except UnicodeDecodeError as error:
        raise ConfigError(f"'{source}' is not YAML", got=str(error)) from None
    data = parse(text, f"'{source}'")
    if not isinstance(data, dict):
        raise ConfigError(f"'{source}' is not a {what}", expected="a YAML mapping", got=type(data).__name__)
    return data


class _Yaml(yaml.SafeLoader):
    """YAML 1.1 without doubled keys, of which PyYAML would silently take the last."""

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Any, Any]:
        seen = set()
        for key, _ in node.value:
            if isinstance(key, yaml.ScalarNode) and key.tag != "tag:yaml.org,2002:merge":
                if key.value in seen:
                    raise yaml.constructor.ConstructorError(
                        None, None, f"the key '{key.value}' is given twice", key.start_mark
                    )
                seen.add(key.value)
        return super().construct_mapping(node, deep)


def parse(text: str, what: str) -> Any:
    """The value that a YAML text holds, as `plain` makes it; errors call the text `what`."""
    try:
        return plain(yaml.load(text, _Yaml))
    except (yaml.YAMLError, ValueError, RecursionError) as error:  # ValueError: a date such as 2026-99-99
        raise ConfigError(
            f"{what} is not YAML", got=" ".join(str(error).replace('"<unicode string>", ', "").split())[:300]
        ) from None


def plain(value: Any, where: str = "") -> Any:
    """A deep copy in which there is nothing but what JSON knows."""
    if isinstance(value, Mapping):
        return {str(key): plain(item, f"{where}.{key}" if where else str(key)) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [plain(item, f"{where}.{i}") for i, item in enumerate(value)]
    if isinstance(value, os.PathLike):
        return os.fspath(value)
    if isinstance(value, np.generic):
        return value.item()
    if isinstance(value, datetime.date):  # text that YAML takes for a date
        return value.isoformat()
    if value is None or isinstance(value, (str, bool, int, float)):
        return value
    raise ConfigError(
        f"'{where}' holds a {type(value).__name__}",
        expected="text, a number, true, false, null, a list or keys and values",
        got=str(value)[:120],
    )
