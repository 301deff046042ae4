"""The generated pages: `python docs/generate.py` writes docs/models.md; `make docs` makes the others (mkdocs.yml).

What they say is in the code: pydantic models, registries and docstrings (`rechub_ray/reference.py`), the command line's
parser, the configurations, and the tables of benchmarks/RESULTS.md.
"""

from __future__ import annotations

import argparse
import importlib
import inspect
import pkgutil
import re
import sys
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[1]
if str(ROOT) not in sys.path:
    sys.path.insert(0, str(ROOT))  # mkdocs loads this file by its path

import rechub_ray  # noqa: E402
from benchmarks import multi_task, published, sequential  # noqa: E402
from rechub_ray import cli, layers  # noqa: E402
from rechub_ray.config import RunConfig, read_yaml  # noqa: E402
from rechub_ray.models import MODELS  # noqa: E402
from rechub_ray.models.multi_task.base import MultiTaskModel  # noqa: E402
from rechub_ray.models.sequential.base import SequentialRetriever  # noqa: E402
from rechub_ray.preparation.recipe import Recipe  # noqa: E402
from rechub_ray.reference import Component, Key, Section, arguments_of, component, parts_of, sections  # noqa: E402
from rechub_ray.registry import Registry  # noqa: E402
from rechub_ray.runtime.summary import FAMILIES  # noqa: E402
from rechub_ray.sweeps.sweep import Sweep  # noqa: E402

CONFIGURATIONS = {
    "run": (RunConfig, "Keys of a run", "A run's configuration, as `rechub-ray train` takes it."),
    "sweep": (Sweep, "Keys of a sweep", "A sweep file, as `rechub-ray tune` takes it; see [sweeps](../sweeps.md)."),
    "recipe": (Recipe, "Keys of a recipe", "A recipe, as `rechub-ray prepare` takes it; see [prepare](../prepare.md)."),
}
# keys of a run that hold components: the page that lists them
COMPONENT_KEYS = {
    "model": "../models.md", "losses": "losses.md", "balancing": "balancing.md", "negatives": "negatives.md",
    "metrics": "metrics.md", "optimizers": "optimizers.md", "trackers": "trackers.md", "export.index": "indexes.md",
}  # fmt: skip


ELSEWHERE_TOO = {"optimizers": "torch.optim.RAdam", "schedules": "torch.optim.lr_scheduler.StepLR"}


def pages() -> dict[str, str]:
    """Return every page that is made when the site is built, by its path in the site."""
    found = {f"reference/{name}.md": keys_page(name) for name in CONFIGURATIONS}
    found |= {f"reference/{kind}.md": components_page(kind, FAMILIES[kind]) for kind in FAMILIES if kind != "models"}
    found |= {
        "reference/commands.md": commands_page(),
        "reference/python.md": python_page(),
        "reference/recipes.md": files_page("Recipes that come with the project", "configs/data"),
        "reference/configurations.md": files_page("Configurations that come with the project", "configs"),
        "reference/sweeps.md": files_page("Sweeps that come with the project", "tune_configs"),
        "benchmarks.md": re.sub(r"\(figures/[^)]*\)", "", (ROOT / "benchmarks/RESULTS.md").read_text()),
    }
    return found


def keys_page(name: str) -> str:
    form, title, text = CONFIGURATIONS[name]
    lines = [f"# {title}", "", text, ""]
    if name == "run":
        lines += ["Any key is an override too: `rechub-ray train CONFIG train.epochs=3 optimizers.0.lr=0.01`.", ""]
    lines += [f"`rechub-ray schema {name}` prints all this for [editors](../editors.md).", ""]
    for part in sections(form):
        lines += section(part)
    return "\n".join(lines)


def section(part: Section) -> list[str]:
    heading = part.path + (f" with {part.variant}" if part.variant else "")
    lines = [f"## {heading}", ""] if heading else []
    return [*lines, markdown(part.summary), "", *key_table(part.keys, anchored=not part.variant), ""]


def key_table(keys: Iterable[Key], *, anchored: bool) -> list[str]:
    lines = ["| key | takes | default | meaning |", "|---|---|---|---|"]
    for key in keys:
        page = COMPONENT_KEYS.get(key.name)
        takes = f"{prose(key.type)}: [which]({page})" if page else prose(key.type)
        default = "required" if key.default is None else f"`{key.default}`" if key.default else ""
        anchor = f'<a id="{key.name}"></a>' if anchored else ""
        lines.append(f"| {anchor}`{key.name}` | {takes} | {default} | {prose(key.meaning)} |")
    return lines


def components_page(kind: str, registry: Registry[Any]) -> str:
    lines = [f"# {kind.capitalize()}", "", f"`rechub-ray list {kind} NAME` prints the same in a terminal.", ""]
    for name in registry.names():
        lines += described(component(registry, name))
    if kind in ELSEWHERE_TOO:
        lines += [f"A class elsewhere is a {registry.kind} by its dotted name, as in `{ELSEWHERE_TOO[kind]}`.", ""]
    return "\n".join(lines)


def described(one: Component) -> list[str]:
    lines = [f"## {one.name}", ""]
    if one.aliases:
        lines += [f"Also {', '.join(f'`{alias}`' for alias in one.aliases)}.", ""]
    lines += [markdown(one.parts[""]), ""]
    if one.arguments:
        lines += [*key_table_of(one), ""]
    if "Reference" in one.parts:
        lines += [f"Reference: {prose(' '.join(one.parts['Reference'].split()))}", ""]
    return lines


def key_table_of(one: Component) -> list[str]:
    lines = ["| argument | takes | default | meaning |", "|---|---|---|---|"]
    for key in one.arguments:
        default = "required" if key.default is None else f"`{key.default}`"
        lines.append(f"| `{key.name}` | {prose(key.type)} | {default} | {prose(key.meaning)} |")
    return lines


def commands_page() -> str:
    """Return the command line's help."""
    lines = ["# Commands", "", "`rechub-ray COMMAND --help` prints the same.", ""]
    for name, parser in commands().items():
        lines += [f"## {name}", "", prose(parser.description or ""), "", "| argument | meaning |", "|---|---|"]
        for action in parser._actions:
            if isinstance(action, argparse._HelpAction):
                continue
            shown = ", ".join(action.option_strings) or action.metavar or action.dest
            value = "" if action.nargs == 0 or not action.option_strings else f" {action.metavar or 'VALUE'}"
            if action.choices is not None:
                value = f" {'|'.join(map(str, action.choices))}"
            lines.append(f"| `{shown}{value}` | {prose(action.help or '')} |")
        lines.append("")
    return "\n".join(lines)


def commands() -> dict[str, argparse.ArgumentParser]:
    """Return the parser of each command."""
    groups = (a for a in cli._parser()._actions if isinstance(a, argparse._SubParsersAction))
    return dict(next(groups).choices)


def python_page() -> str:
    """Return what `import rechub_ray` gives."""
    lines = ["# Python", "", "Names of the package; [From Python](../python.md) shows them at work.", ""]
    for name in sorted(set(rechub_ray.__all__) - {"__version__"}, key=str.lower):
        value = getattr(rechub_ray, name)
        lines += [f"## {name}", ""]
        if isinstance(value, type) or inspect.isroutine(value):
            lines += [*signature(name, value), *documented(value)]
        else:
            lines += [f"The registry of {value.kind}s: see [models](../models.md).", ""]
        if isinstance(value, type):
            methods = inspect.getmembers(value, inspect.isfunction)
            for key, method in methods:
                if not key.startswith("_") and method.__module__.startswith("rechub_ray") and key != "forward":
                    lines += [f"### {name}.{key}", "", *signature(key, method), *documented(method)]
    return "\n".join(lines)


def signature(name: str, value: Any) -> list[str]:
    try:
        found = inspect.signature(value)
    except (TypeError, ValueError):
        return []
    kept = [p.replace(annotation=p.empty) for p in found.parameters.values() if p.name != "self"]
    text = f"{name}{found.replace(parameters=kept, return_annotation=found.empty)}"
    text = re.sub(r"<(?:class|function|object) ?'?([\w.]*)[^>]*>", r"\1", text)
    return ["```text", text, "```", ""]


def documented(value: Any) -> list[str]:
    """Return a docstring as Markdown."""
    lines = []
    for head, text in parts_of(inspect.getdoc(value) or "").items():
        if head in ("Args", "Attributes", "Raises"):
            entries = arguments_of(text)
            lines += ["" if not entries else f"{head}:", ""]
            lines += [f"- `{key}`: {prose(meaning)}" for key, meaning in entries.items()]
        elif head == "Example":
            lines += ["```python", text, "```"]
        elif text:
            lines += [markdown(f"{head}: {text}" if head else text)]
        lines.append("")
    return lines


def files_page(title: str, folder: str) -> str:
    """Return the YAML files of a folder."""
    lines = [f"# {title}", ""]
    for path in sorted((ROOT / folder).rglob("*.y*ml")):
        if folder == "configs" and path.parent.name == "data":
            continue
        name = path.relative_to(ROOT / folder).with_suffix("")
        lines += [f"## {name}", "", f"`{path.relative_to(ROOT)}`", "", "```yaml", path.read_text().strip(), "```", ""]
    return "\n".join(lines)


FAMILY_TITLES = {
    "ranking": "Ranking",
    "multi_task": "Several labels",
    "matching": "Retrieval",
    "sequential": "Sequences",
}
FAMILY_TEXTS = {
    "ranking": "A score for each row: [guide](ranking.md).",
    "multi_task": "An output for each label: [guide](labels.md#multi-task-models).",
    "matching": "Vectors of users and items: [guide](retrieval.md).",
    "sequential": "The next item of a history: [guide](retrieval.md#sequences).",
}


def models_page() -> str:
    """Return docs/models.md."""
    lines = [
        "# Models",
        "",
        "<!-- Written by `python docs/generate.py` from docstrings and benchmarks/RESULTS.md: change those. -->",
        "",
        "In the equations e_1, ..., e_K are the embeddings of the sparse features and pooled sequences, `dense` the "
        "numbers, x = [e_1, ..., e_K, dense] all of them side by side, `<a, b>` a dot product, `*` a product by "
        "elements, `linear(x)` one weight an id and number, and `mlp` a perceptron. `rechub-ray list models NAME` "
        "prints the same.",
        "",
        "Figures are those of [the benchmarks](../benchmarks/RESULTS.md), measured by this project, beside published "
        "ones where their tables have them.",
        "",
    ]
    known, measured = parts_of_models(), figures()
    mentioned: dict[str, type[Any]] = {}
    models = {name: component(MODELS, name) for name in MODELS.names()}
    for family, title in FAMILY_TITLES.items():
        own = [one for one in models.values() if family_of(one.cls) == family]
        lines += [f"## {title}", "", FAMILY_TEXTS[family], ""]
        for one in own:
            lines += model(one, measured.get(one.name, []))
            mentioned |= {name: known[name] for name in re.findall(r"`([A-Z]\w+)`", one.parts[""]) if name in known}
    lines += ["## Parts", "", "What descriptions above refer to.", ""]
    for name in sorted(mentioned):
        parts = parts_of(vars(mentioned[name]).get("__doc__") or "")
        lines += [f"### {name}", "", markdown(parts[""]), ""]
        if "Reference" in parts:
            lines += [f"Reference: {prose(' '.join(parts['Reference'].split()))}", ""]
    text = "\n".join(lines)
    return re.sub(r"see `([A-Z]\w+)`", lambda m: linked(m, {**mentioned, **class_names(models)}), text)


def linked(match: re.Match[str], known: dict[str, Any]) -> str:
    if match[1] not in known:
        return match[0]
    target = known[match[1]] if isinstance(known[match[1]], str) else match[1].lower()
    return f"see [`{match[1]}`](#{target})"


def class_names(models: dict[str, Component]) -> dict[str, str]:
    return {one.cls.__name__: name for name, one in models.items()}


def family_of(cls: type[Any]) -> str:
    return cls.__module__.split(".")[2]


def model(one: Component, measured: list[str]) -> list[str]:
    lines = [f"### {one.name}", ""]
    if one.aliases:
        lines += [f"Also {', '.join(f'`{alias}`' for alias in one.aliases)}.", ""]
    lines += [markdown(one.parts[""]), ""]
    for head, title in (("When to use", "When to use"), ("Reference", "Paper")):
        if head in one.parts:
            lines += [f"**{title}.** {capital(prose(' '.join(one.parts[head].split())))}", ""]
    lines += ["**Arguments.**", ""]
    for key in one.arguments:
        default = "required" if key.default is None else f"default `{key.default}`"
        lines.append(f"- `{key.name}` ({prose(key.type)}; {default}): {prose(key.meaning)}")
    lines += ["", "**Figures.** Not measured.", ""] if not measured else ["", "**Figures.**", "", *measured, ""]
    return lines


def capital(text: str) -> str:
    return text[:1].upper() + text[1:]


def parts_of_models() -> dict[str, type[Any]]:
    """Return layers and bases of models by the name of their class."""
    modules = [importlib.import_module(m.name) for m in pkgutil.iter_modules(layers.__path__, f"{layers.__name__}.")]
    found = {
        name: value
        for module in modules
        for name, value in vars(module).items()
        if isinstance(value, type) and value.__module__ == module.__name__
    }
    for cls in (*(MODELS.get(name) for name in MODELS.names()), MultiTaskModel, SequentialRetriever):
        found |= {
            base.__name__: base
            for base in cls.__mro__
            if base.__module__.startswith("rechub_ray.models") and "registered_name" not in vars(base)
        }
    return found


# sections of RESULTS.md with a table of models, and their columns that are no figures
TABLES = {
    "Published results on Frappe": "Frappe",
    "Every published model on Frappe": "Frappe",
    "Multi-task models and balancing on Census-Income": "Census-Income",
    "Models for retrieval, leave-one-out": "",
    "Models of sequences on Amazon Beauty": "Amazon Beauty",
}
SKIPPED = ("configuration", "seeds", "epochs", "parameters", "seconds", "ours - ", "model")


def figures() -> dict[str, list[str]]:
    """Return lines on each model's measured and published figures, from RESULTS.md."""
    found: dict[str, list[str]] = {}
    compared: set[str] = set()
    names = known_names()
    chapters = (ROOT / "benchmarks/RESULTS.md").read_text().split("\n## ")[1:]
    by_title = {chapter.partition("\n")[0].strip(): chapter for chapter in chapters}
    for title in TABLES:
        for heads, row in rows(by_title[title]):
            name = None if "published" in row[0] else resolved(row, names)
            if name is None:
                continue
            data = TABLES[title] or heads[0]
            cells = list(zip(heads[1:], row[1:], strict=False))
            if ("balancing" in heads) and dict(cells)["balancing"] != "fixed":
                continue
            values = "; ".join(
                cell if head == "where" else f"{head} {cell}"
                for head, cell in cells
                if cell and not head.startswith(SKIPPED) and head != "balancing"
            )
            is_name = normalised(row[0]) == normalised(name) and not row[0].endswith("+")  # AFN+ is a model of its own
            label = "" if is_name or row[0].startswith("configs/") else f", {row[0]}"
            compared.add(row[0] if "published" in values else "")
            found.setdefault(name, []).append(f"- {prose(f'{data}{label}: {values}.')}")
    for name, called, line in published_lines(names):
        if name not in found:
            found[name] = ["- Ours: not measured."]
        if called not in compared:
            found[name].append(line)
    return found


def published_lines(names: dict[str, str]) -> Iterator[tuple[str, str, str]]:
    """Yield the published figures that benchmarks compare with: the model's name, its name in the table, and a line."""
    for known in published.MODELS.values():
        mean = "" if known.mean is None else f" (mean of five runs {known.mean:.6f})"
        is_name = known.title.lower() == known.model["name"].replace("_", "")
        title = "" if is_name else f" as {known.title}"
        yield known.model["name"], known.title, f"- Published (BARS, Frappe_x1){title}: test AUC {known.auc:.6f}{mean}."
    for title, (income, never) in multi_task.PUBLISHED.items():
        text = f"- Published (Torch-RecHub, Census-Income): test AUC of income {income:.4f}; never married {never:.4f}."
        yield names[normalised(title)], title, text
    for title, values in sequential.PUBLISHED.items():
        name = names.get(normalised(title))
        if name is not None:
            numbers = "; ".join(f"{c} {v:.4f}" for c, v in zip(sequential.COLUMNS, values, strict=True))
            yield name, title, f"- Published (TIGER, Amazon Beauty): {numbers}."


def rows(text: str) -> Iterator[tuple[list[str], list[str]]]:
    """Yield the heads and cells of each row of the tables in a Markdown text."""
    heads: list[str] = []
    for line in text.split("\n"):
        if not line.startswith("|"):
            heads = []
            continue
        cells = [cell.strip() for cell in line.strip().strip("|").split("|")]
        if not heads:
            heads = cells
        elif not set(line) <= set("|-: "):
            yield heads, cells


def normalised(name: str) -> str:
    return re.sub(r"[^a-z0-9]", "", name.lower())


def known_names() -> dict[str, str]:
    """Return registered names by the spellings of names and classes."""
    found = {}
    for name in MODELS.names():
        for spelling in (name, *MODELS.aliases(name), MODELS.get(name).__name__):
            found[normalised(spelling)] = name
    return found


def resolved(row: list[str], names: dict[str, str]) -> str | None:
    """Return the registered name of the model of a row, by its configuration or its first cell."""
    for cell in row[:2]:
        if cell.startswith("configs/") and (ROOT / cell).is_file():
            node = read_yaml(ROOT / cell)["model"]
            return str(node if isinstance(node, str) else node["name"])
    return names.get(normalised(re.split(r",| \(", row[0])[0]))


def prose(text: str) -> str:
    """Return text of a docstring as Markdown on one line: what would be markup is escaped, but for code."""
    pieces = re.split(r"(`[^`]*`)", text.replace("\n", " "))
    return "".join(
        one if one.startswith("`") else re.sub(r"(\*|<|\||(?<!\w)_|_(?!\w)|\](?=[(\[:]))", _escaped, one)
        for one in pieces
    )


def _escaped(match: re.Match[str]) -> str:
    return "&lt;" if match[0] == "<" else f"\\{match[0]}"


def markdown(text: str) -> str:
    """Return paragraphs, lists and indented blocks of a docstring as Markdown."""
    blocks = []
    for block in re.split(r"\n\s*\n", text):
        if block.startswith("    "):
            blocks.append(block)
        elif re.match(r"- ", block):
            items = re.split(r"\n(?=- )", block)
            blocks.append("\n".join(f"- {prose(' '.join(item[2:].split()))}" for item in items))
        else:
            head, *items = re.split(r"\n(?=- )", block)
            blocks.append(prose(" ".join(head.split())))
            blocks += ["\n".join(f"- {prose(' '.join(item[2:].split()))}" for item in items)] if items else []
    return "\n\n".join(blocks)


# what mkdocs calls


def on_files(files: Any, config: Any) -> Any:
    """Add the generated pages."""
    from mkdocs.structure.files import File

    for path, content in pages().items():
        files.append(File.generated(config, path, content=content))
    return files


# files beside docs/: the page of the site that has them
ELSEWHERE = [
    (r"\.\./configs/data/(\w+)\.yaml", "reference/recipes.md#{}"),
    (r"\.\./configs/(\w+)\.yaml", "reference/configurations.md#{}"),
    (r"\.\./tune_configs/(\w+)\.yaml", "reference/sweeps.md#{}"),
    (r"\.\./benchmarks/RESULTS\.md", "benchmarks.md"),
]


def on_page_markdown(text: str, page: Any, **_: Any) -> str:
    """Let links to files beside docs/ lead to their pages."""
    up = "../" * page.file.src_uri.count("/")
    for pattern, target in ELSEWHERE:
        text = re.sub(rf"\]\({up}{pattern}\)", lambda m, t=target: f"]({up}{t.format(*m.groups())})", text)
    return text


def main() -> None:
    (ROOT / "docs/models.md").write_text(models_page())


if __name__ == "__main__":
    main()
