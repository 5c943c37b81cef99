"""Plots as SVG that stands in a page: by matplotlib, with the page's own colors, no fonts and no ids that clash."""

import re
import warnings
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from io import StringIO
from typing import Any
from xml.etree import ElementTree

import matplotlib
import numpy as np
from markupsafe import Markup
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import FixedFormatter, FixedLocator, MaxNLocator, NullLocator, PercentFormatter

from nlptransfer.evaluation import Reliability

SERIES = 6
"""Lines of a plot that have colors of their own."""
SIZE = (4.4, 3.0)
"""Inches: a little more than a phone is wide, so that letters are not shrunk on one."""
# Colors that matplotlib sees in place of the page's CSS variables, which are put in afterwards.
_COLORS = {"ink": "#010101", "faint": "#020202", "paper": "#030303"} | {
    f"series-{number}": f"#0404{number:02d}" for number in range(1, SERIES + 1)
}
_INK, _FAINT, _PAPER = (_COLORS[name] for name in ("ink", "faint", "paper"))
_LINES = [_COLORS[f"series-{number}"] for number in range(1, SERIES + 1)]
_MARKERS = "osD^vP"
_VARIABLES = {color: f"var(--{name})" for name, color in _COLORS.items()}
_STYLE: dict[Any, Any] = {
    "axes.edgecolor": _FAINT,
    "axes.facecolor": "none",
    "axes.grid": True,
    "axes.labelcolor": _INK,
    "axes.spines.right": False,
    "axes.spines.top": False,
    "figure.constrained_layout.use": True,
    "figure.dpi": 72,
    "figure.facecolor": "none",
    "font.sans-serif": ["DejaVu Sans"],
    "font.size": 9,
    "grid.alpha": 0.35,
    "grid.color": _FAINT,
    "grid.linewidth": 0.5,
    "legend.frameon": False,
    "lines.linewidth": 1.6,
    "svg.fonttype": "none",
    "text.color": _INK,
    # Names are the user's: a dollar sign is no formula.
    "text.parse_math": False,
    "xtick.color": _INK,
    "ytick.color": _INK,
}
_SECONDS = {
    0.001: "1 ms",
    0.01: "10 ms",
    0.1: "0.1 s",
    1: "1 s",
    10: "10 s",
    60: "1 min",
    600: "10 min",
    3600: "1 h",
    36000: "10 h",
    360000: "100 h",
}


@dataclass(frozen=True)
class Point:
    """A score at some place of an axis."""

    place: float
    """seconds, or rows"""
    score: float
    interval: tuple[float, float] | None = None
    """95%"""


def score_against_cost(points: Mapping[str, Point], chosen: str | None, metric: str) -> Markup:
    """Scores over training seconds, on a logarithmic axis, with their intervals.

    Args:
        points: of each candidate, by name; the place is in seconds.
        chosen: the name of the recommended one.
        metric: what the score is, in words.
    """

    def draw(figure: Figure) -> None:
        axes = figure.subplots()
        shown = {name: replace(point, place=max(point.place, 0.001)) for name, point in points.items()}
        for name, point in shown.items():
            color = _LINES[0] if name == chosen else _INK
            axes.errorbar(**_with_bars([point]), fmt="o", color=color, markersize=6 if name == chosen else 4.5)
        _seconds_axis(axes, [point.place for point in shown.values()])
        axes.set_xlabel("training time, logarithmic")
        axes.set_ylabel(_short(metric))
        axes.margins(y=0.2)
        _name_points(figure, axes, shown, chosen)

    told = "; ".join(f"{name}: {_said(point)}, {point.place:.3g} s" for name, point in points.items())
    return _svg("cost", f"{metric} against training time", told, draw)


def learning_curve(curves: Mapping[str, Sequence[Point]], metric: str) -> Markup:
    """Scores over the number of training rows, a line for each candidate.

    Args:
        curves: by the candidate's name; places are rows.
        metric: what the score is, in words.
    """

    def draw(figure: Figure) -> None:
        axes = figure.subplots()
        places = sorted({point.place for points in curves.values() for point in points})
        # A little apart, so that no bar hides another.
        step = max(1.5, places[-1] / places[0]) ** 0.015
        for number, (name, points) in enumerate(curves.items()):
            look: Any = {"color": _LINES[number % SERIES], "marker": _MARKERS[number % SERIES]}
            apart = step ** (number - (len(curves) - 1) / 2)
            beside = [replace(point, place=point.place * apart) for point in points]
            axes.errorbar(**_with_bars(beside), **look, markersize=4, elinewidth=1, label=_short(name))
        axes.set_xscale("log")
        axes.xaxis.set_major_locator(FixedLocator(places))
        axes.xaxis.set_major_formatter(FixedFormatter([f"{place:,.0f}" for place in places]))
        axes.xaxis.set_minor_locator(NullLocator())
        axes.set_xlabel("labeled rows, logarithmic")
        axes.set_ylabel(_short(metric))
        figure.legend(loc="outside upper center", ncols=3, fontsize=8)

    told = "; ".join(
        f"{name}: " + ", ".join(f"{_said(point)} with {point.place:,.0f} rows" for point in points)
        for name, points in curves.items()
    )
    return _svg("learning", f"{metric} against labeled rows", told, draw)


def reliability_diagram(after: Reliability, before: Reliability | None, forecast: str, came: str) -> Markup:
    """What was forecast beside what came true, and below it how many forecasts there were.

    Args:
        after: as the saved classifier gives them.
        before: before temperature scaling, where there was any.
        forecast: what the horizontal axis is, in words.
        came: what the vertical axis is.
    """

    def draw(figure: Figure) -> None:
        upper, lower = figure.subplots(2, sharex=True, height_ratios=(4, 1))
        upper.plot([0, 1], [0, 1], color=_FAINT, linestyle="--", linewidth=1, label="calibrated")
        if before is not None:
            label = "before scaling"
            upper.plot(before.confidence, before.frequency, "s:", color=_LINES[1], markersize=3.5, label=label)
        upper.plot(after.confidence, after.frequency, "o-", color=_LINES[0], markersize=4, label="the classifier")
        upper.set_ylabel(came)
        upper.set(xlim=(0, 1), ylim=(0, 1.03))
        upper.legend(loc="upper left", fontsize=8)
        lower.vlines(after.confidence, 0, after.count, color=_LINES[0], linewidth=5)
        lower.set(xlabel=forecast, ylabel="count", ylim=(0, None))
        lower.yaxis.set_major_locator(MaxNLocator(2, integer=True))

    told = "; ".join(
        f"forecast {given:.2f}, true {true:.2f}, {count:,} forecasts"
        for given, true, count in zip(after.confidence, after.frequency, after.count, strict=True)
    )
    return _svg("reliability", "Reliability diagram", told, draw)


def coverage_plot(coverage: np.ndarray, accuracy: np.ndarray) -> Markup:
    """How many of the rows that are answered are right, over the share of rows that is answered; both (points,)."""

    def draw(figure: Figure) -> None:
        axes = figure.subplots()
        axes.plot(coverage, accuracy, color=_LINES[0])
        axes.set(xlim=(0, 1), xlabel="share of rows that is answered", ylabel="right among these")
        axes.xaxis.set_major_formatter(PercentFormatter(1, decimals=0))
        axes.yaxis.set_major_locator(MaxNLocator(6, steps=[1, 2, 5, 10]))
        axes.yaxis.set_major_formatter(PercentFormatter(1, decimals=0 if np.ptp(accuracy) > 0.05 else 1))

    places = [int(np.abs(coverage - share).argmin()) for share in (0.25, 0.5, 0.75, 1)]
    told = "; ".join(f"{accuracy[place]:.1%} right of the surest {coverage[place]:.0%}" for place in places)
    return _svg("coverage", "Accuracy against coverage", told, draw)


def training_curves(history: Sequence[Mapping[str, float]], metric: str, kept: int) -> Markup:
    """Loss, and the validation score where there is one, by epoch, with a ring around the epoch that is kept.

    Args:
        history: one entry an epoch: epoch, loss, and score on validation.
        metric: what the score is, in words.
        kept: its epoch.
    """
    scored = [entry for entry in history if entry.get("score") is not None]

    def draw(figure: Figure) -> None:
        panels = figure.subplots(2 if scored else 1, sharex=True, squeeze=False)[:, 0]
        panels[0].plot([one["epoch"] for one in history], [one["loss"] for one in history], "o-", **_line(0))
        panels[0].set(ylabel="training loss", ylim=(0, None))
        if scored:
            panels[1].plot([one["epoch"] for one in scored], [one["score"] for one in scored], "s-", **_line(1))
            panels[1].set_ylabel(f"validation\n{_short(metric)}")
            ring = [one["score"] for one in scored if one["epoch"] == kept]
            panels[1].plot([kept] * len(ring), ring, "o", color=_LINES[1], fillstyle="none", markersize=11)
        panels[-1].set_xlabel("epoch")
        panels[-1].xaxis.set_major_locator(MaxNLocator(8, integer=True, min_n_ticks=1))

    told = f"{len(history)} epochs; loss {history[0]['loss']:.3f} to {history[-1]['loss']:.3f}"
    if scored:
        best = max(scored, key=lambda entry: entry["score"])
        told += f"; highest {metric} on validation {best['score']:.3f} in epoch {best['epoch']:g}; kept: epoch {kept}"
    return _svg("training", "Training curves", told, draw)


def _svg(name: str, title: str, description: str, draw: Callable[[Figure], None]) -> Markup:
    """What ``draw`` draws, to be put in a page; ``name`` is the page's only figure of that name."""
    with matplotlib.rc_context(), warnings.catch_warnings():
        # A name in letters that matplotlib has no font for is still text, which the browser has a font for.
        warnings.filterwarnings("ignore", r"Glyph .* missing", UserWarning)
        # Whatever style the caller draws in; the salt makes equal figures equal files.
        matplotlib.rcdefaults()
        matplotlib.rcParams.update({**_STYLE, "svg.hashsalt": name})
        figure, drawn = Figure(figsize=SIZE), StringIO()
        draw(figure)
        figure.savefig(drawn, format="svg", metadata={"Creator": None, "Date": None})
    root = ElementTree.fromstring(drawn.getvalue())
    _make_inline(root, f"figure-{name}", set(re.findall(r'(?:href="|url\()#([^")]+)', drawn.getvalue())))
    for place, (tag, text) in enumerate((("title", title), ("desc", description))):
        element = ElementTree.Element(tag, id=f"figure-{name}-{tag}")
        element.text = plain(text)
        root.insert(place, element)
    return Markup(ElementTree.tostring(root, encoding="unicode"))


def _make_inline(root: ElementTree.Element, name: str, used: set[str]) -> None:
    """Leave out what a page has by itself: namespaces, metadata, styles for all, fonts, and ids that nobody uses."""
    for parent in list(root.iter()):
        for child in list(parent):
            if child.tag.rpartition("}")[2] in ("metadata", "style"):
                parent.remove(child)
    for element in root.iter():
        element.tag = element.tag.rpartition("}")[2]
        element.text, element.tail = (element.text or "").strip() or None, None
        given = {key.rpartition("}")[2]: value for key, value in element.attrib.items()}
        element.attrib.clear()
        for key, value in given.items():
            if key == "id":
                if value not in used:
                    continue
                value = f"{name}-{value}"
            elif key == "style":
                value = re.sub(r"#[0-9a-f]{6}\b", lambda found: _VARIABLES.get(found[0], found[0]), value)
                value = re.sub(r"\bfont: (\w+ )?([\d.]+px)[^;]*", r"font-weight: \1; font-size: \2", value)
                value = re.sub(r"font-weight: ;|font-family: [^;]*;?|(?<=\.\d{2})\d+", "", value)
            elif key in ("href", "clip-path"):
                value = value.replace("#", f"#{name}-")
            element.set(key, value)
    size = root.get("viewBox", "")
    root.attrib.clear()
    root.attrib |= {"viewBox": size, "role": "img", "aria-labeledby": f"{name}-title {name}-desc"}


def plain(text: str) -> str:
    """Text without what XML and people cannot read: control characters, and halves of characters."""
    return re.sub("[\x00-\x08\x0b-\x1f\x7f-\x9f\ud800-\udfff\ufffe\uffff\u202a-\u202e\u2066-\u2069]", " ", text)


def _line(number: int) -> dict[str, Any]:
    return {"color": _LINES[number], "markersize": 3.5}


def _with_bars(points: Sequence[Point]) -> dict[str, Any]:
    """x, y and the lengths of bars, as ``errorbar`` takes them."""
    ends = [point.interval or (point.score, point.score) for point in points]
    # An interval of resamples need not hold the score itself.
    below = [max(0.0, point.score - low) for point, (low, _) in zip(points, ends, strict=True)]
    above = [max(0.0, high - point.score) for point, (_, high) in zip(points, ends, strict=True)]
    scores = [point.score for point in points]
    return {"x": [point.place for point in points], "y": scores, "yerr": [below, above], "capsize": 2.5}


def _seconds_axis(axes: Axes, seconds: Sequence[float]) -> None:
    axes.set_xscale("log")
    ticks = list(_SECONDS)
    low = max((tick for tick in ticks if tick <= min(seconds)), default=ticks[0])
    high = min((tick for tick in ticks if tick > max(seconds)), default=max(seconds) * 2)
    axes.set_xlim(low / 1.3, high * 1.3)
    shown = [tick for tick in ticks if low <= tick <= high]
    axes.xaxis.set_major_locator(FixedLocator(shown))
    axes.xaxis.set_major_formatter(FixedFormatter([_SECONDS[tick] for tick in shown]))
    axes.xaxis.set_minor_locator(NullLocator())


def _name_points(figure: Figure, axes: Axes, points: Mapping[str, Point], chosen: str | None) -> None:
    """Write each name beside its point: at the first place where it covers no other name and no bar."""
    figure.draw_without_rendering()
    # The axes' ends stay as they are now.
    axes.set(xlim=axes.get_xlim(), ylim=axes.get_ylim())
    area = axes.get_window_extent()
    taken = []
    for point in points.values():
        low, high = point.interval or (point.score, point.score)
        (x, bottom), (_, top) = axes.transData.transform([(point.place, low), (point.place, high)])
        taken.append((x - 4, bottom - 4, x + 4, top + 4))
    for (name, point), (left, bottom, right, top) in zip(points.items(), tuple(taken), strict=True):
        y = axes.transData.transform((point.place, point.score))[1]
        width, height, middle = 4.8 * len(_short(name)), 9.0, (left + right) / 2
        places = [(side, at) for at in (y - height / 2, top - height, bottom) for side in ("left", "right")]
        places += [("center", top + 1), ("center", bottom - 1 - height)]
        starts = {"left": right + 1, "right": left - 1 - width, "center": middle - width / 2}
        boxes = {(side, at): (starts[side], at, starts[side] + width, at + height) for side, at in places}
        inside = {place: box for place, box in boxes.items() if box[0] >= area.x0 and box[2] <= area.x1} or boxes
        free = (place for place, box in inside.items() if not any(_overlap(box, other) for other in taken))
        side, at = place = next(free, next(iter(inside)))
        taken.append(inside[place])
        start = {"left": right + 1, "right": left - 1, "center": middle}[side]
        x0, y0 = axes.transAxes.inverted().transform((start, at))
        look: Any = {"fontsize": 8, "fontweight": "bold" if name == chosen else "normal"}
        axes.text(x0, y0, _short(name), transform=axes.transAxes, ha=side, va="bottom", **look)


def _overlap(one: tuple[float, ...], other: tuple[float, ...]) -> bool:
    return one[0] < other[2] and other[0] < one[2] and one[1] < other[3] and other[1] < one[3]


def _short(name: str) -> str:
    name = " ".join(plain(name).split())
    return name if len(name) <= 24 else f"{name[:23]}…"


def _said(point: Point) -> str:
    ends = "" if point.interval is None else f" [{point.interval[0]:.3f}, {point.interval[1]:.3f}]"
    return f"{point.score:.3f}{ends}"
