"""SeqTrainer: its loss and accuracy are those of torch, from loaders of tokens and from prepared data."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq
import pytest
import torch
from torch.nn import functional as F

from rechub_ray.batch import Features, PaddedSequences
from rechub_ray.compat.models.generative import HSTUModel
from rechub_ray.compat.utils.data import SequenceDataGenerator
from rechub_ray.errors import ConfigError, DataError
from rechub_ray.models import MODELS
from rechub_ray.models.sequential.base import SequentialRetriever
from rechub_ray.trainers import SeqTrainer
from tests.small_sequences import ITEMS, SCHEMA, following, write_sequences

ROWS, LENGTH = 400, 6


def arrays(seed: int = 0) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
    """Walks along rings, padded with 0 on the left; some start at a moment of 0 seconds."""
    rng = np.random.default_rng(seed)
    tokens, times = np.zeros((2, ROWS, LENGTH), np.int64)
    targets = np.zeros(ROWS, np.int64)
    for row in range(ROWS):
        walk = [int(rng.integers(1, ITEMS))]
        for _ in range(int(rng.integers(1, LENGTH + 1))):
            walk.append(following(walk[-1]))
        tokens[row, LENGTH - len(walk) + 1 :] = walk[:-1]
        times[row, LENGTH - len(walk) + 1 :] = np.sort(rng.integers(0, 3, len(walk) - 1))[::-1]
        targets[row] = walk[-1]
    return tokens, np.tile(np.arange(LENGTH), (ROWS, 1)), targets, times


def model_of(**arguments: Any) -> SequentialRetriever:
    torch.manual_seed(0)
    model = HSTUModel(ITEMS, 16, n_heads=2, n_layers=1, dqk=4, dv=4, max_seq_len=LENGTH, **arguments)
    assert isinstance(model, SequentialRetriever)
    return model


def expected(model: SequentialRetriever, temperature: float) -> tuple[float, float]:
    """The loss and the accuracy, with logits of all items by hand."""
    tokens, _, targets, times = arrays(1)
    left = [(row[row > 0], time[row > 0]) for row, time in zip(tokens, times, strict=True)]
    ids, ages = torch.full((2, ROWS, LENGTH), -1)
    for i, (row, time) in enumerate(left):
        ids[i, : len(row)], ages[i, : len(row)] = torch.from_numpy(row), torch.from_numpy(time)
    nothing = torch.zeros(ROWS, 0)
    with torch.no_grad():
        users = model.eval().user_vectors(Features(nothing.long(), nothing, PaddedSequences((ids, ages))))
        items = model.item_vectors(Features(torch.arange(1, ITEMS).unsqueeze(1), torch.zeros(ITEMS - 1, 0)))
    logits, right = users @ items.T / temperature, torch.from_numpy(targets) - 1
    return float(F.cross_entropy(logits, right)), float((logits.argmax(1) == right).float().mean())


def test_a_model_that_is_called_gives_the_scores_of_each_position() -> None:
    model = model_of().eval()
    tokens, _, _, times = (torch.from_numpy(values) for values in arrays(1))
    with torch.no_grad():
        scores = model(tokens, times)
        last = model({"seq_tokens": tokens[:, -1:], "seq_time_diffs": times[:, -1:]})
        wider = model(F.pad(tokens, (3, 0)), F.pad(times, (3, 0)) + 0.4)
        with pytest.raises(DataError, match=r"Expected: seq_tokens, seq_time_diffs, in this order\. Got: 1 tensors"):
            model(tokens)
        with pytest.raises(DataError, match="lists of one shape"):
            model(tokens, times[:, 1:])
        untimed = model_of(use_time_embedding=False).eval()
        torch.testing.assert_close(untimed(tokens, times), untimed(tokens))
        with pytest.raises(DataError, match="Got: 3 tensors"):
            untimed(tokens, times, times)
    assert scores.shape == (ROWS, LENGTH, ITEMS)
    assert not scores[tokens == 0].any()
    own = tokens[:, -2] == 0  # rows of one token
    torch.testing.assert_close(last[own, 0], scores[own, -1])
    torch.testing.assert_close(wider[:, 3:], scores)
    logits, right = scores[:, -1, 1:], torch.from_numpy(arrays(1)[2]) - 1
    found = float(F.cross_entropy(logits, right)), float((logits.argmax(1) == right).float().mean())
    assert found == pytest.approx(expected(model, 1.0), abs=1e-5)


class Logger:
    def __init__(self) -> None:
        self.lines: list[dict[str, Any]] = []

    def log_metrics(self, metrics: dict[str, Any], step: int | None = None) -> None:
        self.lines.append(metrics)

    def log_hyperparams(self, params: dict[str, Any]) -> None: ...

    def finish(self) -> None: ...


@pytest.mark.parametrize("norm", ["none", "l2"])
def test_it_trains_on_loaders_of_tokens(tmp_path: Path, norm: str) -> None:
    logger, arguments = Logger(), {"score_norm": norm, "temperature": 0.1 if norm == "l2" else 1.0}
    trainer = SeqTrainer(
        model_of(**arguments),
        optimizer_params={"lr": 0.01},
        n_epoch=6,
        model_path=str(tmp_path),
        model_logger=logger,
    )
    train, valid = (SequenceDataGenerator(*arrays(seed)).generate_dataloader(batch_size=32)[0] for seed in (0, 1))
    accuracy, metrics = trainer.fit(train, valid)
    assert accuracy > 0.5
    assert metrics is not None
    assert isinstance(trainer.model, SequentialRetriever)
    loss, found = trainer.evaluate(valid)
    assert found == pytest.approx(accuracy)
    right = expected(trainer.model, arguments["temperature"])  # type: ignore[arg-type]
    assert (loss, found) == pytest.approx(right, rel=1e-4)
    in_order = SequenceDataGenerator(*arrays(1)).generate_dataloader(batch_size=32, shuffle=False)[0]
    best = trainer.predict(in_order, k=5)
    assert best.shape == (ROWS, 5)
    assert (best[:, 0] == arrays(1)[2]).mean() == pytest.approx(accuracy)
    last = [line for line in logger.lines if "val/accuracy" in line]
    assert max(line["val/accuracy"] for line in last) == pytest.approx(accuracy)
    assert all(line["auc"] == line["val/accuracy"] and line["val/loss"] > 0 for line in last)


def test_it_evaluates_before_training_and_exports_a_tower(tmp_path: Path) -> None:
    model = model_of()
    trainer = SeqTrainer(model, model_path=str(tmp_path), loss_type="nce")
    loader = SequenceDataGenerator(*arrays(1)).generate_dataloader(batch_size=64, shuffle=False)[0]
    assert trainer.evaluate(model, loader) == pytest.approx(expected(model, 0.1), rel=1e-4)
    report = trainer.export_onnx(tmp_path / "user.onnx")
    assert [port.name for port in report.inputs] == ["seq_tokens", "seq_time_diffs"]
    with pytest.raises(ConfigError, match="user or item"):
        trainer.export_onnx(tmp_path / "x.onnx", mode="all")  # type: ignore[arg-type]


def test_it_trains_on_prepared_data(tmp_path: Path) -> None:
    data = write_sequences(tmp_path / "data")
    torch.manual_seed(0)
    model = MODELS.build({"name": "sasrec", "embedding_dim": 16, "num_blocks": 1}, SCHEMA)
    trainer = SeqTrainer(model, n_epoch=1, model_path=str(tmp_path / "run"), batch_size=64)
    accuracy, metrics = trainer.fit(str(data))
    assert metrics is not None
    assert metrics["rows_seen"] == 160
    assert trainer.evaluate(str(data / "valid")) == pytest.approx((metrics["full_log_loss"], accuracy), rel=1e-6)
    with pytest.raises(ConfigError, match=r"'k', the number of items\. Expected: 1 to 60"):
        trainer.predict(str(data / "valid"), k=61)
    rows = pq.read_table(sorted((data / "valid").glob("*.parquet")))
    best = trainer.predict(rows.drop_columns(["item"]), k=60)
    assert (np.sort(best) == np.arange(1, ITEMS)).all()
    assert (best[:, 0] == rows["item"].to_numpy()).mean() == pytest.approx(accuracy)


def test_parts_of_the_rows_are_loaded_apart() -> None:
    loaders = SequenceDataGenerator(*arrays()).generate_dataloader(batch_size=50, split_ratio=(0.7, 0.1, 0.2))
    assert [len(loader.dataset) for loader in loaders] == [280, 40, 80]  # type: ignore[arg-type]
    tokens, positions, times, targets = next(iter(loaders[1]))
    assert tokens.shape == positions.shape == times.shape == (40, LENGTH)
    assert targets.shape == (40,)
    with pytest.raises(DataError, match="add up to 1"):
        SequenceDataGenerator(*arrays()).generate_dataloader(split_ratio=(0.5, 0.1, 0.1))
    with pytest.raises(DataError, match="one length"):
        SequenceDataGenerator(*arrays()[:3], np.zeros((3, LENGTH)))


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"loss_type": "bce"}, "cross_entropy or nce"),
        ({"loss_params": {"ignore_index": -100}}, "id of no item"),
        ({"loss_params": {"label_smoothing": 0.1}}, "temperature, > 0"),
        ({"loss_params": {"temperature": 0}}, "temperature, > 0"),
    ],
)
def test_wrong_arguments_are_refused(given: dict[str, Any], message: str, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=message):
        SeqTrainer(model_of(), model_path=str(tmp_path), **given)
    with pytest.raises(ConfigError, match="tie_embeddings"):
        model_of(tie_embeddings=False)
    with pytest.raises(ConfigError, match="none or l2"):
        model_of(score_norm="l1")
    with pytest.raises(ConfigError, match="reads no sequences"):
        SeqTrainer(MODELS.build("dssm", SCHEMA))
