"""`rechub-ray list`: components with their arguments, the keys of configurations, and the files of the package."""

from __future__ import annotations

import inspect
import sys
from typing import Any

import pydantic
from rich.console import Console
from rich.table import Table

from rechub_ray import builtin, reference
from rechub_ray.config import RunConfig
from rechub_ray.errors import ConfigError, nearest
from rechub_ray.registry import Registry
from rechub_ray.runtime.summary import FAMILIES
from rechub_ray.yaml_text import read_yaml

_FORMS = ("run", "recipe", "sweep")
_FILES = {"configs": "configuration", "recipes": "recipe", "sweeps": "sweep"}


def print_listing(kind: str | None, name: str | None) -> None:
    """Print all components, those of one kind, one with its documentation, keys of a file, or files of the package.

    Args:
        kind: of components (`models` or `model`), of files of the package (`configs`), a section of a run's
            configuration (`train`), of a sweep or a recipe (`scheduler`, `split`), or all keys of a `run`, `recipe` or
            `sweep`.
        name: of a component of the kind.

    Raises:
        ConfigError: there is no such kind or component.
    """
    families = FAMILIES | {registry.kind: registry for registry in FAMILIES.values()}
    families |= {"negative": FAMILIES["negatives"], "balancings": FAMILIES["balancing"]}
    kind = "run" if kind == "config" else kind
    sections = [section for section in reference.sections(RunConfig) if section.path]
    if kind is None:
        for family in FAMILIES:
            _print_family(family, FAMILIES[family])
        _console().print(
            f"also: the keys of {', '.join([*_FORMS, *dict.fromkeys(s.path.split('.')[0] for s in sections)])} "
            f"(rechub-ray list train), and {', '.join(_FILES)}, which {builtin.PREFIX}NAME stands for"
        )
    elif kind in families and name is not None:
        _print_component(families[kind], name)
    elif kind in families:
        family = next(key for key, registry in FAMILIES.items() if registry is families[kind])
        (_print_models if family == "models" else _print_family)(family, families[kind])
    elif name is not None and kind not in families:
        raise ConfigError(f"there are no names to list of '{kind}'", expected=f"one of {', '.join(FAMILIES)}", got=name)
    elif kind in _FORMS:
        for section in reference.sections(_form(kind)):
            if kind != "run" or not section.path:
                _print_section(section)
    elif kind in _FILES:
        _print_files(_FILES[kind])
    else:
        others = [section for form in ("sweep", "recipe") for section in reference.sections(_form(form))]
        found = [s for s in sections if _is_called(kind, s)] or [s for s in others if _is_called(kind, s)]
        if not found:
            known = [*FAMILIES, *(s.path for s in (*sections, *others) if s.path), *_FORMS, *_FILES]
            raise ConfigError(f"unknown kind '{kind}'", hint=nearest(kind, known))
        for section in found:
            _print_section(section)


def _is_called(kind: str, section: reference.Section) -> bool:
    """Return whether a section goes by the name, in singular or plural: its path, or the path's first or last part."""
    parts = [part for part in section.path.split(".") if part not in ("N", "NAME")]
    return not {section.path, *parts[:1], *parts[-1:]}.isdisjoint(
        {kind, kind.removesuffix("s"), kind.removesuffix("es"), f"{kind}s"}
    )


def _form(kind: str) -> type[pydantic.BaseModel]:
    if kind == "recipe":
        from rechub_ray.preparation.recipe import Recipe  # these two take a while to import

        return Recipe
    if kind == "sweep":
        from rechub_ray.sweeps.sweep import Sweep

        return Sweep
    return RunConfig


def _console() -> Console:
    """Return a console that wraps lines on a terminal alone."""
    width = None if sys.stdout.isatty() else 10_000
    return Console(highlight=False, soft_wrap=width is not None, markup=False, width=width)


def _print_family(family: str, registry: Registry[Any]) -> None:
    console = _console()
    console.print(family)
    for name in registry.names():
        console.print(f"  {name:24} {_first_line(registry.get(name))}")


def _print_models(_: str, registry: Registry[Any]) -> None:
    """Print models by family, each with its paper and its arguments."""
    console, families = _console(), dict[str, list[str]]()
    for name in registry.names():
        module = registry.get(name).__module__.split(".")
        families.setdefault(module[2] if module[:2] == ["rechub_ray", "models"] else "your own", []).append(name)
    for family, names in sorted(families.items()):
        console.print(f"{family} models")
        for name in names:
            component = reference.component(registry, name)
            console.print(f"  {name:24} {_first_line(component.cls)}")
            paper = component.parts.get("Reference", "").replace("\n", " ").partition("Deviation")[0].strip(" .")
            if paper:
                console.print(f"    {paper}")
            given = (
                f"{one.name}: {'(required)' if one.default is None else one.default}" for one in component.arguments
            )
            console.print(f"    {', '.join(given)}")


def _print_component(registry: Registry[Any], name: str) -> None:
    component = reference.component(registry, name)
    aliases = f" (also {', '.join(component.aliases)})" if component.aliases else ""
    console = _console()
    console.print(f"{component.name}{aliases}\n\n{inspect.getdoc(component.cls) or ''}\n")
    _print_keys(component.arguments)


def _print_section(section: reference.Section) -> None:
    console = _console()
    of = f"{section.path or 'the file'}{f', {section.variant}' if section.variant else ''}"
    console.print(f"{of}: {section.summary.splitlines()[0] if section.summary else ''}")
    _print_keys(section.keys)
    console.print()


def _print_keys(keys: tuple[reference.Key, ...]) -> None:
    table = Table(box=None, show_header=False, pad_edge=False, padding=(0, 2, 0, 0))
    for _ in range(3):
        table.add_column(overflow="fold")
    for key in keys:
        default = "(required)" if key.default is None else f"= {key.default}" if key.default else ""
        table.add_row(f"  {key.name.split('.')[-1]}", default, f"{key.type}{f': {key.meaning}' if key.meaning else ''}")
    _console().print(table)


def _print_files(kind: str) -> None:
    console = _console()
    for name in builtin.names(kind):
        path = builtin.located(f"{builtin.PREFIX}{name}", kind)
        if kind == "recipe":
            text = str(read_yaml(path).get("description", ""))
        else:
            text = next((line for line in path.read_text(encoding="utf-8").split("\n") if line.startswith("#")), "")
        console.print(f"  {builtin.PREFIX}{name:32} {text.lstrip('# ')}")


def _first_line(cls: type[Any]) -> str:
    return (inspect.getdoc(cls) or "").partition("\n")[0]
