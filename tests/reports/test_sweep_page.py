from __future__ import annotations

import datetime
import html.parser
import importlib.util
import json
import math
import re

import numpy as np
import pytest
import yaml

from rechub_ray.errors import DataError
from rechub_ray.reports import live_page, missing, write_report
from rechub_ray.reports.importance import importance
from rechub_ray.reports.read import read
from rechub_ray.reports.sweep_figures import course

SPACE = {
    "optimizers.0.lr": {"loguniform": [1e-4, 1e-1]},
    "losses.0.smoothing": {"uniform": [0.0, 0.5]},
    "layers.dim": {"choice": [8, 10, 16]},
    "model": {
        "choice": [
            {"name": "deepfm", "space": {"hidden_units": {"choice": [[64], [128, 64]]}}},
            {"name": "lr"},
        ]
    },
    "data.batch_size": {"randint": [256, 4097]},
}
START = datetime.datetime(2026, 11, 20, 12, tzinfo=datetime.UTC)
HOSTILE = "</script><script>alert('ü')</script>"


def make_trial(number, rng, *, epochs=9):
    """A trial like ASHA leaves: what it scores depends on the learning rate, and a little on the dropout."""
    params = {
        "optimizers.0.lr": float(10 ** rng.uniform(-4, -1)),
        "losses.0.smoothing": float(rng.uniform(0, 0.5)),
        "layers.dim": int(rng.choice([8, 10, 16])),
        "model": {"name": str(rng.choice(["deepfm", "lr"]))},
        "data.batch_size": int(rng.integers(256, 4097)),
    }
    if params["model"]["name"] == "deepfm":
        params["model.hidden_units"] = [[64], [128, 64]][int(rng.integers(2))]
    final = 0.98 - 0.06 * (math.log10(params["optimizers.0.lr"]) + 2.5) ** 2 - 0.03 * params["losses.0.smoothing"]
    rung = int(rng.choice([1, 1, 2, 3]))
    trained = min(epochs, 3 ** (rung - 1))
    curve = [final - 0.15 * math.exp(-0.6 * (e + 1)) + float(rng.normal(0, 0.002)) for e in range(trained)]
    started = START + datetime.timedelta(seconds=12 * (number // 2))
    seconds = 3.0 + trained
    return {
        "trial_id": f"trial_{number:05d}",
        "number": number,
        "params": params,
        "status": "finished" if trained >= epochs else "stopped_early",
        "reason": None if trained >= epochs else f"ASHA: not among the best third at rung {rung}",
        "seed": number,
        "steps": 100 * trained,
        "epochs": float(trained),
        "rows": 25600 * trained,
        "seconds": seconds,
        "started": started.isoformat(),
        "ended": (started + datetime.timedelta(seconds=seconds)).isoformat(),
        "score": max(curve),
        "metrics": {"auc": max(curve)},
        "test_metrics": {"auc": max(curve) - 0.001},
        "train_seconds": 0.8 * seconds,
        "exploits": [],
        "rung": rung,
        "curve": curve,
    }


def write_sweep(folder, trials, *, space=SPACE, metric="auc", mode="max", name="deepfm_asha"):
    """A sweep's folder with the given trials; `curve` of a trial becomes its metrics.jsonl."""
    folder.mkdir(parents=True, exist_ok=True)
    sweep = {"name": name, "base": {}, "space": space, "search": {"name": "random"}, "scheduler": {"name": "asha"}}
    (folder / "sweep.yaml").write_text(yaml.safe_dump(sweep, sort_keys=False), encoding="utf-8")
    metrics, modes = (metric, mode) if isinstance(metric, list) else ([metric], [mode])
    objectives = [{"metric": name, "mode": goal} for name, goal in zip(metrics, modes, strict=True)]
    info = {"metric": metrics[0], "mode": modes[0], "objectives": objectives, "concurrency": 2, "finished": True,
            "scheduler": "asha", "search": "random", "wall_seconds": 6.0 * len(trials) + 10}  # fmt: skip
    (folder / "sweep.json").write_text(json.dumps(info))
    with (folder / "trials.jsonl").open("w", encoding="utf-8") as file:
        for trial in trials:
            file.write(json.dumps({key: value for key, value in trial.items() if key != "curve"}) + "\n")
            place = folder / "trials" / trial["trial_id"]
            place.mkdir(parents=True, exist_ok=True)
            with (place / "metrics.jsonl").open("w") as history:
                for epoch, value in enumerate(trial.get("curve", [])):
                    numbers = {"step": 100 * (epoch + 1), "epoch": epoch}
                    history.write(json.dumps({**numbers, "train/loss": 0.5}) + "\n")
                    value = value if math.isfinite(value) else None
                    history.write(json.dumps({**numbers, "val/auc": value}) + "\n")
    return folder


def make_trials(count, seed=0):
    rng = np.random.default_rng(seed)
    trials = [make_trial(i, rng) for i in range(count)]
    if count > 5:
        trials[3].update(status="failed", reason="TrainingError: the loss is NaN at step 12", score=None, metrics={},
                         curve=[0.6, math.nan])  # fmt: skip
        trials[4].update(status="failed", reason="out of memory", score=None, metrics={}, curve=[])
    return trials


class Page(html.parser.HTMLParser):
    """The page's elements, and its text by section."""

    VOID = {"meta", "input", "br"}

    def __init__(self, path):
        super().__init__()
        self.source = path.read_text(encoding="utf-8")
        self.elements, self.open, self.text = [], [], {}
        self.feed(self.source)
        assert self.open == []

    def handle_starttag(self, tag, attrs):
        self.elements.append((tag, dict(attrs)))
        if tag not in self.VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag, attrs):
        self.elements.append((tag, dict(attrs)))

    def handle_endtag(self, tag):
        assert self.open.pop() == tag

    def handle_data(self, text):
        for tag in self.open:
            self.text[tag] = self.text.get(tag, "") + text

    def figures(self):
        return [attrs["data-figure"] for tag, attrs in self.elements if tag == "svg" and "data-figure" in attrs]

    def data(self):
        found = re.search(r'<script type="application/json" id="data">(.*?)</script>', self.source, re.DOTALL)
        return json.loads(found[1])


ALL = {"curves", "history", "parallel", "importance", "time", *(f"slice-{i}" for i in range(6))}


@pytest.fixture(scope="module")
def asha(tmp_path_factory):
    folder = write_sweep(tmp_path_factory.mktemp("sweep") / "asha", make_trials(30))
    return folder, Page(write_report(folder))


def test_one_file_that_fetches_nothing(asha):
    folder, page = asha
    assert {*page.figures()} >= ALL
    assert sum(name.startswith("pair-") for name in page.figures()) == 3
    assert not (folder / "report").exists()
    for tag, attrs in page.elements:
        assert tag not in ("link", "iframe", "img")
        assert not any(
            (value or "").startswith(("http", "//")) for key, value in attrs.items() if key in ("src", "href")
        )
    assert len(page.source) < 500_000


def test_a_refit_is_among_the_facts(tmp_path):
    folder = write_sweep(tmp_path / "s", make_trials(2))
    info = json.loads((folder / "sweep.json").read_text())
    refit = {"trial_id": "trial_00001", "test_metrics": {"auc": 0.8765}}
    (folder / "sweep.json").write_text(json.dumps({**info, "refit": refit}))
    facts = Page(write_report(folder)).text["dl"]
    assert "Test auc of the refit0.8765trial_00001" in facts


def test_every_trial_has_a_row_and_the_best_one_comes_first(asha):
    _, page = asha
    trials = make_trials(30)
    rows = [attrs["data-t"] for tag, attrs in page.elements if tag == "tr" and "data-t" in attrs]
    scored = sorted((t for t in trials if t["score"] is not None), key=lambda t: -t["score"])
    assert rows == [str(t["number"]) for t in scored] + ["3", "4"]
    assert f"Best trial: {scored[0]['trial_id']}" in page.source
    assert f"{scored[0]['score']:.4f}" in page.text["dl"]
    assert f"optimizers.0.lr={scored[0]['params']['optimizers.0.lr']!r}" in page.text["pre"]
    assert "TrainingError: the loss is NaN at step 12" in page.text["table"]
    assert "ASHA: not among the best third at rung 1" in page.text["table"]
    share = sum(t["train_seconds"] for t in trials) / (2 * 190)
    assert f"{share:.1%}" in page.text["table"]


def test_marks_name_their_trials(asha):
    _, page = asha
    trials = make_trials(30)
    pieces = re.split(r'<svg [^>]*data-figure="', page.source)
    figure = {piece.split('"')[0]: set(re.findall(r'data-t="(\d+)"', piece.split("</svg>")[0])) for piece in pieces[1:]}
    scored = {str(t["number"]) for t in trials if t["score"] is not None}
    assert figure["parallel"] == figure["history"] == figure["slice-0"] == scored
    assert figure["curves"] == scored | {"3"}
    assert figure["time"] == {str(t["number"]) for t in trials}
    places = page.data()["parallel"]["places"]
    assert places.keys() == scored
    names = [p.path for p in read(asha[0]).parameters]
    units = names.index("model.hidden_units")
    for trial in trials:
        if trial["score"] is not None:
            assert (places[str(trial["number"])][units] == -0.1) == ("model.hidden_units" not in trial["params"])


def test_accessible(asha):
    _, page = asha
    assert ("html", {"lang": "en"}) in page.elements
    for tag, attrs in page.elements:
        if "data-figure" in attrs:
            assert attrs["role"] == "img"
            assert len(attrs["aria-label"]) > 15
        if tag == "th":
            assert attrs["scope"] == "col"
    ids = [attrs["id"] for _, attrs in page.elements if "id" in attrs]
    assert len(ids) == len(set(ids))
    assert sum(tag == "table" for tag, _ in page.elements) == sum(tag == "caption" for tag, _ in page.elements)


def test_the_learning_rate_matters_most(asha):
    folder, _ = asha
    data = read(write_sweep(folder.parent / "many", make_trials(60, seed=1)))
    found = importance(data)
    shares = dict(zip([p.path for p in data.parameters], found.shares, strict=True))
    assert max(shares, key=shares.get) == "optimizers.0.lr"
    assert shares["optimizers.0.lr"] > 0.6
    assert sum(shares.values()) == pytest.approx(1)
    assert found.r2 > 0.3


def test_a_choice_counts_together_with_the_settings_below_it(tmp_path):
    rng = np.random.default_rng(0)
    trials = make_trials(60)
    own = {"lr": ["a", "b"], "deepfm": ["c", "d"]}
    for trial in trials:  # each model has settings that the other has not; the score is the model's
        name = trial["params"]["model"]["name"]
        trial["params"] = {
            "model": trial["params"]["model"],
            **{f"model.{x}": float(rng.uniform()) for x in own[name]},
        }
        trial["score"] = 0.7 + 0.2 * (name == "lr") + float(rng.normal(0, 0.002))
    options = [{"name": name, "space": {x: {"uniform": [0, 1]} for x in keys}} for name, keys in own.items()]
    data = read(write_sweep(tmp_path / "sweep", trials, space={"model": {"choice": options}}))
    shares = dict(zip([p.path for p in data.parameters], importance(data).shares, strict=True))
    assert len(shares) == 5
    assert shares["model"] > 0.9


def test_importance_of_noise_is_called_a_hint(tmp_path):
    rng = np.random.default_rng(0)
    trials = make_trials(40)
    for trial in trials:
        if trial["score"] is not None:
            trial["score"] = float(rng.uniform())
    folder = write_sweep(tmp_path / "sweep", trials)
    assert importance(read(folder)).r2 < 0.2
    assert "the forest explains little" in write_report(folder).read_text()


def test_names_cannot_break_out(tmp_path):
    trials = make_trials(12)
    for trial in trials:
        trial["params"]["losses"] = f"{HOSTILE}{trial['number'] % 3}"
        trial["params"][f"x.{HOSTILE}$a_b^"] = trial["number"]
    trials[3]["reason"] = HOSTILE
    page = Page(write_report(write_sweep(tmp_path / "sweep", trials, name=HOSTILE)))
    assert sum(tag == "script" for tag, _ in page.elements) == 2
    assert "alert('ü')" in page.text["h1"]
    assert not re.search(r"<script>\s*alert", page.source)
    assert HOSTILE in page.data()["trials"]["3"]


@pytest.mark.parametrize("count", [1, 2, 9])
def test_few_trials(tmp_path, count):
    page = Page(write_report(write_sweep(tmp_path / "sweep", make_trials(count))))
    assert "curves" in page.figures()
    if count > 1:
        assert ("importance" in page.figures()) == (count > 5)
        assert ("it takes 6 trials with a score, and there are 2" in page.source) == (count == 2)


def test_no_trial_has_a_score(tmp_path):
    trials = make_trials(3)
    for trial in trials:
        trial.update(status="failed", reason="out of memory", score=None, metrics={}, test_metrics={}, curve=[])
    page = Page(write_report(write_sweep(tmp_path / "sweep", trials)))
    assert page.figures() == ["time"]
    assert "No trial has a score" in page.source
    assert page.source.count("out of memory") >= 3
    assert Page(write_report(write_sweep(tmp_path / "empty", []))).figures() == []


def test_numbers_that_are_not_finite(tmp_path):
    trials = make_trials(14)
    trials[0].update(score=math.nan, metrics={"auc": math.nan}, curve=[math.nan, math.nan])
    trials[1].update(score=-1e9, curve=[0.5, -1e9], ended=None, status="running")
    for trial in trials:
        trial["params"]["losses.0.smoothing"] = 0.2  # does not vary
    page = Page(write_report(write_sweep(tmp_path / "sweep", trials)))
    assert {*page.figures()} >= ALL - {"slice-5"}
    assert "The same in all trials: losses.0.smoothing = 0.2" in page.source


def test_lower_is_better(tmp_path):
    trials = make_trials(12)
    folder = write_sweep(tmp_path / "sweep", trials, mode="min")
    best = min((t for t in trials if t["score"] is not None), key=lambda t: t["score"])
    assert read(folder).ranked()[0].number == best["number"]


def test_pareto_front(tmp_path):
    trials = make_trials(12)
    for trial, (auc, size) in zip(trials, [(0.9, 30), (0.8, 10), (0.7, 20), (0.9, 40), (0.85, 20)], strict=False):
        trial.update(status="finished", score=auc, metrics={"auc": auc}, num_parameters=size)
    folder = write_sweep(tmp_path / "sweep", trials[:5], metric=["auc", "num_parameters"], mode=["max", "min"])
    assert [trial.number for trial in read(folder).front()] == [0, 4, 1]
    page = Page(write_report(folder))
    assert "pareto" in page.figures()
    assert "Trials on the Pareto front" in page.text["caption"]
    assert "Best trial by auc, the first objective: trial_00000" in page.text["h2"]
    metrics = ["auc", "num_parameters", "log_loss"]
    third = write_sweep(tmp_path / "third", trials[:5], metric=metrics, mode=["max", "min", "min"])
    assert "pareto" not in Page(write_report(third)).figures()  # no trial has all three


def test_exploits(tmp_path):
    trials = make_trials(4)
    trials[1]["params"]["optimizers.0.lr"] = 0.015
    trials[1]["steps"] = 900
    lr, smoothing = "optimizers.0.lr", "losses.0.smoothing"
    scores = {"score": 0.7, "donor_score": 0.8125}
    trials[1]["exploits"] = [
        {"from_trial": "trial_00002", "at_step": 300, **scores, "old": {lr: 0.01}, "donor": {lr: 0.02},
         "new": {lr: 0.012}},
        {"from_trial": "trial_00000", "at_step": 400, **scores, "old": {smoothing: 0.1}, "donor": {smoothing: 0.1},
         "new": {smoothing: 0.2}},
        {"from_trial": "trial_00003", "at_step": 600, **scores, "old": {lr: 0.012}, "donor": {lr: 0.012},
         "new": {lr: 0.015}},
    ]  # fmt: skip
    folder = write_sweep(tmp_path / "sweep", trials)
    steps, values = course(read(folder).trials[1], "optimizers.0.lr")
    assert steps == [0, 300, 400, 600, 900]
    assert values == [0.01, 0.012, 0.012, 0.015, 0.015]
    page = Page(write_report(folder))
    assert {"exploits-optimizers.0.lr", "exploits-losses.0.smoothing"} <= {*page.figures()}
    assert "0.01 → 0.012 (donor 0.02)" in page.text["table"]
    assert "0.8125" in page.text["table"]
    assert "3 times a trial went on from a copy" in page.text["caption"]


def test_long_curves_are_thinned(tmp_path):
    trials = make_trials(2)
    for trial in trials:
        trial["curve"] = [0.5 + i / 10000 for i in range(3000)]
    assert len(write_report(write_sweep(tmp_path / "sweep", trials)).read_text()) < 150_000


@pytest.mark.slow
def test_a_thousand_trials(tmp_path):
    path = write_report(write_sweep(tmp_path / "sweep", make_trials(1000)))
    assert path.stat().st_size < 5_000_000
    assert {*Page(path).figures()} >= ALL


def test_what_is_missing_or_damaged_is_named(tmp_path):
    with pytest.raises(DataError, match=r"cannot read .*sweep.yaml"):
        write_report(tmp_path)
    folder = write_sweep(tmp_path / "sweep", make_trials(2))
    (folder / "trials.jsonl").write_text('{"trial_id": "a", "number": 0, "status": "finished"}\n{"x"')
    with pytest.raises(DataError, match=r"line 2 of .*trials.jsonl is not a trial"):
        write_report(folder)
    (folder / "sweep.json").write_text('{"metric": null}')
    with pytest.raises(DataError, match=r"sweep.json does not say what trials are compared by"):
        write_report(folder)


def test_models_stand_side_by_side_by_the_best_trial_of_each(tmp_path):
    trials = make_trials(12)
    for trial, name in zip(trials, ["deepfm", "lr", "lr"] * 4, strict=True):
        trial["params"]["model"] = {"name": name}
        trial["num_parameters"] = 1234
    page = write_report(write_sweep(tmp_path / "s", trials)).read_text()
    lines = re.findall(r"<tr>(.*?)</tr>", page.split("By the best trial of each")[-1].split("</table>")[0])
    rows = [[re.sub("<.*?>", "", cell) for cell in re.findall(r"<td[^>]*>(.*?)</td>", line)] for line in lines]
    best = {}
    for trial in sorted((t for t in trials if t["score"] is not None), key=lambda t: -t["score"]):
        best.setdefault(trial["params"]["model"]["name"], trial)
    assert [row[0] for row in rows[1:]] == list(best)
    for row in rows[1:]:
        trial = best[row[0]]
        assert row[1:5] == [f"{trial['score']:.4f}", f"{trial['score'] - 0.001:.4f}", trial["trial_id"], "1,234"]
        assert len(row[5].split()) == (4 if row[0] == "deepfm" else 8), "failed ones, too"
    for trial in trials:
        trial["params"]["model"] = {"name": "lr"}
    assert "Best of each model" not in write_report(write_sweep(tmp_path / "one", trials)).read_text()


def test_rungs_are_added_up(tmp_path):
    trials = make_trials(3)
    for trial, curve in zip(trials, ([0.6, 0.5, 0.7], [0.8], [0.9, 0.95, 0.85]), strict=True):
        trial.update(status="finished", epochs=float(len(curve)), curve=curve, score=max(curve), rung=3)
    trials[1].update(status="stopped_early", rung=1, reason="asha stopped it")
    folder = write_sweep(tmp_path / "s", trials)
    info = json.loads((folder / "sweep.json").read_text())
    (folder / "sweep.json").write_text(json.dumps({**info, "rungs": [1, 3]}))
    page = write_report(folder).read_text()
    rows = re.findall(r"<tr>(.*?)</tr>", page.split("Trials at each rung, by their best")[-1].split("</table>")[0])
    cells = [re.findall(r"<td[^>]*>(.*?)</td>", row) for row in rows]
    assert cells[1:] == [["1", "3", "0.9000", "0.8000", "0.6000", "1"], ["3", "2", "0.9500", "0.8250", "0.7000", "0"]]


def test_other_metrics_have_columns_and_curves(tmp_path):
    trials = make_trials(3)
    for trial in trials:
        trial["metrics"]["log_loss"] = 0.25
    folder = write_sweep(tmp_path / "s", trials)
    for file in folder.glob("trials/*/metrics.jsonl"):
        file.write_text(file.read_text().replace('"val/auc":', '"val/log_loss": 0.25, "val/rows_seen": 9, "val/auc":'))
    page = Page(write_report(folder))
    assert "curves-log_loss" in page.figures()
    assert "curves-rows_seen" not in page.figures()
    assert page.text["th"].count("log_loss") == 1
    assert "test auc" in page.text["th"]


def test_the_page_of_a_running_sweep_loads_itself_again(tmp_path):
    assert "The sweep is starting" in live_page(tmp_path / "none", refresh=5)
    trials = make_trials(8)
    trials[0].update(status="running", ended=None)
    page = live_page(write_sweep(tmp_path / "s", trials), refresh=5)
    assert '"refresh":5' in page
    assert "connect-src 'self'" in page
    assert "running" in page


def test_without_scikit_learn_it_is_said_and_the_rest_is_drawn(tmp_path, monkeypatch):
    assert missing() is None
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    assert "pip install 'rechub_ray[report]'" in missing()
    page = Page(write_report(write_sweep(tmp_path / "s", make_trials(9))))
    assert "scikit-learn is not installed" in page.source
    assert {"curves", "history", "parallel"} <= {*page.figures()}
