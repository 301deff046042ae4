"""YAML 1.2, with bounds."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st

from rechub_ray.errors import ConfigError
from rechub_ray.yaml_text import _FastLoader, _Loader, dump, parse


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("1:30", "1:30"), ("1:30.5", "1:30.5"), ("010", 10), ("0o10", 8), ("0x1F", 31), ("-7", -7), ("+7", 7),
        ("1_000", "1_000"), ("0b11", "0b11"), ("2026-01-31", "2026-01-31"),
        ("yes", "yes"), ("no", "no"), ("on", "on"), ("Off", "Off"), ("y", "y"), ("true", True), ("TRUE", True),
        ("False", False), ("fAlse", "fAlse"), ("null", None), ("~", None), ("", None), ("nULL", "nULL"),
        ("1e3", 1000.0), ("1e-3", 0.001), (".5", 0.5), ("5.", 5.0), ("-.inf", -math.inf), ("inf", "inf"),
        ("1.5.2", "1.5.2"), ("'1'", "1"), ("=", "="), ("{null: 1, 5: 2, no: 3}", {"null": 1, "5": 2, "no": 3}),
        ("[a, 1, [b]]", ["a", 1, ["b"]]),
    ],
)  # fmt: skip
def test_values(text: str, value: Any) -> None:
    found = parse(text, "it")
    assert found == value
    assert type(found) is type(value)


def test_a_number_that_is_none() -> None:
    assert math.isnan(parse(".nan", "it"))


TEXTS = st.text(max_size=6) | st.sampled_from(
    ["1e-3", "1:30", "010", "0o7", "08", "no", "y", "~", "", "<<", "=", ".5", "1_0", "2026-01-31", "0x1", "+.inf", " a"]
)
VALUES = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | TEXTS,
    lambda x: st.lists(x, max_size=3) | st.dictionaries(TEXTS, x, max_size=3),
    max_leaves=6,
)


@given(VALUES)
def test_what_is_dumped_is_read_back_by_both_versions(value: Any) -> None:
    assert parse(dump(value), "it") == value
    assert yaml.safe_load(dump(value)) == value


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("a: 1\nb: 2\na: 3", ["'a' is given twice", "line 3"]),
        ("x: {5: 1, '5': 2}", ["'5' is given twice"]),
        ("&a [*a]", ["an alias stands for what it is in"]),
        ("a: &a {b: {c: *a}}", ["an alias stands for what it is in"]),
        ("a: &a\n  <<: *a", ["an alias stands for what it is in"]),
        ("[" * 3000, ["not YAML"]),
        ("9" * 5000, ["not YAML"]),
        ("{[1]: 2}", ["not YAML"]),
        ("!!python/object/apply:os.getcwd []", ["not YAML"]),
    ],
)
def test_what_is_refused(text: str, words: list[str]) -> None:
    with pytest.raises(ConfigError) as caught:
        parse(text, "it")
    assert all(word in str(caught.value) for word in words), caught.value
    assert len(str(caught.value)) < 700
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    "line",
    [
        "[{above}]",  # 9 ** 20 items
        "{{a: {above}}}",
        "{{<<: [{above}]}}",
        "{{'0': {above}}}",
    ],
)
def test_aliases_that_grow_are_refused_at_once(line: str) -> None:
    lines = ["a0: &a0 {x: 1}"]
    for i in range(1, 20):
        above = (
            ", ".join([f"*a{i - 1}"] * 9) if line[0] == "[" or "<<" in line else f"[{', '.join([f'*a{i - 1}'] * 9)}]"
        )
        lines.append(f"a{i}: &a{i} " + line.format(above=above))
    with pytest.raises(ConfigError, match="aliases stand for far more"):
        parse("\n".join(lines), "it")


def test_long_text_by_aliases_is_refused() -> None:
    lines = [f"a: &a {'x' * 1000}", *(f"b{i}: [{', '.join(['*a'] * 99)}]" for i in range(20))]
    with pytest.raises(ConfigError, match="aliases stand for far more"):
        parse("\n".join(lines), "it")


def test_aliases_of_ordinary_size_and_merged_mappings_are_read() -> None:
    text = """
base: &base {lr: 1, decay: 2}
deep: {deeper: {deepest: &own {<<: *base, lr: 3}}}
last: {<<: *own, decay: 4}
twice: [*base, *base]
"""
    found = parse(text, "it")
    assert found["last"] == {"lr": 3, "decay": 4}
    assert found["deep"]["deeper"]["deepest"] == {"lr": 3, "decay": 2}
    assert found["twice"] == [{"lr": 1, "decay": 2}] * 2
    names = [f"name_{i}" for i in range(3000)]
    assert parse(f"a: &a [{', '.join(names)}]\nb: *a\nc: *a", "it") == {"a": names, "b": names, "c": names}


@pytest.mark.parametrize("text", ["[" * 200_000, "- " * 100_000, "? " * 100_000, "[" * 900 + "]" * 900])
def test_nodes_too_deep_for_the_stack_are_an_error(text: str) -> None:
    with pytest.raises(ConfigError, match="is not YAML"):
        parse(text, "it")


def test_both_loaders_read_the_same() -> None:
    root = Path(__file__).resolve().parents[1]
    files = sorted((root / "configs").rglob("*.yaml")) + sorted((root / "tune_configs").glob("*.yaml"))
    assert len(files) > 30
    for file in files:
        text = file.read_text(encoding="utf-8")
        assert yaml.load(text, _FastLoader) == yaml.load(text, _Loader), file
