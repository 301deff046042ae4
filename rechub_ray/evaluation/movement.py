"""How far the rows of embedding tables have moved in training, by a sample of them."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from rechub_ray.table_format import pack_tables, table_rows

MOST_ROWS = 4096
_FARTHEST = 10


class Movement:
    """Keeps at most 4,096 rows of each table, evenly spread, as they are now.

    Args:
        model: before it is trained.
    """

    def __init__(self, model: nn.Module) -> None:
        self._before = {name: (table.shape[0], places, table[places].clone()) for name, table, places in _sample(model)}

    def since(self, model: nn.Module) -> dict[str, Any]:
        """Return for each table what has become of its rows, and the rows that have moved farthest.

        Returns:
            `tables`: the feature, the number of rows, that of the sample, the mean length of the rows before and now,
            the mean and the largest distance that a row has moved, and the share of rows that have not. `farthest`:
            feature, id and distance of rows. Row 0 of a table, of values not seen in training, counts too.
        """
        tables: list[dict[str, Any]] = []
        farthest: list[dict[str, Any]] = []
        for name, table, places in _sample(model):
            rows, kept, before = self._before.get(name, (0, places, table[:0]))
            if not len(before) or rows != table.shape[0] or len(kept) != len(places):
                continue
            now = table[places]
            moved = (now - before).float().norm(dim=1)
            feature = name.rpartition("tables.")[2]
            tables.append(
                {
                    "table": name,
                    "feature": feature,
                    "rows": rows,
                    "sample": len(places),
                    "before": float(before.float().norm(dim=1).mean()),
                    "now": float(now.float().norm(dim=1).mean()),
                    "mean": float(moved.mean()),
                    "largest": float(moved.max()),
                    "still": float((moved == 0).float().mean()),
                }
            )
            top = moved.topk(min(_FARTHEST, len(moved)))
            farthest += [
                {"feature": feature, "id": int(places[i]), "distance": float(d)}
                for d, i in zip(top.values.tolist(), top.indices.tolist(), strict=True)
            ]
        farthest.sort(key=lambda row: -row["distance"])
        return {"tables": tables, "farthest": farthest[:_FARTHEST]}


def _sample(model: nn.Module) -> list[tuple[str, Tensor, Tensor]]:
    """Return the name, the rows and the places of a sample of each embedding table."""
    names = [name for tables in table_rows(model).values() for name in tables]
    packed = pack_tables(model, {name: parameter.detach() for name, parameter in model.named_parameters()})
    found = []
    for name in names:
        table = packed.get(name)
        if table is not None and table.dim() == 2 and len(table):
            count = min(len(table), MOST_ROWS)
            places = torch.arange(count, device=table.device) * len(table) // count
            found.append((name, table, places))
    return found
