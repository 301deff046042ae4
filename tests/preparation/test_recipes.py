"""The recipes of the repository, on real data where it is there."""

from __future__ import annotations

import gzip
import itertools
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pyarrow.compute as pc
import pyarrow.parquet as pq
import pytest
import torch
import yaml

from rechub_ray.data.catalogue import Catalogue
from rechub_ray.data.manifest import Manifest
from rechub_ray.data.source import EvalSource, ThreadReader
from rechub_ray.evaluation.corpus import Corpus
from rechub_ray.models.matching.base import without_item
from rechub_ray.preparation import Encoder, PrepareResult, Recipe, prepare
from rechub_ray.world import World

FOLDER = Path(__file__).parents[2] / "configs" / "data"
NAMES = [
    *("amazon_beauty", "amazon_beauty_retrieval", "census_income", "criteo", "demo_retrieval", "frappe"),
    *("frappe_users", "ml_100k", "ml_100k_retrieval", "ml_1m", "ml_1m_retrieval"),
]


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
    assert not result.notes


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
    assert not result.notes


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


def check_retrieval(result: PrepareResult, users: int, interactions: int, lengths: list[int]) -> list[str]:
    """Check the numbers of rows against those of each user's, and the item table against the rows; return its keys."""
    windows = sum(-(-(length - 2) // 50) for length in lengths)
    assert (len(lengths), sum(lengths)) == (users, interactions)
    assert rows(result) == {"train": interactions - 2 * users, "valid": users, "test": users, "windows": windows}
    assert result.schema.items is not None
    item = result.schema.items.id
    catalogue = Catalogue.read(result.out, result.schema)
    train = pq.read_table(Path(result.out) / "train", columns=[item])[item].to_numpy()
    assert catalogue.count.tolist() == np.bincount(train, minlength=catalogue.rows + 1)[1:].tolist()
    seen = pq.read_table(Path(result.out) / "test", columns=["seen", item])
    most = pc.max(pc.list_value_length(seen["seen"])).as_py()
    assert max(lengths) - 5 <= most < max(lengths)  # less the items of no training row
    return [str(key) for key in Encoder.load(result.out).vocabulary(item).to_pylist()]


def test_amazon_beauty_retrieval(data_dir: Callable[[str], Path], tmp_path: Path) -> None:
    source = data_dir("amazon-beauty")
    result = run("amazon_beauty_retrieval", source, tmp_path / "out")
    lines = [line.split() for line in (source / "Beauty.txt").read_text().splitlines()]
    keys = check_retrieval(result, 22_363, 198_502, [len(line) - 1 for line in lines])
    assert set(keys) == {item for line in lines for item in line[1:-2]}
    assert len({item for line in lines for item in line[1:]}) == 12_101  # the published number of items
    last = {line[0]: line[-1] for line in lines}
    test = pq.read_table(Path(result.out) / "test").to_pylist()
    assert all(row["item"] == 0 or keys[row["item"] - 1] == last[row["user_raw"]] for row in test)


@pytest.mark.long  # as ml-1m and Amazon Beauty for retrieval
def test_ml_100k_retrieval(data_dir: Callable[[str], Path], tmp_path: Path) -> None:
    source = data_dir("ml-100k")
    result = run("ml_100k_retrieval", source, tmp_path / "out")
    times = pd.read_csv(source / "u.data", sep="\t", names=["user", "item", "rating", "time"])
    keys = check_retrieval(result, 943, 100_000, times.groupby("user").size().tolist())
    test = pq.read_table(Path(result.out) / "test").to_pandas()
    last = times.sort_values("time", kind="stable").groupby("user").tail(51).groupby("user")
    for row in test.itertuples():
        own = last.get_group(int(row.user_id_raw))
        assert (own.time.iloc[-1] - own.time.iloc[:-1]).tolist() == row.seconds_before.tolist()
        assert [keys[i - 1] if i else "?" for i in row.history] == [
            str(item) if str(item) in keys else "?" for item in own.item.iloc[:-1]
        ]
    scifi = pq.read_table(Path(result.out) / "items", columns=["sci_fi"])["sci_fi"].to_pylist()
    assert scifi[keys.index("50")] == 1.0  # Star Wars
    assert scifi[keys.index("100")] == 0.0  # Fargo


def first_users(source: Path, folder: Path, users: int) -> Path:
    """A copy of the files of `ml_1m_retrieval` with the rows of the first users alone, by whom those are sorted."""
    folder.mkdir()
    for name in ("item-map.csv", "movies.dat"):
        (folder / name).symlink_to(source / name)
    user = re.compile(r"\(?(\d+)")
    for name in ("train.tsv.gz", "test.tsv", "test-negatives.tsv.gz"):
        opened: Any = gzip.open if name.endswith(".gz") else open
        with opened(source / name, "rt") as lines, opened(folder / name, "wt") as file:
            file.writelines(itertools.takewhile(lambda line: int(user.match(line)[1]) < users, lines))  # type: ignore[index]
    return folder


@pytest.mark.slow
@pytest.mark.parametrize("users", [500, pytest.param(6_040, marks=pytest.mark.long)])
def test_ml_1m_retrieval(data_dir: Callable[[str], Path], tmp_path: Path, users: int) -> None:
    source, everything = data_dir("ml-1m"), users == 6_040
    if not everything:
        source = first_users(source, tmp_path / "raw", users)
    result = run("ml_1m_retrieval", source, tmp_path / "out", **({} if everything else {"checksums": {}}))
    train = pd.read_csv(source / "train.tsv.gz", sep="\t", names=["user", "item", "rating"])
    given = pd.read_csv(source / "test.tsv", sep="\t", names=["user", "item", "rating", "time"])
    assert len(given) == users
    keys = check_retrieval(result, users, len(train) + users, (train.groupby("user").size() + 1).tolist())
    test = pq.read_table(Path(result.out) / "test").to_pandas()
    found = {int(row.user_raw): keys[row.item - 1] if row.item else None for row in test.itertuples()}
    assert all(found[user] in (str(item), None) for user, item in zip(given.user, given.item, strict=True))
    # NCF's item 0 is movie 1193, One Flew Over the Cuckoo's Nest
    genres = pq.read_table(Path(result.out) / "items")["genres"][keys.index("0")].as_py()
    assert [Encoder.load(result.out).vocabulary("genres")[i - 1].as_py() for i in genres] == ["Drama"]
    negatives = pd.read_csv(source / "test-negatives.tsv.gz", sep="\t", header=None, index_col=0)
    known = {*keys}
    for row in test.itertuples():
        wanted = [str(item) for item in negatives.iloc[int(row.user_raw)] if str(item) in known]
        assert [keys[i - 1] for i in row.negatives] == wanted
    if everything:
        assert len(train) == 994_169
        assert sum(item is not None for item in found.values()) > 6_030
        assert sum(map(len, test.negatives)) > 0.999 * 99 * 6_040
        # the published figures of ranking by popularity, HR@10 and NDCG@10, whose counts include our validation rows
        assert by_popularity(result) == pytest.approx((0.4531, 0.2542), abs=0.0005)


def by_popularity(result: PrepareResult) -> tuple[float, float]:
    """Hit and NDCG at 10 of the items' numbers of rows before the test, among the given negatives."""
    schema, place = result.schema, Path(result.out)
    catalogue = Catalogue.read(result.out, schema)
    valid = catalogue.rows_of(torch.from_numpy(pq.read_table(place / "valid")["item"].to_numpy().astype(np.int64)))
    counts = catalogue.count + valid[valid >= 0].bincount(minlength=catalogue.rows)
    corpus = Corpus(counts.float().unsqueeze(1), catalogue)
    manifest = Manifest.scan(str(place / "test"), schema.with_lists(["negatives"]))
    source = EvalSource(manifest, schema, batch_size=1000, world=World(), reader=ThreadReader(), lists=["negatives"])
    ranks = []
    for batch in source.batches():
        targets = catalogue.rows_of(without_item(schema, batch.features)[1])
        listed = corpus.listed(batch.lists, 0, targets)
        ranks.append(corpus.ranks_among(torch.ones(batch.rows, 1), targets, listed))
    rank = torch.cat(ranks)
    gains = torch.where(rank < 10, 1 / torch.log2(rank + 2.0), 0)
    return (rank < 10).double().mean().item(), gains.double().mean().item()


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
