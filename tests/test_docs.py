"""The documents fit the code: links, blocks of YAML, Python and commands, and what is generated."""

from __future__ import annotations

import ast
import functools
import importlib
import importlib.util
import re
import shlex
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import jsonschema
import pydantic
import pytest

from rechub_ray import builtin, cli, config, yaml_text
from rechub_ray.commands.arguments import as_overrides
from rechub_ray.config import RunConfig
from rechub_ray.easyrec import translated
from rechub_ray.json_schema import json_schema
from rechub_ray.preparation.recipe import Recipe
from rechub_ray.reference import component
from rechub_ray.runtime.summary import FAMILIES
from rechub_ray.sweeps import sweep

ROOT = Path(__file__).resolve().parents[1]
DOCS = ROOT / "docs"
WRITTEN = [ROOT / "README.md", ROOT / "CONTRIBUTING.md", *sorted(DOCS.rglob("*.md"))]


@functools.cache
def generate() -> Any:
    spec = importlib.util.spec_from_file_location("generate", DOCS / "generate.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@functools.cache
def pages() -> dict[Path, str]:
    """Every document, the generated pages too, by its place."""
    made = {DOCS / path: text for path, text in generate().pages().items()}
    return {path: path.read_text(encoding="utf-8") for path in WRITTEN} | made


def without_code(text: str) -> str:
    return re.sub(r"```.*?```|`[^`\n]*`", "", text, flags=re.DOTALL)


def anchors(text: str) -> set[str]:
    """The anchors of a document, as mkdocs and GitHub make them."""
    text = re.sub(r"```.*?```", "", text, flags=re.DOTALL)
    found = set(re.findall(r'<a id="([^"]+)">', text))
    for heading in re.findall(r"^#+ (.*)$", text, re.MULTILINE):
        plain = re.sub(r"\[([^\]]*)\]\([^)]*\)", r"\1", heading).lower().strip()
        found.add(re.sub(r"[-\s]+", "-", re.sub(r"[^\w\s-]", "", plain)))
    return found


def links(text: str) -> list[str]:
    return re.findall(r"\]\(([^)\s]+)\)", without_code(text))


@pytest.mark.parametrize("path", WRITTEN, ids=lambda path: path.name)
def test_the_links_of_a_document_lead_somewhere(path: Path) -> None:
    check_links(path)


def test_the_links_of_generated_pages_lead_somewhere() -> None:
    for path in pages().keys() - set(WRITTEN):
        check_links(path)


def check_links(path: Path) -> None:
    for link in links(pages()[path]):
        if link.startswith(("http://", "https://", "mailto:")):
            continue
        place, _, anchor = link.partition("#")
        target = (path.parent / place).resolve() if place else path
        is_made = target in pages() and target not in WRITTEN
        assert target.exists() or is_made, f"{path.name}: {link}"
        assert not (is_made and path.parent == ROOT), f"{path.name}: {link} is there in the built site alone"
        if anchor and target.suffix == ".md":
            known = anchors(pages()[target] if target in pages() else target.read_text(encoding="utf-8"))
            assert anchor in known, f"{path.name}: {link}"


def test_the_check_of_links_finds_errors() -> None:
    text = "see [a](x.md#b-c) and `[no](code.md)`\n```\n[no](block.md)\n```"
    assert links(text) == ["x.md#b-c"]
    assert anchors('# One: `two_three`, (4)\n```\n# no\n```\n<a id="train.epochs"></a>') == {
        "one-two_three-4",
        "train.epochs",
    }


def blocks(language: str) -> Iterator[tuple[str, str]]:
    """The blocks of a language in the written documents."""
    for path in WRITTEN:
        found = re.findall(rf"^```{language}\n(.*?)^```", path.read_text(encoding="utf-8"), re.DOTALL | re.MULTILINE)
        for number, text in enumerate(found):
            yield f"{path.relative_to(ROOT)}-{number}", text


@functools.cache
def validator(kind: str) -> Any:
    """A check of a part of a configuration: nothing is required at the top."""
    content = json_schema(kind)  # type: ignore[arg-type]
    content.pop("required", None)
    return jsonschema.Draft7Validator(content)


KINDS: dict[str, type[pydantic.BaseModel]] = {"run": RunConfig, "sweep": sweep.Sweep, "recipe": Recipe}


@pytest.mark.parametrize(("name", "text"), [pytest.param(*one, id=one[0]) for one in blocks("yaml")])
def test_a_block_of_yaml_is_a_configuration(name: str, text: str) -> None:
    content = yaml_text.parse(text, name)
    assert isinstance(content, dict)
    fitting = [kind for kind, form in KINDS.items() if content.keys() <= form.model_fields.keys()]
    assert fitting, "it is no part of a run, a sweep or a recipe"
    faults = {kind: [error.message[:200] for error in validator(kind).iter_errors(content)] for kind in fitting}
    assert [] in faults.values(), faults
    if "model" in content and "run" in fitting:
        config.validate(content)


def test_there_are_blocks() -> None:
    assert len(list(blocks("yaml"))) >= 15
    assert len(list(blocks("python"))) >= 40
    assert len(list(commands())) >= 50


@pytest.mark.parametrize(("name", "text"), [pytest.param(*one, id=one[0]) for one in blocks("python")])
def test_a_block_of_python_compiles_and_its_imports_are_there(name: str, text: str) -> None:
    for node in ast.walk(ast.parse(text)):
        if isinstance(node, ast.ImportFrom) and node.module is not None and node.module.startswith("rechub_ray"):
            module = importlib.import_module(node.module)
            assert not [alias.name for alias in node.names if not hasattr(module, alias.name)]
    compile(text, name, "exec")


def commands() -> Iterator[tuple[str, list[str]]]:
    """The commands of this library in blocks for a shell, as lists of arguments."""
    for name, text in blocks("bash"):
        for line in text.replace("\\\n", " ").splitlines():
            line = re.sub(r"\s\[path=value \.\.\.\]|\s>\s.*", "", line)
            words = shlex.split(line, comments=True)
            if words[:1] == ["rechub-ray"]:
                yield f"{name}: {line}", words[1:]
            elif "train.py" in words:
                rest = [word for word in words[words.index("train.py") + 1 :] if word != "--"]
                yield f"{name}: {line}", rest if rest[:1] and rest[0] in cli.COMMANDS else ["train", *rest]


@pytest.mark.parametrize(("name", "words"), [pytest.param(*one, id=one[0]) for one in commands()])
def test_a_command_is_one(name: str, words: list[str]) -> None:
    options, rest = cli._parser().parse_known_args(words)
    overrides = [*getattr(options, "overrides", []), *as_overrides(rest, options.known)]
    place = getattr(options, "config", None) or getattr(options, "recipe", None) or getattr(options, "sweep", None)
    kind = {"tune": "sweep", "prepare": "recipe"}.get(options.command, "configuration")
    file = ROOT / builtin.located(place, kind) if place is not None else ROOT
    if not file.is_file():
        return  # a file of the reader's
    if options.command in ("train", "validate"):
        data = config.read_yaml(file)
        pairs = translated([config.parse_override(text) for text in overrides], data, print)
        config.validate(config.merge(data, dict(pairs)))
    elif options.command == "tune":
        sweep.load(file, overrides)
    elif options.command == "prepare":
        Recipe.from_dict(config.merge(config.read_yaml(file), overrides))


def fields(form: type[pydantic.BaseModel], path: str = "") -> Iterator[str]:
    """Every key of a configuration by its path, as far as sections lie in sections."""
    for name, field in form.model_fields.items():
        yield f"{path}{name}"
        if isinstance(field.annotation, type) and issubclass(field.annotation, pydantic.BaseModel):
            yield from fields(field.annotation, f"{path}{name}.")


@pytest.mark.parametrize("kind", KINDS)
def test_every_key_stands_in_the_reference(kind: str) -> None:
    page = pages()[DOCS / f"reference/{kind}.md"]
    found = re.findall(r'^\| (?:<a id="[^"]+"></a>)?`([^`]+)` \| (.*) \| (.*) \| (.*) \|$', page, re.MULTILINE)
    known = set(fields(KINDS[kind]))
    repeated = {name for name in known if name.startswith("items.format.")}  # as `format`
    assert known - repeated <= {name for name, *_ in found}
    assert not [name for name, takes, _, meaning in found if not takes or not meaning]
    if kind == "run":
        assert len(found) == len(known) >= 75, "each key once"


@pytest.mark.parametrize("kind", FAMILIES)
def test_every_component_stands_in_the_reference(kind: str) -> None:
    page = pages()[DOCS / ("models.md" if kind == "models" else f"reference/{kind}.md")]
    known = anchors(page)
    for name in FAMILIES[kind].names():
        assert name.lower() in known
        described = component(FAMILIES[kind], name)
        assert described.parts[""]
        assert not [key.name for key in described.arguments if not key.meaning], name


def test_the_page_of_models_is_current() -> None:
    text = generate().models_page()
    assert pages()[DOCS / "models.md"] == text, "python docs/generate.py writes it"
    assert "- Frappe: in process; test AUC, mean" in text


@pytest.mark.parametrize("name", FAMILIES["models"].names())
def test_a_model_says_what_it_is_and_when_to_use_it(name: str) -> None:
    parts = component(FAMILIES["models"], name).parts
    assert len(parts["When to use"]) > 20
    assert re.search(r"arXiv|\d{4}", parts["Reference"]), "its paper"
    assert re.search(r"`[^`]*=[^`]*`|^    .* = |see `\w+`|`DSSM`", parts[""], re.MULTILINE), "its equation"


def test_errors_stand_in_the_troubleshooting() -> None:
    from rechub_ray import errors

    families = {cls.__name__ for cls in errors.RechubError.__subclasses__() if cls.__module__ == errors.__name__}
    text = (DOCS / "troubleshooting.md").read_text(encoding="utf-8")
    assert set(re.findall(r"^## (\w+Error)$", text, re.MULTILINE)) == families


def test_the_messages_in_the_troubleshooting_are_there() -> None:
    """A message may have values in it, which the page leaves out."""
    text = (DOCS / "troubleshooting.md").read_text(encoding="utf-8")
    quoted = [
        part for cell in re.findall(r"^\| (`[^|]*) \|", text, re.MULTILINE) for part in re.findall("`([^`]+)`", cell)
    ]
    whole = "\n".join(
        node.value
        for path in (ROOT / "rechub_ray").rglob("*.py")
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8")))
        if isinstance(node, ast.Constant) and isinstance(node.value, str)
    )
    assert len(quoted) >= 40
    assert not [part for part in quoted if part not in whole]


def test_every_page_is_in_the_navigation() -> None:
    nav = yaml_text.parse((ROOT / "mkdocs.yml").read_text(encoding="utf-8"), "mkdocs.yml")["nav"]

    def places(node: Any) -> Iterator[str]:
        for item in node if isinstance(node, list) else node.values():
            yield from [item] if isinstance(item, str) else places(item)

    written = {str(path.relative_to(DOCS)) for path in pages() if path.is_relative_to(DOCS)}
    assert sorted(places(nav)) == sorted(written)
