"""`init`: from a raw file of one's own to predictions, with next to nothing edited."""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pyarrow.parquet as pq
import pytest
import yaml

from rechub_ray import cli, config
from rechub_ray.commands import init
from rechub_ray.preparation.recipe import Recipe
from rechub_ray.sweeps import sweep as sweep_module
from rechub_ray.sweeps.sweep import check_sweep

Run = Callable[..., tuple[int, str, str]]
QUICK = ["train.epochs=1", "train.threads=1", "export.onnx=false", "trackers=[]"]


def log(rows: int = 600) -> pd.DataFrame:
    draw = np.random.default_rng(0)
    return pd.DataFrame(
        {
            "user_id": draw.integers(1, 50, rows),
            "item_id": draw.integers(1, 40, rows),
            "price": np.round(draw.lognormal(2, 1, rows), 2),
            "tags": ["|".join(draw.choice(["a", "b", "c", "d"], draw.integers(1, 4))) for _ in range(rows)],
            "time": 1_760_000_000 + 600 * np.arange(rows),
            "clicked": draw.integers(0, 2, rows),
        }
    )


@pytest.mark.parametrize("form", ["csv", "parquet"])
def test_from_a_file_to_predictions_with_nothing_edited(run: Run, form: str) -> None:
    frame = log()
    frame.to_csv("log.csv", index=False) if form == "csv" else frame.to_parquet("log.parquet")
    code, out, err = run("init", "mine", "--data", f"log.{form}")
    assert (code, err) == (0, "")
    assert re.search(r"label +clicked \(\d\d\.\d% of the rows are 1\)", out)
    assert sorted(path.name for path in Path("mine").iterdir()) == sorted(init.FILES)
    assert run("prepare", "mine/recipe.yaml")[0] == 0
    assert run("train", "mine/config.yaml", *QUICK)[0] == 0
    assert "mine/run" in run("validate", "mine/config.yaml", "model.embedding_dim=3")[2], "that run is there"
    assert run("predict", "mine/run", "--raw", f"log.{form}", "--out", "mine/scores", "--keep", "user_id")[0] == 0
    assert pq.read_table("mine/scores").num_rows == len(frame)
    checked = check_sweep(sweep_module.load("mine/sweep.yaml"))
    assert checked.metric == "auc"
    assert checked.sweep.directory() == str(Path("mine/sweep").absolute())


def test_the_commands_that_it_names_are_commands(run: Run) -> None:
    log().to_csv("log.csv", index=False)
    said = re.findall(r"^  rechub-ray (.*)$", run("init", "mine", "--data", "log.csv")[1], re.MULTILINE)
    assert [command.split()[0] for command in said] == ["prepare", "train", "tune", "predict"]
    for command in said:
        options = cli._parser().parse_args(command.split())
        places = [getattr(options, name, None) for name in ("recipe", "config", "sweep")]
        assert all(Path(place).is_file() for place in places if place is not None)


def test_the_history_that_it_proposes_works(run: Run) -> None:
    log().to_csv("log.csv", index=False)
    run("init", "mine", "--data", "log.csv")
    text = Path("mine/recipe.yaml").read_text()
    changed = text.replace("# history:", "history:").replace("  # - {kind", "  - {kind")
    assert changed.count("history") == text.count("history")
    Path("mine/recipe.yaml").write_text(changed)
    assert run("prepare", "mine/recipe.yaml")[0] == 0
    assert "history" in Path("mine/data/schema.json").read_text()


def test_a_file_without_a_label_takes_one_edited_line(run: Run) -> None:
    frame = log().rename(columns={"clicked": "shown_twice"})
    frame[["shown_twice", *[c for c in frame if c != "shown_twice"]]].iloc[:, [1, 0, 2, 3, 4, 5]].to_csv(
        "l.csv", index=False
    )
    code, out, _ = run("init", "mine", "--data", "l.csv")
    assert code == 0
    line = int(re.search(r"name it in line (\d+) of", out)[1])  # type: ignore[index]
    lines = Path("mine/recipe.yaml").read_text().split("\n")
    assert init.NO_LABEL in lines[line - 1]
    code, _, err = run("prepare", "mine/recipe.yaml")
    assert code == 2
    assert "no column 'LABEL'" in err
    lines[line - 1] = "  - {name: again, expression: shown_twice > 0}"
    Path("mine/recipe.yaml").write_text("\n".join(lines))
    assert run("prepare", "mine/recipe.yaml")[0] == 0
    assert run("train", "mine/config.yaml", *QUICK)[0] == 0
    assert run("init", "other", "--data", "l.csv", "--label", "shown_twice")[0] == 0
    assert Recipe.load("other/recipe.yaml").labels[0].name == "shown_twice"


def test_a_log_of_choices_ends_with_recommendations(run: Run) -> None:
    frame = log().drop(columns=["clicked", "price"])
    frame["shelf"] = "s" + (frame["item_id"] % 4).astype(str)
    frame.to_csv("log.csv", index=False)
    code, out, err = run("init", "mine", "--data", "log.csv")
    assert (code, err) == (0, "")
    assert yaml.safe_load(Path("mine/recipe.yaml").read_text())["items"]["from_rows"] == ["shelf"]
    assert run("prepare", "mine/recipe.yaml")[0] == 0
    assert run("train", "mine/config.yaml", "train.epochs=1", "train.threads=1", "trackers=[]")[0] == 0
    assert check_sweep(sweep_module.load("mine/sweep.yaml")).metric == "recall@10"
    command = re.search(r"rechub-ray (recommend .*)", out)[1]  # type: ignore[index]
    assert run(*command.split())[0] == 0
    assert pq.read_table("mine/top").num_rows == frame["user_id"].nunique()


def test_a_file_with_semicolons_commas_and_signs_in_names(run: Run) -> None:
    frame = log().rename(columns={"price": "Preis (€)", "clicked": "Did they buy?", "user_id": "User Nr."})
    frame["Did they buy?"] = np.where(frame["Did they buy?"] > 0, "yes", "no")
    frame["time"] = pd.to_datetime(frame["time"], unit="s").dt.strftime("%d.%m.%Y %H:%M:%S")
    frame.loc[::9, "Preis (€)"] = np.nan
    frame.to_csv("log.csv", index=False, sep=";", decimal=",")
    assert run("init", "mine", "--data", "log.csv")[0] == 0
    assert run("prepare", "mine/recipe.yaml")[0] == 0
    found = json.loads(Path("mine/data/stats.json").read_text())["splits"]["train"]["features"]["Preis (€)"]
    prices = frame["Preis (€)"][:480]  # the first four fifths in time
    assert (found["min"], found["max"]) == pytest.approx((prices.min(), prices.max()))
    assert run("train", "mine/config.yaml", *QUICK)[0] == 0
    assert run("predict", "mine/run", "--raw", "log.csv", "--out", "mine/scores")[0] == 0


@pytest.mark.parametrize(
    ("label", "model"),
    [([0, 1, 2] * 200, "shared_bottom"), (np.linspace(0, 9, 600), "deepfm"), ([1, -1] * 300, "deepfm")],
)
def test_labels_of_every_kind_train(run: Run, label: Any, model: str) -> None:
    frame = log().drop(columns=["clicked", "time"])
    frame["label"] = label
    frame.to_csv("log.csv", index=False)
    assert run("init", "mine", "--data", "log.csv")[0] == 0
    assert config.load("mine/config.yaml").model["name"] == model
    assert run("prepare", "mine/recipe.yaml")[0] == 0
    code, _, err = run("train", "mine/config.yaml", *QUICK)
    assert code == 0, err


def test_numbers_alone_and_names_that_yaml_reads_otherwise(run: Run) -> None:
    draw = np.random.default_rng(1)
    frame = pd.DataFrame(draw.normal(size=(300, 4)), columns=["no", "1", "a: b", "price #"])
    frame["y"] = draw.integers(0, 2, 300)
    frame.to_csv("numbers.csv", index=False)
    assert run("init", "mine", "--data", "numbers.csv")[0] == 0
    recipe = Recipe.load("mine/recipe.yaml")
    assert [feature.name for feature in recipe.features] == ["no", "1", "a: b", "price #"]
    assert run("prepare", "mine/recipe.yaml")[0] == 0
    assert run("train", "mine/config.yaml", *QUICK)[0] == 0
    assert check_sweep(sweep_module.load("mine/sweep.yaml")).metric == "auc"


def test_nothing_is_written_over(run: Run) -> None:
    log().to_csv("log.csv", index=False)
    Path("mine").mkdir()
    Path("mine/sweep.yaml").write_text("mine")
    code, _, err = run("init", "mine", "--data", "log.csv")
    assert code == 2
    assert "has sweep.yaml already" in err
    assert [path.name for path in Path("mine").iterdir()] == ["sweep.yaml"]
    assert run("init", "log.csv", "--data", "log.csv")[0] == 2


def test_a_file_that_cannot_be_used_leaves_nothing(run: Run) -> None:
    Path("empty.csv").write_text("")
    Path("same.csv").write_text("a,b,label\n" + "1,2,1\n" * 50)
    for name, word in (("empty.csv", "is empty"), ("same.csv", "can be a feature"), ("none.csv", "no file")):
        code, _, err = run("init", "mine", "--data", name)
        assert code == 2
        assert word in err
        assert len(err.splitlines()) == 1
    assert not Path("mine").exists()


def test_the_cluster_gets_the_package_and_the_folder(run: Run) -> None:
    log().to_csv("log.csv", index=False)
    run("init", "my/first", "--data", "log.csv")
    node = yaml.safe_load(Path("my/first/cluster.yaml").read_text())
    mounts = node["file_mounts"]
    assert mounts["~/first/config.yaml"] == "my/first/config.yaml"
    assert (Path(mounts["~/rechub_ray"]) / "cli.py").is_file()
    assert Path(mounts["~/.rechub-ray/requirements.txt"]).is_file()
    assert not [command for command in node["setup_commands"] if "pyproject" in command or "constraints" in command]
    assert [command for command in node["setup_commands"] if "-r ~/.rechub-ray/requirements.txt" in command]
    assert "configs/demo.yaml" not in Path("my/first/cluster.yaml").read_text()
    wanted = Path("my/first/requirements.txt").read_text().split()
    assert any(re.fullmatch(r"ray\[data,train,tune\]==\d+\.\d+\.\d+", line) for line in wanted)
    assert all(re.fullmatch(r"[\w.-]+(\[[\w,-]+\])?==[\w.!-]+", line) for line in wanted)


@pytest.mark.slow
@pytest.mark.parametrize("place", ["frappe/test.csv", "ml-100k/u.data", "census-income/census-income.test.gz"])
def test_real_files_train(run: Run, data_dir: Any, place: str) -> None:
    folder, name = place.split("/")
    assert run("init", "mine", "--data", data_dir(folder) / name)[0] == 0
    code, _, err = run("prepare", "mine/recipe.yaml")
    assert code == 0, err
    code, out, err = run("train", "mine/config.yaml", *QUICK, "data.batch_size=2048")
    assert code == 0, err
    auc = float(re.search(r"^auc +[\d.]+ +([\d.]+)$", out, re.MULTILINE)[1])  # type: ignore[index]
    assert auc > 0.6
