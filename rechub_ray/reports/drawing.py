"""Matplotlib figures as PNG, and as SVG that follows the page's colours and whose marks name their trials."""

from __future__ import annotations

import dataclasses
import html
import io
import re
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

# name -> colour on paper; page.css has the same names for the screen, light and dark
COLOURS = {
    "ink": "#1f2328",
    "muted": "#667080",
    "grid": "#dfe3e9",
    "finished": "#2f6fdb",
    "stopped": "#d9822b",
    "failed": "#c93a3b",
    "best": "#128a55",
    "other": "#8f99a6",
    "rank0": "#c3cedc",
    "rank1": "#93b1d8",
    "rank2": "#5b8fd6",
    "rank3": "#2767c4",
    "rank4": "#0b3d92",
}
WIDTH = 9.0  # inches
STATUS = {"finished": "finished", "stopped_early": "stopped", "failed": "failed"}
DOTS_PER_INCH = 110


@dataclasses.dataclass(frozen=True)
class Drawn:
    """A matplotlib figure, with the trials' numbers of its collections of points."""

    figure: Any
    orders: dict[str, list[int]] = dataclasses.field(default_factory=dict)


@contextmanager
def style() -> Iterator[None]:
    """Apply the report's settings of matplotlib within the block."""
    import matplotlib

    settings: Any = {
        "font.family": "sans-serif",
        "font.size": 9,
        "text.color": COLOURS["ink"],
        "text.parse_math": False,  # a name with dollars is not a formula
        "axes.edgecolor": COLOURS["muted"],
        "axes.labelcolor": COLOURS["ink"],
        "axes.spines.top": False,
        "axes.spines.right": False,
        "axes.grid": True,
        "axes.axisbelow": True,
        "grid.color": COLOURS["grid"],
        "grid.linewidth": 0.6,
        "xtick.color": COLOURS["muted"],
        "ytick.color": COLOURS["muted"],
        "xtick.labelcolor": COLOURS["ink"],
        "ytick.labelcolor": COLOURS["ink"],
        "legend.frameon": False,
        "svg.fonttype": "none",
        "path.simplify": True,
    }
    with matplotlib.rc_context(settings):
        yield


def new_figure(height: float, rows: int = 1, columns: int = 1) -> tuple[Any, Any]:
    """Return a figure of the page's width, and its axes."""
    from matplotlib.figure import Figure as MatplotlibFigure

    figure = MatplotlibFigure(figsize=(WIDTH, height), layout="constrained")
    return figure, figure.subplots(rows, columns, squeeze=False)


def label_log_axis(axis: Any, values: Sequence[float]) -> None:
    """Write plain numbers at the decades, or at three places where the values span no decade."""
    low, high = min(values), max(values)
    axis.set_minor_formatter(lambda x, _: "")
    if high < 20 * low:
        axis.set_ticks([low, (low * high) ** 0.5, high] if high > low else [low])
    axis.set_major_formatter(lambda x, _: f"{x:.3g}")


def png(figure: Any) -> bytes:
    """Return the figure as a PNG on white."""
    buffer = io.BytesIO()
    figure.savefig(buffer, format="png", dpi=DOTS_PER_INCH, facecolor="white")
    return buffer.getvalue()


def svg(figure: Any, name: str, description: str, orders: Mapping[str, Sequence[int]]) -> str:
    """Return the figure as an `<svg>` element for a page.

    Args:
        figure: a matplotlib figure.
        name: its name, unique in the page.
        description: text for screen readers.
        orders: gid of a collection of points -> the trials' numbers, in the order of its points.
    """
    import matplotlib

    buffer = io.StringIO()
    with matplotlib.rc_context({"svg.hashsalt": name}):
        figure.savefig(buffer, format="svg", transparent=True, metadata={"Date": None, "Creator": None})
    text = buffer.getvalue()
    text = text[text.index("<svg") :].replace("xlink:href", "href")
    text = re.sub(r"<metadata>.*?</metadata>\s*|<style.*?</style>\s*", "", text, flags=re.DOTALL)
    text = re.sub(r" ?font-family: [^;\"]*;?", "", text)  # the page's
    text = re.sub(r"<[^>]+>", lambda tag: _round(tag[0]), text)  # tags only: numbers in the text stay
    text = re.sub(r"\n\s*", "\n", text)
    for gid, numbers in orders.items():
        text = _name_points(text, gid, numbers)
    text = re.sub(r'<g id="trial-(\d+)">', r'<g data-t="\1">', text)
    # unique in one figure, but not in a page of several; ids that are referred to are made from a hash
    text = re.sub(r' id="[A-Za-z0-9.]+_\d+"', "", text)
    for colour, value in COLOURS.items():
        text = text.replace(value, f"var(--{colour})")
    _, view, rest = re.split(r'(viewBox="[^"]*")', text, maxsplit=1)
    body = rest[rest.index(">") + 1 :]
    return f'<svg {view} role="img" aria-label="{html.escape(description)}" data-figure="{name}">{body}'


def _round(tag: str) -> str:
    return re.sub(r"-?\d+\.\d{2,}", lambda number: f"{float(number[0]):.1f}".removesuffix(".0"), tag)


def _name_points(text: str, gid: str, numbers: Sequence[int]) -> str:
    head, _, rest = text.partition(f'<g id="{gid}">')
    body, end, tail = rest.partition("</g>\n</g>")
    parts = re.split(r"<use ", body)
    if len(parts) - 1 != len(numbers):  # points that share an element, or were left out, cannot be told apart
        return text
    named = [parts[0], *(f'<use data-t="{n}" {part}' for n, part in zip(numbers, parts[1:], strict=True))]
    return f"{head}<g>{''.join(named)}{end}{tail}"
