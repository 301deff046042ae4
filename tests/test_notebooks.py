"""The notebooks in examples/ run from the top to the end in an empty folder, and show what they speak of."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

NOTEBOOKS = sorted((Path(__file__).resolve().parents[1] / "examples").glob("*.ipynb"))


def code(path: Path) -> list[dict[str, Any]]:
    return [cell for cell in json.loads(path.read_text(encoding="utf-8"))["cells"] if cell["cell_type"] == "code"]


def test_there_is_one_for_each_family() -> None:
    assert [path.stem for path in NOTEBOOKS] == ["multi_task", "ranking", "retrieval", "sequences"]


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
def test_a_notebook_is_kept_without_its_output(path: Path) -> None:
    cells = code(path)
    text = "".join("".join(cell["source"]) + "\n" for cell in cells)
    compile(text, path.name, "exec")
    assert not any(cell["outputs"] or cell["execution_count"] for cell in cells)
    assert all(part in text for part in ("result.history", "result.plot(", "result.model.predict("))


def test_the_cells_of_a_notebook_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """In this process, which a kernel's ten seconds are not worth; the long test starts one for each notebook."""
    matplotlib = pytest.importorskip("matplotlib")
    monkeypatch.chdir(tmp_path)
    with matplotlib.rc_context({"backend": "agg"}):
        found: dict[str, Any] = {}
        for cell in code(NOTEBOOKS[1]):
            exec("".join(cell["source"]), found)
    assert len(found["result"].history) > 1


@pytest.mark.long
@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
def test_a_notebook_runs(path: Path, tmp_path: Path) -> None:
    nbformat, nbclient = pytest.importorskip("nbformat"), pytest.importorskip("nbclient")
    pytest.importorskip("ipykernel")
    notebook = nbformat.read(path, as_version=4)
    nbclient.NotebookClient(notebook, timeout=100, resources={"metadata": {"path": str(tmp_path)}}).execute()
    shown = [output for cell in notebook.cells if cell.cell_type == "code" for output in cell.outputs]
    assert not [output for output in shown if output.output_type == "error"]
    kinds = [kind for output in shown for kind in output.get("data", {})]
    assert kinds.count("image/png") == 1
    assert kinds.count("text/html") >= 3, "tables"
