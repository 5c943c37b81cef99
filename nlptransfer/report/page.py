"""report.html: one file that shows what a run or a comparison found, made from the files in its folder alone.

Nothing is predicted again. The words are in templates/report.html, the plots in figures.py. Texts, names of labels and
of data are the user's: the template escapes all that is not a plot.
"""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
from jinja2 import Environment
from markupsafe import Markup
from scipy.stats import binomtest

from nlptransfer.errors import DataError, RunFolderError
from nlptransfer.evaluation import (
    brier_score,
    coverage_curve,
    default_metric,
    negative_log_likelihood,
    reliability_curve,
    untempered,
)
from nlptransfer.files import atomic_file, templates
from nlptransfer.report import figures
from nlptransfer.results import (
    REPORT,
    CandidateResult,
    ComparisonResult,
    DataSummary,
    Predictions,
    RunResult,
    is_comparison,
    is_run,
    label_counts,
)

MATRIX_LABELS = 12
"""Above so many labels the most confused pairs stand in place of the confusion matrix."""
FEW_LABELS = 20
"""Tables with a line for each label are folded above so many."""
SHOWN = 10
"""Rows of each list of texts, and of confused pairs."""
TEXT_LENGTH = 600
"""Characters of a text that are shown."""
CURVE_POINTS = 150
"""Points of the coverage curve that are drawn."""
SECTIONS = {
    "candidates": "The candidates",
    "pairs": "Differences",
    "curve": "Learning curve",
    "verdict": "What the source gave",
    "choice": "Chosen without labels",
    "classes": "By label",
    "confusion": "What is taken for what",
    "calibration": "Can the probabilities be trusted?",
    "coverage": "Leaving out the unsure",
    "training": "Training",
    "mistakes": "The surest mistakes",
    "margins": "The closest calls",
    "words": "Which words count",
    "data": "The data",
    "cost": "Cost",
    "repeat": "To repeat it",
}
"""Each part of the report by its id, in order; one that has nothing to show is left out."""
_NAMES = {
    "accuracy": "accuracy",
    "f1_macro": "macro F1",
    "f1_micro": "micro F1",
    "precision_macro": "macro precision",
    "recall_macro": "macro recall",
    "mcc": "Matthews correlation",
    "lrap": "label ranking average precision",
    "loss": "loss",
}


@dataclass(frozen=True)
class WordEffects:
    """How much each word of a text speaks for a label."""

    label: str
    probability: float
    """of the label, given the whole text"""
    words: Sequence[tuple[str, float]]
    """in the order of the text: each word, and by how much the probability falls without it"""


def write_report(
    folder: str | Path,
    texts: Mapping[str, Sequence[str]] | None = None,
    words: Sequence[WordEffects] | None = None,
) -> Path:
    """Write report.html into the folder of a finished run, or of a comparison.

    Args:
        folder: what holds experiment.json, or comparison.json.
        texts: texts by split, in the order of the ids in predictions.parquet: for the lists of mistakes and close
            calls, which are left out without. The files of a run hold no texts.
        words: what words count for, of some texts.

    Returns:
        The path of the report.

    Raises:
        RunFolderError: neither a finished run nor a comparison is there.
        DataError: fewer texts than predictions.
    """
    folder = Path(folder)
    if is_comparison(folder):
        found = _comparison(ComparisonResult.load_any(folder), texts)
    elif is_run(folder):
        found = _run(RunResult.load(folder), texts)
    else:
        raise RunFolderError(f"{folder}: expected the folder of a finished run or of a comparison, found neither")
    context = dict.fromkeys(SECTIONS) | found | {"words": list(words or ())}
    shown = {name: title for name, title in SECTIONS.items() if context[name]}
    page = _environment().get_template("report.html").render(**context, sections=shown, few_labels=FEW_LABELS)
    with atomic_file(folder / REPORT) as temporary:
        temporary.write_text(figures.plain(page), encoding="utf-8")
    return folder / REPORT


def _run(run: RunResult, texts: Mapping[str, Sequence[str]] | None) -> dict[str, Any]:
    """Return all that the report shows of one run."""
    metric, route = default_metric(run.data.labels), run.settings["route"]["name"]
    split = next((name for name in ("test", "validation", "train") if name in run.scores), None)
    headline = {"split": split, "metric": metric, "scores": _scores(run.scores[split])} if split else None
    return {
        "title": f"{run.data.name}: {route}",
        "headline": headline,
        "recommendation": None,
        "detail": None,
        "metric": _name(metric),
        "verdict": run.verdict,
        "choice": _choice(run),
        "data": _data(run.data, run, {route: run}),
        "cost": run.cost.to_record(),
        "repeat": {
            "command": run.command,
            "settings": {name: _flat(values) for name, values in run.settings.items()},
            "base": _flat(run.base or {}),
            "versions": run.versions,
            "machine": [(_in_words(name), value) for name, value in _flat(run.machine)],
            "fingerprints": _hashes(run.data),
            "candidates": [],
        },
    } | _details(run, texts)


def _details(run: RunResult | None, texts: Mapping[str, Sequence[str]] | None) -> dict[str, Any]:
    """Return what can be seen in the predictions and the training of one run."""
    found: dict[str, Any] = {"shown": None, "lengths": None, "training": None}
    if run is None:
        return found
    if run.training.history:
        found["training"] = figures.training_curves(run.training.history, "score", run.training.best_epoch or 0)
    split = _shown_split(run)
    if split is None:
        return found
    rows = run.predictions[split]
    given = _texts_of(rows, split, texts)
    wrong = np.flatnonzero(~rows.right)
    surest = wrong[np.argsort(-rows.mistake_confidences[wrong], kind="stable")][:SHOWN]
    closest = np.argsort(rows.margins, kind="stable")[:SHOWN]
    found |= {
        "shown": {"split": split, "rows": len(rows), "multi_label": rows.labels.multi_label},
        "classes": _classes(run.scores.get(split, {})),
        "confusion": None if rows.labels.multi_label else _confusion(rows),
        "calibration": _calibration(run, rows),
        "coverage": _coverage(rows),
    }
    if given is not None:
        found["mistakes"] = [_shown(rows, row, given, rows.mistake_confidences[row]) for row in surest]
        found["margins"] = [_shown(rows, row, given, rows.margins[row]) for row in closest]
        found["lengths"] = _lengths(given)
    return found


def _shown_split(run: RunResult) -> str | None:
    """Return test, or without test rows validation; None where there are no predictions."""
    return next((name for name in ("test", "validation") if name in run.predictions), None)


def _comparison(comparison: ComparisonResult, texts: Mapping[str, Sequence[str]] | None) -> dict[str, Any]:
    """Return all that the report shows of a comparison, and of the run that it recommends."""
    finished = [one for one in comparison.candidates if one.status == "finished"]
    chosen, data, metric = comparison.recommended, comparison.data, _name(comparison.metric)
    first_runs = {one.name: comparison.first_run(one.name) for one in finished}
    run = None if chosen is None else first_runs[chosen]
    return {
        "title": f"{data.name}: a comparison",
        "headline": None,
        "recommendation": comparison.recommendation,
        "detail": None if chosen is None else comparison.candidate(chosen),
        "metric": metric,
        "candidates": {
            "all": comparison.candidates,
            "finished": comparison.finished,
            "chosen": chosen,
            "machine": ", ".join(f"{_in_words(name)} {value}" for name, value in _flat(comparison.machine)),
            "figure": _cost_figure(finished, chosen, metric),
        },
        "pairs": comparison.pairs,
        "curve": _learning(comparison, metric),
        "verdict": None,
        "data": _data(data, run, first_runs, comparison.warnings),
        "repeat": {
            "command": None,
            "settings": {"all runs": _flat(comparison.settings)},
            "base": [],
            "versions": comparison.versions,
            "machine": _flat(comparison.machine),
            "fingerprints": _hashes(data),
            "candidates": [(one, _flat(one.settings or {})) for one in finished],
        },
    } | _details(run, texts)


def _cost_figure(finished: Sequence[CandidateResult], chosen: str | None, metric: str) -> Markup | None:
    points = {
        one.name: figures.Point(one.cost["train_seconds"], one.test.mean, one.test.interval)
        for one in finished
        if one.cost is not None and one.test is not None
    }
    return figures.score_against_cost(points, chosen, metric) if points else None


def _learning(comparison: ComparisonResult, metric: str) -> dict[str, Any] | None:
    curves: dict[str, list[figures.Point]] = {}
    for point in sorted(comparison.curve, key=lambda point: point.size):
        if point.mean is not None:
            curves.setdefault(point.candidate, []).append(figures.Point(point.size, point.mean, point.interval))
    if not curves:
        return None
    return {
        "figure": figures.learning_curve(curves, metric),
        "points": [point for point in comparison.curve if point.mean is not None],
        "reached": comparison.rows_to_reach,
        "left_out": [point for point in comparison.curve if point.mean is None],
    }


def _choice(run: RunResult) -> dict[str, Any] | None:
    """Return what was chosen from without a label of the target, and the evidence for each candidate."""
    rows: list[dict[str, Any]] = []
    differ = True
    for name, stage in run.stages.items():
        if stage.domains_differ is None or stage.chosen is None:
            continue
        differ = stage.domains_differ
        for one in stage.curve or ():
            named = {key: one[key] for key in stage.chosen}
            words = ", ".join(_candidate(_in_words(key), value) for key, value in named.items())
            rows.append({"stage": name, "candidate": words, "kept": named == stage.chosen, **one["evidence"]})
    if not rows or run.transfer is None:
        return None
    return {
        "rows": rows,
        "by": run.transfer.settings.get("choose_by"),
        "domains_differ": differ,
        "shares": list(zip(run.data.labels.names, rows[0]["label_shares"], strict=True)),
    }


def _candidate(name: str, value: Any) -> str:
    """A setting that was chosen from: l2 10; not adapted."""
    if isinstance(value, bool):
        return name if value else f"not {name}"
    return f"{name} {_said(value)}"


def _scores(found: Mapping[str, Any]) -> list[dict[str, Any]]:
    """The scores of a split that there are, the main one first."""
    several = "lrap" in found
    names = sorted(_NAMES, key=lambda name: name != ("f1_micro" if several else "accuracy"))
    shown = [name for name in names if found.get(name) is not None and (several or name != "f1_micro")]
    said = _NAMES | ({"accuracy": "all labels right"} if several else {})
    return [{"name": said[name], "value": found[name], "interval": _ends(found, f"{name}_interval")} for name in shown]


def _classes(scores: Mapping[str, Any]) -> list[dict[str, Any]]:
    per_class = scores.get("per_class") or {}
    return [{"label": label, **scores, "interval": _recall_interval(scores)} for label, scores in per_class.items()]


def _recall_interval(scores: Mapping[str, Any]) -> tuple[float, float] | None:
    if not scores["support"]:
        return None
    found = binomtest(round(scores["recall"] * scores["support"]), scores["support"]).proportion_ci(method="wilson")
    return found.low, found.high


def _confusion(rows: Predictions) -> dict[str, Any]:
    k, names = rows.labels.num_labels, rows.labels.names
    counts = np.bincount(rows.targets * k + rows.predicted, minlength=k * k).reshape(k, k)
    totals = counts.sum(axis=1)
    shares = counts / np.maximum(totals, 1)[:, None]
    cells = [list(zip(*line, strict=True)) for line in zip(counts.tolist(), shares.tolist(), strict=True)]
    wrong = counts * (1 - np.eye(k, dtype=int))
    order = np.argsort(-wrong, axis=None, kind="stable")[:SHOWN]
    pairs = [divmod(int(place), k) for place in order]
    return {
        "matrix": list(zip(names, cells, strict=True)) if k <= MATRIX_LABELS else None,
        "names": names,
        "pairs": [
            {"true": names[i], "given": names[j], "count": int(counts[i, j]), "share": float(shares[i, j])}
            for i, j in pairs
            if wrong[i, j]
        ],
    }


def _calibration(run: RunResult, rows: Predictions) -> dict[str, Any]:
    several = rows.labels.multi_label
    fitted = run.calibration or {}
    temperature = fitted.get("temperature")
    stages = {"as it predicts": rows.probabilities}
    if temperature is not None:
        before = untempered(rows.probabilities, temperature, multi_label=several)
        stages = {"before scaling": before} | stages
    bins = [reliability_curve(rows.targets, p, multi_label=several) for p in stages.values()]
    words = ("probability of a label", "rows that have it") if several else ("confidence", "accuracy")
    return {
        "rows": [
            {
                "name": name,
                "ece": reliability.error,
                "nll": negative_log_likelihood(rows.targets, p, multi_label=several),
                "brier": brier_score(rows.targets, p, multi_label=several),
            }
            for (name, p), reliability in zip(stages.items(), bins, strict=True)
        ],
        "temperature": temperature,
        "fitted_on": fitted.get("rows"),
        "figure": figures.reliability_diagram(bins[-1], bins[0] if len(bins) > 1 else None, *words),
    }


def _coverage(rows: Predictions) -> dict[str, Any]:
    cuts, coverage, accuracy = coverage_curve(rows.confidences, rows.right)
    # At least so many rows are answered: the first place that has them, at a limit as it is shown.
    places = [int(np.searchsorted(coverage, share - 1e-9)) for share in (1.0, 0.95, 0.9, 0.8, 0.7, 0.5)]
    limits = dict.fromkeys(float(np.floor(1000 * cuts[place]) / 1000) for place in places)
    answered = {limit: rows.confidences >= limit for limit in limits}
    drawn = np.unique(np.linspace(0, len(cuts) - 1, CURVE_POINTS).astype(int))
    return {
        "figure": figures.coverage_plot(coverage[drawn], accuracy[drawn]),
        "rows": [
            {"cut": limit, "coverage": float(taken.mean()), "accuracy": float(rows.right[taken].mean())}
            for limit, taken in answered.items()
        ],
    }


def _texts_of(rows: Predictions, split: str, texts: Mapping[str, Sequence[str]] | None) -> Sequence[str] | None:
    given = (texts or {}).get(split)
    if given is None:
        return None
    if len(given) <= rows.ids.max():
        raise DataError(
            f"texts[{split!r}]: expected one for each of {rows.ids.max() + 1} predictions, found {len(given)}"
        )
    return [given[row] for row in rows.ids]


def _shown(rows: Predictions, row: int, texts: Sequence[str], value: float) -> dict[str, Any]:
    text = texts[row]
    true, guess = (rows.labels.decode(ids[row : row + 1])[0] for ids in (rows.targets, rows.predicted))
    return {
        "row": int(rows.ids[row]),
        "text": text if len(text) <= TEXT_LENGTH else f"{text[:TEXT_LENGTH]}…",
        "true": _listed(true),
        "given": _listed(guess),
        "value": float(value),
        "right": bool(rows.right[row]),
    }


def _listed(names: str | Sequence[str]) -> str:
    return names if isinstance(names, str) else ", ".join(names) or "(none)"


def _lengths(texts: Sequence[str]) -> dict[str, int]:
    words = np.array([len(text.split()) for text in texts])
    named = {"median": 50, "95 of 100 have at most": 95, "longest": 100}
    return {name: int(np.percentile(words, share)) for name, share in named.items()}


def _data(
    data: DataSummary, run: RunResult | None, by_name: Mapping[str, RunResult], warnings: Sequence[str] = ()
) -> dict[str, Any]:
    """Return what is shown of the data.

    Args:
        run: the run whose predictions are shown.
        by_name: runs whose shares of truncated texts are shown.
    """
    counts: dict[str, Mapping[str, int]] = {}
    if run is not None:
        if any(run.data.label_counts.values()):
            counts["train"] = run.data.label_counts
        if (split := _shown_split(run)) is not None:
            counts[split] = label_counts(run.predictions[split].targets, data.labels)
    names = data.labels.names
    return {
        "name": data.name,
        "multi_label": data.labels.multi_label,
        "rows": data.rows,
        "splits": list(counts),
        "most": [max(of.values(), default=0) for of in counts.values()],
        "balance": [(label, [of.get(label, 0) for of in counts.values()]) for label in names] if counts else [],
        "warnings": warnings,
        "truncated": {name: one.data.truncated for name, one in by_name.items() if one.data.truncated},
    }


def _hashes(data: DataSummary) -> dict[str, str]:
    return {name: one["hash"] for name, one in data.fingerprints.items() if one["rows"]}


def _flat(values: Mapping[str, Any], before: str = "") -> list[tuple[str, str]]:
    """Settings in the order of the record, those of a group within under both names."""
    found = []
    for name, value in values.items():
        if isinstance(value, Mapping) and value:
            found += _flat(value, f"{before}{name}.")
        else:
            found.append((f"{before}{name}", _said(value)))
    return found


def _said(value: Any) -> str:
    return value if isinstance(value, str) else "none" if value is None else json.dumps(value, ensure_ascii=False)


def _ends(found: Mapping[str, Any], name: str) -> tuple[float, float] | None:
    low, high = found.get(name) or (None, None)
    return None if low is None or high is None else (low, high)


def _number(number: float | None, form: str) -> str:
    return "–" if number is None else format(number, form)


def _figure(number: float | None, places: int = 3) -> str:
    return _number(number, f",.{places}f")


def _amount(number: float | None) -> str:
    """With digits after the point where these say something."""
    return _number(number, ",.3f" if number is not None and number < 10 and number % 1 else ",.0f")


def _in_words(key: str) -> str:
    return key.replace("_", " ").replace(" mb", " MB").replace(" gb", " GB")


def _name(metric: str) -> str:
    return _NAMES.get(metric, metric.replace("_", " "))


@cache
def _environment() -> Environment:
    return templates(
        {
            "amount": _amount,
            "count": lambda number: _number(number, ",.0f"),
            "figure": _figure,
            "interval": lambda ends: "" if not ends or None in ends else f"[{ends[0]:.3f}, {ends[1]:.3f}]",
            "p_value": lambda p: "<0.0001" if p is not None and p < 0.0001 else _figure(p, 4),
            "percent": lambda share: f"{share:.1%}",
            "signed": lambda number: _number(number, "+.3f"),
            "words": _in_words,
        }
    )
