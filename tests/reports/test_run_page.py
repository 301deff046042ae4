"""The page on a run, on an evaluation, and on several runs."""

from __future__ import annotations

import html.parser
import json
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

import rechub_ray.reports
from rechub_ray import cli
from rechub_ray import config as config_module
from rechub_ray.data.synthetic import write_click_logs
from rechub_ray.errors import ConfigError, DataError
from rechub_ray.preparation.rows import group_numbers
from rechub_ray.reports import compare
from rechub_ray.reports.evidence import Evidence
from rechub_ray.reports.run import chosen, is_larger_better, read_run
from rechub_ray.reports.run_page import evaluation_page
from rechub_ray.runtime.launch import RunResult, train
from tests.small_retrieval import write_retrieval
from tests.worlds import train_in_processes

BASE: dict[str, Any] = {
    "name": "paged",
    "data": {"batch_size": 64, "eval_batch_size": 100},
    "model": {"name": "deepfm", "embedding_dim": 4, "hidden_units": [8]},
    "metrics": ["auc", "log_loss", "gauc"],
    "optimizers": [{"name": "rowwise_adagrad", "params": "*embedding.*", "lr": 0.05}, {"name": "adam", "lr": 0.01}],
    "train": {"epochs": 2, "log_every_steps": 5, "threads": 1},
    "trackers": ["jsonl"],
    "export": {"onnx": False},
}


class Page(html.parser.HTMLParser):
    """The page's elements."""

    VOID = {"meta", "input", "br"}

    def __init__(self, path: Path | str) -> None:
        super().__init__()
        self.source = Path(path).read_text(encoding="utf-8")
        self.elements: list[tuple[str, dict[str, str | None]]] = []
        self.open: list[str] = []
        self.feed(self.source)
        assert self.open == []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.elements.append((tag, dict(attrs)))
        if tag not in self.VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.elements.append((tag, dict(attrs)))

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag

    def figures(self) -> list[str | None]:
        return [attrs["data-figure"] for tag, attrs in self.elements if tag == "svg" and "data-figure" in attrs]


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("clicks") / "data"
    write_click_logs(root, rows=3000, seed=3, files=2, row_group_rows=256)
    return root


Start = Callable[..., RunResult]


@pytest.fixture(scope="module")
def start(data: Path, tmp_path_factory: pytest.TempPathFactory) -> Start:
    folder = tmp_path_factory.mktemp("runs")

    def run(name: str, **overrides: Any) -> RunResult:
        given = {"data.root": str(data), "model_dir": str(folder / name), **overrides}
        return train(BASE, {key.replace("__", "."): value for key, value in given.items()})

    return run


@pytest.fixture(scope="module")
def whole(start: Start) -> RunResult:
    return start("whole")


def evidence(result: RunResult) -> dict[str, Any]:
    found: dict[str, Any] = json.loads(Path(result.model_dir, "report.json").read_text())
    return found


def test_a_run_ends_with_a_page_that_needs_nothing_else(whole: RunResult) -> None:
    assert whole.report == f"{whole.model_dir}/report.html"
    page = Page(whole.report)
    for tag, attrs in page.elements:
        assert tag not in ("link", "iframe", "img", "script")
        assert not {"src", "href"} & attrs.keys()
        if tag == "svg" and "viewbox" in attrs:
            assert len(attrs["aria-label"] or "") > 10
    figures = page.figures()
    assert len({*figures}) == len(figures)
    wanted = {
        "training-loss",
        "metric-auc",
        "metric-log_loss",
        "metric-gauc",
        "learning-rate",
        "rows-a-second-of-training",
    }
    assert {*figures} >= wanted | {"calibration-click", "roc-click", "pr-click", "scores-click"}
    for value in (whole.metrics["auc"], whole.test_metrics["auc"], whole.test_metrics["log_loss"]):
        assert f"{value:.4f}" in page.source
    assert "untrained (ring) 0." in page.source
    assert "Where the time went" in page.source
    assert not re.search(r"\bnan\b|\bNaN\b", page.source)
    assert len(page.source) < 300_000


def test_the_curves_of_predictions_have_the_metrics_areas(whole: RunResult) -> None:
    found = evidence(whole)
    assert found["split"] == "test"
    weight, positive, predicted = np.array(found["predictions"]["labels"]["click"]["bins"]).T
    assert weight.sum() == whole.test_metrics["rows_seen"]
    area = float(re.search(r"ROC curve of click, area (\d\.\d+)", Path(whole.report or "").read_text())[1])  # type: ignore[index]
    assert area == pytest.approx(whole.test_metrics["auc"], abs=1e-3)
    entropy = (
        -(positive * np.log(predicted / weight) + (weight - positive) * np.log(1 - predicted / weight)).sum()
        / weight.sum()
    )
    assert entropy == pytest.approx(whole.test_metrics["log_loss"], abs=1e-3)
    groups = found["groups"]["gauc"]
    assert [row["auc"] for row in groups] == sorted((row["auc"] for row in groups), reverse=True)
    assert any(row["mean"] > 0 for row in found["movement"]["tables"])
    assert found["movement"]["farthest"][0]["distance"] == max(row["largest"] for row in found["movement"]["tables"])


def test_without_it_the_run_is_the_same(start: Start, whole: RunResult) -> None:
    bare = start("bare", report=False)
    assert bare.report is None
    assert not {"report.html", "report.json"} & {path.name for path in Path(bare.model_dir).iterdir()}
    assert (bare.metrics, bare.test_metrics) == (whole.metrics, whole.test_metrics)
    assert "No predictions were counted" in Path(rechub_ray.reports.write_run_report(bare.model_dir)).read_text()


def test_a_page_that_fails_costs_one_warning(
    start: Start, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(rechub_ray.reports, "run_page", lambda run: 1 / 0)
    result = start("failed", train__epochs=1)
    assert result.report is None
    assert result.test_metrics
    assert [r.message for r in caplog.records if "no report" in r.message] == [
        "no report of the run: ZeroDivisionError: division by zero"
    ]


def test_without_a_test_split_the_best_validation_is_shown(start: Start) -> None:
    result = start("valid", data__test=None, report__segment="user")
    found = evidence(result)
    assert found["split"] == "valid"
    assert found["predictions"]["step"] == int(result.best_checkpoint.rpartition("_")[2])
    assert found["predictions"]["segments"]["feature"] == "user"
    assert np.array(found["predictions"]["labels"]["click"]["bins"])[:, 0].sum() == result.metrics["rows_seen"]
    assert "Of all rows of the valid split" in Path(result.report or "").read_text()


@pytest.mark.slow
def test_two_workers_count_what_one_does(data: Path, tmp_path: Path, whole: RunResult) -> None:
    given = {"data.root": str(data), "model_dir": str(tmp_path / "two"), "data.batch_size": 32}
    train_in_processes(2, tmp_path, config_module.load(BASE, given))
    one, two = evidence(whole), json.loads((tmp_path / "two" / "report.json").read_text())
    sums = [np.array(found["predictions"]["labels"]["click"]["bins"]).sum(0) for found in (one, two)]
    np.testing.assert_allclose(sums[0], sums[1], rtol=1e-3)
    assert [t["feature"] for t in one["movement"]["tables"]] == [t["feature"] for t in two["movement"]["tables"]]
    assert two["environment"]["processes that train"] == "2"


def test_retrieval_shows_hits_and_leaves_the_rest_out(tmp_path: Path) -> None:
    root = write_retrieval(tmp_path / "data")
    model = {"name": "dssm", "embedding_dim": 8, "vector_dim": 8, "user_units": [16], "item_units": [16]}
    content = {key: value for key, value in BASE.items() if key != "metrics"}
    result = train(
        {**content, "model": model, "metrics": ["recall@10", "coverage@10"]},
        {"data.root": str(root), "model_dir": str(tmp_path / "run")},
    )
    page = Page(result.report or "")
    assert {"hits", "metric-recall@10", "metric-coverage@10"} <= {*page.figures()}
    assert not any((name or "").startswith(("roc", "calibration", "pr-")) for name in page.figures())
    hits = evidence(result)["predictions"]["ranks"]["rank"]["hits"]
    assert hits[9] == pytest.approx(result.test_metrics["recall@10"], abs=1e-6)


def test_commands(
    whole: RunResult, start: Start, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    assert cli.main(["report", whole.model_dir, "--out", "again.html"]) == 0
    assert Page("again.html").figures() == Page(whole.report or "").figures()
    assert cli.main(["report", str(tmp_path)]) == 2
    assert "is no run: it has no config.yaml" in capsys.readouterr().err
    assert cli.main(["evaluate", whole.model_dir, "--split", "valid", "--report", "valid.html"]) == 0
    page = Page("valid.html")
    assert "roc-click" in page.figures()
    assert f"{whole.metrics['auc']:.4f}" in page.source

    other = start("other", optimizers__1__lr=0.001, seed=5)
    capsys.readouterr()
    assert cli.main(["compare", whole.model_dir, other.model_dir]) == 0
    out = capsys.readouterr().out
    lines = [line.split() for line in out.splitlines()]
    assert lines[0] == ["whole", "other"]
    assert lines[1:3] == [["seed", "2026", "5"], ["optimizers.1.lr", "0.01", "0.001"]]
    (tested,) = [line for line in lines if line[:2] == ["auc", "(test)"]]
    assert {f"{r.test_metrics['auc']:.4f}" for r in (whole, other)} <= {*tested}
    page = Page("compare.html")
    assert page.source.index("optimizers.1.lr") < page.source.index("metric-auc")
    assert {"training-loss", "metric-auc", "metric-gauc"} <= {*page.figures()}


def test_what_cannot_be_compared_is_said(whole: RunResult, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="2 to 8 folders"):
        compare([whole.model_dir])
    with pytest.raises(ConfigError, match="one run twice"):
        compare([whole.model_dir, f"{whole.model_dir}/"])
    with pytest.raises(DataError, match="is no run"):
        compare([whole.model_dir, str(tmp_path)])


def test_a_run_that_has_only_begun(whole: RunResult, tmp_path: Path) -> None:
    (tmp_path / "config.yaml").write_text(Path(whole.model_dir, "config.yaml").read_text())
    page = rechub_ray.reports.write_run_report(tmp_path)
    assert "The run has not ended" in Path(page).read_text()


def test_settings_that_are_no_defaults(whole: RunResult) -> None:
    found = {path: (value, usual) for path, value, usual in chosen(read_run(whole.model_dir).config)}
    assert found["train.epochs"] == (2, 1)
    assert found["data.batch_size"] == (64, 4096)
    assert found["model.name"] == ("deepfm", ...)
    assert found["model.hidden_units"][0] == [8]
    assert found["optimizers.0.lr"][0] == 0.05
    assert not {"train.clip_norm", "model_dir", "checkpoint.keep", "optimizers.1.params"} & found.keys()


def test_directions_of_metrics() -> None:
    keys = ("auc", "click/log_loss", "recall@10", "auc_where_click", "calibration", "mine")
    assert [is_larger_better(key) for key in keys] == [True, False, True, True, None, None]


def test_groups_have_the_names_of_their_feature(tmp_path: Path) -> None:
    texts = ["<b>ü</b>", "u2", "17", "u4"]
    numbers = group_numbers(pa.array(texts)).to_pylist()
    (tmp_path / "vocab").mkdir()
    pq.write_table(pa.table({"id": range(1, 4), "value": texts[:3]}), tmp_path / "vocab" / "user.parquet")
    config = config_module.load({**BASE, "data": {"root": str(tmp_path)}})
    found = {"gauc": [{"group": number, "auc": 0.5, "rows": 4, "positives": 1} for number in numbers]}
    schema = {"group": "user_raw"}
    page = evaluation_page(config, "c", {"auc": 0.5}, Evidence(groups=found), schema)
    assert "Groups by 'user'" in page
    for shown in ("&lt;b&gt;ü&lt;/b&gt;", "u2", "17", str(numbers[3])):
        assert f">{shown}<" in page
    (tmp_path / "vocab" / "user.parquet").unlink()
    page = evaluation_page(config, "c", {"auc": 0.5}, Evidence(groups=found), schema)
    assert "Groups by 'user_raw'" in page
    assert f">{numbers[0]}<" in page, "every digit"
