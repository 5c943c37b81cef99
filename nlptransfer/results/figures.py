"""Plots of results, drawn when they are written. Does not know records; dark mode is a line of CSS in page.html."""

import base64
import logging
import re
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from io import BytesIO
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from nlptransfer.errors import SettingError
from nlptransfer.evaluation import Reliability
from nlptransfer.files import atomic_file, named_path

if TYPE_CHECKING:
    from markupsafe import Markup
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

log = logging.getLogger("nlptransfer")

SIZE = (4.4, 3.0)
"""Inches: a little more than a phone is wide, so that letters are not shrunk on one."""
DPI = 200
"""Of a png."""
MOST_IN_THREE_COLUMNS = 16
"""Characters of the longest name up to which a legend has three columns."""
FONTS = (
    "Noto Sans CJK SC", "Noto Sans CJK JP", "Noto Sans SC", "Source Han Sans SC", "WenQuanYi Micro Hei",
    "WenQuanYi Zen Hei", "Droid Sans Fallback", "PingFang SC", "Hiragino Sans GB", "Microsoft YaHei", "SimHei",
    "Malgun Gothic", "Arial Unicode MS",
)  # fmt: skip
"""Fonts with letters that matplotlib's own lacks, Chinese ones first; text is drawn with those that are installed."""
_INK, _FAINT = "#1b1e23", "#5d6673"
_LINES = ("#1f66d1", "#b8470c", "#157a3c", "#7636c4", "#b3235f", "#0b6f86")
_MARKERS = "osD^vP"
_STYLE: dict[str, Any] = {
    "axes.edgecolor": _FAINT,
    "axes.facecolor": "none",
    "axes.grid": True,
    "axes.labelcolor": _INK,
    "axes.spines.right": False,
    "axes.spines.top": False,
    "figure.constrained_layout.use": True,
    "figure.facecolor": "none",
    "font.size": 9,
    "grid.alpha": 0.35,
    "grid.color": _FAINT,
    "grid.linewidth": 0.5,
    "legend.fontsize": 8,
    "legend.frameon": False,
    "lines.linewidth": 1.6,
    # Letters as outlines of TrueType, which publishers ask for.
    "pdf.fonttype": 42,
    "svg.fonttype": "none",
    # Equal figures are equal files.
    "svg.hashsalt": "nlptransfer",
    "text.color": _INK,
    # Names are the user's: a dollar sign is no formula.
    "text.parse_math": False,
    "xtick.color": _INK,
    "ytick.color": _INK,
}


_METADATA: dict[str, dict[str, None]] = {
    "svg": {"Creator": None, "Date": None},
    "pdf": {"CreationDate": None, "Creator": None, "Producer": None},
    "png": {"Software": None},
}
"""By the formats that a plot is written in: what differs between equal plots, or names a program."""


@dataclass(frozen=True)
class Plot:
    """A plot that is drawn when it is written; in an HTML template it is an ``<img>``."""

    name: str
    description: str
    """what it shows, with the figures, for those who do not see it"""
    draw: Callable[["Figure"], None]

    def save(self, path: str | Path) -> Path:
        """Write the plot as svg, pdf or png, by the ending of ``path``; a SettingError for any other."""
        path = named_path(path)
        form = path.suffix.lower().removeprefix(".")
        if form not in _METADATA:
            found = f"one that ends in {path.suffix}" if path.suffix else "no ending"
            raise SettingError(f"{path}: expected a file name that ends in .svg, .pdf or .png, found {found}")
        with atomic_file(path) as temporary:
            temporary.write_bytes(self._drawn(form, facecolor="white"))
        return path

    def _drawn(self, form: str, **look: Any) -> bytes:
        """Draw the plot, whatever style the caller draws in."""
        import matplotlib.style
        from matplotlib.figure import Figure

        style = _STYLE | {"font.family": _fonts()}
        with matplotlib.style.context(["default", style]), warnings.catch_warnings(record=True) as caught:
            warnings.filterwarnings("always", r"Glyph .* missing", UserWarning)
            figure, drawn = Figure(figsize=SIZE), BytesIO()
            self.draw(figure)
            figure.savefig(drawn, format=form, dpi=DPI, metadata=_METADATA[form], **look)
        missing = "".join(dict.fromkeys(_missing(caught)))
        # In svg it is text, which the browser has a font for.
        if missing and form != "svg":
            log.warning(
                "The plot has blank boxes for %s, as matplotlib finds no font with these letters: write an svg, or "
                "install a font such as Noto Sans CJK and remove %s, where matplotlib lists its fonts",
                missing, matplotlib.get_cachedir(),
            )  # fmt: skip
        return drawn.getvalue()

    def __html__(self) -> "Markup":
        from markupsafe import Markup

        svg = base64.b64encode(self._drawn("svg")).decode()
        image = Markup('<img id="figure-{}" alt="{}" src="data:image/svg+xml;base64,{}">')
        return image.format(self.name, printable(self.description), svg)


def _fonts() -> list[str]:
    """Return the fonts that text is drawn with: a letter by the first that has it."""
    from matplotlib.font_manager import fontManager

    installed = set(fontManager.get_font_names())
    return ["DejaVu Sans", *(name for name in FONTS if name in installed)]


def _missing(caught: Sequence[warnings.WarningMessage]) -> Iterator[str]:
    """Return the letters that no font has; other warnings are passed on."""
    for one in caught:
        if glyph := re.match(r"Glyph (\d+) .* missing", str(one.message)):
            yield chr(int(glyph[1]))
        else:
            warnings.warn_explicit(one.message, one.category, one.filename, one.lineno)


@dataclass(frozen=True)
class Point:
    """A score at some place of an axis."""

    place: float
    """seconds, or rows"""
    score: float
    interval: tuple[float, float] | None = None
    """95%"""


def score_against_cost(points: Mapping[str, Point], chosen: str | None, metric: str, cost: str) -> Plot:
    """Plot each candidate's score with its interval over a cost in seconds; the chosen one is drawn larger."""

    def draw(figure: "Figure") -> None:
        from matplotlib.ticker import NullFormatter

        lines = {name: [replace(point, place=max(point.place, 0.001))] for name, point in points.items()}
        looks = [{"linestyle": "none", "markersize": 9 if name == chosen else 5} for name in points]
        axes = _draw_scores(figure, lines, looks, f"{cost}, logarithmic", metric)
        axes.xaxis.set_major_formatter("{x:,g}")
        axes.xaxis.set_minor_formatter(NullFormatter())
        low, high = axes.get_xlim()
        axes.set_xlim(10 ** np.floor(np.log10(low)), 10 ** np.ceil(np.log10(high)))

    described = "; ".join(f"{name}: {_in_words(point)}, {point.place:.3g} s" for name, point in points.items())
    return Plot("cost", f"{metric} against {cost}: {described}", draw)


def learning_curve(curves: Mapping[str, Sequence[Point]], metric: str, zero: bool = False) -> Plot:
    """Plot scores over the number of training rows, a line for each candidate; ``zero``: and one at 0."""

    def draw(figure: "Figure") -> None:
        from matplotlib.ticker import FixedFormatter, FixedLocator, NullLocator

        places = sorted({point.place for points in curves.values() for point in points})
        # A little apart, so that no bar hides another.
        apart = max(1.5, places[-1] / places[0]) ** (0.015 * (np.arange(len(curves)) - (len(curves) - 1) / 2))
        lines = {
            name: [replace(point, place=point.place * by) for point in points]
            for (name, points), by in zip(curves.items(), apart, strict=True)
        }
        looks = [{"markersize": 4, "elinewidth": 1}] * len(lines)
        axes = _draw_scores(figure, lines, looks, "labeled rows, logarithmic", metric)
        if zero:
            axes.axhline(0, color=_FAINT, linestyle="--", linewidth=1)
        axes.xaxis.set_major_locator(FixedLocator(places))
        axes.xaxis.set_major_formatter(FixedFormatter([f"{place:,.0f}" for place in places]))
        axes.xaxis.set_minor_locator(NullLocator())

    described = "; ".join(
        f"{name}: " + ", ".join(f"{_in_words(point)} with {point.place:,.0f} rows" for point in points)
        for name, points in curves.items()
    )
    return Plot("learning", f"{metric} against labeled rows: {described}", draw)


def reliability_diagram(
    after: Reliability, before: Reliability | None, forecast: str, observed: str, counted: str
) -> Plot:
    """Plot observed frequencies over forecasts, also those before temperature scaling if there are any, and counts.

    The three words are the labels of the axes.
    """

    def draw(figure: "Figure") -> None:
        from matplotlib.ticker import MaxNLocator

        upper, lower = figure.subplots(2, sharex=True, height_ratios=(4, 1))
        upper.plot([0, 1], [0, 1], color=_FAINT, linestyle="--", linewidth=1, label="calibrated")
        if before is not None:
            label = "before scaling"
            upper.plot(before.confidence, before.frequency, "s:", color=_LINES[1], markersize=3.5, label=label)
        upper.plot(after.confidence, after.frequency, "o-", color=_LINES[0], markersize=4, label="the classifier")
        upper.set_ylabel(observed)
        upper.set(xlim=(0, 1), ylim=(0, 1.03))
        upper.legend(loc="upper left")
        lower.vlines(after.confidence, 0, after.count, color=_LINES[0], linewidth=5)
        lower.set(xlabel=forecast, ylabel=counted, ylim=(0, None))
        lower.yaxis.set_major_locator(MaxNLocator(2, integer=True))

    described = "; ".join(
        f"forecast {forecast:.2f}, true {true:.2f}, {count:,} {counted}"
        for forecast, true, count in zip(after.confidence, after.frequency, after.count, strict=True)
    )
    return Plot("reliability", f"Reliability diagram: {described}", draw)


def coverage_plot(coverage: np.ndarray, accuracy: np.ndarray) -> Plot:
    """Plot accuracy over coverage, the share of rows that is answered; both (points,)."""

    def draw(figure: "Figure") -> None:
        from matplotlib.ticker import MaxNLocator, PercentFormatter

        axes = figure.subplots()
        axes.plot(coverage, accuracy, color=_LINES[0])
        axes.set(xlim=(0, 1), xlabel="share of rows that is answered", ylabel="right among these")
        axes.xaxis.set_major_formatter(PercentFormatter(1, decimals=0))
        axes.yaxis.set_major_locator(MaxNLocator(6, steps=[1, 2, 5, 10]))
        axes.yaxis.set_major_formatter(PercentFormatter(1, decimals=0 if np.ptp(accuracy) > 0.05 else 1))

    places = [int(np.abs(coverage - share).argmin()) for share in (0.25, 0.5, 0.75, 1)]
    described = "; ".join(f"{accuracy[place]:.1%} right of the surest {coverage[place]:.0%}" for place in places)
    return Plot("coverage", f"Accuracy against coverage: {described}", draw)


def training_curves(history: Sequence[Mapping[str, float]], metric: str, kept: int) -> Plot:
    """Plot the loss by epoch, and the validation score where there is one, with a ring around the kept epoch."""
    scored = [entry for entry in history if entry.get("score") is not None]

    def draw(figure: "Figure") -> None:
        from matplotlib.ticker import MaxNLocator

        panels = figure.subplots(2 if scored else 1, sharex=True, squeeze=False)[:, 0]
        look: dict[str, Any] = {"marker": "o", "markersize": 3.5}
        panels[0].plot([one["epoch"] for one in history], [one["loss"] for one in history], color=_LINES[0], **look)
        panels[0].set(ylabel="training loss", ylim=(0, None))
        if scored:
            panels[1].plot([one["epoch"] for one in scored], [one["score"] for one in scored], color=_LINES[1], **look)
            panels[1].set_ylabel(f"validation\n{_short(metric)}")
            ring = [one["score"] for one in scored if one["epoch"] == kept]
            panels[1].plot([kept] * len(ring), ring, "o", color=_LINES[1], fillstyle="none", markersize=11)
        panels[-1].set_xlabel("epoch")
        panels[-1].xaxis.set_major_locator(MaxNLocator(8, integer=True, min_n_ticks=1))

    described = f"{len(history)} epochs; loss {history[0]['loss']:.3f} to {history[-1]['loss']:.3f}"
    if scored:
        best = max(scored, key=lambda entry: entry["score"])
        described += f"; highest {metric} on validation {best['score']:.3f} in epoch {best['epoch']:g}"
        described += f"; kept: epoch {kept}"
    return Plot("training", f"Training curves: {described}", draw)


def printable(text: str) -> str:
    """Replace what XML and people cannot read by blanks: control characters, and halves of characters."""
    return re.sub("[\x00-\x08\x0b-\x1f\x7f-\x9f\ud800-\udfff\ufffe\uffff\u202a-\u202e\u2066-\u2069]", " ", text)


def _draw_scores(
    figure: "Figure", lines: Mapping[str, Sequence[Point]], looks: Sequence[dict[str, Any]], place: str, metric: str
) -> "Axes":
    axes = figure.subplots()
    for number, ((name, points), look) in enumerate(zip(lines.items(), looks, strict=True)):
        scores = np.array([point.score for point in points])
        ends = np.array([point.interval or (point.score, point.score) for point in points])
        # An interval of resamples need not hold the score itself.
        bars = np.maximum(0.0, [scores - ends[:, 0], ends[:, 1] - scores])
        color, marker = _LINES[number % len(_LINES)], _MARKERS[(number + number // 6) % len(_MARKERS)]
        look = {"color": color, "marker": marker, "capsize": 2.5, "label": _short(name), **look}
        axes.errorbar([point.place for point in points], scores, bars, **look)
    axes.set_xscale("log")
    axes.set_xlabel(place)
    axes.set_ylabel(_short(metric))
    columns = 3 if max(len(_short(name)) for name in lines) <= MOST_IN_THREE_COLUMNS else 2
    figure.set_figheight(SIZE[1] + 0.2 * (len(lines) // columns))
    figure.legend(loc="outside upper center", ncols=columns)
    return axes


def _short(name: str) -> str:
    name = " ".join(printable(name).split())
    return name if len(name) <= 24 else f"{name[:23]}…"


def _in_words(point: Point) -> str:
    ends = "" if point.interval is None else f" [{point.interval[0]:.3f}, {point.interval[1]:.3f}]"
    return f"{point.score:.3f}{ends}"
