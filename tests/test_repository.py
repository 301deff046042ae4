"""The files around the code fit the code."""

from __future__ import annotations

import ast
import re
import tomllib
from pathlib import Path
from typing import Any

import pytest
import yaml

from rechub_ray import config
from rechub_ray.preparation.recipe import Recipe

ROOT = Path(__file__).resolve().parents[1]
CONFIGS = sorted(path for path in (ROOT / "configs").rglob("*") if path.suffix in (".yaml", ".yml"))
RECIPES = [path for path in CONFIGS if path.parent.name == "data"]
RUNS = [path for path in CONFIGS if path not in RECIPES]


def project() -> dict[str, Any]:
    return tomllib.loads((ROOT / "pyproject.toml").read_text())


def canonical(name: str) -> str:
    """A distribution's name as PEP 503 compares it."""
    return re.sub(r"[-_.]+", "-", name).lower()


def test_there_are_configurations_and_recipes() -> None:
    assert len(RUNS) > 0
    assert len(RECIPES) > 0


@pytest.mark.parametrize("path", RUNS, ids=lambda path: path.name)
def test_a_configuration_loads(path: Path) -> None:
    loaded = config.load(path)
    stem = path.stem if path.parent.name == "configs" else f"{path.stem}_{path.parent.name}"
    assert loaded.name == stem, "the name is the file's, so that runs/<name> tells where it came from"
    assert config.load(yaml.safe_load(config.dump(loaded))) == loaded


@pytest.mark.parametrize("path", RECIPES, ids=lambda path: path.name)
def test_a_recipe_loads(path: Path) -> None:
    recipe = Recipe.load(path)
    assert recipe.features
    assert recipe.licence, "says under what terms the data may be used"
    assert recipe.url
    assert Recipe.from_dict(config.merge(config.read_yaml(path), [])) == recipe, "as the command line reads it"


@pytest.mark.parametrize("path", RUNS, ids=lambda path: path.name)
def test_the_data_of_a_configuration_has_a_recipe(path: Path) -> None:
    root = config.load(path).data.root
    known = {Recipe.load(recipe).out for recipe in RECIPES} | {"demo/data", "demo/multi_task/data"}
    assert root in known


def targets() -> set[str]:
    return set(re.findall(r"^([a-z][\w-]*):", (ROOT / "Makefile").read_text(), re.MULTILINE))


def documents() -> list[Path]:
    return [ROOT / "README.md", *sorted((ROOT / "docs").rglob("*.md"))]


@pytest.mark.parametrize("path", documents(), ids=lambda path: path.name)
def test_the_make_targets_in_a_document_exist(path: Path) -> None:
    text = path.read_text()
    code = re.findall(r"```\w*\n(.*?)```", text, re.DOTALL) + re.findall(r"`([^`\n]+)`", text)
    named = {name for part in code for name in re.findall(r"(?:^|[\s;&])make ([a-z][\w-]*)", part)}
    assert named <= targets()


@pytest.mark.parametrize("path", documents(), ids=lambda path: path.name)
def test_the_configurations_in_a_document_exist(path: Path) -> None:
    named = set(re.findall(r"\b((?:tune_)?configs/[\w/.-]+\.ya?ml)\b", path.read_text()))
    assert not {name for name in named if not (ROOT / name).is_file()}


def test_the_phony_targets_are_the_targets() -> None:
    phony = re.search(r"^\.PHONY:(.*)$", (ROOT / "Makefile").read_text(), re.MULTILINE)
    assert phony is not None
    assert set(phony[1].split()) == targets()
    assert {"demo", "test", "check", "bench", "wheel"} <= targets()


@pytest.mark.parametrize("name", ["LICENSE", "README.md", "ARCHITECTURE.md", "CHANGELOG.md", "CONTRIBUTING.md"])
def test_a_document_is_there_and_says_something(name: str) -> None:
    assert len((ROOT / name).read_text()) > 200


def test_the_changelog_knows_this_version() -> None:
    assert project()["project"]["version"] in (ROOT / "CHANGELOG.md").read_text()


def pins() -> dict[str, str]:
    lines = [line.partition("#")[0].strip() for line in (ROOT / "constraints.txt").read_text().splitlines()]
    return {canonical(name): version for name, _, version in (line.partition("==") for line in lines if line)}


def test_every_constraint_is_an_exact_version() -> None:
    assert all(re.fullmatch(r"\d[\w.+!]*", version) for version in pins().values())


def required() -> list[str]:
    extras = project()["project"]["optional-dependencies"]
    names = [*project()["project"]["dependencies"], *extras["dev"]]
    return sorted({canonical(re.split(r"[\[<>=!~; ]", name, maxsplit=1)[0]) for name in names})


@pytest.mark.parametrize("name", required())
def test_a_dependency_is_pinned(name: str) -> None:
    assert name in pins()


# The two places for what is not public.
MAY_BE_PRIVATE = ("runtime/ray_private.py", "cpu/")
PRIVATE_METHODS = ("_values", "_indices")  # of sparse tensors


def is_private(name: str) -> bool:
    return any(part.startswith("_") and not part.startswith("__") for part in name.split("."))


def private_names(source: str) -> list[str]:
    """The names of Ray and torch in a file that are not public, with their lines, and steps of a foreign base class."""
    tree, roots, found = ast.parse(source), set[str](), []
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            names = [(alias.name, alias.asname or alias.name.partition(".")[0]) for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            names = [(f"{node.module}.{alias.name}", alias.asname or alias.name) for alias in node.names]
        else:
            continue
        for name, local in names:
            if name.partition(".")[0] in ("ray", "torch"):
                roots.add(local)
                found += [f"{node.lineno}: {name}"] if is_private(name) else []
    for node in ast.walk(tree):
        if isinstance(node, ast.Attribute) and is_private(node.attr):
            base = ast.unparse(node.value)
            if base.partition(".")[0] in roots or base == "super()" or node.attr in PRIVATE_METHODS:
                found.append(f"{node.lineno}: {base}.{node.attr}")
    return found


@pytest.mark.parametrize(
    ("source", "expected"),
    [
        ("import ray\nray.init()\nray._private.x", ["3: ray._private"]),
        ("from ray._private.services import find", ["1: ray._private.services.find"]),
        ("from ray.train.torch.config import _TorchBackend", ["1: ray.train.torch.config._TorchBackend"]),
        ("import torch.distributed as dist\ndist.distributed_c10d._abort()", ["2: dist.distributed_c10d._abort"]),
        ("def f():\n    import ray.air._internal.x as y\n    return self._z", ["2: ray.air._internal.x"]),
        ("gradient._values()", ["1: gradient._values"]),
        ("super()._exploit(1)", ["1: super()._exploit"]),
        ("import torch\ntorch.__version__\nself._torch.x\nother._thing", []),
    ],
)
def test_the_check_for_private_names_finds_them(source: str, expected: list[str]) -> None:
    assert private_names(source) == expected


def test_private_names_of_ray_and_torch_are_in_their_places() -> None:
    package = ROOT / "rechub_ray"
    found = {str(path.relative_to(package)): private_names(path.read_text()) for path in package.rglob("*.py")}
    assert not {path: names for path, names in found.items() if names and not path.startswith(MAY_BE_PRIVATE)}


def undocumented_errors(source: str) -> list[str]:
    """The errors that public functions raise themselves and whose docstrings do not name under `Raises:`."""
    found: list[str] = []

    def visit(body: list[ast.stmt], owner: ast.ClassDef | None) -> None:
        for node in body:
            if isinstance(node, ast.ClassDef) and not node.name.startswith("_"):
                visit(node.body, node)
            elif isinstance(node, ast.FunctionDef) and (node.name == "__init__" or not node.name.startswith("_")):
                text = ast.get_docstring(owner if owner is not None and node.name == "__init__" else node)
                if text is None:
                    continue
                section = text.partition("Raises:\n")[2].partition("\n\n")[0]
                found.extend(
                    f"{node.lineno}: {node.name} raises {error}"
                    for error in sorted(raised(node.body) - {"NotImplementedError", "AssertionError"})
                    # of a variable, or a function that makes the error, the section is enough
                    if (not re.search(rf"\b{error}\b", section) if error[:1].isupper() else not section)
                )

    visit(ast.parse(source).body, None)
    return found


def raised(body: list[ast.stmt]) -> set[str]:
    """What the `raise` statements of a function raise, without those of functions and classes inside."""
    names, waiting = set[str](), list[ast.AST](body)
    while waiting:
        node = waiting.pop()
        if isinstance(node, ast.Raise) and node.exc is not None:
            made = node.exc.func if isinstance(node.exc, ast.Call) else node.exc
            names.add(ast.unparse(made).rpartition(".")[2])
        if not isinstance(node, ast.FunctionDef | ast.ClassDef | ast.Lambda):
            waiting.extend(ast.iter_child_nodes(node))
    return names


@pytest.mark.parametrize(
    ("source", "expected"),
    [
        ('def f():\n    """Do."""\n    raise ValueError("x")', ["1: f raises ValueError"]),
        ('def f():\n    """Do.\n\n    Raises:\n        ValueError: x.\n    """\n    raise ValueError("x")', []),
        ('def f():\n    """Do.\n\n    Raises:\n        KeyError: x.\n    """\n    raise Bad', ["1: f raises Bad"]),
        ('class A:\n    """One."""\n\n    def __init__(self):\n        raise errors.Bad()', ["4: __init__ raises Bad"]),
        ('def f():\n    """Do."""\n    raise made(1)', ["1: f raises made"]),
        ('def f():\n    """Do."""\n    try:\n        g()\n    except E:\n        raise', []),
        ('def _f():\n    """Do."""\n    raise ValueError', []),
    ],
)  # fmt: skip
def test_the_check_of_docstrings_finds_errors(source: str, expected: list[str]) -> None:
    assert undocumented_errors(source) == expected


def test_public_docstrings_name_the_errors_that_they_raise() -> None:
    package = ROOT / "rechub_ray"
    found = {str(path.relative_to(package)): undocumented_errors(path.read_text()) for path in package.rglob("*.py")}
    assert not {path: errors for path, errors in found.items() if errors}
