"""Charts as SVG text, in the colours of page.css, without a drawing library."""

from __future__ import annotations

import dataclasses
import html
import math
from collections.abc import Callable, Iterable, Sequence

WIDTH, HEIGHT = 380.0, 235.0
_LETTER = 6.9  # width of a letter at the charts' 12 px
_RIGHT, _SHAPES = 14.0, {"dot": "circle", "ring": "circle", "star": "path", "cross": "path", "square": "rect"}

Point = tuple[float, float]


@dataclasses.dataclass(frozen=True)
class Line:
    """A line through points; a point that is not finite makes a gap.

    Args:
        points: (x, y) each.
        colour: name of a colour of page.css.
        name: in the legend; empty has no entry.
        width: in pixels.
        dash: as SVG's `stroke-dasharray`.
        steps: keep a value until the next one.
        opacity: in (0, 1].
        mark: number of the trial that it belongs to.
        below: fill what lies below it.
    """

    points: Sequence[Point]
    colour: str = "a"
    name: str = ""
    width: float = 1.8
    dash: str = ""
    steps: bool = False
    opacity: float = 1.0
    mark: int | None = None
    below: bool = False


@dataclasses.dataclass(frozen=True)
class Dots:
    """Points.

    Args:
        points: (x, y) each.
        colour: name of a colour of page.css.
        name: in the legend; empty has no entry.
        symbol: `dot`, `ring`, `star`, `cross` or `square`.
        size: radius in pixels.
        tips: a text a point, shown when it is pointed at.
        marks: the numbers of the points' trials.
    """

    points: Sequence[Point]
    colour: str = "a"
    name: str = ""
    symbol: str = "dot"
    size: float = 3.0
    tips: Sequence[str] = ()
    marks: Sequence[int] = ()


@dataclasses.dataclass(frozen=True)
class Bars:
    """Rectangles from (left, bottom) to (right, top).

    Args:
        spans: (left, right, bottom, top) each.
        colour: name of a colour of page.css.
        name: in the legend; empty has no entry.
        opacity: in (0, 1].
        tips: a text a bar, shown when it is pointed at.
        marks: the numbers of the bars' trials.
    """

    spans: Sequence[tuple[float, float, float, float]]
    colour: str = "a"
    name: str = ""
    opacity: float = 1.0
    tips: Sequence[str] = ()
    marks: Sequence[int] = ()


Shape = Line | Dots | Bars


@dataclasses.dataclass(frozen=True)
class Scale:
    """One axis.

    Args:
        title: its name, with the unit.
        log: logarithmic.
        low: its lower end; None takes that of the data, with a margin.
        high: its upper end; None likewise.
        ticks: (value, text) each; None chooses round values.
        whole: only whole numbers are ticks.
    """

    title: str = ""
    log: bool = False
    low: float | None = None
    high: float | None = None
    ticks: Sequence[tuple[float, str]] | None = None
    whole: bool = False

    def settled(self, values: Iterable[float], margin: float) -> Scale:
        """Return the scale with both ends and its ticks, for data with these values."""
        found = [v for v in values if math.isfinite(v) and (v > 0 or not self.log)]
        low, high = min(found, default=1.0), max(found, default=1.0)
        if self.log:
            low, high = math.log10(low), math.log10(high)
        if high - low <= 1e-9 * max(abs(low), abs(high), 1e-9):
            pad = max(abs(low), 1e-3) * 0.1
            low, high = low - pad, high + pad
        span = high - low
        ends = (
            low - margin * span if self.low is None else math.log10(self.low) if self.log else self.low,
            high + margin * span if self.high is None else math.log10(self.high) if self.log else self.high,
        )
        ticks = self.ticks
        if ticks is None:
            ticks = log_ticks(*ends) if self.log else round_ticks(*ends, whole=self.whole)
        return dataclasses.replace(self, low=ends[0], high=ends[1], ticks=ticks)

    def share(self, value: float) -> float:
        """Return where a value lies between the ends of a settled scale, 0 to 1."""
        assert self.low is not None
        assert self.high is not None
        place = (math.log10(value) if value > 0 else -math.inf) if self.log else value
        return min(max((place - self.low) / ((self.high - self.low) or 1.0), -50.0), 50.0)


def round_ticks(low: float, high: float, *, whole: bool = False, most: int = 5) -> list[tuple[float, str]]:
    """Return at most so many round values between two, with their texts.

    Example:
        >>> round_ticks(0.0, 1.0)
        [(0.0, '0'), (0.25, '0.25'), (0.5, '0.5'), (0.75, '0.75'), (1.0, '1')]
    """
    raw = (high - low) / most or 1.0
    size = 10.0 ** math.floor(math.log10(raw))
    step = next(f * size for f in (1, 2, 2.5, 5, 10, 20) if f * size >= raw)
    step = max(round(step), 1) if whole else step
    first = math.ceil(low / step - 1e-9)
    values = [i * step for i in range(first, first + 2 * most + 3) if i * step <= high + 1e-9 * abs(high) + 1e-12]
    return [(v, short(v)) for v in values]


def log_ticks(low: float, high: float) -> list[tuple[float, str]]:
    """Return decades between two logarithms as values with texts; where there are few, others between them too."""
    factors = (1,) if high - low > 2.5 else (1, 3) if high - low > 1.2 else (1, 2, 5)
    every = math.ceil((high - low) / 6) if len(factors) == 1 else 1
    values = [f * 10.0**e for e in range(math.floor(low), math.ceil(high) + 1, every) for f in factors]
    kept = [v for v in values if low - 1e-9 <= math.log10(v) <= high + 1e-9]
    if len(kept) < 2:
        kept = [10.0**low, 10.0 ** ((low + high) / 2), 10.0**high]
    return [(v, short(v)) for v in kept]


def short(value: float) -> str:
    """Return a number for an axis.

    Example:
        >>> [short(x) for x in (0.0, 0.25, 1500.0, 1250000.0, 0.00001)]
        ['0', '0.25', '1,500', '1.25M', '1e-05']
    """
    size = abs(value)
    for limit, unit in ((1e9, "G"), (1e6, "M"), (1e4, "k")):
        if size >= limit:
            scaled = value / (1e3 if unit == "k" else limit)
            return f"{scaled:.4g}{unit}"
    return f"{value:,.0f}" if size >= 1000 else f"{value:.4g}" if size > 1e-12 else "0"


def chart(
    shapes: Sequence[Shape],
    x: Scale,
    y: Scale,
    *,
    name: str,
    description: str,
    width: float = WIDTH,
    height: float = HEIGHT,
) -> str:
    """Return shapes on two axes as an `<svg>` element.

    Args:
        shapes: drawn in this order.
        x: the horizontal axis.
        y: the vertical axis; its title stands above it.
        name: unique in the page.
        description: for screen readers.
        width: in pixels of the text's 12.
        height: likewise.
    """
    points = [p for shape in shapes for p in _corners(shape)]
    x = x.settled([p[0] for p in points], 0.03)
    y = y.settled([p[1] for p in points], 0.06)
    assert x.ticks is not None
    assert y.ticks is not None
    left = 10 + _LETTER * max([len(text) for _, text in y.ticks] or [0])
    top, bottom = (24.0 if y.title else 10.0), (38.0 if x.title else 22.0)
    wide, tall = width - left - _RIGHT, height - top - bottom

    def at(point: Point) -> tuple[str, str]:
        return px(wide * x.share(point[0])), px(tall * (1 - y.share(point[1])))

    parts = []
    for value, text in y.ticks:
        place = top + tall * (1 - y.share(value))
        parts.append(f'<path class="grid" d="M{px(left)} {px(place)}h{px(wide)}"/>')
        parts.append(f'<text x="{px(left - 5)}" y="{px(place + 4)}" text-anchor="end">{html.escape(text)}</text>')
    last = -math.inf
    for value, text in x.ticks:
        place = left + wide * x.share(value)
        parts.append(f'<path class="grid" d="M{px(place)} {px(top + tall)}v4"/>')
        room = _LETTER * len(text)
        if place - room / 2 > last + 4:  # texts that would touch are left out
            shifted = min(place, width - room / 2)
            parts.append(
                f'<text x="{px(shifted)}" y="{px(top + tall + 17)}" text-anchor="middle">{html.escape(text)}</text>'
            )
            last = shifted + room / 2
    if y.title:
        parts.append(f'<text class="title" x="2" y="13">{html.escape(y.title)}</text>')
    if x.title:
        middle = px(left + wide / 2)
        parts.append(
            f'<text class="title" x="{middle}" y="{px(height - 5)}" text-anchor="middle">{html.escape(x.title)}</text>'
        )
    drawn = "".join(_drawn(shape, at, tall, y) for shape in shapes)
    # an inner svg cuts off what lies outside of the axes, and needs no id for that
    inner = f'<svg x="{px(left)}" y="{px(top)}" width="{px(wide)}" height="{px(tall)}">{drawn}</svg>'
    return svg("".join(parts) + inner, width, height, name=name, description=description)


def svg(content: str, width: float, height: float, *, name: str, description: str) -> str:
    """Return an `<svg>` element of a page."""
    about = f'aria-label="{html.escape(description)}" data-figure="{html.escape(name)}"'
    return f'<svg viewBox="0 0 {px(width)} {px(height)}" role="img" {about}>{content}</svg>'


def legend(shapes: Sequence[Shape]) -> str:
    """Return the names of shapes with their colours and forms, each once, as HTML; empty for one name."""
    named = {shape.name: shape for shape in reversed(shapes) if shape.name}
    if len(named) < 2:
        return ""
    items = []
    for shape in reversed(named.values()):
        if isinstance(shape, Bars):
            mark = f'<rect y="2" width="18" height="8" fill="var(--{shape.colour})" fill-opacity="{shape.opacity:g}"/>'
        elif isinstance(shape, Dots):
            mark = _symbol(shape, "9", "6", "", "")
        else:
            dash = f' stroke-dasharray="{shape.dash}"' if shape.dash else ""
            mark = f'<path d="M0 6h18" stroke="var(--{shape.colour})" stroke-width="2.4"{dash}/>'
        items.append(
            f'<span><svg width="18" height="12" aria-hidden="true">{mark}</svg>{html.escape(shape.name)}</span>'
        )
    return f'<div class="legend">{"".join(items)}</div>'


def px(value: float) -> str:
    """Return a length in pixels, to a tenth."""
    return f"{value:.1f}".removesuffix(".0")


def _corners(shape: Shape) -> Iterable[Point]:
    if isinstance(shape, Bars):
        return [p for left, right, bottom, top in shape.spans for p in ((left, bottom), (right, top))]
    return shape.points


def _drawn(shape: Shape, at: Callable[[Point], tuple[str, str]], tall: float, y: Scale) -> str:
    if isinstance(shape, Bars):
        return _bars(shape, at)
    if isinstance(shape, Line):
        return _line(shape, at, tall)
    parts = []
    for i, point in enumerate(shape.points):
        if math.isfinite(point[0]) and math.isfinite(point[1]):
            mark = f' data-t="{shape.marks[i]}"' if shape.marks else ""
            parts.append(_symbol(shape, *at(point), mark, shape.tips[i] if shape.tips else ""))
    return "".join(parts)


def _bars(shape: Bars, at: Callable[[Point], tuple[str, str]]) -> str:
    parts = []
    for i, (left, right, bottom, top) in enumerate(shape.spans):
        (x0, y0), (x1, y1) = at((left, bottom)), at((right, top))
        mark = f' data-t="{shape.marks[i]}"' if shape.marks else ""
        size = f'width="{px(max(float(x1) - float(x0), 0.6))}" height="{px(max(float(y0) - float(y1), 0))}"'
        tip = f"<title>{html.escape(shape.tips[i])}</title>" if shape.tips else ""
        parts.append(
            f'<rect x="{x0}" y="{y1}" {size}{mark}>{tip}</rect>' if tip else f'<rect x="{x0}" y="{y1}" {size}{mark}/>'
        )
    opacity = f' fill-opacity="{shape.opacity:g}"' if shape.opacity < 1 else ""
    return f'<g fill="var(--{shape.colour})"{opacity}>{"".join(parts)}</g>'


def _line(shape: Line, at: Callable[[Point], tuple[str, str]], tall: float) -> str:
    path, before = "", None
    for point in shape.points:
        if not (math.isfinite(point[0]) and math.isfinite(point[1])):
            before = None
            continue
        x, y = at(point)
        path += f"M{x} {y}" if before is None else f"H{x}V{y}" if shape.steps else f"L{x} {y}"
        before = x
    if not path:
        return ""
    dash = f' stroke-dasharray="{shape.dash}"' if shape.dash else ""
    faint = f' opacity="{shape.opacity:g}"' if shape.opacity < 1 else ""
    line = f'<path d="{path}" fill="none" stroke="var(--{shape.colour})" stroke-width="{shape.width:g}"{dash}{faint}/>'
    if shape.below:
        first = at(shape.points[0])[0]
        line = f'<path d="{path}V{px(tall)}H{first}Z" fill="var(--{shape.colour})" fill-opacity=".22"/>' + line
    return line if shape.mark is None else f'<g data-t="{shape.mark}">{line}</g>'


def _symbol(shape: Dots, x: str, y: str, mark: str, tip: str) -> str:
    r, fill = shape.size, f'fill="var(--{shape.colour})"'
    if shape.symbol == "ring":
        fill = f'fill="none" stroke="var(--{shape.colour})" stroke-width="1.8"'
    if shape.symbol in ("dot", "ring"):
        tag, form = "circle", f'cx="{x}" cy="{y}" r="{r:g}"'
    elif shape.symbol == "square":
        tag = "rect"
        form = f'x="{px(float(x) - r)}" y="{px(float(y) - r)}" width="{2 * r:g}" height="{2 * r:g}"'
    elif shape.symbol == "cross":
        tag, fill = "path", f'stroke="var(--{shape.colour})" stroke-width="2" fill="none"'
        form = f'd="M{x} {y}m{-r:g} {-r:g}l{2 * r:g} {2 * r:g}m0 {-2 * r:g}l{-2 * r:g} {2 * r:g}"'
    else:
        turns = [(r * (2.2 if i % 2 == 0 else 0.95), math.pi * (i / 5 - 0.5)) for i in range(10)]
        corners = [f"{px(float(x) + a * math.cos(t))} {px(float(y) + a * math.sin(t))}" for a, t in turns]
        tag, form = "path", f'd="M{"L".join(corners)}Z"'
    return (
        f"<{tag} {form} {fill}{mark}><title>{html.escape(tip)}</title></{tag}>"
        if tip
        else f"<{tag} {form} {fill}{mark}/>"
    )
