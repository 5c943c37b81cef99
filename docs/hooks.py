"""What the site needs besides its pages: tables of settings, in the text of `nlptransfer settings`, and plain names."""

import re
from html import escape
from typing import Any

MARK = "<!-- tables -->"


def on_page_markdown(markdown: str, **_: Any) -> str:
    return markdown.replace(MARK, tables()) if MARK in markdown else markdown


def on_page_content(html: str, **_: Any) -> str:
    # Docstrings name functions and classes as Sphinx does.
    return re.sub(":(func|class|meth):(?=<code>)", "", html)


def tables() -> str:
    from nlptransfer.cli.settings import settings_classes

    return "\n".join(_table(name, kind) for name, kind in settings_classes().items())


def _table(name: str, kind: type) -> str:
    from nlptransfer.settings import described

    rows = [(f"`{one.name}`", one.meaning, one.values, f"`{one.default}`") for one in described(kind)]
    lines = [f"| {' | '.join(escape(cell, False).replace('|', '&#124;') for cell in row)} |" for row in rows]
    return "\n".join([f"## {name}", "", "| setting | meaning | values | default |", "|---|---|---|---|", *lines, ""])
