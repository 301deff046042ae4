"""The recipes of the repository, on real data where it is there."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pyarrow.compute as pc
import pyarrow.parquet as pq
import pytest
import yaml

from rechub_ray.preparation import PrepareResult, Recipe, prepare

FOLDER = Path(__file__).parents[2] / "configs" / "data"
NAMES = ["amazon_beauty", "census_income", "criteo", "frappe", "frappe_users", "ml_100k", "ml_1m"]


def run(name: str, source: Path, out: Path, **changes: Any) -> PrepareResult:
    node = yaml.safe_load((FOLDER / f"{name}.yaml").read_text())
    return prepare({**node, "source": str(source), "out": str(out), **changes}, use_ray=False)


def rows(result: PrepareResult) -> dict[str, int]:
    return {name: numbers["rows"] for name, numbers in result.stats["splits"].items()}


def test_every_recipe_is_listed_and_valid() -> None:
    assert sorted(path.stem for path in FOLDER.glob("*.yaml")) == NAMES
    for name in NAMES:
        recipe = Recipe.load(FOLDER / f"{name}.yaml")
        assert recipe.url
        assert recipe.licence


def test_frappe(data_dir: Callable[[str], Path], tmp_path: Path) -> None:
    result = run("frappe", data_dir("frappe"), tmp_path / "out")
    assert rows(result) == {"train": 202_027, "valid": 57_722, "test": 28_860}
    positives = {name: pc.sum(pq.read_table(Path(result.out) / name)["label"]).as_py() for name in rows(result)}
    assert positives == {"train": 67_604, "valid": 19_063, "test": 9_536}
    # the published LR has 5,390 parameters: one an id, and the bias
    assert sum(feature.vocab_size for feature in result.schema.sparse) == 5_389


@pytest.mark.slow
def test_census_income(data_dir: Callable[[str], Path], tmp_path: Path) -> None:
    result = run("census_income", data_dir("census-income"), tmp_path / "out", weight="instance_weight")
    counts = rows(result)
    assert (counts["train"], counts["valid"] + counts["test"]) == (199_523, 99_762)
    assert abs(counts["valid"] - counts["test"]) < 2_000
    # 12,382 of the training rows earn more than 50,000 (the data set's own description says 6.2%)
    label = pq.read_table(Path(result.out) / "train", columns=["income_over_50k", "never_married"])
    assert pc.sum(label["income_over_50k"]).as_py() == 12_382
    assert result.schema.weight == "instance_weight"


@pytest.mark.slow
def test_ml_100k(data_dir: Callable[[str], Path], tmp_path: Path) -> None:
    result = run("ml_100k", data_dir("ml-100k"), tmp_path / "out")
    assert sum(rows(result).values()) == 100_000
    likes = sum(pc.sum(pq.read_table(Path(result.out) / name)["liked"]).as_py() for name in rows(result))
    assert likes == 34_174 + 21_201  # ratings of 4 and of 5
    assert result.schema.feature("gender").vocab_size == 3  # type: ignore[union-attr]


@pytest.mark.slow
def test_ml_1m(data_dir: Callable[[str], Path], tmp_path: Path) -> None:
    result = run("ml_1m", data_dir("ml-1m"), tmp_path / "out")
    assert sum(rows(result).values()) == 1_000_209
    assert result.schema.feature("user_id").vocab_size == 6_041  # type: ignore[union-attr]
    assert result.schema.feature("genres").vocab_size == 19  # type: ignore[union-attr]


@pytest.mark.slow
def test_amazon_beauty(data_dir: Callable[[str], Path], tmp_path: Path) -> None:
    result = run("amazon_beauty", data_dir("amazon-beauty"), tmp_path / "out")
    # 198,502 interactions of 22,363 users; a user's first one has no history
    assert rows(result) == {"train": 198_502 - 3 * 22_363, "valid": 22_363, "test": 22_363}


def test_criteo_by_vocabulary_and_by_hashing(data_dir: Callable[[str], Path], tmp_path: Path) -> None:
    source = data_dir("criteo-8k")
    result = run("criteo", source, tmp_path / "vocabulary")
    assert sum(rows(result).values()) == 7_200
    assert len(result.schema.dense) == 13
    assert len(result.schema.sparse) == 26
    features = yaml.safe_load((FOLDER / "criteo.yaml").read_text())["features"]
    features[1] = {"kind": "categorical", "columns": features[1]["columns"], "hash_buckets": 1000}
    hashed = run("criteo", source, tmp_path / "hashed", features=features)
    assert {feature.vocab_size for feature in hashed.schema.sparse} == {1000}
    assert not (Path(hashed.out) / "vocab").exists()
