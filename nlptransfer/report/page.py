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
from nlptransfer.files import atomic_file, read_json, templates
from nlptransfer.report import figures
from nlptransfer.report.run_folder import Evidence, Judged, read_if_there

REPORT = "report.html"
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
    "ladder": "The ladder",
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
    if (folder / "comparison.json").exists():
        found = _comparison(folder, texts)
    else:
        found = _run(Evidence(folder, _finished(folder)), texts)
    context = dict.fromkeys(SECTIONS) | found | {"words": list(words or ())}
    shown = {name: title for name, title in SECTIONS.items() if context[name]}
    page = _environment().get_template("report.html").render(**context, sections=shown, few_labels=FEW_LABELS)
    with atomic_file(folder / REPORT) as temporary:
        temporary.write_text(figures.plain(page), encoding="utf-8")
    return folder / REPORT


def _finished(folder: Path) -> dict[str, Any]:
    record = read_if_there(folder / "experiment.json")
    if record.get("status") != "finished":
        found = f"a run that is {record['status']}" if record else "no experiment.json and no comparison.json"
        raise RunFolderError(f"{folder}: expected the folder of a finished run or of a comparison, found {found}")
    return record


def _run(run: Evidence, texts: Mapping[str, Sequence[str]] | None) -> dict[str, Any]:
    """All that the report says of one run."""
    record, settings = run.record, run.record.get("settings") or {}
    metric = default_metric(run.labels)
    split = next((name for name in ("test", "validation", "train") if name in run.metrics), None)
    route = (settings.get("route") or {}).get("name", "")
    told = {"split": split, "metric": metric, "scores": _scores(run.metrics[split])} if split else None
    return {
        "title": f"{record['data']['name']}: {route}".removesuffix(": "),
        "headline": told,
        "recommendation": None,
        "detail": None,
        "metric": _name(metric),
        "verdict": record.get("verdict"),
        "choice": _choice(record),
        "data": _data(record["data"], run, {route: record}),
        "cost": run.metrics.get("cost"),
        "repeat": {
            "command": (run.saved.get("results") or {}).get("command"),
            "settings": {name: _flat(values) for name, values in settings.items()},
            "base": _flat(record.get("base") or {}),
            "versions": record.get("versions") or {},
            "machine": [(_in_words(name), value) for name, value in _flat(record.get("machine") or {})],
            "fingerprints": _hashes(record["data"]),
            "rungs": [],
        },
    } | _details(run, texts)


def _details(run: Evidence, texts: Mapping[str, Sequence[str]] | None) -> dict[str, Any]:
    """What can be seen in the predictions and the training of one run."""
    trained = run.record.get("training") or {}
    history, kept = trained.get("history"), trained.get("best_epoch", 0)
    found: dict[str, Any] = {
        "judged": None,
        "lengths": None,
        "training": figures.training_curves(history, "score", kept) if history else None,
    }
    judged = run.judged
    if judged is None:
        return found
    given = _texts_of(judged, texts)
    wrong = np.flatnonzero(~judged.right)
    surest = wrong[np.argsort(-judged.regrets[wrong], kind="stable")][:SHOWN]
    closest = np.argsort(judged.margins, kind="stable")[:SHOWN]
    found |= {
        "judged": {"split": judged.split, "rows": len(judged.ids), "multi_label": judged.labels.multi_label},
        "classes": _classes(run, judged),
        "confusion": None if judged.labels.multi_label else _confusion(judged),
        "calibration": _calibration(run, judged),
        "coverage": _coverage(judged),
    }
    if given is not None:
        found["mistakes"] = [_shown(judged, row, given, judged.regrets[row]) for row in surest]
        found["margins"] = [_shown(judged, row, given, judged.margins[row]) for row in closest]
        found["lengths"] = _lengths(given)
    return found


def _comparison(folder: Path, texts: Mapping[str, Sequence[str]] | None) -> dict[str, Any]:
    """All that the report says of a comparison, and of the run that it recommends."""
    told = read_json(folder / "comparison.json")
    rungs = [{"test": None, "cost": None, "reason": None, **rung} for rung in told.get("rungs") or []]
    finished = [rung for rung in rungs if rung["status"] == "finished" and rung["test"]]
    chosen = (told.get("recommendation") or {}).get("rung")
    metric = _name(told["metric"])
    runs = [run for rung in finished if rung["name"] == chosen for run in rung.get("runs") or []]
    first = folder / runs[0] if runs else None
    record = (read_if_there(first / "experiment.json") if first else {}) | {"data": told["data"]}
    records = {
        rung["name"]: read_if_there(folder / rung["runs"][0] / "experiment.json")
        for rung in finished
        if rung.get("runs")
    }
    run = Evidence(first or folder, record)
    return {
        "title": f"{told['data']['name']}: a comparison",
        "headline": None,
        "recommendation": told.get("recommendation"),
        "detail": {"rung": chosen, "seeds": len(runs)} if first else None,
        "metric": metric,
        "ladder": {
            "rungs": rungs,
            "status": told["status"],
            "chosen": chosen,
            "machine": ", ".join(f"{_in_words(name)} {value}" for name, value in _flat(told.get("machine") or {})),
            "figure": _cost_figure(finished, chosen, metric),
        },
        "pairs": told.get("pairs"),
        "curve": _learning(told, metric),
        "verdict": None,
        "data": _data(told["data"], run, records),
        "repeat": {
            "command": None,
            "settings": {"asked": _flat(told.get("asked") or {})},
            "base": [],
            "versions": told.get("versions") or {},
            "machine": _flat(told.get("machine") or {}),
            "fingerprints": _hashes(told["data"]),
            "rungs": [{**rung, "settings": _flat(rung.get("settings") or {})} for rung in finished],
        },
    } | _details(run, texts)


def _cost_figure(rungs: Sequence[Mapping[str, Any]], chosen: str | None, metric: str) -> Markup | None:
    points = {
        rung["name"]: figures.Point(rung["cost"]["train_seconds"], rung["test"]["mean"], _ends(rung["test"]))
        for rung in rungs
        if rung["cost"] and rung["cost"].get("train_seconds") is not None
    }
    return figures.score_against_cost(points, chosen, metric) if points else None


def _learning(told: Mapping[str, Any], metric: str) -> dict[str, Any] | None:
    curves: dict[str, list[figures.Point]] = {}
    for one in sorted(told.get("curve") or [], key=lambda one: one["size"]):
        curves.setdefault(one["rung"], []).append(figures.Point(one["size"], one["mean"], _ends(one)))
    if not curves:
        return None
    return {
        "figure": figures.learning_curve(curves, metric),
        "points": told["curve"],
        "reached": told.get("rows_to_reach"),
        "left_out": told.get("curve_left_out"),
    }


def _choice(record: Mapping[str, Any]) -> dict[str, Any] | None:
    """What was chosen from without a label of the target, and what told of each candidate."""
    stages = (record.get("transfer") or {}).get("stages") or {}
    rows: list[dict[str, Any]] = []
    told_apart = True
    for name, stage in stages.items():
        if "told_apart" not in stage:
            continue
        told_apart = stage["told_apart"]
        for one in stage["curve"]:
            named = {key: one[key] for key in stage["chosen"]}
            words = ", ".join(_candidate(_in_words(key), value) for key, value in named.items())
            rows.append({"stage": name, "candidate": words, "kept": named == stage["chosen"], **one["evidence"]})
    if not rows:
        return None
    return {
        "rows": rows,
        "by": record["transfer"].get("choose_by"),
        "told_apart": told_apart,
        "shares": list(zip(record["data"]["labels"], rows[0]["label_shares"], strict=True)),
    }


def _candidate(name: str, value: Any) -> str:
    """A setting that was chosen from: strength 0.5; not adapted."""
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


def _classes(run: Evidence, judged: Judged) -> list[dict[str, Any]]:
    per_class = (run.metrics.get(judged.split) or {}).get("per_class") or {}
    return [{"label": label, **scores, "interval": _recall_interval(scores)} for label, scores in per_class.items()]


def _recall_interval(scores: Mapping[str, Any]) -> tuple[float, float] | None:
    if not scores["support"]:
        return None
    found = binomtest(round(scores["recall"] * scores["support"]), scores["support"]).proportion_ci(method="wilson")
    return found.low, found.high


def _confusion(judged: Judged) -> dict[str, Any]:
    k, names = judged.labels.num_labels, judged.labels.names
    counts = np.bincount(judged.targets * k + judged.guesses, minlength=k * k).reshape(k, k)
    totals = counts.sum(axis=1)
    shares = counts / np.maximum(totals, 1)[:, None]
    cells = [list(zip(*rows, strict=True)) for rows in zip(counts.tolist(), shares.tolist(), strict=True)]
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


def _calibration(run: Evidence, judged: Judged) -> dict[str, Any]:
    several = judged.labels.multi_label
    fitted = run.saved.get("calibration") or run.record.get("calibration") or {}
    temperature = fitted.get("temperature")
    stages = {"as it predicts": judged.probabilities}
    if temperature is not None:
        before = untempered(judged.probabilities, temperature, multi_label=several)
        stages = {"before scaling": before} | stages
    bins = [reliability_curve(judged.targets, p, multi_label=several) for p in stages.values()]
    words = ("probability of a label", "rows that have it") if several else ("confidence", "accuracy")
    return {
        "rows": [
            {
                "name": name,
                "ece": reliability.error,
                "nll": negative_log_likelihood(judged.targets, p, multi_label=several),
                "brier": brier_score(judged.targets, p, multi_label=several),
            }
            for (name, p), reliability in zip(stages.items(), bins, strict=True)
        ],
        "temperature": temperature,
        "fitted_on": fitted.get("rows"),
        "figure": figures.reliability_diagram(bins[-1], bins[0] if len(bins) > 1 else None, *words),
    }


def _coverage(judged: Judged) -> dict[str, Any]:
    cuts, coverage, accuracy = coverage_curve(judged.confidences, judged.right)
    # At least so many rows are answered: the first place that has them, at a limit as it is shown.
    places = [int(np.searchsorted(coverage, share - 1e-9)) for share in (1.0, 0.95, 0.9, 0.8, 0.7, 0.5)]
    limits = dict.fromkeys(float(np.floor(1000 * cuts[place]) / 1000) for place in places)
    answered = {limit: judged.confidences >= limit for limit in limits}
    drawn = np.unique(np.linspace(0, len(cuts) - 1, CURVE_POINTS).astype(int))
    return {
        "figure": figures.coverage_plot(coverage[drawn], accuracy[drawn]),
        "rows": [
            {"cut": limit, "coverage": float(rows.mean()), "accuracy": float(judged.right[rows].mean())}
            for limit, rows in answered.items()
        ],
    }


def _texts_of(judged: Judged, texts: Mapping[str, Sequence[str]] | None) -> Sequence[str] | None:
    given = (texts or {}).get(judged.split)
    if given is None:
        return None
    if len(given) <= judged.ids.max():
        raise DataError(
            f"texts[{judged.split!r}]: expected one for each of {judged.ids.max() + 1} predictions, found {len(given)}"
        )
    return [given[row] for row in judged.ids]


def _shown(judged: Judged, row: int, texts: Sequence[str], value: float) -> dict[str, Any]:
    text = texts[row]
    true, guess = (judged.labels.decode(ids[row : row + 1])[0] for ids in (judged.targets, judged.guesses))
    return {
        "row": int(judged.ids[row]),
        "text": text if len(text) <= TEXT_LENGTH else f"{text[:TEXT_LENGTH]}…",
        "true": _listed(true),
        "given": _listed(guess),
        "value": float(value),
        "right": bool(judged.right[row]),
    }


def _listed(names: str | Sequence[str]) -> str:
    return names if isinstance(names, str) else ", ".join(names) or "(none)"


def _lengths(texts: Sequence[str]) -> dict[str, int]:
    words = np.array([len(text.split()) for text in texts])
    named = {"median": 50, "95 of 100 have at most": 95, "longest": 100}
    return {name: int(np.percentile(words, share)) for name, share in named.items()}


def _data(told: Mapping[str, Any], run: Evidence, records: Mapping[str, Mapping[str, Any]]) -> dict[str, Any]:
    """What is told of the data, and by the name of each run how much of the texts it has not read."""
    results = run.saved.get("results") or {}
    rows = {name: one["rows"] for name, one in (told.get("fingerprints") or {}).items()}
    counts: dict[str, Mapping[str, int]] = {}
    if any((results.get("label_counts") or {}).values()):
        counts["train"] = results["label_counts"]
    if run.judged is not None:
        of_labels = run.judged.targets if told["multi_label"] else np.eye(len(told["labels"]))[run.judged.targets]
        totals = (int(count) for count in of_labels.sum(axis=0))
        counts[run.judged.split] = dict(zip(told["labels"], totals, strict=True))
    balance = [(label, [of.get(label, 0) for of in counts.values()]) for label in told["labels"]] if counts else []
    return {
        "name": told["name"],
        "multi_label": told["multi_label"],
        "rows": rows,
        "splits": list(counts),
        "most": [max(of.values(), default=0) for of in counts.values()],
        "balance": balance,
        "warnings": told.get("warnings") or [],
        "truncated": {
            name: record["data"]["truncated"]
            for name, record in records.items()
            if record.get("data", {}).get("truncated")
        },
    }


def _hashes(told: Mapping[str, Any]) -> dict[str, str]:
    return {name: one["hash"] for name, one in (told.get("fingerprints") or {}).items() if one["rows"]}


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


def _ends(found: Mapping[str, Any], name: str = "interval") -> tuple[float, float] | None:
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
