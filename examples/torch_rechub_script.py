"""DeepFM on made-up clicks, written for Torch-RecHub: only the imports are rechub_ray's.

Run it with `python examples/torch_rechub_script.py`. With `rechub_ray.compat` replaced by `torch_rechub` it runs on
Torch-RecHub 0.9; docs/migration.md shows both side by side.
"""

import os
import sys

import numpy as np
import pandas as pd
import torch

from rechub_ray.compat.basic.features import DenseFeature, SequenceFeature, SparseFeature
from rechub_ray.compat.models.ranking import DeepFM
from rechub_ray.compat.trainers import CTRTrainer
from rechub_ray.compat.utils.data import DataGenerator, df_to_dict, pad_sequences

USERS, ITEMS, TAGS, LONGEST = 300, 200, 40, 8


def made_up_clicks(rows: int, seed: int) -> pd.DataFrame:
    """Clicks that follow from tastes: of users and items, of the tags a user liked, and of the price."""
    rng = np.random.default_rng(seed)
    taste, appeal, tag = rng.normal(size=(USERS, 4)), rng.normal(size=(ITEMS, 4)), rng.normal(size=TAGS + 1)
    user, item = rng.integers(0, USERS, rows), rng.integers(0, ITEMS, rows)
    price = rng.normal(size=rows)
    liked = [rng.integers(1, TAGS + 1, rng.integers(0, LONGEST + 1)).tolist() for _ in range(rows)]
    logit = (taste[user] * appeal[item]).sum(1) + np.array([tag[tags].sum() for tags in liked]) - price
    return pd.DataFrame(
        {
            "user_id": user,
            "item_id": item,
            "price": price,
            "liked_tags": list(pad_sequences(liked, maxlen=LONGEST, padding="post", value=0)),
            "click": (rng.random(rows) < 1 / (1 + np.exp(-logit))).astype(int),
        }
    )


def main(rows: int = 40_000, n_epoch: int = 6, model_path: str = "runs/torch_rechub_script") -> float:
    torch.manual_seed(2026)
    os.makedirs(model_path, exist_ok=True)
    data = made_up_clicks(rows, seed=7)
    y = data.pop("click").to_numpy()
    x = df_to_dict(data)

    features = [
        SparseFeature("user_id", vocab_size=USERS, embed_dim=16),
        SparseFeature("item_id", vocab_size=ITEMS, embed_dim=16),
        SequenceFeature("liked_tags", vocab_size=TAGS + 1, embed_dim=16, pooling="sum", padding_idx=0),
    ]
    train_dataloader, val_dataloader, test_dataloader = DataGenerator(x, y).generate_dataloader(
        split_ratio=[0.7, 0.1], batch_size=256
    )
    model = DeepFM(
        deep_features=[*features, DenseFeature("price")],
        fm_features=features,
        mlp_params={"dims": [64, 32], "dropout": 0.1, "activation": "relu"},
    )
    trainer = CTRTrainer(
        model,
        optimizer_params={"lr": 5e-3, "weight_decay": 1e-6},
        scheduler_fn=torch.optim.lr_scheduler.StepLR,
        scheduler_params={"step_size": 2, "gamma": 0.5},
        n_epoch=n_epoch,
        earlystop_patience=3,
        device="cpu",
        model_path=model_path,
    )
    trainer.fit(train_dataloader, val_dataloader)
    auc = trainer.evaluate(trainer.model, test_dataloader)
    print(f"test auc: {auc:.4f}")
    predictions = trainer.predict(trainer.model, test_dataloader)
    print(f"{len(predictions)} predictions, the first: {predictions[0]:.4f}")
    return float(auc)


if __name__ == "__main__":
    main(*map(int, sys.argv[1:]))
