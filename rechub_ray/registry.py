"""Components by name: keyword-only constructor arguments are the YAML keys, the defaults and the sweep targets."""

from __future__ import annotations

import collections.abc
import functools
import importlib
import importlib.util
import inspect
import pkgutil
import threading
import traceback
import types
import typing
from collections.abc import Callable, Collection, Mapping
from typing import Any, Generic, TypeVar

import pydantic
from pydantic_core import PydanticCustomError

from rechub_ray.errors import ConfigError, RechubError, cut, nearest, shown

T = TypeVar("T")
_searching = threading.RLock()  # one for all registries, because an object with a lock cannot be pickled


class Registry(Generic[T]):
    """A family of components (models, losses, ...), each one class in one file.

    Positional constructor arguments are passed by the library (the schema, parameters, ...); keyword-only
    arguments are the user's configuration and are checked against their annotations
    (``Annotated[float, Ge(0)]`` gives a range). ``**common`` stands for the keyword-only arguments of the base class.
    Names are case-insensitive. Where `adopt_with` has been called, the dotted name of a class or function elsewhere
    (`torch.optim.RAdam`) is a component's name, too.

    Args:
        kind: what a component is called in messages.
        package: the package whose modules, at any depth, hold the components; all are imported when a component is
            first looked up. None: only classes that are registered by hand are known.

    Example:
        >>> colours: Registry[object] = Registry("colour")
        >>> @colours.register("red")
        ... class Red:
        ...     def __init__(self, *, depth: int = 3): self.depth = depth
        >>> colours.validate({"name": "red", "depth": "4"})
        {'name': 'red', 'depth': 4}
        >>> colours.build({"name": "red"}).depth
        3
    """

    def __init__(self, kind: str, package: str | None = None) -> None:
        self.kind = kind
        self._package = package
        self._classes: dict[str, type[T]] = {}
        self._aliases: dict[str, str] = {}
        self._forms: dict[str, type[pydantic.BaseModel]] = {}
        self._adopt: Callable[[Any], type[T] | None] | None = None
        self._adopted: dict[str, type[T]] = {}
        self._is_searched, self._is_searching = package is None, False

    def register(self, name: str, *aliases: str) -> Callable[[type[Any]], type[Any]]:
        """Return a class decorator that registers the class as `name`.

        Args:
            name: what configurations and messages call it.
            aliases: other names that configurations may use.

        Raises:
            ConfigError: another class has one of the names already, in any case.
        """

        def decorate(cls: type[Any]) -> type[Any]:
            if not cls.__module__.startswith(f"{self._package}."):
                self._search()  # the package's own come first, so that a clash of names does not depend on the order
            for given in (name, *aliases):
                other = self._registered(given)
                known = self._classes.get(other or "")
                if known is not None and (other != name or known.__qualname__ != cls.__qualname__):
                    raise ConfigError(
                        f"{self.kind} '{given}' is registered twice",
                        got=f"{known.__module__}.{known.__qualname__} and {cls.__module__}.{cls.__qualname__}",
                    )
            self._classes[name] = cls
            self._aliases |= {alias.lower(): name for alias in aliases}
            self._forms.pop(name, None)
            cls.registered_name = name
            return cls

        return decorate

    def adopt_with(self, adopt: Callable[[Any], type[T] | None]) -> Callable[[Any], type[T] | None]:
        """Return `adopt`, which is called from now on to make components of classes and functions elsewhere.

        Args:
            adopt: takes a class or function and returns a component that has its arguments as keyword-only ones, or
                None where it is not of the kind; see `keyword_class`.
        """
        self._adopt = adopt
        return adopt

    def names(self) -> list[str]:
        """Return all registered names, sorted; those of adopted classes are not among them."""
        self._search()
        return sorted(self._classes)

    def aliases(self, name: str) -> list[str]:
        """Return the other names of a component, sorted, in lower case."""
        return sorted(alias for alias, known in self._aliases.items() if known == name)

    def get(self, name: str, *, where: str = "") -> type[T]:
        """Return the class known as `name`, in any case.

        Raises:
            ConfigError: the name is unknown; suggests the nearest one.
        """
        return self._class(self._known(name, where))

    def attribute(self, package: str, name: str) -> type[T]:
        """Return the component class called `name` below a package: the `__getattr__` of packages of components.

        Raises:
            AttributeError: there is none.
        """
        if name[:1].isupper():  # a class: modules and dunder names are the import system's
            self._search()
            for cls in self._classes.values():
                if cls.__name__ == name and cls.__module__.startswith(f"{package}."):
                    return cls
        raise AttributeError(f"module '{package}' has no attribute '{name}'")

    def validate(self, node: Any, *, where: str = "", also: tuple[str, ...] = ()) -> dict[str, Any]:
        """Return the node checked, with numbers converted and every default filled in.

        Args:
            node: `{name: ..., <keyword arguments>}`, or a name alone.
            where: the node's path in the configuration, for messages.
            also: keys that the caller has taken out of the node, to be suggested.

        Raises:
            ConfigError: unknown name or key, missing or ill-typed value; names the key.
        """
        if isinstance(node, str):
            node = {"name": node}
        if not isinstance(node, Mapping):
            raise ConfigError(
                f"{_at(where)}not a {self.kind}",
                expected=f"a name, or a mapping with 'name' and the {self.kind}'s arguments",
                got=repr(node),
            )
        if "name" not in node:
            raise ConfigError(
                f"{_at(where)}the {self.kind} has no 'name'",
                got=dict(node),
                hint=_meant_name(node) or f"Known: {', '.join(self.names())}.",
            )
        name = self._known(node["name"], f"{where}.name" if where else "name")
        form = self.form(name)
        arguments = {str(key): value for key, value in node.items() if key != "name"}
        for key in arguments:
            if key not in form.model_fields:
                raise ConfigError(
                    f"{_at(where)}{self.kind} '{name}' has no argument {shown(key)}",
                    hint=nearest(key, [*form.model_fields, *also, "name"]),
                )
        try:
            values = form.model_validate(arguments)
        except pydantic.ValidationError as error:
            raise config_error(error, where=where) from None
        checked = values.model_dump()
        check_booleans(arguments, checked, where=where)
        return {"name": name, **checked}

    def build(self, node: Any, *context: Any, where: str = "") -> T:
        """Return an instance, with `context` as positional and the node's arguments as keyword arguments.

        Raises:
            ConfigError: as `validate`.
        """
        arguments = self.validate(node, where=where)
        return self.get(arguments.pop("name"))(*context, **arguments)

    def _known(self, name: Any, where: str) -> str:
        """Return the name as it was registered."""
        self._search()
        found = self._registered(name) if isinstance(name, str) else None
        if found is not None:
            return found
        adopted = self._adopted_from(name) if isinstance(name, str) and self._adopt is not None else None
        if adopted is not None:
            return adopted
        failure = _import_failure(name) if isinstance(name, str) and self._adopt is not None else None
        if failure is not None:
            raise ConfigError(
                f"{_at(where)}unknown {self.kind} {shown(name)}: it cannot be imported",
                got=failure,
                hint="It must be found where you run (PYTHONPATH=. for a file beside you) and on every worker.",
            )
        raise ConfigError(
            f"{_at(where)}unknown {self.kind} {shown(name)}",
            hint=nearest(str(name), [*self._classes, *self._aliases, *(_siblings(str(name)) if self._adopt else [])]),
        )

    def _class(self, name: str) -> type[T]:
        return self._classes[name] if name in self._classes else self._adopted[name]

    def _adopted_from(self, name: str) -> str | None:
        """Return the name under which the class with a dotted name is known; None where there is no such component."""
        if name not in self._adopted:
            found = getattr(_module(name), name.rpartition(".")[2], None)
            if not isinstance(found, type) and not inspect.isfunction(found):
                return None
            own = next((known for known, cls in self._classes.items() if cls is found), None)
            if own is not None:
                return own
            assert self._adopt is not None
            adopted = self._adopt(found)
            if adopted is None:
                return None
            adopted.registered_name = name  # type: ignore[attr-defined]
            self._adopted[name] = adopted
        return name

    def _registered(self, name: str) -> str | None:
        if name in self._classes:
            return name
        lower = name.lower()
        return next((known for known in self._classes if known.lower() == lower), self._aliases.get(lower))

    def _search(self) -> None:
        if self._is_searched:
            return
        with _searching:
            if self._is_searched or self._is_searching:  # a component that asks for another one while it is imported
                return
            assert self._package is not None
            self._is_searching = True
            try:
                _import_below(self._package, self.kind)
                self._is_searched = True
            finally:
                self._is_searching = False

    def form(self, name: str) -> type[pydantic.BaseModel]:
        """Return the pydantic model that checks the arguments of the component with this registered name."""
        if name not in self._forms:
            cls = self._class(name)
            fields = keyword_arguments(cls)
            self._forms[name] = pydantic.create_model(
                f"{cls.__name__}Arguments",
                __config__=pydantic.ConfigDict(
                    extra="forbid", arbitrary_types_allowed=True, protected_namespaces=(), allow_inf_nan=False
                ),
                **fields,
            )
        return self._forms[name]


def keyword_arguments(cls: type[Any]) -> dict[str, Any]:
    """Return the type and default of each keyword-only argument; `**common` stands for those of the base class.

    Raises:
        TypeError: the class takes arguments that it does not name.
    """
    return dict(_keyword_arguments(cls))  # type: ignore[arg-type]


@functools.cache  # each check asks for some forty
def _keyword_arguments(cls: type[Any]) -> dict[str, Any]:
    fields: dict[str, Any] = {}
    for base in cls.__mro__:
        if "__init__" not in vars(base):
            continue
        if cls.__init__ is object.__init__:
            return fields
        hints = typing.get_type_hints(base.__init__, include_extras=True)  # type: ignore[misc]
        goes_on = False
        for key, parameter in inspect.signature(base.__init__).parameters.items():  # type: ignore[misc]
            goes_on |= parameter.kind is parameter.VAR_KEYWORD
            if parameter.kind is parameter.KEYWORD_ONLY and key not in fields:
                default = ... if parameter.default is parameter.empty else parameter.default
                fields[key] = (hints.get(key, Any), default)
        if not goes_on:
            return fields
    raise TypeError(f"{cls.__qualname__}: **arguments hide the configuration; name them, here or in a base class")


def borrowed_arguments(cls: Any, *, skip: Collection[str] = ()) -> dict[str, tuple[Any, Any]]:
    """Return the type and default of each argument of a class or function elsewhere, for `keyword_class`.

    An optional argument that no text can give (a function, a tensor) is left out.

    Args:
        cls: the class, or the function.
        skip: arguments to leave out.

    Raises:
        ConfigError: a required argument is one that no text can give.
    """
    call: Any = cls.__init__ if isinstance(cls, type) else cls  # type: ignore[misc]
    try:
        hints = typing.get_type_hints(call, localns=vars(collections.abc))
    except NameError:  # a type that its module imports for type checkers only
        hints = {}
    fields: dict[str, tuple[Any, Any]] = {}
    for key, parameter in list(inspect.signature(call).parameters.items())[isinstance(cls, type) :]:
        if key in skip or parameter.kind in (parameter.VAR_POSITIONAL, parameter.VAR_KEYWORD):
            continue
        default = ... if parameter.default is parameter.empty else parameter.default
        hint = _text_type(hints.get(key, Any if default in (..., None) else type(default)))
        if hint is not None:
            # 0 becomes 0.0 where a float is meant, as it will be when a configuration is read back
            fields[key] = (hint, default if default is ... else pydantic.TypeAdapter(hint).validate_python(default))
        elif default is ...:
            raise ConfigError(
                f"{cls.__module__}.{cls.__qualname__} takes '{key}', which a configuration cannot give",
                expected="one whose arguments are numbers, texts and lists",
                got=str(hints[key]),
            )
    return fields


def keyword_class(base: type[Any], init: Any, arguments: Mapping[str, tuple[Any, Any]], *, common: bool) -> type[Any]:
    """Return a subclass whose constructor `init` has the given keyword-only arguments for its configuration.

    Args:
        base: its base class.
        init: the constructor; takes them as `**arguments`.
        arguments: type and default of each; the default `...` makes it required.
        common: whether the keyword-only arguments of the base class are allowed, too.
    """
    empty = inspect.Parameter.empty
    parameters = [inspect.Parameter("self", inspect.Parameter.POSITIONAL_ONLY)]
    for key, (_, default) in arguments.items():
        given = empty if default is ... else default
        parameters.append(inspect.Parameter(key, inspect.Parameter.KEYWORD_ONLY, default=given))
    if common:
        parameters.append(inspect.Parameter("common_", inspect.Parameter.VAR_KEYWORD))
    init.__signature__ = inspect.Signature(parameters)
    init.__annotations__ = {key: hint for key, (hint, _) in arguments.items()}
    return type(base.__name__, (base,), {"__init__": init, "__module__": base.__module__, "__doc__": base.__doc__})


def _text_type(hint: Any) -> Any:
    """Return a type without the members of its unions that no text can give; None where nothing is left."""
    origin, members = typing.get_origin(hint), typing.get_args(hint)
    if origin in (typing.Union, types.UnionType):
        kept = [member for member in map(_text_type, members) if member not in (None, type(None))]
        if not kept:
            return None
        return typing.Union[tuple([*kept, type(None)] if type(None) in members else kept)]  # noqa: UP007
    if origin is typing.Literal or hint in (Any, bool, int, float, str, list, tuple, dict, type(None)):
        return hint
    if origin in (dict, collections.abc.Mapping):
        return dict
    if origin in (tuple, list, collections.abc.Iterable, collections.abc.Sequence):
        kept = [member if member is ... else _text_type(member) for member in members]
        return None if None in kept else types.GenericAlias(tuple if origin is tuple else list, tuple(kept))
    return None


def _module(name: str) -> Any:
    """Return the module of a dotted name; None where there is none."""
    path = name.rpartition(".")[0]
    if not all(part.isidentifier() for part in path.split(".")):
        return None
    try:
        return importlib.import_module(path)
    except Exception:  # whatever a module does that has nothing to do with us
        return None


def _import_failure(name: str) -> str | None:
    """Return why the module of a dotted name cannot be imported; None where it can, or there is no dot."""
    path = name.rpartition(".")[0]
    if not path or not all(part.isidentifier() for part in path.split(".")):
        return None
    try:
        importlib.import_module(path)
    except Exception as error:
        return f"{type(error).__name__}: {error}"
    return None


def _siblings(name: str) -> list[str]:
    """Return the dotted names of the classes beside the one that a dotted name is meant to name."""
    module = _module(name)
    path = name.rpartition(".")[0]
    return [f"{path}.{key}" for key, value in vars(module).items() if isinstance(value, type)] if module else []


def _import_below(package: str, kind: str) -> None:
    """Import every module below a package."""
    for module in pkgutil.iter_modules(importlib.import_module(package).__path__, f"{package}."):
        try:
            importlib.import_module(module.name)
        except RechubError:
            raise
        except Exception as error:
            spec = importlib.util.find_spec(module.name)
            file = spec.origin if spec is not None else module.name
            lines = [f.lineno for f in traceback.extract_tb(error.__traceback__) if f.filename == file]
            raise ConfigError(
                f"cannot import the {kind}s in '{file}'" + (f", line {lines[-1]}" if lines else ""),
                got=f"{type(error).__name__}: {error}",
                hint="Mend the file, or move it out of the package.",
            ) from error
        if module.ispkg:
            _import_below(module.name, kind)


class KnownKeys(pydantic.BaseModel):
    """Base of what users write, recipes and sections of configurations and sweeps: frozen, and an unknown key is
    answered with the nearest known one.
    """

    model_config = pydantic.ConfigDict(frozen=True, extra="forbid", protected_namespaces=(), allow_inf_nan=False)

    @pydantic.model_validator(mode="before")
    @classmethod
    def _known_keys(cls, data: Any) -> Any:
        if isinstance(data, Mapping):
            known = {field.alias or name for name, field in cls.model_fields.items()}
            for key in data:
                if key not in known:
                    raise PydanticCustomError(
                        "unknown_key", "unknown key '{key}'. {hint}", {"key": str(key), "hint": nearest(key, known)}
                    )
        return data


def config_error(error: pydantic.ValidationError, *, where: str = "") -> ConfigError:
    """Return the first complaints of pydantic as one error that names the keys."""
    complaints = []
    for item in error.errors(include_url=False)[:5]:
        path = ".".join(shown(str(part))[1:-1] for part in item["loc"])
        path = f"{where}.{path}" if where and path else where or path
        value = cut(repr(item.get("input")), 120)
        message = f"{item['msg'][0].lower()}{item['msg'][1:]}".replace("a valid tuple", "a list")
        if not isinstance(item.get("input"), Mapping) or item["msg"].startswith("Input"):
            message += f", got {value}"  # not for a whole section, of which the message says what is wrong
        if item["type"] == "missing":
            complaints.append(f"'{path}' is missing")
        else:
            complaints.append(f"'{path}': {message}" if path else message)
    more = len(error.errors()) - len(complaints)
    return ConfigError("; ".join(complaints) + (f"; and {more} more" if more > 0 else ""))


def check_booleans(given: Any, checked: Any, *, where: str = "") -> None:
    """Refuse what pydantic accepts in its lax mode: true for 1, and 1 or "yes" for true.

    Args:
        given: values as the user wrote them.
        checked: the same values after pydantic's conversion.
        where: their path in the configuration, for messages.

    Raises:
        ConfigError: one of the two is a boolean and the other is not; names its path.
    """
    if isinstance(given, Mapping) and isinstance(checked, Mapping):
        for key, value in given.items():
            if key in checked:
                check_booleans(value, checked[key], where=f"{where}.{key}" if where else str(key))
    elif isinstance(given, (list, tuple)) and isinstance(checked, (list, tuple)):
        for i, (value, result) in enumerate(zip(given, checked, strict=False)):
            check_booleans(value, result, where=f"{where}.{i}")
    elif isinstance(checked, bool) and not isinstance(given, bool):
        raise ConfigError(f"'{where}' is a switch", expected="true or false", got=repr(given))
    elif isinstance(given, bool) and not isinstance(checked, bool):
        expected = "a number" if isinstance(checked, (int, float)) else "a number, or text in quotes"
        raise ConfigError(f"'{where}' is not a switch", expected=expected, got=str(given).lower())


def _meant_name(node: Mapping[Any, Any]) -> str | None:
    for key, value in node.items():
        if value is None and str(key).partition(":")[0] == "name" and ":" in str(key):
            return f"Write a space after the colon: {str(key).replace(':', ': ', 1)}."
    meant = [str(key) for key in node if nearest(str(key), ["name"]).startswith("Did")]
    return f"Write 'name' instead of '{meant[0]}'." if meant else None


def _at(where: str) -> str:
    return f"'{where}': " if where else ""
