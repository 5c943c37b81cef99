"""Measure nlptransfer beside its peers, print the tables, and write RESULTS.md. A limit that is not reached is no
error: times on a shared machine are for people to read.

python tests/benchmarks/run.py
python tests/benchmarks/run.py --only train --only predict
"""

import argparse
import os
import platform
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from datetime import date
from importlib.metadata import PackageNotFoundError, version
from multiprocessing import get_context
from pathlib import Path

import encoder_figures
import figures
import onnx_figures
import psutil
import reading
from figures import Missing, Places, Row
from rich.console import Console
from rich.table import Table

SHARED = Path(__file__).resolve().parents[3] / "shared"
RESULTS = Path(__file__).with_name("RESULTS.md")
STACK = ("nlptransfer", "torch", "transformers", "accelerate", "peft", "tokenizers", "numpy", "scipy", "scikit-learn")
PEERS = ("fasttext-wheel", "model2vec", "gensim", "onnxruntime")
FIGURES = figures.FIGURES | encoder_figures.FIGURES | onnx_figures.FIGURES | reading.FIGURES
COLUMNS = ("times as fast", "measured", "nlptransfer", "peer", "limit", "")


@dataclass(frozen=True)
class Section:
    """One figure as measured, or why it was not."""

    title: str
    rows: list[Row]
    reason: str = ""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, default=SHARED / "data", help="folder of data sets (ag_news, ...)")
    parser.add_argument(
        "--vectors",
        type=Path,
        default=SHARED / "vectors" / "en_word2vec_100d.txt.gz",
        help="word vectors as word2vec text",
    )
    parser.add_argument("--only", action="append", choices=FIGURES, help="this figure; RESULTS.md is left as it is")
    args = parser.parse_args()
    heading = machine()
    console = Console(width=None if Console().is_terminal else 140)
    console.print("\n".join(heading), highlight=False, soft_wrap=True)
    sections = []
    for name in args.only or FIGURES:
        with console.status(f"measuring: {name}"):
            section = measure(name, Places(args.data, args.vectors))
        show(console, section)
        sections.append(section)
    if args.only is None:
        RESULTS.write_text("\n".join(["# Results", "", *heading, *map(markdown, sections)]) + "\n", encoding="utf-8")
        console.print(f"written: {RESULTS.name}")


def measure(name: str, places: Places) -> Section:
    """One figure in a process of its own: what one holds in memory must not weigh on the next."""
    title = (FIGURES[name].__doc__ or name).split("\n")[0]
    with ProcessPoolExecutor(1, mp_context=get_context("spawn")) as pool:
        try:
            return Section(title, pool.submit(FIGURES[name], places).result())
        except (Missing, ImportError) as error:
            return Section(title, [], f"skipped: {error}")
        except Exception as error:  # the other figures are still worth having
            return Section(title, [], f"failed: {type(error).__name__}: {error}")


def machine() -> list[str]:
    """What the times hang on."""
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    memory = psutil.virtual_memory().total / 2**30
    load = f", load {os.getloadavg()[0]:.1f} at the start" if hasattr(os, "getloadavg") else ""
    return [
        f"- date: {date.today().isoformat()}",
        f"- machine: {_processor()}, {cores} cores, {memory:.0f} GiB{load}",
        f"- stack: Python {platform.python_version()}, {_versions(STACK)}",
        f"- peers: {_versions(PEERS)}",
    ]


def _processor() -> str:
    info = Path("/proc/cpuinfo")
    lines = info.read_text().splitlines() if info.exists() else []
    named = (line.split(":", 1)[1].strip() for line in lines if line.startswith("model name"))
    return next(named, platform.processor() or platform.machine())


def _versions(names: tuple[str, ...]) -> str:
    found = []
    for name in names:
        try:
            found.append(f"{name} {version(name)}")
        except PackageNotFoundError:
            found.append(f"{name} not installed")
    return ", ".join(found)


def show(console: Console, section: Section) -> None:
    """The section on the terminal."""
    console.print(f"\n[bold]{section.title}[/bold]")
    if section.reason:
        console.print(section.reason, markup=False, soft_wrap=True)
        return
    table = Table()
    for name in COLUMNS:
        table.add_column(name, justify="left" if name in ("measured", "peer") else "right")
    for row in section.rows:
        table.add_row(*cells(row))
    console.print(table)


def markdown(section: Section) -> str:
    """The section for RESULTS.md."""
    lines = ["", f"## {section.title}", ""]
    if section.reason:
        return "\n".join([*lines, section.reason])
    lines += [f"| {' | '.join(COLUMNS)} |", f"|{'---|' * len(COLUMNS)}"]
    return "\n".join(lines + [f"| {' | '.join(cells(row))} |" for row in section.rows])


def cells(row: Row) -> list[str]:
    """A row as text, column by column."""
    limit = ""
    if row.times is not None:
        limit = "no slower" if row.times == 1 else f"{row.times:g} times"
    elif row.most is not None:
        limit = f"at most {row.most:g} {row.unit}"
    return [
        "" if row.ratio is None else f"{row.ratio:,.2f}" if row.ratio < 100 else f"{row.ratio:,.0f}",
        row.what,
        _value(row.ours, row.unit),
        "" if row.theirs is None else f"{row.peer}: {_value(row.theirs, row.unit)}",
        limit,
        {True: "ok", False: "not reached", None: ""}[row.reached],
    ]


def _value(value: float, unit: str) -> str:
    return f"{value:,.0f} {unit}" if value >= 100 else f"{value:#.3g} {unit}"


if __name__ == "__main__":
    main()
