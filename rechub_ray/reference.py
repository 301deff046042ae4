"""What there is to configure, read from the code: the keys of configurations, components and their arguments."""

from __future__ import annotations

import dataclasses
import inspect
import re
import types
import typing
from collections.abc import Collection, Iterator, Mapping, Sequence
from typing import Annotated, Any

import pydantic
import yaml
from pydantic.fields import FieldInfo

from rechub_ray.registry import Registry, keyword_arguments


@dataclasses.dataclass(frozen=True)
class Key:
    """One key of a configuration, or one argument of a component.

    Args:
        name: its dotted path from the section that was asked for; `N` stands for a place in a list.
        type: what it takes, in words, as in `integer, >= 1, or null`.
        default: as YAML; None where the key is required.
        meaning: its documentation, on one line; empty where there is none.
    """

    name: str
    type: str
    default: str | None
    meaning: str


@dataclasses.dataclass(frozen=True)
class Section:
    """The keys of one part of a configuration.

    Args:
        path: of the part, as in `train.early_stopping`; empty for the whole.
        variant: the key and value that choose this form of the part, as in `by: time`; empty where it has one form.
        summary: its documentation.
        keys: in the order of the code.
        form: its pydantic model.
    """

    path: str
    variant: str
    summary: str
    keys: tuple[Key, ...]
    form: type[pydantic.BaseModel]


@dataclasses.dataclass(frozen=True)
class Component:
    """A component's documentation.

    Args:
        name: its registered name.
        aliases: other names.
        parts: the docstring's parts by their heads (`Args`, `Raises`, `Reference`, ...); the description is "".
        arguments: its keyword-only arguments, the YAML keys.
        cls: its class.
    """

    name: str
    aliases: tuple[str, ...]
    parts: Mapping[str, str]
    arguments: tuple[Key, ...]
    cls: type[Any]


def sections(form: type[pydantic.BaseModel], path: str = "") -> list[Section]:
    """Return the keys of a configuration: those of the form itself, then those of each form inside it.

    A form that appears in several places is written out in the first one.

    Args:
        form: the pydantic model, such as `RunConfig`.
        path: where it stands.

    Example:
        >>> from rechub_ray.config import RunConfig
        >>> [key.default for part in sections(RunConfig) for key in part.keys if key.name == "train.epochs"]
        ['null']
    """
    return list(_sections(form, path, "", {}))


def _sections(form: type[pydantic.BaseModel], path: str, variant: str, seen: dict[type[Any], str]) -> Iterator[Section]:
    seen.setdefault(form, path)
    meanings = _meanings(form)
    keys, inner = [], []
    for name, field in form.model_fields.items():
        name = field.alias or name
        place = f"{path}.{name}" if path else name
        found = list(_forms(field.annotation))
        kind = type_text(field.annotation, field.metadata)
        if found and found[0] in seen:
            kind = f"{kind}, as in `{seen[found[0]]}`"
        default = None if field.is_required() else default_text(field.get_default(call_default_factory=True))
        if found and default is not None and isinstance(field.default, pydantic.BaseModel):
            default = ""  # it is that of its own keys
        is_choice = _variant(form).startswith(f"{name}: ")
        meaning = meanings.get(name) or ("chooses this form" if is_choice else _summary(found))
        keys.append(Key(place, kind, default, meaning))
        below = place + _steps(field.annotation)
        inner += [(one, below, _variant(one) if len(found) > 1 else "") for one in found if one not in seen]
        seen |= {one: below for one in found if one not in seen}
    yield Section(path, variant, parts_of(_own(form))[""], tuple(keys), form)
    for one, below, chosen in inner:
        yield from _sections(one, below, chosen, seen)


def component(registry: Registry[Any], name: str) -> Component:
    """Return the documentation of a component.

    An argument that the class hands on to a base class (`**common`) has the documentation of that class.

    Raises:
        ConfigError: there is no component of that name.
    """
    cls = registry.get(name)
    meanings = _meanings(cls)
    arguments = tuple(
        Key(
            key,
            type_text(hint, ()),
            None if default is ... else default_text(default),
            meanings.get(key, ""),
        )
        for key, (hint, default) in keyword_arguments(cls).items()
    )
    registered = str(cls.registered_name)
    return Component(registered, tuple(registry.aliases(registered)), parts_of(_own(cls)), arguments, cls)


_HEAD = re.compile(r"^(Args|Attributes|Shapes?|Raises|Returns|Yields|Examples?|References?|When to use):(?: +(.*))?$")


def parts_of(docstring: str) -> dict[str, str]:
    """Return the parts of a docstring by their heads, without their indents; what stands before them is "".

    Example:
        >>> parts_of("Do it.\\n\\nArgs:\\n    x: how\\n        often.\\n\\nReference: a book.")
        {'': 'Do it.', 'Args': 'x: how\\n    often.', 'Reference': 'a book.'}
    """
    found: dict[str, list[str]] = {"": []}
    head = ""
    for line in inspect.cleandoc(docstring).split("\n"):
        match = _HEAD.match(line)
        if match is not None:
            head = match[1].removesuffix("s") if match[1].startswith(("Reference", "Example", "Shape")) else match[1]
            found[head] = [match[2] or ""]
        else:
            found[head].append(line)
    return {head: inspect.cleandoc("\n".join(["", *lines])).strip() for head, lines in found.items()}


def arguments_of(text: str) -> dict[str, str]:
    """Return the entries of a part such as `Args` by name, each on one line; `a, b: ...` is an entry of both.

    Example:
        >>> arguments_of("a, b: x\\n    y\\n**common: z")
        {'a': 'x y', 'b': 'x y', 'common': 'z'}
    """
    found: dict[str, str] = {}
    names: list[str] = []
    for line in text.split("\n"):
        match = re.match(r"^((?:\*{0,2}\w+)(?:, \*{0,2}\w+)*): (.*)$", line)
        if match is not None:
            names = [name.strip("* ") for name in match[1].split(",")]
            found |= dict.fromkeys(names, match[2].strip())
        elif line.strip():
            found |= {name: f"{found[name]} {line.strip()}" for name in names}
    return found


def type_text(hint: Any, metadata: Sequence[Any] = ()) -> str:
    """Return what a YAML key of a type takes, in words.

    Example:
        >>> from typing import Literal
        >>> from annotated_types import Ge, Lt
        >>> type_text(Annotated[float, Ge(0), Lt(1)] | None)
        'number, in [0, 1), or null'
        >>> type_text(list[Literal["a", "b"]])
        'list of `a` or `b`'
    """
    given = list(metadata)
    while typing.get_origin(hint) is Annotated:
        hint, *more = typing.get_args(hint)
        given = [*more, *given]
    hint = getattr(hint, "__value__", hint)  # of `type X = ...`
    limits = _limits(given)
    origin, members = typing.get_origin(hint), typing.get_args(hint)
    if origin in (typing.Union, types.UnionType):
        others = [one for one in members if one is not type(None)]
        texts = list(dict.fromkeys(type_text(one, given) for one in others))
        if type(None) in members:
            return _listed([_listed(texts), "null"]) if len(texts) == 1 else f"{_listed(texts)}, or null"
        return _listed(texts)
    if origin is typing.Literal:
        return _listed([f"`{default_text(value)}`" for value in members])
    if origin in (list, tuple, set, frozenset) or (origin is not None and issubclass(origin, Collection | Sequence)):
        if issubclass(origin, Mapping):
            return f"mapping of {type_text(members[1])}" if members[1] is not Any else "mapping"
        inner = [one for one in members if one is not ...]
        of = _listed(list(dict.fromkeys(map(type_text, inner)))) if inner else "any value"
        of = re.sub(r"\b(integer|number|text|section|mapping)\b", r"\1s", of)
        return f"list of {of}{limits}"
    if isinstance(hint, type) and issubclass(hint, pydantic.BaseModel):
        return "section"
    if hint in _NAMES:
        return f"{_NAMES[hint]}{limits}"
    return "any value" if hint is Any else str(getattr(hint, "__name__", hint))


_NAMES: dict[Any, str] = {bool: "true or false", int: "integer", float: "number", str: "text", type(None): "null"}


def default_text(value: Any) -> str:
    """Return a value as YAML on one line.

    Example:
        >>> default_text(None), default_text((256, 128)), default_text(1e-4), default_text("relu")
        ('null', '[256, 128]', '0.0001', 'relu')
    """
    value = _data(value)
    if isinstance(value, float) and not isinstance(value, bool):
        return f"{value:.12g}" if abs(value) < 1e15 else repr(value)
    text = yaml.safe_dump(value, default_flow_style=True, width=10**6, sort_keys=False)
    return text.removesuffix("\n").removesuffix("\n...")


def _data(value: Any) -> Any:
    if isinstance(value, pydantic.BaseModel):
        return _data(value.model_dump(mode="json"))
    if isinstance(value, Mapping):
        return {key: _data(one) for key, one in value.items()}
    return [_data(one) for one in value] if isinstance(value, (list, tuple)) else value


def _limits(metadata: Sequence[Any]) -> str:
    """Return the limits that annotations give, as text behind a type."""
    bounds: dict[str, Any] = {}
    for one in metadata:
        inside = one.metadata if isinstance(one, FieldInfo) else [one]
        for limit in inside:
            for name in ("ge", "gt", "le", "lt"):
                value = getattr(limit, name, None)
                if value is not None and value != 2**63:  # which only says that it is a number of 64 bits
                    bounds[name] = value
    low = next(((sign, bounds[name]) for name, sign in (("ge", "["), ("gt", "(")) if name in bounds), None)
    high = next(((sign, bounds[name]) for name, sign in (("le", "]"), ("lt", ")")) if name in bounds), None)
    if low is not None and high is not None:
        return f", in {low[0]}{low[1]:g}, {_number(high[1])}{high[0]}"
    if low is not None:
        return f", {'>=' if low[0] == '[' else '>'} {low[1]:g}"
    return "" if high is None else f", {'<=' if high[0] == ']' else '<'} {_number(high[1])}"


def _number(value: float) -> str:
    return f"{value:g}" if abs(value) < 1e6 else f"{value:,}"


def _listed(texts: Sequence[str]) -> str:
    """Return alternatives as a list in words; those with a comma of their own end with one."""
    if len(texts) == 1:
        return texts[0]
    comma = "," if len(texts) > 2 or "," in texts[0] or " or " in texts[0] else ""
    return f"{', '.join(texts[:-1])}{comma} or {texts[-1]}"


def _plain(hint: Any) -> Any:
    """Return a type without its annotations and without null."""
    while typing.get_origin(hint) is Annotated:
        hint = typing.get_args(hint)[0]
    if typing.get_origin(hint) in (typing.Union, types.UnionType):
        others = [one for one in typing.get_args(hint) if one is not type(None)]
        return _plain(others[0]) if len(others) == 1 else hint
    return hint


def _steps(hint: Any) -> str:
    """Return the path from a key to the forms in its value, as in `.NAME.N`."""
    hint = _plain(hint)
    origin, members = typing.get_origin(hint), typing.get_args(hint)
    if origin is dict:
        return f".NAME{_steps(members[1])}"
    return f".N{_steps(members[0])}" if origin in (list, tuple) else ""


def _forms(hint: Any) -> Iterator[type[pydantic.BaseModel]]:
    """Yield the pydantic models in a type, in their order."""
    if isinstance(hint, type) and not typing.get_args(hint):
        if issubclass(hint, pydantic.BaseModel):
            yield hint
        return
    for inner in typing.get_args(hint):
        yield from _forms(inner)


def _variant(form: type[pydantic.BaseModel]) -> str:
    """Return the key and value by which a form is chosen among others."""
    for name, field in form.model_fields.items():
        if typing.get_origin(field.annotation) is typing.Literal and len(typing.get_args(field.annotation)) == 1:
            return f"{name}: {typing.get_args(field.annotation)[0]}"
    return ""


def _summary(found: Sequence[type[Any]]) -> str:
    """Return the first line of the documentation of the only form in a key's type."""
    return parts_of(_own(found[0]))[""].split("\n\n")[0].replace("\n", " ") if len(set(found)) == 1 else ""


def _own(cls: type[Any]) -> str:
    return str(vars(cls).get("__doc__") or "")


def _meanings(cls: type[Any]) -> dict[str, str]:
    """Return the documentation of arguments, of a class and its bases."""
    found: dict[str, str] = {}
    for base in cls.__mro__:
        if base.__module__.partition(".")[0] not in ("builtins", "torch", "pydantic", "abc", "typing"):
            found = {**arguments_of(parts_of(_own(base)).get("Args", "")), **found}
    return found
