"""Print the log and the tables of the verbs.

This file knows what results say. It does not know how they were computed.
"""

import logging
import os
import sys
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import typer

if TYPE_CHECKING:
    from rich.console import Console
    from rich.table import Table

    from nlptransfer.experiments import Closed
    from nlptransfer.results import ComparisonResult, RunResult


def start_log(quiet: bool = False) -> None:
    """Show the log, of the main process alone; nothing but errors where ``quiet``."""
    log = logging.getLogger("nlptransfer")
    if quiet:
        log.setLevel(logging.ERROR)
        return
    if not log.handlers:
        handler = logging.StreamHandler()
        handler.setFormatter(logging.Formatter("%(message)s"))
        log.addHandler(handler)
        # The main process speaks for all, already before they know each other.
        log.setLevel(logging.INFO if os.environ.get("RANK", "0") == "0" else logging.ERROR)


def show_gains(found: Sequence[Mapping[str, Any]]) -> None:
    """Print the table of gains."""
    table = _table(">target rows", "transfer", ">direct", ">with source", ">gain (95%)", ">seeds", "verdict")
    for row in found:
        table.add_row(
            f"{row['size']:,}",
            row["transfer"],
            f"{row['direct']:.3f}",
            f"{row['with_source']:.3f}",
            _gain(row),
            str(row["seeds"]),
            row["verdict"],
        )
    _console().print(table)


def show_closed(found: Mapping[str, Sequence["Closed"]]) -> None:
    """Print the table of what strategies close of the gap between domains.

    Args:
        found: by what the route is called.
    """
    table = _table("route", "strategy", ">accuracy", ">gain (95%)", ">of the gap (95%)", ">adapted")
    for route, rows in found.items():
        for row in rows:
            compared = row.transfer not in ("source only", "oracle")
            table.add_row(
                route,
                row.transfer,
                f"{row.accuracy:.3f}",
                "" if row.transfer == "source only" else _gain({"gain": row.gain, "interval": row.interval}),
                _share(row) if compared else "",
                f"{row.adapted} of {len(row.pairs)}" if compared else "",
            )
    _console().print(table)


def _share(row: "Closed") -> str:
    if row.share is None or row.share_interval is None:
        return "no oracle"
    # Plus 0, as nobody closes -0% of a gap.
    share, low, high = (f"{round(part, 2) + 0.0:.0%}" for part in (row.share, *row.share_interval))
    return f"{share} [{low}, {high}]"


def _gain(row: Mapping[str, Any]) -> str:
    return "{gain:+.3f} [{interval[0]:+.3f}, {interval[1]:+.3f}]".format(**row)


def _table(*columns: str) -> "Table":
    """Make a table with these columns; those that begin with > are aligned to the right."""
    from rich.table import Table

    table = Table()
    for name in columns:
        table.add_column(name.removeprefix(">"), justify="right" if name.startswith(">") else "left")
    return table


def _console() -> "Console":
    from rich.console import Console

    # What stands in brackets is the user's, or an extra to install, and no style.
    return Console(width=None if sys.stdout.isatty() else 120, markup=False)


def show_comparison(found: "ComparisonResult") -> None:
    """Print the table of a comparison's candidates, its recommendation, and where the report is."""
    from rich.text import Text

    from nlptransfer.results import REPORT

    scores = (">validation", f">test {found.metric} (95%)", ">spread")
    table = _table("candidate", *scores, ">train s", ">MB", ">texts/s")
    for row in found.table:
        if row["score"] is None:
            table.add_row(row["name"], f"{row['status']}: {row['reason']}", *[""] * 5)
            continue
        chosen = row["name"] == found.recommended
        table.add_row(
            Text(row["name"], style="bold" if chosen else ""),
            _or_none(row["validation"], ".3f"),
            f"{row['score']:.3f} [{row['low']:.3f}, {row['high']:.3f}]",
            _or_none(row["spread"], ".3f"),
            _or_none(row.get("train_seconds"), ".1f"),
            _or_none(row.get("size_mb"), ".1f"),
            _or_none(row.get("texts_per_second_64"), ",.0f"),
        )
    _console().print(table)
    for warning in found.warnings:
        typer.echo(f"data: {warning}")
    typer.echo(found.recommendation)
    typer.echo(f"written: {found.folder / REPORT}")


def _or_none(value: float | None, form: str) -> str:
    return "" if value is None else format(value, form)


def show_runs(runs: Sequence["RunResult"]) -> None:
    """Print the table of finished runs, and their folders."""
    named = any(run.transfer is not None for run in runs)
    has_source = any(run.transfer is not None and run.transfer.source is not None for run in runs)
    # The gain takes the place of what tells routes apart, as both do not fit into a line.
    costs = (">macro F1", ">trainable", ">train s", ">texts/s", ">MB")
    numbers = (">gain (95%)", ">verdict", ">train s") if has_source else costs
    table = _table("data", "route", *(["transfer"] if named else []), ">accuracy (95%)", *numbers)
    for run in runs:
        route, test, cost = run.settings["route"], run.scores.get("test"), run.cost
        accuracy = "{accuracy:.3f} [{accuracy_interval[0]:.3f}, {accuracy_interval[1]:.3f}]"
        seconds = f"{cost.train_seconds:.1f}"
        table.add_row(
            run.data.name,
            f"{route['name']} {route['head_type']}" if "head_type" in route else route["name"],
            *([run.transfer.name if run.transfer else "direct"] if named else []),
            accuracy.format(**test) if test else "no test rows",
            *(
                [*_verdict_cells(run), seconds]
                if has_source
                else [
                    f"{test['f1_macro']:.3f}" if test else "",
                    f"{cost.trainable_parameters:,}",
                    seconds,
                    _or_none(cost.texts_per_second, ",.0f"),
                    _or_none(cost.size_mb, ".1f"),
                ]
            ),
        )
    _console().print(table)
    for run in runs:
        typer.echo(f"written: {run.folder}")


def _verdict_cells(run: "RunResult") -> tuple[str, str]:
    if run.verdict is None:
        return "", "no labels" if run.transfer and run.transfer.label_free else "not asked for"
    return _gain(run.verdict.to_record()), run.verdict.verdict
