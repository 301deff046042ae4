"""`rechub-ray init`: files to start from, made of a look at a raw file."""

from __future__ import annotations

import importlib.metadata
import math
import os
import re
import textwrap
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import rechub_ray
from rechub_ray import builtin
from rechub_ray.errors import ConfigError
from rechub_ray.files import writing
from rechub_ray.preparation.guess import MANY, Guess, Guesses, Role, guess
from rechub_ray.preparation.sample import Sample, look
from rechub_ray.yaml_text import on_a_line

FILES = ("recipe.yaml", "config.yaml", "sweep.yaml", "train.py", "cluster.yaml", "requirements.txt")
NO_LABEL = "LABEL"
"""The name of the label that a user has to fill in, where none was found."""


def init(folder: str, data: str, *, label: str | None = None) -> list[str]:
    """Write a recipe, a configuration, a sweep, and what a cluster needs, for a raw file; return what was guessed.

    Args:
        folder: where the files go; it is made.
        data: the CSV or parquet file, a path or URI.
        label: the column of the label; None guesses it.

    Returns:
        Lines for the user: what was guessed, and which commands come next.

    Raises:
        ConfigError: `folder` holds one of the files, or there is no such label.
        DataError: the file cannot be used; see `look`.
        WriteError: the files cannot be written.
    """
    place = Path(folder)
    there = [name for name in FILES if (place / name).exists()]
    if there or (place.exists() and not place.is_dir()):
        raise ConfigError(
            f"'{folder}' has {', '.join(there)} already" if there else f"'{folder}' is a file",
            expected="a folder without the files that init writes",
            hint="Name another folder; init never writes over a file.",
        )
    sample = look(data)
    guesses = guess(sample, label=label)
    if not any(guesses.named(role) for role in ("categorical", "numeric", "sequence")):
        raise ConfigError(
            f"no column of '{data}' can be a feature",
            got="; ".join(f"{one.name}: {one.why}" for one in guesses.columns),
            hint="Is it the right file, and does it have rows enough (some dozens)?",
        )
    texts = {
        "recipe.yaml": recipe_text(place, sample, guesses),
        "config.yaml": config_text(place, sample, guesses),
        "sweep.yaml": sweep_text(place, guesses),
        "train.py": _TRAIN,
        "cluster.yaml": cluster_text(place),
        "requirements.txt": requirements(),
    }
    with writing(place):
        place.mkdir(parents=True, exist_ok=True)
        for name, text in texts.items():
            with (place / name).open("x", encoding="utf-8") as file:
                file.write(text)
    return _summary(place, data, sample, guesses)


def recipe_text(place: Path, sample: Sample, guesses: Guesses) -> str:
    """Return the recipe, with what was seen as comments."""
    how_many = (
        f"all of its {sample.rows:,} rows" if sample.is_whole else f"{sample.rows:,} of its {sample.total:,} rows or so"
    )
    lines = [
        f"# What the columns of {sample.file} mean, guessed by `rechub-ray init` from {how_many}. Check the label, the",
        "# split and the kinds of the features. Every key: docs/prepare.md.",
        f"#   rechub-ray prepare {place / 'recipe.yaml'}",
        "# Paths are relative to the folder that the command runs in.",
        f"source: {on_a_line(sample.folder or '.')}",
        f"out: {on_a_line(str(place / 'data'))}",
        f"files: {on_a_line(sample.file)}",
    ]
    form = dict(sample.format)
    names = form.pop("columns", None)
    if names is not None:
        lines += ["format:", *(f"  {key}: {on_a_line(value)}" for key, value in form.items())]
        lines += [*_list("  columns: ", names)]
    elif form:
        lines.append(f"format: {on_a_line(form)}")
    if guesses.is_choice:
        lines += [
            "labels: [] # each row is an item that a user chose; init --label COLUMN makes a recipe of a label instead",
        ]
    elif guesses.label is None:
        lines += [
            "labels:",
            f"  - {{name: {NO_LABEL}}} # EDIT: no column looks like a label. Name one of 0 and 1 here, or write an",
            "  # expression, as in  - {name: liked, expression: stars >= 4}",
        ]
    else:
        lines += ["labels:", f"  - {on_a_line(guesses.label.node)} # {guesses.label.why}"]
    if guesses.is_choice:
        lines.append(f"row_id: {on_a_line(guesses.user)} # stands beside the answers")
        return "\n".join(lines + _choices(guesses) + _left_out_lines(sample, guesses)) + "\n"
    if guesses.user is not None:
        lines.append(f"group: {on_a_line(guesses.user)} # of the metric gauc: the AUC within each user")
    if guesses.row_id is not None:
        lines.append(f"row_id: {on_a_line(guesses.row_id)} # stands beside the predictions")
    lines += _split(guesses) + _history(guesses) + _features(guesses) + _left_out_lines(sample, guesses)
    return "\n".join(lines) + "\n"


def _left_out_lines(sample: Sample, guesses: Guesses) -> list[str]:
    left = [f"{one.name} ({one.why})" for one in _left_out(guesses)]
    if sample.unnamed:
        left.append(f"{sample.unnamed} columns without a name of their own")
    text = f"Left out: {', '.join(left)}." if left else ""
    return textwrap.wrap(text, 116, initial_indent="# ", subsequent_indent="#   ")


def _left_out(guesses: Guesses) -> list[Guess]:
    taken = guesses.label.column if guesses.label is not None else None
    out = [one for one in guesses.columns if one.role == "nothing" and one.name not in (guesses.row_id, taken)]
    return out + [one for one in guesses.columns if one.role == "time" and one.name not in (guesses.time, taken)]


def _split(guesses: Guesses) -> list[str]:
    time = None if guesses.time is None else on_a_line(guesses.time)
    form = [] if guesses.time_format is None else [f'time_format: "{guesses.time_format}"']
    shares = "{train: 0.8, valid: 0.1, test: 0.1}"
    if guesses.split_by_time:
        return [
            *form,
            f"split: {{by: time, column: {time}, fractions: {shares}}} # earlier rows train, later ones test",
        ]
    why = "" if time is None else f" # not by time: '{guesses.time}' is missing in some rows, or has few values"
    return [f"split: {{by: random, fractions: {shares}}}{why}"]


def _history(guesses: Guesses) -> list[str]:
    if guesses.user is None or guesses.item is None or not guesses.split_by_time:
        return []
    user, item, time = map(on_a_line, (guesses.user, guesses.item, guesses.time))
    return [
        "# The user's earlier items as a list, for models such as din (needs the feature `history` below):",
        f"# history: {{user: {user}, item: {item}, order: {time}, max_length: 20}}",
    ]


def _choices(guesses: Guesses) -> list[str]:
    """Return the history, the split and the features of a recipe for retrieval."""
    user, item = on_a_line(guesses.user), on_a_line(guesses.item)
    order = f", order: {on_a_line(guesses.time)}" if guesses.split_by_time else ""
    listed = f"  - {{kind: sequence, name: history, max_length: 20, shared_with: {item}}}"
    form = [] if guesses.time_format is None else [f'time_format: "{guesses.time_format}"']
    lines = [
        *form,
        f"history: {{user: {user}, item: {item}{order}, max_length: 20, exclude: seen}} # the user's earlier items",
        f"split: {{by: leave_last_out, user: {user}{order}, valid: 1, test: 1}} # a user's last item is the test",
        "features: # of the user and the moment, and the item's id",
        *_kinds(guesses, of_items=False),
        listed,
        "items:",
        f"  id: {item}",
    ]
    own = _kinds(guesses, of_items=True)
    if own:
        lines += [*_list("  from_rows: ", guesses.of_items), "  features:", *(f"  {line}" for line in own)]
    return lines


def _features(guesses: Guesses) -> list[str]:
    lines = ["features:", *_kinds(guesses)]
    if _history(guesses):
        item = on_a_line(guesses.item)
        lines.append(f"  # - {{kind: sequence, name: history, max_length: 20, shared_with: {item}}}")
    return lines


def _kinds(guesses: Guesses, *, of_items: bool | None = None) -> list[str]:
    """Return the lines of features, of all columns or of those that are or are not of items."""

    def named(role: Role) -> list[Guess]:
        return [one for one in guesses.named(role) if of_items in (None, one.name in guesses.of_items)]

    lines: list[str] = []
    ids = named("categorical")
    few, many = ([one.name for one in ids if (one.distinct > MANY) is is_many] for is_many in (False, True))
    for some, more in ((few, ""), (many, "min_frequency: 2 # rarer values become id 0")):
        if some:
            lines += ["  - kind: categorical", *_list("    columns: ", some)]
            lines += [f"    {more}"] if more else []
    numbers: dict[str, list[str]] = {}
    for one in named("numeric"):
        numbers.setdefault(on_a_line(one.settings)[1:-1], []).append(one.name)
    for settings, names in numbers.items():
        lines += ["  - kind: numeric", *_list("    columns: ", names), f"    {settings}"]
    for one in named("sequence"):
        lines.append(f"  - {on_a_line({'kind': 'sequence', 'name': one.name, **one.settings})}")
    return lines


def _list(key: str, names: Sequence[str]) -> list[str]:
    """Return the lines of a key whose value is a list of names."""
    text = f"[{', '.join(map(on_a_line, names))}]"
    return textwrap.wrap(
        text, 116, initial_indent=key, subsequent_indent=" " * (len(key) + 1),
        break_long_words=False, break_on_hyphens=False,
    )  # fmt: skip


def config_text(place: Path, sample: Sample, guesses: Guesses) -> str:
    """Return the configuration of a run on the prepared data."""
    kind = guesses.label.node.get("kind", "binary") if guesses.label is not None else "binary"
    has_ids = _has_ids(guesses)
    model = "shared_bottom" if kind == "multiclass" else "deepfm" if has_ids else "mlp"
    units = "bottom_units: [128], tower_units: [64]" if kind == "multiclass" else "hidden_units: [128, 64]"
    if guesses.is_choice:
        model, units = "dssm", "user_units: [128], item_units: [128]"
    batch = min(max(2 ** int(math.log2(sample.total / 50 + 1)), 8), 4096)  # some dozens of steps an epoch
    data = on_a_line({"root": str(place / "data"), "batch_size": batch})
    lines = [
        f"# {model} on {sample.file}. Any key can be changed on the command line too:",
        f"#   rechub-ray train {place / 'config.yaml'} optimizers.0.lr=0.01 --model-dir {place / 'run-2'}",
        f"name: {_name(place)}",
        f"model_dir: {on_a_line(str(place / 'run'))} # checkpoints, logs, the exported model",
        f"data: {data} # rows a worker and step",
        f"model: {{name: {model}, embedding_dim: 16, {units}, dropout: 0.0}} # `rechub-ray list models` has others",
    ]
    if guesses.is_choice:
        lines += [
            "negatives: [in_batch] # a row's item is compared with those of the step's other rows",
            "metrics: [recall@10, ndcg@10, {name: recall@10, exclude: seen}] # the row's item among all of them",
        ]
    elif kind == "binary":
        lines.append(f"metrics: [auc, log_loss{', gauc' if guesses.user is not None else ''}]")
    best = "metric: recall@10, " if guesses.is_choice else "metric: auc, " if kind == "binary" else ""
    lines.append("optimizers: # the first pattern that matches a parameter takes it")
    if has_ids:
        lines.append('  - {name: rowwise_adagrad, params: ["*embedding.*"], lr: 0.02} # tables of ids')
    lines += [
        "  - {name: adam, lr: 1.0e-3}",
        "train:",
        "  epochs: 10",
        f"  early_stopping: {{{best}patience: 2}}",
        "scaling: {num_workers: 0} # in this process; 2 takes two Ray Train workers",
    ]
    return "\n".join(lines) + "\n"


def sweep_text(place: Path, guesses: Guesses) -> str:
    """Return a sweep around the configuration."""
    has_ids = _has_ids(guesses)
    lines = [
        "# Eight points, of which ASHA lets the better third go on after 1 and 3 epochs. The best one lands in best/.",
        f"#   rechub-ray tune {place / 'sweep.yaml'}",
        f"name: {_name(place)}_sweep",
        f"sweep_dir: {on_a_line(str(place / 'sweep'))}",
        "base: config.yaml # relative to this file",
        "overrides: {train.threads: 1}",
        "space:",
        *(["  optimizers.0.lr: {loguniform: [3.0e-3, 1.0e-1]}"] if has_ids else []),
        f"  optimizers.{int(has_ids)}.lr: {{loguniform: [1.0e-4, 1.0e-2]}}",
        *(["  model.embedding_dim: {choice: [8, 16, 32]}"] if has_ids else []),
        "  model.dropout: {uniform: [0.0, 0.4]}",
        "scheduler: {name: asha, grace_epochs: 1, reduction_factor: 3}",
        "trials: 8",
    ]
    return "\n".join(lines) + "\n"


def _has_ids(guesses: Guesses) -> bool:
    return bool(guesses.named("categorical") or guesses.named("sequence"))


def _name(place: Path) -> str:
    """Return a folder's name as one of a run."""
    name = re.sub(r"[^\w.-]+", "_", Path(os.path.abspath(place)).name).lstrip(".-")
    return on_a_line(name or "run")


_TRAIN = '''"""What `ray submit` ships; `python train.py CONFIG [path=value ...]` trains here."""

from rechub_ray.cli import shim

if __name__ == "__main__":
    shim()
'''


def cluster_text(place: Path) -> str:
    """Return the package's cluster.yaml, with the installed package and the folder in the place of a checkout."""
    text = (builtin.root() / "cluster.yaml").read_text(encoding="utf-8")
    name = Path(os.path.abspath(place)).name
    package = Path(rechub_ray.__file__).parent
    text = text.replace("From the repository's root:", f"From the folder that {place} lies in:")
    text = text.replace("train.py -- configs/demo.yaml", f"{place / 'train.py'} -- {name}/config.yaml")
    text = text.replace(" cluster.yaml", f" {place / 'cluster.yaml'}")
    text = re.sub(
        r"(?<=file_mounts:\n)(?:  ~/.*\n)+",
        lambda _: (
            f"  ~/rechub_ray: {package}\n"
            + "".join(f"  ~/{name}/{file}: {place / file}\n" for file in FILES[:3])
            + f"  ~/.rechub-ray/requirements.txt: {place / 'requirements.txt'}\n"
        ),
        text,
    )
    return re.sub(
        r"    cd ~/\.rechub-ray &&\n(?:    .*\n)+?(?=\n)",
        "    python -m pip install --quiet --disable-pip-version-check -r ~/.rechub-ray/requirements.txt\n",
        text,
    )


def requirements() -> str:
    """Return what the package requires, in the versions that are installed here: Ray's must be the same on all hosts.

    Raises:
        ConfigError: the package is not installed.
    """
    lines = []
    try:
        for requirement in importlib.metadata.requires("rechub_ray") or ():
            named = re.match(r"([\w.-]+)(\[[\w, -]+\])?", requirement)
            if named is not None and "extra ==" not in requirement:
                version = importlib.metadata.version(named[1]).partition("+")[0]
                lines.append(f"{named[0].replace(' ', '')}=={version}")
    except importlib.metadata.PackageNotFoundError as error:
        raise ConfigError(f"the package {error.name} is not installed", hint="Run: pip install rechub_ray") from None
    return "\n".join(lines) + "\n"


def _summary(place: Path, data: str, sample: Sample, guesses: Guesses) -> list[str]:
    label, time = guesses.label, guesses.time
    used = f", by which the rows are {'ordered' if guesses.is_choice else 'split'}" if guesses.split_by_time else ""
    found: dict[str, Any] = {
        "label": f"{label.column} ({label.why})" if label is not None else None,
        "item": f"{guesses.item}, which the row's user chose: this is for retrieval" if guesses.is_choice else None,
        "time": f"{time}{used}" if time else None,
        "user" if guesses.is_choice else "group": guesses.user,
        "row id": guesses.row_id,
        "left out": ", ".join(f"{one.name} ({one.why})" for one in _left_out(guesses)) or None,
    }
    kinds = {role: guesses.named(role) for role in ("categorical", "numeric", "sequence")}
    found["features"] = ", ".join(f"{len(some)} {role}" for role, some in kinds.items() if some)
    lines = [f"{place}: {', '.join(FILES)}"]
    lines += [f"  {key:9} {value}" for key, value in found.items() if value is not None]
    if label is None and not guesses.is_choice:
        number = 1 + recipe_text(place, sample, guesses).split("\n").index("labels:") + 1
        lines.append(
            f"No column looks like a label: name it in line {number} of {place / 'recipe.yaml'}, or give --label."
        )
    run, use = place / "run", f"--raw {data} --out {place / 'scores'}"
    if guesses.is_choice:
        use = f"--users {data} --k 10 --exclude history --out {place / 'top'}"
    lines += [
        "Check the recipe, then:",
        f"  rechub-ray prepare {place / 'recipe.yaml'}",
        f"  rechub-ray train {place / 'config.yaml'}",
        f"  rechub-ray tune {place / 'sweep.yaml'}",
        f"  rechub-ray {'recommend' if guesses.is_choice else 'predict'} {run} {use}",
    ]
    return lines
