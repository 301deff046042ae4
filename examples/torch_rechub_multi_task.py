"""Multi-task models on made-up clicks and purchases, written for Torch-RecHub: only the imports are rechub_ray's.

Run it with `python examples/torch_rechub_multi_task.py MMOE` (or SharedBottom, ESMM, PLE, AITM). With
`rechub_ray.compat` replaced by `torch_rechub` it runs on Torch-RecHub 0.9.
"""

import os
import sys

import numpy as np
import pandas as pd
import torch
from torch.utils.data import DataLoader

from rechub_ray.compat.basic.features import DenseFeature, SparseFeature
from rechub_ray.compat.models.multi_task import AITM, ESMM, MMOE, PLE, SharedBottom
from rechub_ray.compat.trainers import MTLTrainer
from rechub_ray.compat.utils.data import DataGenerator, PredictDataset

USERS, ITEMS, SHOPS = 200, 100, 20


def made_up_purchases(rows: int, seed: int) -> pd.DataFrame:
    """Clicks that follow from tastes, and purchases after a click that follow from the price and the shop."""
    rng = np.random.default_rng(seed)
    liking, appeal, rate = rng.normal(size=USERS), rng.normal(size=ITEMS), rng.normal(size=SHOPS)
    user, item, shop = rng.integers(0, USERS, rows), rng.integers(0, ITEMS, rows), rng.integers(0, SHOPS, rows)
    price = rng.normal(size=rows)
    click = rng.random(rows) < 1 / (1 + np.exp(-liking[user] - appeal[item]))
    purchase = rng.random(rows) < 1 / (1 + np.exp(price - 2 * rate[shop]))
    return pd.DataFrame(
        {
            "user_id": user,
            "item_id": item,
            "shop_id": shop,
            "price": price,
            "cvr_label": purchase.astype(int),
            "ctr_label": click.astype(int),
            "ctcvr_label": (click & purchase).astype(int),
        }
    )


def main(name: str = "MMOE", rows: int = 40_000, n_epoch: int = 4, model_path: str = "runs/multi_task_script") -> None:
    torch.manual_seed(2026)
    os.makedirs(model_path, exist_ok=True)
    data = made_up_purchases(rows, seed=7)
    sizes = {"user_id": USERS, "item_id": ITEMS, "shop_id": SHOPS}
    sparse = [SparseFeature(column, vocab_size=size, embed_dim=8) for column, size in sizes.items()]
    features = [*sparse, DenseFeature("price")]
    # ESMM reads three columns of labels and no numbers, the others the two labels
    labels = ["cvr_label", "ctr_label", "ctcvr_label"] if name == "ESMM" else ["ctr_label", "ctcvr_label"]
    task_types = ["classification"] * len(labels)
    if name == "ESMM":
        features = sparse
    x = {feature.name: data[feature.name].to_numpy() for feature in features}
    y = data[labels].to_numpy()
    cuts = [slice(0, rows * 7 // 10), slice(rows * 7 // 10, rows * 8 // 10), slice(rows * 8 // 10, rows)]
    (x_train, y_train), (x_val, y_val), (x_test, y_test) = (
        ({column: values[cut] for column, values in x.items()}, y[cut]) for cut in cuts
    )
    train_dataloader, val_dataloader, test_dataloader = DataGenerator(x_train, y_train).generate_dataloader(
        x_val=x_val, y_val=y_val, x_test=x_test, y_test=y_test, batch_size=256
    )

    towers = [{"dims": [8]} for _ in task_types]
    if name == "SharedBottom":
        model = SharedBottom(features, task_types, bottom_params={"dims": [32]}, tower_params_list=towers)
    elif name == "ESMM":
        model = ESMM(sparse[:1], sparse[1:], cvr_params={"dims": [16, 8]}, ctr_params={"dims": [16, 8]})
    elif name == "MMOE":
        model = MMOE(features, task_types, n_expert=4, expert_params={"dims": [16]}, tower_params_list=towers)
    elif name == "PLE":
        model = PLE(
            features,
            task_types,
            n_level=2,
            n_expert_specific=2,
            n_expert_shared=1,
            expert_params={"dims": [16]},
            tower_params_list=towers,
        )
    else:
        model = AITM(features, 2, bottom_params={"dims": [32, 16]}, tower_params_list=towers)

    trainer = MTLTrainer(
        model,
        task_types=task_types,
        optimizer_params={"lr": 5e-3, "weight_decay": 1e-5},
        adaptive_params=None if name == "ESMM" else {"method": "uwl"},
        n_epoch=n_epoch,
        earlystop_taskid=1,
        earlystop_patience=3,
        device="cpu",
        model_path=model_path,
    )
    trainer.fit(train_dataloader, val_dataloader)
    scores = trainer.evaluate(trainer.model, test_dataloader)
    predict_dataloader = DataLoader(PredictDataset(x_test), batch_size=256, shuffle=False)
    predictions = np.array(trainer.predict(trainer.model, predict_dataloader))
    print("test scores:", *(f"{score:.4f}" for score in scores))
    print("predictions:", predictions.shape, "in [0, 1]:", bool((predictions >= 0).all() and (predictions <= 1).all()))


if __name__ == "__main__":
    main(*sys.argv[1:2], *map(int, sys.argv[2:4]))
