"""The data part of docs/retrieval.md: its recipe and its code, block by block, on files with the columns they name."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest
import yaml

from rechub_ray.preparation import Recipe

DOCUMENT = Path(__file__).resolve().parents[2] / "docs" / "retrieval.md"


def test_the_blocks(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    text = DOCUMENT.read_text(encoding="utf-8").split("\n## ")[1]
    recipe, from_rows = re.findall(r"```yaml\n(.*?)```", text, flags=re.DOTALL)
    (tmp_path / "raw").mkdir()
    (tmp_path / "recipe.yaml").write_text(recipe)
    # user u takes the items u, u + 1, ... u + 6
    log = [f"{u},{u + place},{1_000 * place},{place % 5}\n" for u in range(5) for place in range(7)]
    (tmp_path / "raw" / "log.csv").write_text("user,item,time,stars\n" + "".join(log))
    goods = [f"{item},{item + 1},{'a|b' if item % 2 else 'a'}\n" for item in range(12)]
    (tmp_path / "raw" / "goods.csv").write_text("key,price,tags\n" + "".join(goods))
    found: dict[str, Any] = {}
    for block in re.findall(r"```python\n(.*?)```", text, flags=re.DOTALL):
        exec(block, found)
    # 5 training rows a user, of which the last and the third before it end a window
    assert (found["each"].num_rows, found["windows"].num_rows) == (25, 10)
    # items 0 to 8; item i is taken in training by the users i - 4 to i
    counts = {item: sum(0 <= item - u < 5 for u in range(5)) for item in range(9)}
    assert sorted(found["catalogue"].count.tolist()) == sorted(counts.values())
    assert found["result"].schema.items.exclude == "seen"

    other = {**yaml.safe_load(recipe), **yaml.safe_load(from_rows)}
    assert Recipe.from_dict(other).items is not None
