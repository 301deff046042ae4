"""What is read from annotations and docstrings, and the JSON schemas made of it."""

from __future__ import annotations

import doctest
import json
from pathlib import Path
from typing import Annotated, Any, Literal

import jsonschema
import pydantic
import pytest
from annotated_types import Ge, Gt, Le, Lt

from rechub_ray import cli, config, reference
from rechub_ray.errors import ConfigError
from rechub_ray.json_schema import Kind, json_schema
from rechub_ray.models import MODELS
from rechub_ray.registry import Registry

ROOT = Path(__file__).resolve().parents[1]


def test_the_examples() -> None:
    found = doctest.testmod(reference)
    assert found.attempted >= 5
    assert found.failed == 0


@pytest.mark.parametrize(
    ("hint", "text"),
    [
        (int, "integer"),
        (Annotated[int, Ge(1)], "integer, >= 1"),
        (Annotated[float, Gt(0), Le(1)], "number, in (0, 1]"),
        (Annotated[float, Lt(3)], "number, < 3"),
        (Annotated[int, Ge(1), Lt(2**63)], "integer, >= 1"),
        (bool, "true or false"),
        (str | None, "text or null"),
        (Literal["a", 1] | None, "`a` or `1`, or null"),
        (tuple[int, ...], "list of integers"),
        (dict[str, float], "mapping of number"),
        (dict[str, Any], "mapping"),
        (Any, "any value"),
        (str | list[str], "text or list of texts"),
    ],
)
def test_types_in_words(hint: Any, text: str) -> None:
    assert reference.type_text(hint) == text


class Inner(pydantic.BaseModel):
    """What is inside.

    Args:
        size: how large,
            in all.
    """

    size: Annotated[int, pydantic.Field(ge=1)] = 3


class One(pydantic.BaseModel):
    """The first form."""

    by: Literal["one"] = "one"


class Two(pydantic.BaseModel):
    """The second form."""

    by: Literal["two"] = "two"
    rate: float


class Outer(pydantic.BaseModel):
    """All of it.

    Args:
        name: what it is called.
        way: how.
    """

    name: str
    inner: Inner = Inner()
    several: list[Inner] = []
    way: One | Two | None = None


def test_sections_and_keys() -> None:
    found = reference.sections(Outer)
    assert [(part.path, part.variant) for part in found] == [
        ("", ""),
        ("inner", ""),
        ("way", "by: one"),
        ("way", "by: two"),
    ]
    assert found[0].keys == (
        reference.Key("name", "text", None, "what it is called."),
        reference.Key("inner", "section", "", "What is inside."),
        reference.Key("several", "list of sections, as in `inner`", "[]", "What is inside."),
        reference.Key("way", "section or null", "null", "how."),
    )
    assert found[1].keys == (reference.Key("inner.size", "integer, >= 1", "3", "how large, in all."),)
    assert found[3].keys[1] == reference.Key("way.rate", "number", None, "")


def test_arguments_of_base_classes_have_their_documentation() -> None:
    kinds: Registry[Any] = Registry("kind")

    class Base:
        """Base.

        Args:
            rate: how fast.
        """

        def __init__(self, *, rate: float = 0.5) -> None: ...

    @kinds.register("own", "other")
    class Own(Base):
        """One of them.

        Args:
            units: widths.
            **common: `rate`.

        Reference: nobody, 2026.
        """

        def __init__(self, *, units: tuple[int, ...] = (8, 4), **common: Any) -> None: ...

    found = reference.component(kinds, "own")
    assert found.aliases == ("other",)
    assert found.parts["Reference"] == "nobody, 2026."
    assert found.arguments == (
        reference.Key("units", "list of integers", "[8, 4]", "widths."),
        reference.Key("rate", "number", "0.5", "how fast."),
    )


CONFIGS: list[tuple[Kind, Path]] = [
    *(("recipe", path) for path in sorted((ROOT / "configs/data").glob("*.yaml"))),
    *(("run", path) for path in sorted((ROOT / "configs").rglob("*.yaml")) if path.parent.name != "data"),
    *(("sweep", path) for path in sorted((ROOT / "tune_configs").glob("*.yaml"))),
]


RECIPE: dict[str, Any] = {"files": "a.csv", "labels": [], "features": []}


@pytest.fixture(scope="module")
def validators() -> dict[str, Any]:
    kinds: tuple[Kind, ...] = ("run", "sweep", "recipe")
    return {kind: jsonschema.Draft7Validator(json_schema(kind)) for kind in kinds}


def test_schemas_are_schemas_and_know_what_comes_with_the_project(validators: dict[str, Any]) -> None:
    for validator in validators.values():
        validator.check_schema(validator.schema)
    for kind, path in CONFIGS:
        validators[kind].validate(config.read_yaml(path))


@pytest.mark.parametrize(
    ("kind", "change", "valid"),
    [
        ("run", {"model": "lr", "losses": "bce", "metrics": ["recall@10", {"name": "recall", "k": 5}, "auc"]}, True),
        ("run", {"model": {"name": "deepfm", "mlp": {"dims": [8]}}, "optimizers": "torch.optim.RAdam"}, True),
        ("run", {"model": "lr", "optimizers": [{"name": "adam", "params": "*", "schedule": "constant"}]}, True),
        ("run", {"model": "lr", "data": {"train": ["a", "b"]}, "train": {"freeze": "mlp.*"}}, True),
        ("run", {"model": "lr", "init_resize": "copy-overlap", "export": {"index": {"name": "hnsw", "m": 8}}}, True),
        ("run", {"model": "deepfn"}, False),
        ("run", {"model": {"name": "deepfm", "droput": 0.1}}, False),
        ("run", {"model": {"name": "deepfm", "dropout": 1.5}}, False),
        ("run", {"model": "lr", "train": {"epoch": 3}}, False),
        ("run", {"model": "lr", "train": {"epochs": 0}}, False),
        ("run", {"losses": ["bce"]}, False),
        ("run", {"model": "lr", "losses": [{"name": "hinge", "margin": -1}]}, False),
        ("sweep", {"base": "a.yaml", "space": {}, "search": "grid", "scheduler": "asha", "objectives": ["auc"]}, True),
        ("sweep", {"base": {"train": {"epochs": 3}}, "space": {}, "scheduler": {"name": "pbt", "quantile": 0.2}}, True),
        ("sweep", {"base": {"train": {"epoch": 3}}, "space": {}}, False),
        ("sweep", {"base": "a.yaml", "space": {}, "scheduler": "ash"}, False),
        ("recipe", {**RECIPE, "labels": [{"name": "y"}], "features": [{"kind": "numeric", "columns": ["a"]}]}, True),
        ("recipe", {**RECIPE, "files": {"train": "a", "test": ["b", {"path": "c"}]}}, True),
        ("recipe", {**RECIPE, "split": {"by": "column", "column": "c", "values": {"train": 1, "test": ["x"]}}}, True),
        ("recipe", {**RECIPE, "features": [{"kind": "number", "name": "a"}]}, False),
        ("recipe", {**RECIPE, "features": [{"kind": "numeric", "name": "a", "fil": 1}]}, False),
        ("recipe", {**RECIPE, "split": {"by": "tme"}}, False),
    ],
)  # fmt: skip
def test_what_schemas_take(validators: dict[str, Any], kind: str, change: dict[str, Any], valid: bool) -> None:
    assert validators[kind].is_valid(change) is valid


def test_a_schema_explains(validators: dict[str, Any]) -> None:
    run = validators["run"].schema
    assert "earlier" not in run["properties"]["seed"]["description"]
    assert run["properties"]["seed"]["description"].startswith("of initialisation")
    rules = run["$defs"]["model"]["anyOf"][-1]["allOf"]
    deepfm = next(rule["then"] for rule in rules if "deepfm" in rule["if"]["properties"]["name"]["enum"])
    assert deepfm["properties"]["dropout"]["description"] == "in the hidden layers, in [0, 1)."
    assert len(rules) == len(MODELS.names())


def test_the_command(capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["schema", "recipe"]) == 0
    assert json.loads(capsys.readouterr().out)["title"] == "rechub_ray: recipe"
    assert cli.main(["schema", "data"]) == 2
    assert "'recipe'" in capsys.readouterr().err
    with pytest.raises(ConfigError, match="no_such_module"):
        json_schema("run", imports=["no_such_module"])
