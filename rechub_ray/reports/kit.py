"""The pieces of a page: one HTML file that fetches nothing, with facts, tables and charts."""

from __future__ import annotations

import dataclasses
import html
import importlib.resources
import json
import math
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from rechub_ray.errors import masked
from rechub_ray.reports.chart import Shape, legend

COLOURS = ("a", "b", "c", "d", "e", "f", "g", "h")
"""Colours of page.css for things without an order, told apart by people who do not see all colours."""
PLACES = 4

# nothing is fetched, and nothing but the page's own script runs, whatever names it holds
_POLICY = "default-src 'none'; style-src 'unsafe-inline'; script-src 'unsafe-inline'; img-src data:"


@dataclasses.dataclass(frozen=True)
class Cell:
    """A table's cell of HTML that is ready, with the value that it is sorted by."""

    html: str
    value: Any = None
    kind: str = ""


def page(
    title: str,
    kind: str,
    subtitle: str,
    sections: Iterable[str],
    *,
    footer: str = "",
    data: Mapping[str, Any] | None = None,
    refresh: int | None = None,
) -> str:
    """Return the whole page.

    Args:
        title: its heading, as plain text.
        kind: what it is of, for the browser's tab.
        subtitle: plain text below the heading.
        sections: HTML; empty ones are left out.
        footer: plain text at the end.
        data: what the script page.js reads; None takes no script.
        refresh: seconds after which the script loads it again, as long as there is something to load.
    """
    script, policy = "", _POLICY
    if data is not None:
        if refresh is not None:
            policy, data = f"{_POLICY}; connect-src 'self'", {**data, "refresh": refresh}
        text = json.dumps(data, ensure_ascii=False, separators=(",", ":")).replace("<", "\\u003c")
        script = (
            f'<div id="tip" role="tooltip" hidden></div>\n<script type="application/json" id="data">{text}</script>\n'
            f"<script>{_asset('page.js')}</script>\n"
        )
    body = "".join(f"<section>{section}</section>\n" for section in sections if section)
    return f"""<!doctype html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<meta http-equiv="Content-Security-Policy" content="{policy}">
<title>{html.escape(title)}: {kind}</title>
<style>{_asset("page.css")}</style>
</head>
<body>
<header><h1>{html.escape(title)}</h1><p>{html.escape(masked(subtitle))}</p></header>
<main>
{body}</main>
<footer>{html.escape(footer)}</footer>
{script}</body>
</html>
"""


def _asset(name: str) -> str:
    return importlib.resources.files(__package__).joinpath(name).read_text(encoding="utf-8")


def facts(items: Iterable[tuple[str, str, str]]) -> str:
    """Return a row of boxes: what, how much, and a remark each."""
    boxes = (
        f"<div><dt>{html.escape(a)}</dt><dd>{html.escape(b)}<small>{html.escape(c)}</small></dd></div>"
        for a, b, c in items
    )
    return f'<dl class="facts">{"".join(boxes)}</dl>'


def figure(title: str, drawing: str, shapes: Sequence[Shape] = (), text: str = "", *, wide: bool = False) -> str:
    """Return a chart with its title, legend and caption.

    Args:
        title: plain text.
        drawing: the `<svg>` element.
        shapes: what the legend names.
        text: plain text below it.
        wide: as wide as the page; it is scrolled where the screen is narrower.
    """
    caption = f"<figcaption>{html.escape(text)}</figcaption>" if text else ""
    name = html.escape(title)
    if wide:
        drawing = f'<div class="scroll" tabindex="0" role="region" aria-label="{name}">{drawing}</div>'
    return f"<figure{' class=wide' if wide else ''}><h3>{name}</h3>{legend(shapes)}{drawing}{caption}</figure>"


def figures(parts: Iterable[str]) -> str:
    """Return charts side by side where there is room; empty without one."""
    joined = "".join(parts)
    return f'<div class="figures">{joined}</div>' if joined else ""


def table(
    caption: str, heads: Sequence[str], rows: Iterable[Sequence[Any]], *, name: str = "", marks: Sequence[int] = ()
) -> str:
    """Return a table that scrolls by itself on a narrow screen.

    Args:
        caption: plain text above it.
        heads: a column's title each.
        rows: numbers, which stand at the right and are rounded, plain text, or `Cell`s.
        name: its id, with which page.js sorts it.
        marks: the numbers of the rows' trials.
    """
    opens, closes = ('<button type="button">', "</button>") if name else ("", "")
    rows = list(rows)
    sides = [" class=number" if any(map(_is_number, column)) else "" for column in zip(*rows, strict=True)]
    titles = "".join(
        f'<th scope="col"{side}>{opens}{html.escape(head)}{closes}</th>'
        for head, side in zip(heads, sides or [""] * len(heads), strict=True)
    )
    trials = [f' data-t="{mark}"' for mark in marks]
    lines = "".join(f"<tr{trials[i] if trials else ''}>{''.join(map(_cell, row))}</tr>" for i, row in enumerate(rows))
    own = f' id="{name}"' if name else ""
    return (
        f'<div class="scroll" tabindex="0" role="region" aria-label="{html.escape(caption)}">'
        f"<table{own}><caption><span>{html.escape(caption)}</span></caption>"
        f"<thead><tr>{titles}</tr></thead><tbody>{lines}</tbody></table></div>"
    )


def folded(summary: str, content: str) -> str:
    """Return content that a click shows."""
    return f"<details><summary>{html.escape(summary)}</summary>{content}</details>"


def note(text: str) -> str:
    """Return a remark, of plain text."""
    return f'<p class="note">{html.escape(text)}</p>'


def _cell(value: Any) -> str:
    if isinstance(value, Cell):
        kind = f' class="{value.kind}"' if value.kind else ""
        sort = "" if value.value is None else f' data-v="{html.escape(str(value.value))}"'
        return f"<td{kind}{sort}>{value.html}</td>"
    if value is None:
        return '<td data-v=""></td>'
    if _is_number(value):
        return f'<td class="number" data-v="{value}">{number(value)}</td>'
    text = masked(label(value))
    return f"<td{' class=text' if len(text) > 40 else ''}>{html.escape(text)}</td>"


def _is_number(value: Any) -> bool:
    if isinstance(value, Cell):
        return value.kind in ("best", "number")
    return isinstance(value, (int, float)) and not isinstance(value, bool)


def number(value: Any) -> str:
    """Return a number rounded to be read: four decimal places, or three digits of a small one.

    Example:
        >>> [number(x) for x in (0.98412345, 0.0001234, 12345.6, 7, float("nan"), None)]
        ['0.9841', '0.000123', '12,346', '7', 'undefined', 'none']
    """
    if not isinstance(value, (int, float)):
        return "none"
    if not math.isfinite(value):
        return "undefined" if math.isnan(value) else str(value)
    if isinstance(value, int) or 1e4 <= abs(value) < 1e9 or (value.is_integer() and abs(value) < 1e9):
        return f"{value:,.0f}"
    return f"{value:.{PLACES}f}" if 0.01 <= abs(value) < 1e4 else f"{value:.3g}"


def label(value: Any) -> str:
    """Return a setting's value as text; a component is its name."""
    if isinstance(value, bool) or value is None:
        return json.dumps(value)
    if isinstance(value, float):
        return f"{value:.4g}"
    if isinstance(value, Mapping) and set(value) == {"name"}:
        return str(value["name"])
    return value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)


def duration(seconds: Any) -> str:
    """Return a time, as in `12.3 s`, `4 min 5 s` and `2 h 10 min`."""
    if not isinstance(seconds, (int, float)):
        return "unknown"
    if seconds < 120:
        return f"{seconds:.1f} s"
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours} h {minutes} min" if hours else f"{minutes} min {rest} s"


def thinned(points: Sequence[Any], most: int) -> list[Any]:
    """Return at most so many of the points, with the first and the last."""
    if len(points) <= most:
        return list(points)
    return [points[round(i * (len(points) - 1) / (most - 1))] for i in range(most)]
