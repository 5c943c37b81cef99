"""Show the progress of long work: a line for each, together in a terminal or a notebook, gone when the work is done.

Quiet where nobody would see a line move (no terminal, a dumb one), on all processes but the first, where the log is off
(``--quiet``) and where ``progress=False``. Work that is done at once shows none.
"""

import html
import logging
import os
import sys
import threading
import time
from collections.abc import Callable, Iterable, Iterator, Sized
from contextlib import AbstractContextManager, contextmanager
from contextvars import ContextVar
from dataclasses import dataclass, field
from functools import wraps
from io import StringIO
from typing import Any, ParamSpec, TypeVar

P = ParamSpec("P")
R = TypeVar("R")
Part = TypeVar("Part", bound=Sized)
log = logging.getLogger("nlptransfer")

DELAY = 0.5
"""Seconds that work must take before it is shown."""
BETWEEN, BETWEEN_IN_NOTEBOOK = 0.1, 0.5
"""Seconds between two drawings."""
NOTEBOOK_WIDTH = 100
"""Characters of a line in a notebook."""
SHORTEST = 8
"""Characters of a bar, at least, if there is room at all."""

_is_hidden: ContextVar[bool] = ContextVar("progress is hidden", default=False)


@dataclass
class Bar:
    """How much of some work is done."""

    description: str
    total: float | None
    """None: nobody knows"""
    unit: str
    """what is counted; empty: nothing that says people much, a percentage is shown"""
    done: float = 0
    note: str = ""
    """a line of its own"""
    texts: int = 0
    """so many were read, for their number a second"""
    at_once: bool = False
    """whether it is drawn from the beginning, as nothing will be counted for long"""
    began: float = field(default_factory=time.monotonic)
    before: float = field(init=False)
    """what was done when it began"""

    def __post_init__(self) -> None:
        self.before = self.done

    def advance(self, count: float = 1, *, texts: int = 0) -> None:
        """Count work as done, and the texts that were read by it where these are not what is counted."""
        self.done += count
        self.texts += int(count) if self.unit == "texts" else texts
        _screen.draw()

    def say(self, description: str = "", note: str = "") -> None:
        """Change the words; an empty string leaves what was there."""
        self.description, self.note = description or self.description, note or self.note
        _screen.draw()

    @property
    def is_due(self) -> bool:
        """Whether it has worked for long enough to be shown."""
        return self.at_once or time.monotonic() - self.began >= DELAY

    @property
    def figures(self) -> tuple[str, str, str]:
        """How much is done, texts a second, and the time that is left, in words."""
        seconds, made = max(time.monotonic() - self.began, 1e-9), self.done - self.before
        if self.total is None:
            count = f"{self.done:,.0f} {self.unit}" if self.unit else ""
        else:
            share = self.done / max(self.total, 1e-9)
            count = f"{self.done:,.0f} of {self.total:,.0f} {self.unit}" if self.unit else f"{share:.0%}"
        speed, unit = self.texts / seconds, "" if self.unit == "texts" else " texts"
        left = "" if self.total is None or not made else _clock(seconds * max(self.total - self.done, 0) / made)
        return count, f"{speed:,.{0 if speed >= 10 else 1}f}{unit}/s" if self.texts else "", left and f"{left} left"


def _clock(seconds: float) -> str:
    minutes, seconds = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02}:{seconds:02}" if hours else f"{minutes}:{seconds:02}"


def progress_bar(
    description: str, total: float | None = None, unit: str = "texts", done: float = 0
) -> AbstractContextManager[Bar]:
    """Show a bar while a block works, below those of the blocks around it."""
    return shown(Bar(description, total, unit, done))


def waiting(description: str) -> AbstractContextManager[Bar]:
    """Show that a block works on something that cannot be counted."""
    return shown(Bar(description, None, "", at_once=True))


def counted(parts: Iterable[Part], description: str, total: float | None = None, unit: str = "texts") -> Iterator[Part]:
    """Yield parts, and show a bar of what they hold while they come; ``unit`` is what each has a length in."""
    with progress_bar(description, total, unit) as bar:
        for part in parts:
            yield part
            bar.advance(len(part), texts=len(part))


@contextmanager
def shown(bar: Bar) -> Iterator[Bar]:
    """Show a bar that was made before while a block works."""
    with _screen.shown(bar):
        yield bar


@contextmanager
def no_progress(is_off: bool = True) -> Iterator[None]:
    """Show no bar within a block."""
    token = _is_hidden.set(_is_hidden.get() or is_off)
    try:
        yield
    finally:
        _is_hidden.reset(token)


def with_progress(function: Callable[P, R]) -> Callable[P, R]:
    """Let a function show no bar where it is called with ``progress=False``."""

    @wraps(function)
    def called(*args: P.args, **options: P.kwargs) -> R:
        with no_progress(options.get("progress", True) in (False, "false")):
            return function(*args, **options)

    return called


class _Screen:
    """The bars of this process, and where they are drawn; of one thread, as a screen has one place for them."""

    def __init__(self) -> None:
        self.bars: list[Bar] = []
        self.thread = 0
        self.drawing: Any = None
        self.drawn = 0.0

    @contextmanager
    def shown(self, bar: Bar) -> Iterator[None]:
        is_off = _is_hidden.get() or os.environ.get("RANK", "0") != "0" or not log.isEnabledFor(logging.WARNING)
        if is_off or (self.bars and self.thread != threading.get_ident()):
            yield
            return
        self.thread = threading.get_ident()
        self.bars.append(bar)
        try:
            self.draw(at_once=bar.at_once)
            yield
        finally:
            self.bars = [one for one in self.bars if one is not bar]
            if not self.bars and self.drawing is not None:
                self.drawing.stop()
                self.drawing = None
            elif bar.is_due:
                # Its line goes away, whenever the next one moves.
                self.draw(at_once=True)

    def draw(self, at_once: bool = False) -> None:
        now = time.monotonic()
        bars = [bar for bar in self.bars if bar.is_due]
        if not bars or self.thread != threading.get_ident():
            return
        if self.drawing is None:
            # An import of a tenth of a second, which short work goes without.
            self.drawing = _Notebook() if _in_notebook() else _Terminal()
        if at_once or now - self.drawn >= self.drawing.between:
            self.drawn = now
            self.drawing.draw(bars)


_screen = _Screen()


def _in_notebook() -> bool:
    if "IPython" not in sys.modules:
        return False
    from rich.console import Console

    return Console().is_jupyter


class _Terminal:
    def __init__(self) -> None:
        self.between, self.live = BETWEEN, _live() if sys.stderr.isatty() else None
        self.handlers: list[logging.StreamHandler[Any]] = []
        if self.live is not None:
            stream = sys.stderr
            self.live.start()
            # What is logged goes above the bars, and not through them.
            for handler in (*log.handlers, *logging.root.handlers):
                if isinstance(handler, logging.StreamHandler) and handler.stream is stream:
                    handler.setStream(sys.stderr)
                    self.handlers.append(handler)

    def draw(self, bars: list[Bar]) -> None:
        if self.live is not None:
            self.live.update(_lines(bars, self.live.console.width), refresh=True)

    def stop(self) -> None:
        if self.live is not None:
            self.live.stop()
            for handler in self.handlers:
                handler.setStream(sys.stderr)


def _live() -> Any:
    """Return what draws lines in place, or None in a terminal that cannot."""
    from rich.console import Console
    from rich.live import Live

    console = Console(stderr=True)
    is_seen = console.is_terminal and not console.is_dumb_terminal
    return Live(console=console, auto_refresh=False, transient=True) if is_seen else None


class _Notebook:
    """A place below a cell, which is emptied in the end, so that a notebook that is kept has nothing of it."""

    def __init__(self) -> None:
        self.between = BETWEEN_IN_NOTEBOOK
        self.place: Any = None

    def draw(self, bars: list[Bar]) -> None:
        from IPython import display
        from rich.console import Console

        show: Any = display.display
        console = Console(file=StringIO(), width=NOTEBOOK_WIDTH, force_jupyter=False, no_color=True)
        with console.capture() as captured:
            console.print(_lines(bars, NOTEBOOK_WIDTH))
        content = {"text/plain": captured.get(), "text/html": _html(bars)}
        if self.place is None:
            self.place = show(content, raw=True, display_id=True)
        else:
            self.place.update(content, raw=True)

    def stop(self) -> None:
        if self.place is not None:
            self.place.update({"text/plain": ""}, raw=True)


def _html(bars: list[Bar]) -> str:
    """Draw all bars under each other in the width of the page, and their notes below."""
    ends = "overflow: hidden; text-overflow: ellipsis"
    rows = []
    for bar in bars:
        share = "" if bar.total is None else f' max="{max(bar.total, 1e-9)}" value="{bar.done}"'
        figures = "".join(f'<span style="text-align: right">{html.escape(one)}</span>' for one in bar.figures)
        description = f'<span style="{ends}">{html.escape(bar.description)}</span>'
        rows.append(f'{description}<progress style="width: 100%"{share}></progress>{figures}')
    grid = "display: grid; grid-template-columns: fit-content(40%) 1fr auto auto auto; column-gap: 1em; "
    notes = "".join(f"<div>{html.escape(bar.note)}</div>" for bar in bars if bar.note)
    return f'<div style="{grid}align-items: center; white-space: nowrap">{"".join(rows)}</div>{notes}'


def _lines(bars: list[Bar], width: int) -> Any:
    """Draw all bars under each other, as wide as there is room, and their notes below."""
    from rich.console import Group
    from rich.progress_bar import ProgressBar
    from rich.table import Column, Table
    from rich.text import Text

    def line(text: str) -> Text:
        return Text(text, no_wrap=True, overflow="ellipsis")

    words, figures = [line(bar.description) for bar in bars], [[*map(line, bar.figures)] for bar in bars]
    right = [max(one.cell_len for one in column) for column in zip(*figures, strict=True)]
    # Where room is short the words give way, not the figures.
    left = min(max(one.cell_len for one in words), max(8, width - sum(right) - SHORTEST - 2 * len(right) - 2))
    columns = [Column(width=left), Column(ratio=1), *(Column(width=one, justify="right") for one in right)]
    table = Table.grid(*columns, expand=True, padding=(0, 2, 0, 0))
    for bar, description, cells in zip(bars, words, figures, strict=True):
        drawn = ProgressBar(total=bar.total, completed=bar.done, pulse=bar.total is None)
        table.add_row(description, drawn, *cells)
    return Group(table, *(line(bar.note) for bar in bars if bar.note))
