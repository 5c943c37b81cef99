"""The code blocks of a page, run in order, and whether they print what the page says; needs no package but Python's.

In pages, a fence of python or bash is run: of bash the commands of nlptransfer. A fence of text that follows is what it
prints. ``<!-- not run: why -->`` above a fence leaves it out.

python -P tests/helpers/documents.py PAGE...           runs pages, each in a new folder, with what is installed
python -P tests/helpers/documents.py --write PAGE...   and writes into them what their blocks print
"""

import csv
import random
import re
import shlex
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import chdir, redirect_stdout
from dataclasses import dataclass
from io import StringIO
from pathlib import Path
from typing import Any

BLOCK = re.compile(
    r"(?:^<!-- not run: (?P<why>.*?) -->\n)?^```(?P<language>python|bash)\n(?P<code>.*?)^```$"
    r"(?:\n\n```text\n(?P<output>.*?)^```$)?",
    re.MULTILINE | re.DOTALL,
)
LABELS = {"positive": ["good", "great", "gem"], "negative": ["bad", "dull", "mess"]}
"""Of the files, and words that tell them."""
Command = Callable[[list[str]], str]
"""Run the command line with these arguments, and return what it prints."""


@dataclass(frozen=True)
class Block:
    """One block of a page."""

    page: Path
    line: int
    language: str
    code: str
    output: str | None
    """what it prints, as the page has it"""
    why_not: str | None
    """why it is not run"""

    def run(self, names: dict[str, Any], command: Command) -> str:
        """Run it with the names that python blocks before it have defined, and return what it prints."""
        if self.language == "bash":
            return "".join(command(arguments) for arguments in self.commands())
        with redirect_stdout(StringIO()) as printed:
            # As many lines above it as in the page, for tracebacks.
            exec(compile("\n" * self.line + self.code, str(self.page), "exec"), names)
        return printed.getvalue()

    def commands(self) -> Iterator[list[str]]:
        """Return the arguments of each command of nlptransfer in it."""
        for line in self.code.replace("\\\n", " ").splitlines():
            name, *arguments = shlex.split(line, comments=True) or [""]
            if name == "nlptransfer":
                yield arguments


def blocks_of(page: Path) -> list[Block]:
    """Return the blocks of a page in their order."""
    text = page.read_text(encoding="utf-8")
    return [
        Block(page, text.count("\n", 0, one.start("code")), one["language"], one["code"], one["output"], one["why"])
        for one in BLOCK.finditer(text)
    ]


def but_for_numbers(text: str) -> str:
    """Return a text with 0 for each number, and white space and lines of tables without their widths."""
    text = re.sub(r"[-+]?\d[\d,]*(\.\d+)?(e[-+]?\d+)?", "0", text)
    return re.sub(r"\s+", " ", re.sub("[─━-]{2,}", "-", text)).strip()


def run_page(page: Path, command: Command, compare: bool = True) -> list[str | None]:
    """Run the blocks of a page in this folder, and return what each prints; an AssertionError if that is not shown."""
    names: dict[str, Any] = {"__name__": "__main__"}
    printed: list[str | None] = []
    for block in blocks_of(page):
        printed.append(None if block.why_not else block.run(names, command))
        if compare and block.output is not None and printed[-1] is not None:
            shown, found = but_for_numbers(block.output), but_for_numbers(printed[-1])
            assert shown == found, f"{page}, line {block.line}: shown\n{block.output}\nprinted\n{printed[-1]}"
    return printed


def write_files(folder: Path) -> None:
    """Write the small files that pages speak of."""
    draw = random.Random(0)
    for name in ("reviews", "more_reviews", "feedback", "films", "books", "gadgets"):
        write_csv(folder / f"{name}.csv", ["text", "label"], [(_text(draw, label), label) for label in [*LABELS] * 30])
    texts = [_text(draw, label) for label in [*LABELS] * 30]
    for name in ("unrated", "texts"):
        (folder / f"{name}.txt").write_text("\n".join(texts) + "\n")
    for name in ("new.csv", "parts/part-0.csv", "parts/part-1.csv"):
        write_csv(folder / name, ["id", "text"], list(enumerate(texts)))


def write_csv(path: Path, header: list[str], rows: list[Any]) -> None:
    path.parent.mkdir(exist_ok=True)
    with path.open("w", newline="", encoding="utf-8") as file:
        csv.writer(file).writerows([header, *rows])


def _text(draw: random.Random, label: str) -> str:
    words = draw.choices(LABELS[label], k=2) + draw.choices(["the", "film", "plot", "cast", "was", "and", "a"], k=5)
    return " ".join(draw.sample(words, len(words)))


def command_of_this_python(arguments: list[str]) -> str:
    """Run the nlptransfer that is installed beside this python."""
    program = Path(sys.executable).with_name("nlptransfer")
    return subprocess.run([program, *arguments], check=True, stdout=subprocess.PIPE, encoding="utf-8").stdout


def with_outputs(page: Path, outputs: list[str | None]) -> str:
    """Return the page with what its blocks have printed in place of what it shows."""
    left = iter(outputs)

    def filled(one: re.Match[str]) -> str:
        output = next(left)
        if output is None or one["output"] is None:
            return one[0]
        start, end = (place - one.start() for place in one.span("output"))
        return one[0][:start] + re.sub(" +$", "", output, flags=re.MULTILINE) + one[0][end:]

    return BLOCK.sub(filled, page.read_text(encoding="utf-8"))


def main() -> None:
    is_written = sys.argv[1] == "--write"
    for page in map(Path.absolute, map(Path, sys.argv[1 + is_written :])):
        began = time.monotonic()
        with tempfile.TemporaryDirectory() as folder, chdir(folder):
            write_files(Path(folder))
            outputs = run_page(page, command_of_this_python, compare=not is_written)
        if is_written:
            page.write_text(with_outputs(page, outputs), encoding="utf-8")
        print(f"{page}: {len(outputs)} blocks, {time.monotonic() - began:.0f} s", flush=True)


if __name__ == "__main__":
    main()
