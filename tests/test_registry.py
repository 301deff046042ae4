"""Keyword-only arguments are the configuration: names, ranges, lax numbers, strict switches."""

from __future__ import annotations

import importlib
import pickle
import re
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Annotated, Any, Literal

import pytest
from annotated_types import Ge, Gt, Lt

from rechub_ray.errors import ConfigError
from rechub_ray.registry import Registry, check_booleans


class Circle:
    """Round."""

    def __init__(
        self,
        schema: Any,
        *,
        radius: Annotated[float, Gt(0)],
        corners: Annotated[int, Ge(0), Lt(10)] = 3,
        is_filled: bool = False,
        colour: Literal["red", "blue"] = "red",
        widths: tuple[Annotated[int, Ge(1)], ...] = (2, 1),
        label: str | None = None,
    ) -> None:
        self.schema, self.radius, self.corners, self.is_filled = schema, radius, corners, is_filled
        self.colour, self.widths, self.label = colour, widths, label


DEFAULTS = {"corners": 3, "is_filled": False, "colour": "red", "widths": (2, 1), "label": None}


@pytest.fixture
def shapes() -> Registry[Any]:
    registry: Registry[Any] = Registry("shape")
    registry.register("circle")(Circle)
    return registry


def test_defaults_are_filled_in_and_checking_again_changes_nothing(shapes: Registry[Any]) -> None:
    checked = shapes.validate({"name": "circle", "radius": 2})
    assert checked == {"name": "circle", "radius": 2.0, **DEFAULTS}
    assert shapes.validate(checked) == checked


def test_building_hands_in_context_by_position(shapes: Registry[Any]) -> None:
    built = shapes.build({"name": "circle", "radius": 2, "widths": [5]}, "the schema")
    assert (built.schema, built.radius, built.widths) == ("the schema", 2.0, (5,))
    assert type(built).registered_name == "circle"


@pytest.mark.parametrize(
    ("key", "value", "result"),
    [
        ("radius", "1e-3", 1e-3),  # PyYAML reads a number without a point as text
        ("radius", "4", 4.0),
        ("radius", 1, 1.0),
        ("corners", "7", 7),
        ("corners", 7.0, 7),
        ("is_filled", True, True),
        ("widths", ["3", 4.0], (3, 4)),
        ("label", "x", "x"),
    ],
)
def test_numbers_are_lax(shapes: Registry[Any], key: str, value: Any, result: Any) -> None:
    checked = shapes.validate({"name": "circle", "radius": 1, key: value})
    assert checked[key] == result
    assert type(checked[key]) is type(result)


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("radius", 0), ("radius", -1.0), ("radius", "wide"), ("radius", None), ("radius", [1]), ("radius", True),
        ("radius", float("nan")), ("radius", float("inf")), ("radius", "1e999"), ("radius", 10**400),
        ("corners", 10), ("corners", -1), ("corners", 2.5), ("corners", "2.5"), ("corners", False), ("corners", None),
        ("is_filled", 1), ("is_filled", "yes"), ("is_filled", None), ("is_filled", 0.0),
        ("colour", "green"), ("colour", 1), ("widths", 3), ("widths", "34"), ("widths", [0]), ("widths", [True]),
        ("widths", {1: 2}), ("label", 5), ("label", True), ("label", ["x"]),
    ],
)  # fmt: skip
def test_wrong_values_are_refused_with_their_key(shapes: Registry[Any], key: str, value: Any) -> None:
    with pytest.raises(ConfigError, match=re.escape(f"'shapes.0.{key}")):
        shapes.validate({"name": "circle", "radius": 1, key: value}, where="shapes.0")


@pytest.mark.parametrize(
    ("node", "words"),
    [
        ("circel", ["'s.name': unknown shape 'circel'", "Did you mean 'circle'?"]),
        ({"name": "circle"}, ["'s.radius' is missing"]),
        ({"name": "circle", "radius": 1, "colr": "red"}, ["no argument 'colr'", "Did you mean 'colour'?"]),
        ({"name": "circle", "radius": 1, "schem": 1}, ["no argument 'schem'", "Did you mean 'schedule'?"]),
        ({"name": "circle", "radius": 1, "schema": 1}, ["no argument 'schema'"]),
        ({"radius": 1}, ["the shape has no 'name'", "Known: circle."]),
        ({"name:circle": None}, ["Write a space after the colon: name: circle."]),
        ({"nme": "circle"}, ["Write 'name' instead of 'nme'."]),
        ({"name": ["circle"]}, ["unknown shape"]),
        ({"name": None}, ["unknown shape"]),
        ({"name": {}}, ["unknown shape"]),
        (5, ["'s': not a shape", "Got: 5."]),
        (None, ["not a shape"]),
        ([{"name": "circle"}], ["not a shape"]),
    ],
)
def test_wrong_nodes(shapes: Registry[Any], node: Any, words: list[str]) -> None:
    with pytest.raises(ConfigError) as caught:
        shapes.validate(node, where="s", also=("schedule",))
    assert all(word in str(caught.value) for word in words), caught.value
    assert "\n" not in str(caught.value)


def test_all_complaints_come_at_once(shapes: Registry[Any]) -> None:
    with pytest.raises(ConfigError, match=r"'radius'.*'corners'.*'colour'"):
        shapes.validate({"name": "circle", "radius": 0, "corners": 10, "colour": "x"})


def test_two_classes_cannot_have_one_name_but_a_class_may_come_again(shapes: Registry[Any]) -> None:
    shapes.register("circle")(Circle)

    class Other:
        """Another."""

    with pytest.raises(ConfigError, match="registered twice"):
        shapes.register("circle")(Other)
    assert shapes.names() == ["circle"]


def test_names_are_found_in_any_case(shapes: Registry[Any]) -> None:
    assert shapes.get("Circle") is shapes.get("CIRCLE") is Circle
    assert shapes.validate({"name": "Circle", "radius": 1})["name"] == "circle"
    assert type(shapes.build({"name": "CIRCLE", "radius": 1}, None)) is Circle
    with pytest.raises(ConfigError, match="registered twice"):
        shapes.register("Circle")(Circle)


COMPONENT = """
from components.base import THINGS
@THINGS.register("{name}")
class {cls}:
    def __init__(self, *, size: int = 1): self.size = size
"""


@pytest.fixture
def package(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """A package of components in two files, one of them in a package below."""
    folder = tmp_path / "components"
    (folder / "deep").mkdir(parents=True)
    (folder / "base.py").write_text(
        "from rechub_ray.registry import Registry\nTHINGS = Registry('thing', __package__)\n"
    )
    (folder / "__init__.py").write_text(
        "from components.base import THINGS\ndef __getattr__(name): return THINGS.attribute(__name__, name)\n"
    )
    (folder / "one.py").write_text(COMPONENT.format(name="one", cls="One"))
    (folder / "deep" / "__init__.py").write_text("")
    (folder / "deep" / "two.py").write_text(COMPONENT.format(name="two", cls="Two"))
    monkeypatch.syspath_prepend(str(tmp_path))
    yield folder
    for name in [name for name in sys.modules if name.partition(".")[0] == "components"]:
        del sys.modules[name]


def test_a_file_below_the_package_is_enough(package: Path) -> None:
    things = importlib.import_module("components.base").THINGS
    assert "components.one" not in sys.modules, "nothing is imported before a component is asked for"
    assert things.names() == ["one", "two"]
    assert things.build("Two").size == 1
    assert importlib.import_module("components").Two is things.get("two")
    with pytest.raises(AttributeError, match="no attribute 'Three'"):
        _ = importlib.import_module("components").Three


def test_a_class_from_elsewhere_cannot_take_a_name_before_the_package_is_searched(package: Path) -> None:
    things = importlib.import_module("components.base").THINGS
    with pytest.raises(ConfigError, match=r"registered twice.*components\.one\.One and"):
        things.register("one")(Circle)


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("x = 1\nimport no_such_thing", ["bad.py', line 2.", "ModuleNotFoundError: No module named 'no_such_thing'"]),
        ("def", ["bad.py'", "SyntaxError"]),
        (COMPONENT.format(name="ONE", cls="Again"), ["' is registered twice", "components.bad.Again"]),
    ],
)
def test_a_file_that_cannot_be_imported_is_named_every_time(package: Path, text: str, words: list[str]) -> None:
    (package / "bad.py").write_text(text)
    things = importlib.import_module("components.base").THINGS
    for _ in range(2):
        with pytest.raises(ConfigError) as caught:
            things.get("one")
        assert all(word in str(caught.value) for word in words), caught.value


def test_a_component_may_ask_for_another_one_while_it_is_imported(package: Path) -> None:
    (package / "asks.py").write_text("from components.base import THINGS\nKNOWN = THINGS.names()\n")
    assert importlib.import_module("components.base").THINGS.names() == ["one", "two"]


def test_registries_can_be_pickled(package: Path) -> None:
    things = importlib.import_module("components.base").THINGS
    assert things.names() == pickle.loads(pickle.dumps(things)).names() == ["one", "two"]


def test_hidden_arguments_are_a_bug(shapes: Registry[Any]) -> None:
    @shapes.register("loose")
    class Loose:
        """Takes anything."""

        def __init__(self, **arguments: Any) -> None: ...

    with pytest.raises(TypeError, match=r"\*\*arguments hide"):
        shapes.validate("loose")


def test_open_arguments_are_those_of_the_base_class(shapes: Registry[Any]) -> None:
    class Base:
        def __init__(self, *, size: int = 1, colour: str = "red") -> None:
            self.size, self.colour = size, colour

    @shapes.register("own")
    class Own(Base):
        """Has a default of its own, and one argument more."""

        def __init__(self, *, corners: int, size: int = 2, **common: Any) -> None:
            super().__init__(size=size, **common)
            self.corners = corners

    assert shapes.validate({"name": "own", "corners": 3}) == {"name": "own", "corners": 3, "size": 2, "colour": "red"}
    assert vars(shapes.build({"name": "own", "corners": 3, "colour": "blue"})) == {
        "size": 2, "colour": "blue", "corners": 3
    }  # fmt: skip
    with pytest.raises(ConfigError, match="no argument 'colours'"):
        shapes.validate({"name": "own", "corners": 3, "colours": "x"})


def test_other_names(shapes: Registry[Any]) -> None:
    @shapes.register("round", "CIRCLE_LIKE", "o")
    class Round:
        """No corners."""

    assert shapes.validate("circle_like") == {"name": "round"}
    assert isinstance(shapes.build({"name": "O"}), Round)
    assert "round" in shapes.names()
    assert shapes.aliases("round") == ["circle_like", "o"]
    with pytest.raises(ConfigError, match="'Circle_like' is registered twice"):
        shapes.register("Circle_like")(type("Other", (), {}))
    with pytest.raises(ConfigError, match="'o' is registered twice"):
        shapes.register("other", "o")(type("Other", (), {}))


def test_a_class_registered_anew_is_checked_by_its_new_arguments(shapes: Registry[Any]) -> None:
    def make(default: int) -> type:
        class Square:
            """Four corners."""

            def __init__(self, *, side: int = default) -> None: ...

        return Square

    shapes.register("square")(make(1))
    assert shapes.validate("square")["side"] == 1
    shapes.register("square")(make(2))
    assert shapes.validate("square")["side"] == 2


@pytest.mark.parametrize(
    ("given", "checked"),
    [({"a": True}, {"a": 1}), ({"a": [{"b": 1}]}, {"a": ({"b": True},)}), ({"a": "no"}, {"a": False})],
)
def test_switches_and_numbers_do_not_mix(given: Any, checked: Any) -> None:
    with pytest.raises(ConfigError, match="switch"):
        check_booleans(given, checked)


def test_what_is_not_given_is_not_checked() -> None:
    check_booleans({"a": 1, "x": True}, {"a": 1.0, "b": True})
