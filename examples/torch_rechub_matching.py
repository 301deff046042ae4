"""DSSM or YoutubeDNN on a made-up log, written for Torch-RecHub: only the imports are rechub_ray's.

Run it with `python examples/torch_rechub_matching.py DSSM`. With `rechub_ray.compat` replaced by `torch_rechub` it runs
on Torch-RecHub 0.9; docs/migration.md shows both side by side.
"""

import os
import random
import sys

import numpy as np
import pandas as pd
import torch

from rechub_ray.compat.basic.features import SequenceFeature, SparseFeature
from rechub_ray.compat.models.matching import DSSM, YoutubeDNN
from rechub_ray.compat.trainers import MatchTrainer
from rechub_ray.compat.utils.data import MatchDataGenerator, df_to_dict
from rechub_ray.compat.utils.match import gen_model_input, generate_seq_feature_match

ITEMS, TASTES = 200, 8


def made_up_log(users: int, seed: int) -> pd.DataFrame:
    """Users of eight tastes, each of which has 25 items, the first ones most often; ids from 1 on."""
    rng = np.random.default_rng(seed)
    rows = []
    for user in range(1, users + 1):
        place = np.minimum(rng.geometric(0.15, 12) - 1, ITEMS // TASTES - 1)
        items = 1 + place * TASTES + user % TASTES
        rows += [(user, 1 + user % 2, item, 1 + item % 5, time) for time, item in enumerate(items)]
    return pd.DataFrame(rows, columns=["user_id", "gender", "item_id", "brand", "time"])


def main(model_name: str = "DSSM", users: int = 600, n_epoch: int = 3, save_dir: str = "runs/torch_rechub_matching"):
    for seed in (torch.manual_seed, np.random.seed, random.seed):
        seed(2026)
    os.makedirs(save_dir, exist_ok=True)
    data = made_up_log(users, seed=7)
    user_profile = data[["user_id", "gender"]].drop_duplicates("user_id")
    item_profile = data[["item_id", "brand"]].drop_duplicates("item_id")
    mode = {"DSSM": 0, "YoutubeDNN": 2}[model_name]
    train, test = generate_seq_feature_match(
        data, "user_id", "item_id", "time", sample_method=1, mode=mode, neg_ratio=3, min_item=0
    )
    x_train, x_test = (
        gen_model_input(part, user_profile, "user_id", item_profile, "item_id", seq_max_len=10)
        for part in (train, test)
    )
    y_train = x_train["label"] if mode == 0 else np.zeros(len(train))

    user_features = [
        SparseFeature("user_id", vocab_size=users + 1, embed_dim=16),
        SparseFeature("gender", vocab_size=3, embed_dim=16),
        SequenceFeature("hist_item_id", vocab_size=ITEMS + 1, embed_dim=16, pooling="mean", shared_with="item_id"),
    ]
    item_features = [SparseFeature("item_id", vocab_size=ITEMS + 1, embed_dim=16)]
    if model_name == "DSSM":
        item_features.append(SparseFeature("brand", vocab_size=6, embed_dim=16))
        towers = {"dims": [64, 32], "activation": "prelu"}
        model = DSSM(user_features, item_features, temperature=0.02, user_params=towers, item_params=towers)
    else:
        negatives = SequenceFeature("neg_items", ITEMS + 1, embed_dim=16, pooling="concat", shared_with="item_id")
        model = YoutubeDNN(user_features, item_features, [negatives], user_params={"dims": [64, 16]}, temperature=0.1)

    train_dl, test_dl, item_dl = MatchDataGenerator(x_train, y_train).generate_dataloader(
        x_test, df_to_dict(item_profile), batch_size=256, num_workers=0
    )
    trainer = MatchTrainer(
        model,
        mode=mode,
        optimizer_params={"lr": 5e-3, "weight_decay": 1e-6},
        n_epoch=n_epoch,
        device="cpu",
        model_path=save_dir,
    )
    trainer.fit(train_dl)

    user_embedding = trainer.inference_embedding(model, mode="user", data_loader=test_dl, model_path=save_dir)
    item_embedding = trainer.inference_embedding(model, mode="item", data_loader=item_dl, model_path=save_dir)
    print(f"vectors: {tuple(user_embedding.shape)} and {tuple(item_embedding.shape)}")
    best = (user_embedding @ item_embedding.T).topk(20).indices.numpy()
    items = item_profile["item_id"].to_numpy()
    hits = (items[best] == np.asarray(x_test["item_id"])[:, None]).any(1).mean()
    print(f"hit@20: {hits:.4f}")
    return float(hits)


if __name__ == "__main__":
    main(*sys.argv[1:2], *map(int, sys.argv[2:]))
