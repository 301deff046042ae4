"""One side of `matching_protocol`: a script written for torch-rechub, with its imports or with ours.

Usage: python -m benchmarks.torch_rechub_protocol theirs|ours DSSM|YoutubeDNN FOLDER --users N --epochs N --seed N

The features, samples, models and settings are those of torch-rechub's examples for MovieLens: of each user all ratings
but the last one train, each with the ones before it as history. What is printed is the share of users whose last item
is among the first 10, and the first 100, of all items by the exact product of the vectors.
"""

from __future__ import annotations

import argparse
import importlib
import json
import random
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import torch

DIM, BATCH, LR, WEIGHT_DECAY = 16, 2048, 1e-3, 1e-6
USER, ITEM = ["user_id", "gender", "age", "occupation", "zip"], ["movie_id", "cate_id"]
TEMPERATURE, LENGTH, NEGATIVES = 0.02, 50, 3


def ratings(folder: Path, users: int) -> pd.DataFrame:
    """The ratings of the first users with their columns and those of the movies, as ids from 1 on."""
    people = pd.read_csv(folder / "users.dat", sep="::", engine="python", header=None, names=USER[:1] + USER[1:])
    movies = pd.read_csv(
        folder / "movies.dat", sep="::", engine="python", header=None, names=["movie_id", "title", "genres"],
        encoding="latin-1",
    )  # fmt: skip
    movies["cate_id"] = movies["genres"].str.split("|").str[0]
    frame = pd.read_csv(folder / "ratings.csv.gz")
    frame = frame[frame["user_id"] <= users].merge(people, on="user_id").merge(movies[ITEM], on="movie_id")
    for column in [*USER, *ITEM]:
        frame[column] = frame[column].astype("category").cat.codes.astype(np.int64) + 1
    return frame.assign(time=frame.groupby("user_id").cumcount())


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("side", choices=("theirs", "ours"))
    parser.add_argument("model", choices=("DSSM", "YoutubeDNN"))
    parser.add_argument("folder", type=Path)
    parser.add_argument("--users", type=int, required=True)
    parser.add_argument("--epochs", type=int, required=True)
    parser.add_argument("--seed", type=int, required=True)
    parser.add_argument("--in-batch", action="store_true", help="the items of the other rows as negatives")
    options = parser.parse_args()
    package = "torch_rechub" if options.side == "theirs" else "rechub_ray.compat"
    features, models, trainers, data, match = (
        importlib.import_module(f"{package}.{name}")
        for name in ("basic.features", "models.matching", "trainers", "utils.data", "utils.match")
    )
    torch.set_num_threads(1)
    for seed in (torch.manual_seed, np.random.seed, random.seed):
        seed(options.seed)
    frame, is_listwise = ratings(options.folder, options.users), options.model == "YoutubeDNN"
    sizes = {name: int(frame[name].max()) + 1 for name in [*USER, *ITEM]}
    people, items = frame[USER].drop_duplicates("user_id"), frame[ITEM].drop_duplicates("movie_id")
    mode = 2 if is_listwise else 0
    train, test = match.generate_seq_feature_match(
        frame, "user_id", "movie_id", "time", sample_method=1, mode=mode, neg_ratio=NEGATIVES
    )
    if options.in_batch and not is_listwise:
        train = train[train["label"] > 0]
    x, x_test = (
        match.gen_model_input(part, people, "user_id", items, "movie_id", seq_max_len=LENGTH) for part in (train, test)
    )
    y = np.zeros(len(train)) if is_listwise else x["label"]

    def sequence(name: str, pooling: str) -> Any:
        return features.SequenceFeature(
            name, vocab_size=sizes["movie_id"], embed_dim=DIM, pooling=pooling, shared_with="movie_id"
        )

    def sparse(names: list[str]) -> list[Any]:
        return [features.SparseFeature(name, vocab_size=sizes[name], embed_dim=DIM) for name in names]

    user_features = [*sparse(USER), sequence("hist_movie_id", "mean")]
    if is_listwise:
        towers: dict[str, Any] = {"dims": [128, 64, DIM]}
        negatives = [sequence("neg_items", "concat")]
        model = models.YoutubeDNN(user_features, sparse(ITEM[:1]), negatives, towers, temperature=TEMPERATURE)
    else:
        towers = {"dims": [256, 128, 64], "activation": "prelu"}
        model = models.DSSM(user_features, sparse(ITEM), towers, towers, temperature=TEMPERATURE)
    generator = data.MatchDataGenerator(x, y)
    loaders = generator.generate_dataloader(x_test, data.df_to_dict(items), batch_size=BATCH, num_workers=0)
    with tempfile.TemporaryDirectory() as folder:
        trainer = trainers.MatchTrainer(
            model, mode=mode, in_batch_neg=options.in_batch, n_epoch=options.epochs, model_path=folder,
            optimizer_params={"lr": LR, "weight_decay": WEIGHT_DECAY},
        )  # fmt: skip
        start = time.perf_counter()
        trainer.fit(loaders[0])
        seconds = time.perf_counter() - start
        users, vectors = (
            trainer.inference_embedding(model, mode=part, data_loader=loader, model_path=folder)
            for part, loader in zip(("user", "item"), loaders[1:], strict=True)
        )
    best = items["movie_id"].to_numpy()[(users @ vectors.T).topk(100).indices.numpy()]
    found = best == np.asarray(x_test["movie_id"])[:, None]
    hits = {f"hit@{k}": float(found[:, :k].any(1).mean()) for k in (10, 100)}
    print(json.dumps({**hits, "seconds": seconds, "rows": len(train), "users": len(test), "items": len(items)}))


if __name__ == "__main__":
    main()
