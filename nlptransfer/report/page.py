"""report.html: one file that shows what a run or a comparison found, made from the files in its folder alone.

Nothing is predicted again. Texts and names are the user's: templates/report.html escapes all that is not a plot.
"""

import json
import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
from jinja2 import Environment

from nlptransfer.classifier import Explanation
from nlptransfer.data import in_lines
from nlptransfer.errors import DataError, RunFolderError
from nlptransfer.evaluation import (
    SCORE_NAMES,
    brier_score,
    coverage_curve,
    default_metric,
    judged_labels,
    metric_name,
    negative_log_likelihood,
    reliability_curve,
    untempered,
    wilson_interval,
)
from nlptransfer.files import atomic_file, templates
from nlptransfer.report.first_screen import of_audit, of_comparison, of_ranking, of_run
from nlptransfer.results import (
    QUESTIONS,
    REPORT,
    Audit,
    ComparisonResult,
    Predictions,
    Ranking,
    RunResult,
    Section,
    coverage_plot,
    is_audit,
    is_comparison,
    is_ranking,
    is_run,
    label_counts,
    printable,
    reliability_diagram,
    to_record,
    training_curves,
)

MATRIX_LABELS = 12
"""Above so many labels the most confused pairs stand in place of the confusion matrix."""
FEW_LABELS = 20
"""Above so many labels tables with a line for each are folded."""
SHOWN = 10
"""Rows of each list of texts, and of confused pairs."""
TEXT_LENGTH = 600
"""Characters of a text that are shown."""
BECAUSE = 3
"""Words that are named as what made a mistake."""
CURVE_POINTS = 150
"""Points of the coverage curve that are drawn."""
SECTIONS = {
    "scores": "All scores",
    "candidates": "The candidates",
    "pairs": "Differences",
    "curve": "Learning curve",
    "verdict": "Did the source help?",
    "choice": "Chosen without labels",
    "classes": "By label",
    "confusion": "What is taken for what",
    "calibration": "Can the probabilities be trusted?",
    "coverage": "Leaving out the unsure",
    "training": "Training",
    "mistakes": "The surest mistakes",
    "margins": "The closest calls",
    "data": "The data",
    "cost": "Cost",
    "repeat": "To repeat it",
}
"""Each part of the report by its id, in order; one that has nothing to show is left out."""
_APART = {"split", "row", "text", "drop", "other_split", "other_row", "other_text", "other_label"}
"""Columns of a frame of an audit that the report has a place of its own for."""


Explain = Callable[[Sequence[str], Sequence[str]], Sequence[Explanation]]
"""Explains texts, each with the label that it is about, or the first of them: each word costs a pass."""


def write_report(
    folder: str | Path, texts: Mapping[str, Sequence[str]] | None = None, explain: Explain | None = None
) -> Path:
    """Write report.html into the folder of a finished run, a comparison, a ranking or an audit, and return its path.

    Mistakes and close calls are listed where there are ``texts`` by split, one for each id in predictions.parquet; with
    ``explain`` the words are marked that made the mistakes.
    """
    folder = Path(folder)
    if is_ranking(folder):
        return _write(folder, "ranking.html", _ranking(Ranking.load(folder)))
    if is_audit(folder):
        return _write(folder, "audit.html", _audit(Audit.load(folder)))
    if is_comparison(folder):
        content = _comparison(ComparisonResult.load_any(folder))
    elif is_run(folder):
        content = _run(RunResult.load(folder))
    else:
        raise RunFolderError(f"{folder}: expected a finished run, a comparison, a ranking or an audit, found none")
    summary, runs = content["summary"], content["shown_runs"]
    nothing = dict.fromkeys([*SECTIONS, "comparison", "cost_figure", "split", "rows", "lengths"])
    content = {**nothing, "balance": {}, "data": True, "repeat": True} | content
    run, comparison = content["run"], content["comparison"]
    if run is not None:
        content |= _details(run, texts, explain)
    if comparison is not None:
        content["first"] = of_comparison(comparison, run, content["rows"])
    else:
        content["first"] = of_run(run, content["rows"], content["headline"])
    content |= {
        "sections": {name: title for name, title in SECTIONS.items() if content[name]},
        "truncated": {name: run.data.truncated for name, run in runs.items() if run.data.truncated},
        "fingerprints": {name: one["hash"] for name, one in summary.fingerprints.items() if one["rows"]},
        "few_labels": FEW_LABELS,
        "matrix_labels": MATRIX_LABELS,
    }
    return _write(folder, REPORT, content)


def _write(folder: Path, template: str, content: Mapping[str, Any]) -> Path:
    page = _environment().get_template(template).render(content)
    with atomic_file(folder / REPORT) as temporary:
        temporary.write_text(printable(page), encoding="utf-8")
    return folder / REPORT


def _ranking(ranking: Ranking) -> dict[str, Any]:
    table = ranking.tables["encoders"]
    return {"ranking": ranking, "first": of_ranking(ranking), "metric": table.metric, "cost_figure": table.plot}


def _audit(audit: Audit) -> dict[str, Any]:
    return {
        "audit": audit,
        "first": of_audit(audit),
        "questions": QUESTIONS,
        "shown": {name: [*_first_rows(section)] for name, section in audit.sections.items()},
        "text_length": TEXT_LENGTH,
        "most_findings": SHOWN,
    }


def _first_rows(section: Section) -> Iterator[dict[str, Any]]:
    """Yield each frame that is not empty: its name, how many rows it has, the first, and whether these are texts."""
    for name, frame in section.frames.items():
        if len(frame):
            columns = [column for column in frame.columns if column not in _APART]
            yield {
                "name": name,
                "rows": len(frame),
                "first": frame.head(SHOWN).to_dict("records"),
                "is_text": {"split", "row", "text"} <= {*frame.columns},
                "columns": columns,
            }


def _run(run: RunResult) -> dict[str, Any]:
    split = next((name for name in ("test", "validation", "train") if name in run.scores), None)
    return {
        "run": run,
        "shown_runs": {run.settings["route"]["name"]: run},
        "summary": run.data,
        "metric": metric_name(default_metric(run.data.labels)),
        "headline": split,
        "scores": _scores(run.scores[split]) if split else None,
        "verdict": run.verdict,
        "choice": _choice(run),
        "cost": to_record(run.cost),
    }


def _comparison(comparison: ComparisonResult) -> dict[str, Any]:
    tables, chosen = comparison.tables, comparison.recommended
    runs = {one.name: comparison.first_run(one.name) for one in comparison.candidates if one.status == "finished"}
    return {
        "comparison": comparison,
        "run": None if chosen is None else runs[chosen],
        "shown_runs": runs,
        "summary": comparison.data,
        "metric": tables["candidates"].metric,
        "candidates": True,
        "cost_figure": tables["candidates"].plot,
        "pairs": comparison.pairs,
        "curve": tables["curve"].plot,
    }


def _details(run: RunResult, texts: Mapping[str, Sequence[str]] | None, explain: Explain | None) -> dict[str, Any]:
    """Return what can be seen in the predictions and the training of one run: on test, or else on validation."""
    found: dict[str, Any] = {}
    if run.training.history:
        found["training"] = training_curves(run.training.history, "score", run.training.best_epoch or 0)
    balance = {"train": run.data.label_counts} if any(run.data.label_counts.values()) else {}
    split = next((name for name in ("test", "validation") if name in run.predictions), None)
    if split is None:
        return found | {"balance": balance}
    rows = run.predictions[split]
    found |= {
        "split": split,
        "rows": rows,
        "balance": balance | {split: label_counts(rows.targets, rows.labels)},
        "classes": run.scores.get(split, {}).get("per_class"),
        "confusion": None if rows.labels.multi_label else _confusion(rows),
        "calibration": _calibration(run, rows),
        "coverage": _coverage(rows),
    }
    given, least = (texts or {}).get(split), rows.ids.max() + 1
    if given is None:
        return found
    if len(given) < least:
        raise DataError(f"texts[{split!r}]: expected one for each of {least} predictions, found {len(given)}")
    lengths = [len(given[row].split()) for row in rows.ids]
    shares = {"median": 50, "95 of 100 have at most": 95, "longest": 100}
    wrong = np.flatnonzero(~rows.right)
    surest = wrong[np.argsort(-rows.mistake_confidences[wrong], kind="stable")][:SHOWN]
    closest = np.argsort(rows.margins, kind="stable")[:SHOWN]
    mistakes = [_shown(rows, row, given, rows.mistake_confidences[row]) for row in surest]
    if explain is not None:
        _mark(mistakes, [given[rows.ids[row]] for row in surest], explain)
    return found | {
        "lengths": {name: int(np.percentile(lengths, share)) for name, share in shares.items()},
        "mistakes": mistakes,
        "margins": [_shown(rows, row, given, rows.margins[row]) for row in closest],
    }


def _choice(run: RunResult) -> dict[str, Any] | None:
    """Return the candidates of a choice without labels of the target, and the evidence for each."""
    stages = {
        name: stage
        for name, stage in run.stages.items()
        if stage.domains_differ is not None and stage.chosen is not None and stage.curve
    }
    if not stages or run.transfer is None:
        return None
    rows = []
    for name, stage in stages.items():
        for one in stage.curve or ():
            settings = {key: one[key] for key in stage.chosen or ()}
            rows.append({"stage": name, "settings": settings, "kept": settings == stage.chosen, **one["evidence"]})
    *_, last = stages.values()
    return {"rows": rows, "by": run.transfer.settings.get("choose_by"), "domains_differ": last.domains_differ}


def _scores(found: Mapping[str, Any]) -> list[dict[str, Any]]:
    several = "lrap" in found
    names = sorted(SCORE_NAMES, key=lambda name: name != ("f1_micro" if several else "accuracy"))
    shown = [name for name in names if found.get(name) is not None and (several or name != "f1_micro")]
    said = SCORE_NAMES | ({"accuracy": "all labels right"} if several else {})
    if unjudged := judged_labels(found):
        said |= {name: f"{said[name]} ({unjudged})" for name in said if name.endswith("_macro")}
    return [{"name": said[name], "value": found[name], "interval": found.get(f"{name}_interval")} for name in shown]


def _confusion(rows: Predictions) -> dict[str, Any]:
    k = rows.labels.num_labels
    counts = np.bincount(rows.targets * k + rows.predicted, minlength=k * k).reshape(k, k)
    wrong = counts * (1 - np.eye(k, dtype=int))
    pairs = [divmod(int(place), k) for place in np.argsort(-wrong, axis=None, kind="stable")[:SHOWN]]
    return {
        "counts": counts,
        "shares": counts / np.maximum(counts.sum(axis=1), 1)[:, None],
        "pairs": [pair for pair in pairs if wrong[pair]],
    }


def _calibration(run: RunResult, rows: Predictions) -> dict[str, Any]:
    several, temperature = rows.labels.multi_label, (run.calibration or {}).get("temperature")
    stages = {"as it predicts": rows.probabilities}
    if temperature is not None:
        before = untempered(rows.probabilities, temperature, multi_label=several)
        stages = {"before scaling": before} | stages
    curves = [reliability_curve(rows.targets, p, multi_label=several) for p in stages.values()]
    words = (
        ("probability of a label", "rows that have it", "forecasts") if several else ("confidence", "accuracy", "rows")
    )
    return {
        "rows": [
            {
                "name": name,
                "ece": curve.error,
                "nll": negative_log_likelihood(rows.targets, p, multi_label=several),
                "brier": brier_score(rows.targets, p, multi_label=several),
            }
            for (name, p), curve in zip(stages.items(), curves, strict=True)
        ],
        "temperature": temperature,
        "figure": reliability_diagram(curves[-1], curves[0] if len(curves) > 1 else None, *words),
    }


def _coverage(rows: Predictions) -> dict[str, Any]:
    cuts, coverage, accuracy = coverage_curve(rows.confidences, rows.right)
    # At least so many rows are answered: the first place that has them, at a limit as it is shown.
    places = [int(np.searchsorted(coverage, share - 1e-9)) for share in (1.0, 0.95, 0.9, 0.8, 0.7, 0.5)]
    limits = dict.fromkeys(float(np.floor(1000 * cuts[place]) / 1000) for place in places)
    answered = {limit: rows.confidences >= limit for limit in limits}
    drawn = np.unique(np.linspace(0, len(cuts) - 1, CURVE_POINTS).astype(int))
    return {
        "figure": coverage_plot(coverage[drawn], accuracy[drawn]),
        "rows": [
            {"cut": limit, "coverage": float(taken.mean()), "accuracy": float(rows.right[taken].mean())}
            for limit, taken in answered.items()
        ],
    }


def _shown(rows: Predictions, row: int, texts: Sequence[str], value: float) -> dict[str, Any]:
    text = texts[rows.ids[row]]
    true, given = (rows.labels.decode(ids[row : row + 1])[0] for ids in (rows.targets, rows.predicted))
    return {
        "row": rows.ids[row],
        "words": [(in_lines(text[:TEXT_LENGTH]), None)],
        "is_cut": len(text) > TEXT_LENGTH,
        "about": None if rows.right[row] else _mistaken(true, given),
        "label": None,
        "because": (),
        "true": true,
        "given": given,
        "value": value,
        "right": rows.right[row],
    }


def _mark(mistakes: Sequence[dict[str, Any]], texts: Sequence[str], explain: Explain) -> None:
    """Find what each word did to a label that was given wrongly, or was not given."""
    explanations = explain(texts, [row["about"] for row in mistakes])
    for row, explanation in zip(mistakes, explanations, strict=False):
        most = max((abs(word.effect) for word in explanation.words), default=0.0) or 1.0
        words, end = list[tuple[str, float | None]](), 0
        for word in explanation.words:
            if word.end > TEXT_LENGTH:
                break
            words += [(explanation.text[end : word.start], None), (word.text, word.effect / most)]
            end = word.end
        rest = explanation.text[end:TEXT_LENGTH]
        row["words"] = [(in_lines(text), effect) for text, effect in (*words, (rest, None)) if text]
        row["because"] = [word.text for word in explanation.strongest(BECAUSE) if word.effect > 0]
        row["label"] = explanation.label


def _mistaken(true: Any, given: Any) -> str:
    """Return the label of a mistake that was given: of several one that the row has not, or else lacks."""
    if isinstance(given, str):
        return given
    wrong = [*(label for label in given if label not in true), *(label for label in true if label not in given)]
    return str(wrong[0])


def _said(value: Any) -> str:
    return value if isinstance(value, str) else "none" if value is None else json.dumps(value, ensure_ascii=False)


def _flat(values: Mapping[str, Any], before: str = "", said: Callable[[Any], str] = _said) -> list[tuple[str, str]]:
    """List settings in the order of the record, those of a group under both names."""
    found = []
    for name, value in values.items():
        is_group = isinstance(value, Mapping) and value
        found += _flat(value, f"{before}{name}.", said) if is_group else [(f"{before}{name}", said(value))]
    return found


def _facts(facts: Mapping[str, Any]) -> list[tuple[str, str]]:
    """List the numbers of a section, but those that are none."""
    return [(name.replace(".", ": "), value) for name, value in _flat(facts, said=_cell) if value]


def _cell(value: Any) -> str:
    """Write a value of a frame, or a fact: missing ones as nothing, fractions with three places."""
    if value is None or (isinstance(value, float) and math.isnan(value)):
        return ""
    if isinstance(value, float):
        return f"{value:,.0f}" if value.is_integer() else f"{value:,.3f}"
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, (list, tuple, Mapping)):
        return ", ".join(map(_cell, value))
    return f"{value:,}" if isinstance(value, int) else str(value)


def _figure(number: float | None, places: int = 3) -> str:
    return "–" if number is None else format(number, f",.{places}f")


def _recall_interval(scores: Mapping[str, Any]) -> tuple[float, float] | None:
    rows = scores["support"]
    return wilson_interval(round(scores["recall"] * rows), rows) if rows else None


@cache
def _environment() -> Environment:
    return templates(
        {
            "cell": _cell,
            "facts": _facts,
            "count": lambda number: _figure(number, 0),
            "figure": _figure,
            "flat": _flat,
            "interval": lambda ends: "" if not ends or None in ends else f"[{ends[0]:.3f}, {ends[1]:.3f}]",
            "percent": lambda share: f"{share:.1%}",
            "recall_interval": _recall_interval,
            "said": _said,
            "signed": lambda number: f"{number:+.3f}",
            "words": lambda key: key.replace("_", " ").replace(" mb", " MB").replace(" gb", " GB"),
        }
    )
