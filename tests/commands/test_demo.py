"""The demo of each family: what it writes, what it prints beside what can be reached, and commands that work next."""

from __future__ import annotations

import functools
import json
import re
import shlex
from pathlib import Path

import pytest

from rechub_ray import cli
from rechub_ray.commands import demo

QUICK = ["train.epochs=null", "train.steps=3", "train.threads=1", "scaling.num_workers=0", "export.onnx=false"]


@pytest.fixture(autouse=True)
def little_data(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(demo, "write_click_logs", functools.partial(demo.write_click_logs, rows=12_000))
    monkeypatch.setattr(demo, "write_visits", functools.partial(demo.write_visits, users=200, items=40, visits=8))


@pytest.mark.parametrize(
    ("family", "folder", "metrics"),
    [
        ("ranking", "demo", ["auc"]),
        ("multi_task", "demo/multi_task", ["click/auc", "buy/auc"]),
        ("retrieval", "demo/retrieval", ["recall@10", "ndcg@10", "mrr@10"]),
    ],
)
def test_a_family(family: demo.Family, folder: str, metrics: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["demo", "--family", family, *QUICK]) == 0
    out = capsys.readouterr().out
    raw = Path(folder, "raw" if family == "retrieval" else "data")
    best = json.loads((raw / "truth.json").read_text())["best"]
    reached = json.loads(Path(folder, "run", "result.json").read_text())["test_metrics"]
    assert list(best) == metrics
    for name in metrics:
        assert re.search(rf"^{name} +{reached[name]:.4f} +{best[name]:.4f}$", out, re.MULTILINE)
    said = re.findall(r"^  rechub-ray (.+)$", out, re.MULTILINE)
    assert said == demo.next_commands(family, Path(folder))
    for command in said:
        words = shlex.split(command)
        if words[0] == "train":
            assert cli.main(["validate", *words[1:]]) == 0
        elif words[0] == "evaluate":
            assert cli.main(words) == 0
        else:
            cli._parser().parse_args(words)
    before = sorted(raw.rglob("*"))
    assert cli.main(["demo", "--family", family, *QUICK]) == 0, "a second demo uses the data that is there"
    assert sorted(raw.rglob("*")) == before


def test_another_folder_is_named_in_the_commands(tmp_path: Path) -> None:
    commands = demo.next_commands("ranking", Path("my demo"))
    assert "train builtin:demo 'data.root=my demo/data' scaling.num_workers=0" in commands[2]
    assert commands[3] == "tune builtin:smoke 'base.data.root=my demo/data'"


@pytest.mark.slow
def test_recommendations_are_shown(capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["demo", "--family", "retrieval", *QUICK, "export.onnx=true"]) == 0
    out = capsys.readouterr().out
    assert re.search(r"^u\d+ +(i\d+/k\d+ +){3}(i\d+/k\d+ *){5}$", out, re.MULTILINE)
    command = next(line.strip() for line in out.split("\n") if "recommend demo" in line)
    assert cli.main(shlex.split(command)[1:]) == 0
    assert "200 rows" in capsys.readouterr().out


def test_an_unknown_family(capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["demo", "--family", "matching"]) == 2
    assert "ranking" in capsys.readouterr().err
