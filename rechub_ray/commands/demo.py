"""`rechub-ray demo`: embedded data with a known best score, a run of one family, and checked ONNX files of it."""

from __future__ import annotations

import json
import shlex
import shutil
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Literal, TypeAlias, get_args

from rich.console import Console
from rich.table import Table

from rechub_ray import config as config_module
from rechub_ray.builtin import PREFIX
from rechub_ray.config import RunConfig
from rechub_ray.data.synthetic import write_click_logs
from rechub_ray.data.synthetic_visits import write_visits
from rechub_ray.errors import ConfigError
from rechub_ray.preparation import prepare
from rechub_ray.runtime.launch import RunResult, train
from rechub_ray.runtime.summary import print_result

Family: TypeAlias = Literal["ranking", "multi_task", "retrieval"]
_CONFIGS: dict[Family, str] = {
    "ranking": "demo",
    "multi_task": "demo_multi_task",
    "retrieval": "demo_retrieval",
}
_TRUTH = "truth.json"


def demo(family: Family = "ranking", out: str | Path = "demo", overrides: Sequence[str] = ()) -> RunResult:
    """Write the data of a family, train on it, export the model, and print what was reached and what to try next.

    Args:
        family: what kind of model.
        out: the folder, that of `ranking` itself, of the others with the family's name behind it. Data that is there
            is used again; a run that is there is begun anew.
        overrides: of the configuration, `path=value`.

    Raises:
        ConfigError: there is no such family.
        RechubError: as for `train`.
    """
    if family not in get_args(Family):
        raise ConfigError(f"there is no demo of '{family}'", expected=", ".join(get_args(Family)))
    started = time.perf_counter()
    folder = Path(out) if family == "ranking" else Path(out, family)
    best = _data(family, folder)
    own = [f"data.root={folder / 'data'}", f"model_dir={folder / 'run'}"]
    config = config_module.load(f"{PREFIX}{_CONFIGS[family]}", [*own, *overrides])
    workers = config.scaling.num_workers
    how = f"with {workers} workers (starting them takes some seconds)" if workers else "in this process"
    _say(f"Training {config.model['name']} {how} ...")
    result = train(config, resume="never")
    print_result(result)
    _print_best(result, best)
    if family == "retrieval" and result.onnx is not None:
        _print_answers(folder, config)
    print(f"All of it took {time.perf_counter() - started:.0f} s.\n")
    _print_next(family, folder)
    return result


def _data(family: Family, folder: Path) -> dict[str, float]:
    """Write the data, unless it is there; return the best scores that a model can reach."""
    raw = folder / ("raw" if family == "retrieval" else "data")
    if not (raw / _TRUTH).exists():
        shutil.rmtree(raw, ignore_errors=True)
        shutil.rmtree(folder / "data", ignore_errors=True)
        if family == "retrieval":
            _say(f"Writing 80,000 synthetic visits to {raw} ...")
            write_visits(raw)
        else:
            _say(f"Writing 200,000 synthetic click-log rows to {raw} ...")
            write_click_logs(raw, purchases=family == "multi_task")
    if family == "retrieval" and not (folder / "data" / "schema.json").exists():
        _say(f"Preparing them by {PREFIX}demo_retrieval ...")
        prepare(f"{PREFIX}demo_retrieval", source=str(raw), out=str(folder / "data"))
    best: dict[str, float] = json.loads((raw / _TRUTH).read_text(encoding="utf-8"))["best"]
    return best


def _print_best(result: RunResult, best: dict[str, float]) -> None:
    table = Table(box=None, pad_edge=False)
    for name in ("on the test split", "reached", "best possible"):
        table.add_column(name, justify="left" if name.startswith("on") else "right")
    for key, value in best.items():
        reached = result.test_metrics.get(key)
        table.add_row(key, "" if reached is None else f"{reached:.4f}", f"{value:.4f}")
    console = Console(highlight=False, soft_wrap=True)
    console.print()
    console.print(table)
    console.print("No model can expect more than the best possible: the data was generated that way.\n")


def _print_answers(folder: Path, config: RunConfig) -> None:
    """Print the first items of some users, whose log goes in as it is."""
    import pandas as pd

    from rechub_ray.runtime.recommend import Recommender

    log = pd.read_csv(folder / "raw" / "visits.csv")
    category = pd.read_csv(folder / "raw" / "items.csv").set_index("item")["category"]
    users = list(log["user"].unique()[:3])
    rows = log[log["user"].isin(users)].reset_index(drop=True)
    answers = Recommender(config.directory() + "/serving").recommend(rows, k=5)
    table = Table(box=None, pad_edge=False)
    for name in ("user", "had last", "recommended (item/category)"):
        table.add_column(name)
    for user, items in zip(rows["user"].loc[answers.index], answers["items"], strict=True):
        last = rows["item"][rows["user"] == user].tail(3)
        table.add_row(user, *("  ".join(f"{item}/{category[item]}" for item in some) for some in (last, items)))
    Console(highlight=False, soft_wrap=True).print(table)
    print()


def _print_next(family: Family, folder: Path) -> None:
    command = "rechub-ray"
    if shutil.which(command) is None:
        print(f"Try next (the commands live in {Path(sys.executable).parent}):")
    else:
        print("Try next:")
    for line in next_commands(family, folder):
        print(f"  {command} {line}")


def next_commands(family: Family, folder: Path) -> list[str]:
    """Return commands, without the name of the program, that work after the demo of a family in a folder."""
    run, data, moved = (
        shlex.quote(f"{folder / 'run'}"),
        f"{folder / 'data'}",
        Path("demo") not in (folder, folder.parent),
    )
    config = f"{PREFIX}{_CONFIGS[family]}"

    def root(key: str) -> str:
        return shlex.quote(f"{key}={data}") + " " if moved else ""

    def trained(name: str, changes: str) -> str:
        other = shlex.quote(f"{folder / f'run-{name}'}")
        return f"train {config} {root('data.root')}{changes} --model-dir {other}"

    commands = [f"evaluate {run} --split valid"]
    if family == "ranking":
        commands += [
            f"predict {run} --out {shlex.quote(f'{folder}/predictions')}",
            trained("dcn", "scaling.num_workers=0 model.name=dcn_v2"),
            f"tune {PREFIX}smoke {root('base.data.root')}".rstrip(),
        ]
    elif family == "multi_task":
        commands += [
            f"predict {run} --out {shlex.quote(f'{folder}/predictions')}",
            trained("esmm", "'model={name: esmm, embedding_dim: 8}' balancing=null"),
        ]
    else:
        users = shlex.quote(f"{folder / 'raw' / 'visits.csv'}")
        commands += [
            f"recommend {run} --users {users} --k 10 --out {shlex.quote(f'{folder}/top')}",
            trained("youtube_dnn", "'model={name: youtube_dnn, embedding_dim: 16}'"),
        ]
    return [*commands, "list models"]


def _say(text: str) -> None:
    print(text, file=sys.stderr, flush=True)
