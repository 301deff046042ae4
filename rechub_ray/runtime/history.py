"""The numbers of a run as a table, and as curves."""

from __future__ import annotations

import io
import math
import re
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rechub_ray.errors import ConfigError, DataError, nearest
from rechub_ray.files import cannot_write
from rechub_ray.tracking import read_history

if TYPE_CHECKING:
    import pandas as pd

FILE = "metrics.jsonl"


def history(directory: str | Path) -> pd.DataFrame:
    """Return a run's numbers, a row for each step at which some were logged.

    Args:
        directory: the run's folder (of a remote `model_dir` that of its logs, `runs/<name>`).

    Returns:
        A table by `step`, with `epoch` (-1 for the evaluation before training), `time` and the numbers' names as
        columns: `train/loss`, `val/auc` and so on; NaN where a step has none.

    Raises:
        DataError: the run keeps no numbers, or the file is damaged.
    """
    import pandas as pd

    path = Path(directory) / FILE
    if not path.exists():
        raise DataError(
            f"{path} is missing, which a run's numbers are read from",
            hint="The tracker jsonl writes it: leave it among 'trackers'.",
        )
    rows: dict[float, dict[str, float]] = {}
    for line in read_history(path):
        rows.setdefault(line["step"], {}).update(line)
    table = pd.DataFrame(list(rows.values()), columns=None if rows else ["step", "epoch"]).set_index("step")
    if "epoch" in table:
        table["epoch"] = table["epoch"].astype("Int64")
    first = [name for name in ("epoch", "time") if name in table]
    return table[[*first, *(name for name in table if name not in first)]]


def plot(
    table: pd.DataFrame,
    metrics: Sequence[str] | None = None,
    *,
    best_step: int | None = None,
    path: str | Path | None = None,
) -> Any:
    """Return the curves of a run as a matplotlib figure, which a notebook shows.

    Args:
        table: from `history`.
        metrics: columns to draw, or ends of their names (`auc` of `val/auc`); None draws the training loss and every
            metric of validation.
        best_step: step of the best checkpoint, which is marked.
        path: file to write, `.png`, `.svg` or `.pdf`; None writes none.

    Raises:
        ConfigError: matplotlib is not installed, or there is no such column.
        WriteError: the file cannot be written.
    """
    try:
        from matplotlib.figure import Figure
        from matplotlib.ticker import MaxNLocator
    except ImportError:
        raise ConfigError(
            "a plot needs the package matplotlib, which is not installed", hint="Run: pip install 'rechub_ray[report]'."
        ) from None

    class Curves(Figure):
        """A figure that a notebook shows without pyplot."""

        def _repr_png_(self) -> bytes:
            buffer = io.BytesIO()
            self.savefig(buffer, format="png", dpi=100)
            return buffer.getvalue()

    names = _chosen(table, metrics)
    columns = min(len(names), 3)
    rows = math.ceil(len(names) / columns)
    figure = Curves(figsize=(4 * columns, 2.8 * rows), layout="constrained")
    axes = figure.subplots(rows, columns, squeeze=False).ravel()
    for axis, name in zip(axes, names, strict=False):
        curve = table[name].dropna()
        axis.plot(curve.index, curve, marker="o" if len(curve) < 30 else None, markersize=3, linewidth=1.4)
        if best_step is not None and best_step in curve.index:
            axis.plot([best_step], [curve[best_step]], marker="*", markersize=11, linestyle="none", label="best")
            axis.legend(frameon=False)
        axis.set_title(name, fontsize=10)
        axis.set_xlabel("step", fontsize=9)
        axis.xaxis.set_major_locator(MaxNLocator(integer=True, nbins=5))
        axis.spines[["top", "right"]].set_visible(False)
    for axis in axes[len(names) :]:
        axis.set_visible(False)
    if path is not None:
        try:
            figure.savefig(path, dpi=150)
        except OSError as error:
            raise cannot_write(path, error) from None
        except ValueError as error:
            raise ConfigError(f"'path': {path} has no form that can be drawn", got=str(error)) from None
    return figure


def step_of(checkpoint: str) -> int | None:
    """Return the step that a checkpoint's folder is named after."""
    found = re.search(r"step_0*(\d+)/?$", checkpoint)
    return None if found is None else int(found[1])


def _chosen(table: pd.DataFrame, metrics: Sequence[str] | None) -> list[str]:
    """Return the columns to draw."""
    names = [str(name) for name in table]
    known = [name for name in names if name.startswith("train/loss")]
    known += [name for name in names if name.startswith("val/") and "/rows_" not in name]
    if metrics is None:
        if not known:
            raise DataError("the run has no numbers to draw yet")
        return known
    chosen = []
    for metric in [metrics] if isinstance(metrics, str) else metrics:
        fitting = [metric] if metric in names else [name for name in known if name.partition("/")[2] == metric]
        if not fitting:
            raise ConfigError(f"'metrics': no '{metric}'", hint=nearest(metric, known))
        chosen += fitting
    return chosen
