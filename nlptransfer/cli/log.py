"""Print the log: a sentence a line, each once, and the warnings again in the end. Knows no verb."""

import logging
import os
import re
import sys
from typing import TextIO

import typer

_UNSEEN = re.compile("[\x00-\x08\x0b-\x1f\x7f-\x9f\u061c\u200e\u200f\u2028-\u202e\u2066-\u2069\ud800-\udfff]")
"""Codes that a terminal obeys, marks that turn the direction of a line, and bytes of names that are no text."""
log = logging.getLogger("nlptransfer")


def visible(text: str, breaks: bool = True) -> str:
    """Write codes that a terminal would obey as JSON does: names of labels, files and columns may hold any.

    JSON stays the same value. Tabs and, with ``breaks``, ends of lines stay as they are.
    """
    text = text if breaks else text.replace("\n", r"\n")
    return _UNSEEN.sub(lambda sign: f"\\u{ord(sign[0]):04x}", text)


def say(text: str, err: bool = False) -> None:
    """Print a line, with nothing in it that a terminal would obey."""
    typer.echo(visible(text), err=err)


class _OneLine(logging.Formatter):
    def formatMessage(self, record: logging.LogRecord) -> str:
        text = visible(super().formatMessage(record), breaks=False)
        return f"warning: {text}" if record.levelno == logging.WARNING else text


class _Lines(logging.StreamHandler[TextIO]):
    """Writes each message once; in a terminal wrapped at words, and above a progress bar."""

    def __init__(self) -> None:
        logging.Handler.__init__(self)
        self.setFormatter(_OneLine("%(message)s"))
        self.said, self.warnings = set[str](), list[str]()

    @property
    def stream(self) -> TextIO:  # type: ignore[override]
        """Standard error as it is now: a progress bar takes its place."""
        return sys.stderr

    def emit(self, record: logging.LogRecord) -> None:
        message = record.getMessage()
        if message in self.said:
            return
        self.said.add(message)
        if record.levelno == logging.WARNING:
            self.warnings.append(message)
        super().emit(record)

    def format(self, record: logging.LogRecord) -> str:
        return wrapped(super().format(record))


def wrapped(text: str, err: bool = True) -> str:
    """Break text at words to the width of the terminal, where the stream that it is for is one."""
    if not (sys.stderr if err else sys.stdout).isatty():
        return text
    from rich.console import Console
    from rich.text import Text

    console = Console(stderr=err)
    return "\n".join(line.plain.rstrip() for line in Text(text).wrap(console, console.width))


def tell(sentence: str) -> None:
    """Print a sentence for people, wrapped at words in a terminal."""
    say(wrapped(sentence, err=False))


_lines = _Lines()


def start_log(quiet: bool = False) -> None:
    """Show the log, of the main process alone; nothing but errors where ``quiet``."""
    if _lines not in log.handlers:
        log.addHandler(_lines)
    _lines.said.clear()
    _lines.warnings.clear()
    # The main process speaks for all, already before they know each other.
    is_main = os.environ.get("RANK", "0") == "0"
    log.setLevel(logging.INFO if is_main and not quiet else logging.ERROR)


def repeat_warnings() -> None:
    """Print what was warned of since the log was started, after the result that it may take something from."""
    if _lines.warnings:
        say(wrapped("\n".join(["", "Warnings, once more:", *(f"- {one}" for one in _lines.warnings)])), err=True)
        _lines.warnings.clear()
