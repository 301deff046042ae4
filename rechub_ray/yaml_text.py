"""YAML by the core schema of version 1.2, read into JSON's types only.

PyYAML follows version 1.1, where 010 is 8, 1:30 is 90, `no` is false and 2026-01-31 is a date. Here the first is 10,
and the others are text. Keys given twice, and aliases that expand beyond bounds, are errors.
"""

from __future__ import annotations

import contextlib
import datetime
import os
import re
import typing
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import yaml

from rechub_ray import builtin
from rechub_ray.errors import ConfigError, nearest, shown
from rechub_ray.files import reason

MOST_BYTES = 2**24  # of a file
MOST_BY_ALIASES = 100_000  # nodes and characters
DEEPEST = 100  # nodes within each other, of what libyaml builds: it does not look at the stack


def read_yaml(source: str | Path | Mapping[str, Any], *, what: str = "configuration") -> dict[str, Any]:
    """Return the mapping in a YAML file; a mapping is copied.

    Args:
        source: path of the file (or `builtin:NAME`), or its content.
        what: what errors call the file.

    Raises:
        ConfigError: the file cannot be read (suggests the nearest one), or does not hold a YAML mapping.
    """
    if isinstance(source, Mapping):
        return typing.cast(dict[str, Any], plain(source))
    path = builtin.located(source, what) if what in builtin.FOLDERS else Path(source)
    try:
        with path.open("rb") as file:
            content = file.read(MOST_BYTES + 1)
        if len(content) > MOST_BYTES:
            raise ConfigError(f"'{source}' is not a {what}", expected=f"a YAML file of at most {MOST_BYTES:,} bytes")
        text = content.decode("utf-8")
    except OSError as error:
        siblings = [str(p) for p in path.parent.glob("*.y*ml")] if isinstance(error, FileNotFoundError) else []
        if isinstance(error, IsADirectoryError) and (path / "config.yaml").is_file():
            siblings = [str(path / "config.yaml")]
        raise ConfigError(
            f"cannot read the {what} '{source}'",
            got=reason(error),
            hint=nearest(str(path), siblings) if siblings else None,
        ) from None
    except ValueError as error:  # not UTF-8, or a NUL character in the path
        raise ConfigError(f"'{source}' is not YAML", got=str(error)) from None
    data = parse(text, f"'{source}'")
    if not isinstance(data, dict):
        raise ConfigError(f"'{source}' is not a {what}", expected="a YAML mapping", got=type(data).__name__)
    return data


_CORE = {  # https://yaml.org/spec/1.2.2/#1032-tag-resolution; and the merge key of 1.1
    "null": (r"(?:~|null|Null|NULL|)", "~nN\0"),
    "bool": (r"(?:true|True|TRUE|false|False|FALSE)", "tTfF"),
    "int": (r"(?:[-+]?[0-9]+|0o[0-7]+|0x[0-9a-fA-F]+)", "-+0123456789"),
    "float": (
        r"(?:[-+]?(?:\.[0-9]+|[0-9]+(?:\.[0-9]*)?)(?:[eE][-+]?[0-9]+)?|[-+]?\.(?:inf|Inf|INF)|\.(?:nan|NaN|NAN))",
        "-+.0123456789",
    ),
    "merge": (r"<<", "<"),
}


class _Core:
    """What the loaders differ in from PyYAML's."""

    yaml_implicit_resolvers: dict[Any, Any] = {}

    def get_single_node(self) -> yaml.Node | None:
        node: yaml.Node | None = super().get_single_node()  # type: ignore[misc]
        if node is not None:
            _check(node)
        return node


class _Loader(_Core, yaml.SafeLoader):
    """Shows the line of a mistake, and takes no text so deep that it breaks."""


class _FastLoader(_Core, getattr(yaml, "CSafeLoader", yaml.SafeLoader)):  # type: ignore[misc]
    """Of libyaml, where PyYAML was built with it: ten times as fast."""


class _Dumper(getattr(yaml, "CSafeDumper", yaml.SafeDumper)):  # type: ignore[misc]
    """Quotes text that YAML 1.1 or 1.2 would read as something else."""

    def represent_text(self, text: str) -> yaml.ScalarNode:
        # other styles take a line separator for a line's end
        style = None if text.isprintable() else '"'
        node: yaml.ScalarNode = self.represent_scalar("tag:yaml.org,2002:str", text, style=style)
        return node


def _construct_int(loader: Any, node: yaml.ScalarNode) -> int:
    text = loader.construct_scalar(node)
    return int(text, {"0o": 8, "0x": 16}.get(text[:2], 10))


for _tag, (_pattern, _first) in _CORE.items():
    for _side in (_Loader, _FastLoader, _Dumper):
        _side.add_implicit_resolver(
            f"tag:yaml.org,2002:{_tag}", re.compile(f"{_pattern}$"), ["" if c == "\0" else c for c in _first]
        )
for _loader in (_Loader, _FastLoader):
    _loader.add_constructor("tag:yaml.org,2002:int", _construct_int)
_Dumper.add_representer(str, _Dumper.represent_text)


def _check(root: yaml.Node) -> None:
    """Refuse doubled keys, a node within itself, and aliases that stand for much more than the text itself."""
    sizes: dict[int, int | None] = {}  # with all aliases written out; None: not known yet
    written, todo = 0, [root]
    while todo:
        node = todo[-1]
        if sizes.get(id(node)) is not None:
            todo.pop()
            continue
        below: list[yaml.Node] = []
        if isinstance(node, yaml.MappingNode):
            below = [part for pair in node.value for part in pair]
        elif isinstance(node, yaml.SequenceNode):
            below = node.value
        if id(node) not in sizes:
            sizes[id(node)] = None
            _check_keys(node)
            if any(sizes.get(id(part), 0) is None for part in below):
                raise yaml.composer.ComposerError(None, None, "an alias stands for what it is in", node.start_mark)
            todo.extend(below)
            continue
        own = len(node.value) if isinstance(node, yaml.ScalarNode) else 0
        sizes[id(node)] = 1 + own + sum(sizes[id(part)] or 0 for part in below)
        written += 1 + own
        todo.pop()
    if (sizes[id(root)] or 0) > max(MOST_BY_ALIASES, 10 * written):
        raise yaml.composer.ComposerError(
            None, None, "its aliases stand for far more than is written; write it out", root.start_mark
        )


def _check_keys(node: yaml.Node) -> None:
    seen = set()
    for key, _ in node.value if isinstance(node, yaml.MappingNode) else ():
        if isinstance(key, yaml.ScalarNode) and key.tag != "tag:yaml.org,2002:merge":
            if key.value in seen:
                raise yaml.constructor.ConstructorError(
                    None, None, f"the key {shown(key.value)} is given twice", key.start_mark
                )
            seen.add(key.value)
            key.tag = "tag:yaml.org,2002:str"  # keys are names: `null` and `5` too


def _loaded(text: str) -> Any:
    with contextlib.suppress(yaml.YAMLError):  # of which the other loader says more
        depth = 0
        for event in yaml.parse(text, _FastLoader):
            depth += isinstance(event, yaml.CollectionStartEvent) - isinstance(event, yaml.CollectionEndEvent)
            if depth > DEEPEST:
                break
        else:
            return yaml.load(text, _FastLoader)
    return yaml.load(text, _Loader)


def parse(text: str, what: str) -> Any:
    """Return the value that a YAML text holds, as `plain` makes it.

    Args:
        text: YAML 1.2.
        what: what errors call the text.

    Raises:
        ConfigError: it is not YAML, a key is given twice, or its aliases expand beyond bounds.
    """
    try:
        return plain(_loaded(text))
    except (yaml.YAMLError, ValueError, RecursionError) as error:  # ValueError: an integer of 5,000 digits
        raise ConfigError(
            f"{what} is not YAML", got=" ".join(str(error).replace('"<unicode string>", ', "").split())
        ) from None


def dump(value: Any) -> str:
    """Return YAML that `parse`, and any other reader of YAML 1.1 or 1.2, reads back as the same value."""
    return str(yaml.dump(value, Dumper=_Dumper, sort_keys=False, allow_unicode=True))


def on_a_line(value: Any) -> str:
    """Return YAML on one line, without its line end, that `parse` reads back as the same value.

    Example:
        >>> on_a_line({"name": "liked", "expression": "stars >= 4"}), on_a_line("no")
        ('{name: liked, expression: stars >= 4}', "'no'")
    """
    text = yaml.dump(value, Dumper=_Dumper, sort_keys=False, allow_unicode=True, default_flow_style=True, width=2**30)
    return str(text).removesuffix("\n").removesuffix("\n...")


def plain(value: Any, where: str = "") -> Any:
    """Return a deep copy that holds JSON's types only.

    Args:
        value: numpy's numbers, paths and dates are converted.
        where: the place of `value`, for messages.

    Raises:
        ConfigError: a value of any other type; names its place.
    """
    if isinstance(value, Mapping):
        return {str(key): plain(item, f"{where}.{key}" if where else str(key)) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [plain(item, f"{where}.{i}") for i, item in enumerate(value)]
    if isinstance(value, os.PathLike):
        return os.fspath(value)
    if isinstance(value, np.generic):
        return value.item()
    if isinstance(value, datetime.date):
        return value.isoformat()
    if value is None or isinstance(value, (str, bool, int, float)):
        return value
    raise ConfigError(
        f"'{where}' holds a {type(value).__name__}",
        expected="text, a number, true, false, null, a list or keys and values",
        got=str(value),
    )


def parse_override(text: str) -> tuple[str, Any]:
    """Return the path and the value of `path=value`; the value is read as YAML.

    Raises:
        ConfigError: there is no path or no `=`, or the value is not YAML.
    """
    path, equals, value = text.partition("=")
    path = path.strip().lstrip("-")
    if not equals or not path:
        raise ConfigError("not an override", expected="path=value, as in optimizers.0.lr=0.01", got=repr(text))
    return path, parse(value, f"override {shown(path)}: the value") if value else ""


def put(data: dict[str, Any], path: str, value: Any) -> None:
    """Set a value; numbers in its path index lists, and missing mappings are made.

    Args:
        data: what it is set in.
        path: keys, with dots between them.
        value: the value.

    Raises:
        ConfigError: the path leads into a value or beyond a list.
    """
    keys = path.split(".")
    here: Any = data
    for depth, key in enumerate(keys):
        last = depth == len(keys) - 1
        done = ".".join(keys[:depth])
        if isinstance(here, list):
            is_index = key.isdecimal() and len(key) < 10
            if not is_index or int(key) > len(here) - (0 if last else 1):
                raise ConfigError(
                    f"override {shown(path)}: {shown(done)} is a list of {len(here)}",
                    expected=f"an index from 0 to {max(len(here) - 1, 0)}",
                    got=repr(key),
                )
            if last and int(key) == len(here):
                here.append(value)
            elif last:
                here[int(key)] = value
            else:
                if isinstance(here[int(key)], str):  # a bare name stands for a node
                    here[int(key)] = {"name": here[int(key)]}
                here = here[int(key)]
        elif isinstance(here, dict):
            if last:
                here[key] = value
            else:
                if here.get(key) is None:
                    here[key] = {}
                elif isinstance(here[key], str) and key in ("model", "schedule"):
                    here[key] = {"name": here[key]}
                here = here[key]
        else:
            raise ConfigError(f"override {shown(path)}: {shown(done)} holds a value, not keys", got=repr(here))
