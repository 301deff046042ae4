from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch

from rechub_ray import CTRTrainer
from rechub_ray import models as house
from rechub_ray.compat.basic.features import DenseFeature, SequenceFeature, SparseFeature
from rechub_ray.compat.basic.initializers import Pretrained, RandomUniform, XavierNormal, XavierUniform
from rechub_ray.compat.models import ranking as compat
from rechub_ray.compat.models.ranking import DCNv2, DeepFM, WideDeep
from rechub_ray.errors import ConfigError, SchemaError
from rechub_ray.layers.embedding import EmbeddingBank

MLP = {"dims": [8, 4], "dropout": 0.2, "activation": "prelu"}


def features() -> list[Any]:
    return [
        SparseFeature("user", vocab_size=30, embed_dim=4),
        SparseFeature("item", vocab_size=20, embed_dim=4),
        SequenceFeature("history", vocab_size=99, pooling="sum", shared_with="item", padding_idx=0),
    ]


def bank(model: Any) -> EmbeddingBank:
    assert isinstance(model.embedding, EmbeddingBank)
    return model.embedding


def test_the_lists_become_a_schema_and_the_houses_arguments() -> None:
    model = DeepFM(deep_features=[*features(), DenseFeature("price")], fm_features=features()[:2], mlp_params=MLP)
    assert type(model) is house.DeepFM
    assert model.schema.feature_names == ["user", "item", "history", "price"]
    history = model.schema.sequences[0]
    assert (history.vocab_size, history.embed_dim, history.shared_with, history.pooling) == (20, 4, "item", "sum")
    assert model.arguments["fm_features"] == ["user", "item"]
    assert model.arguments["hidden_units"] == (8, 4)
    assert model.arguments["dropout"] == 0.2
    assert model.arguments["batch_norm"] is True
    assert model.padding == {"history": 0}


def test_wide_and_deep_and_dcn() -> None:
    wide = WideDeep(wide_features=features()[:1], deep_features=features(), mlp_params=MLP)
    assert type(wide) is house.WideDeep
    assert wide.arguments["wide_features"] == ["user"]
    mixed = DCNv2(features(), n_cross_layers=2, mlp_params=MLP)
    assert type(mixed) is house.DCNv2
    assert (mixed.arguments["low_rank"], mixed.arguments["num_experts"]) == (32, 4)
    full = DCNv2(features(), 2, MLP, model_structure="stacked", use_low_rank_mixture=False)
    assert (full.arguments["low_rank"], full.arguments["structure"]) == (None, "stacked")


def test_two_models_of_one_list_share_no_weights() -> None:
    shared = features()
    first, second = (DeepFM(shared, shared, MLP) for _ in range(2))
    with torch.no_grad():
        for weight in first.parameters():
            weight.fill_(7)
    assert not any((weight == 7).any() for name, weight in second.named_parameters() if "embedding" in name)


def test_initializers_fill_their_own_table() -> None:
    rows = torch.randn(20, 4)
    lists = [
        SparseFeature("user", 30, 4, initializer=RandomUniform(5, 6)),
        SparseFeature("item", 20, 4, initializer=Pretrained(rows, freeze=False)),
        SparseFeature("shop", 10, 4),
        SparseFeature("city", 10, 4, initializer=XavierNormal()),
        SparseFeature("day", 7, 4, initializer=XavierUniform(gain=2)),
    ]
    tables = bank(DeepFM(lists, lists, MLP))
    user = tables.rows("user").detach()
    assert 5 <= float(user.min()) < float(user.max()) < 6
    assert torch.equal(tables.rows("item"), rows)
    assert float(tables.rows("shop").detach().abs().max()) < 1e-3
    assert float(tables.rows("city").detach().abs().max()) > 1e-2
    assert float(tables.rows("day").detach().abs().max()) <= 2 * (6 / 11) ** 0.5
    with pytest.raises(SchemaError, match=r"'usr'.*'user'"):
        tables.rows("usr")


def test_pretrained_rows_are_frozen_as_torch_rechub_freezes_them(tmp_path: Path) -> None:
    """By default, whatever else has that width, and with its dense Adam; the first-order weights are trained."""
    rows, random = torch.randn(20, 4), np.random.default_rng(0)
    lists = [SparseFeature("user", 30, 4), SparseFeature("item", 20, 4, initializer=Pretrained(rows))]
    model = DeepFM(lists, lists, MLP)
    user = bank(model).rows("user").detach().clone()
    data = pd.DataFrame({name: random.integers(0, 20, 300) for name in ("user", "item")})
    trainer = CTRTrainer(model, n_epoch=1, model_path=str(tmp_path), optimizer_params={"lr": 0.01}, model_logger=[])
    trainer.fit(data.assign(label=random.integers(0, 2, 300)))
    assert torch.equal(bank(model).rows("item"), rows)
    assert not torch.equal(bank(model).rows("user"), user)
    assert "freeze:\n  - embedding.tables.item" in (tmp_path / "config.yaml").read_text()
    assert not (tmp_path / "fine_tuning.json").exists()


def test_the_width_of_a_feature_without_one() -> None:
    assert SparseFeature("user", vocab_size=16).embed_dim == 12


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"mlp_params": {"dim": [8]}}, "'dim'.*'dims'"),
        ({"mlp_params": {"dims": [8], "activation": "mish"}}, "'mish'"),
        ({"deep_features": [SequenceFeature("h", 9, 4, pooling="concat")]}, "pooling 'concat'"),
        ({"deep_features": [SparseFeature("user", 31, 4)]}, "two different features.*'user'"),
        ({"deep_features": [SparseFeature("shop", 9, 4, shared_with="shops")]}, "'shops'"),
        ({"deep_features": ["user"]}, "holds something else.*'user'"),
    ],
)
def test_what_is_wrong_is_named(change: dict[str, Any], message: str) -> None:
    arguments: dict[str, Any] = {"deep_features": features(), "fm_features": features(), "mlp_params": MLP}
    with pytest.raises((ConfigError, SchemaError), match=message):
        DeepFM(**(arguments | change))


def test_rows_of_another_shape_are_refused() -> None:
    one = [SparseFeature("item", 20, 4, initializer=Pretrained(torch.zeros(3, 4)))]
    with pytest.raises(ConfigError, match=r"\(20, 4\).*\(3, 4\)"):
        DeepFM(one, one, MLP)


def test_a_model_that_is_missing_says_what_is_there() -> None:
    with pytest.raises(ImportError, match="GRU5Rec"):
        from rechub_ray.compat.models.matching import GRU5Rec  # noqa: F401
    with pytest.raises(ImportError, match="DepFM"):
        from rechub_ray.compat.models.ranking import DepFM  # noqa: F401


def history(name: str = "history") -> SequenceFeature:
    return SequenceFeature(name, 20, 4, pooling="concat", shared_with="item", padding_idx=0, max_length=9)


def test_every_ranking_model_of_torch_rechub_is_built() -> None:
    user, item, price = SparseFeature("user", 30, 4), SparseFeature("item", 20, 4), DenseFeature("price")
    both = [SparseFeature("user", 60, 4), SparseFeature("item", 40, 4)]
    built = {
        "AFM": compat.AFM([user, item], embed_dim=4, t=8),
        "AutoInt": compat.AutoInt([user, item], [price], num_layers=2, mlp_params=MLP),
        "BST": compat.BST([user], [history()], [item], MLP, nhead=2, max_seq_len=6),
        "DCN": compat.DCN([user, item, price], 2, MLP),
        "DIEN": compat.DIEN([user], [history()], [history("others")], [item], {"dims": [8]}, alpha=0.3),
        "DIN": compat.DIN([user, price], [history()], [item], {"dims": [8]}, {"dims": [6], "use_softmax": True}),
        "EDCN": compat.EDCN([user, item], 2, MLP, temperature=2),
        "DeepFFM": compat.DeepFFM([user, item], both, 3, MLP),
        "FatDeepFFM": compat.FatDeepFFM([user, item], both, 3, 2, MLP),
        "FiBiNET": compat.FiBiNet([user, item], MLP, reduction_ratio=2),
    }
    assert {name: type(model).__name__ for name, model in built.items()} == {name: name for name in built}
    more = compat.DIN([user], [history()], [item, user], {"dims": [8]}, {"dims": [6]}).arguments
    assert (more["target_features"], more["deep_features"]) == (["item"], ["user"]), "further targets are inputs alone"
    ours = {name: model.arguments for name, model in built.items()}
    assert ours["AFM"]["attention_dim"] == 8
    assert (ours["AutoInt"]["attention_dim"], ours["AutoInt"]["hidden_units"]) == (4, (8, 4))
    assert (built["BST"].schema.sequences[0].max_length, ours["BST"]["num_heads"]) == (5, 2)
    assert (ours["DIEN"]["negative_features"], ours["DIEN"]["auxiliary_weight"]) == (["others"], 0.3)
    assert (ours["DIN"]["deep_features"], ours["DIN"]["attention_softmax"]) == (["user", "price"], True)
    assert ours["DIN"]["activation"] == "dice"
    assert built["DIEN"].padding == {"history": 0, "others": 0}
    assert [f.vocab_size for f in built["DeepFFM"].schema.sparse] == [30, 20]
    assert bank(built["DeepFFM"]).weights["3"].shape == (50, 3)


def test_ids_of_cross_features_are_counted_once_for_each() -> None:
    with pytest.raises(ConfigError, match=r"'user'.*number of its ids times 2.*Got: 61"):
        compat.DeepFFM([], [SparseFeature("user", 61, 4), SparseFeature("item", 40, 4)], 3, MLP)
    one, two = SparseFeature("user", 60, 4), SparseFeature("item", 40, 4)
    with pytest.raises(ConfigError, match=r"'user'.*linear feature times 2"):
        compat.DeepFFM([one], [one, two], 3, MLP)
