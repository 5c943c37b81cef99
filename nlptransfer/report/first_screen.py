"""The first screen of a report in plain sentences: what was asked, the answer, whether to trust it, what to do next."""

import shlex
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Any

from nlptransfer.data import DataSettings
from nlptransfer.evaluation import SCORE_NAMES, default_metric, higher_is_better, metric_name
from nlptransfer.hub import BASELINES
from nlptransfer.results import DROPPABLE, Audit, ComparisonResult, DataSummary, Predictions, Ranking, RunResult
from nlptransfer.settings import fields_of

WIDE = 0.05
"""Half the width of an interval from which the test rows are called few."""
MUCH_TRUNCATED = 0.05
SEEDS = 3
"""With fewer the score of what is trained has no interval."""


@dataclass(frozen=True)
class Line:
    """A method and its score on test."""

    name: str
    score: float
    interval: tuple[float, float] | None
    is_answer: bool
    note: str = ""


@dataclass(frozen=True)
class FirstScreen:
    """What a reader has to know, in the order of the page; each a sentence, or more."""

    asked: Sequence[str]
    answer: str
    lines: Sequence[Line]
    """the answer beside what it is compared with, the best first"""
    metric: str
    trust: Sequence[tuple[str, bool]]
    """and whether it is a reason to doubt"""
    labels: Sequence[str]
    """the best one and the worst one"""
    commands: Sequence[tuple[str, str]]
    """what to do next, and the command that does it"""


def of_run(run: RunResult, rows: Predictions | None, split: str | None) -> FirstScreen:
    """Return the first screen of a run; ``split`` is what it is scored on, whose ``rows`` may be there."""
    data = run.data
    metric = run.settings.get("training", {}).get("metric_for_best_model") or default_metric(data.labels)
    scores = run.scores.get(split or "", {})
    # A route of another package may name none.
    base = f", from {run.base['name']}" if run.base and run.base.get("name") else ""
    asked = [*_task(data), f"Route {run.settings['route']['name']}{base}; {_rows(data)}."]
    interval = _interval(scores, metric)
    answer = "It was scored on no rows." if split is None else _answer(metric, scores, interval, rows, split)
    lines = []
    if split == "test" and metric in scores:
        lines = [Line("this classifier", scores[metric], interval, True)]
        for name, baseline in run.baselines.items():
            if metric in baseline.scores:
                note = "on some of the rows" if baseline.is_sample else ""
                ends = _interval(baseline.scores, metric)
                lines.append(Line(BASELINES.get(name, name), baseline.scores[metric], ends, False, note))
    lines = _best_first(lines, metric)
    return FirstScreen(
        asked=asked,
        answer=answer,
        lines=lines if len(lines) > 1 else [],
        metric=metric_name(metric),
        trust=[*_against_baseline(lines, metric), *_trust(run, split, interval)],
        labels=[*_labels(scores.get("per_class") or {}, rows)],
        commands=[*_uses(str(run.folder) if run.has_model else None), *_next(run.repeat, data.warnings)],
    )


def of_comparison(comparison: ComparisonResult, run: RunResult | None, rows: Predictions | None) -> FirstScreen:
    """Return the first screen of a comparison; ``run`` is that of the recommended candidate, if there is one."""
    data, tested = comparison.data, [one for one in comparison.candidates if one.test is not None]
    shown = {comparison.recommended, comparison.best}
    lines = [
        Line(one.name, test.mean, test.interval, one.name == comparison.recommended, BASELINES.get(one.route, ""))
        for one in comparison.candidates
        if (test := one.test) is not None and (one.name in shown or one.route in BASELINES)
    ]
    seeds = max((len(one.seeds) for one in tested), default=0)
    trust: list[tuple[str, bool]] = []
    if not comparison.finished:
        trust.append(("This comparison is not finished: candidates are missing.", True))
    if left_out := [one.name for one in comparison.candidates if one.status in ("failed", "skipped")]:
        trust.append((f"Without {', '.join(left_out)}: the table of candidates says why.", True))
    if 0 < seeds < SEEDS:
        trust.append((f"{_count(seeds, 'seed')}: what is trained might score otherwise with others; take 3.", True))
    answer = next((line for line in lines if line.is_answer), None)
    if answer is not None:
        ranked = [line for line in _best_first(lines, comparison.metric) if line is answer or line.note]
        if ranked[0] is not answer:
            trust.append((f"On test it is no better than the baseline {ranked[0].name}.", True))
    several = "" if seeds < 2 else f", each trained with {seeds} seeds where a seed changes anything"
    if comparison.advice is not None:
        trust.append((comparison.advice, True))
    return FirstScreen(
        asked=[*_task(data), f"{_count(len(comparison.candidates), 'candidate')}{several}; {_rows(data)}."],
        answer=comparison.recommendation or "Nothing is recommended yet.",
        lines=_best_first(lines, comparison.metric),
        metric=metric_name(comparison.metric),
        trust=[*trust, *_of_test(data, None if answer is None else answer.interval), *_of_data(data)],
        labels=[*_labels((run.scores.get("test") or {}).get("per_class") or {}, rows)] if run else [],
        commands=[*_uses(str(run.folder) if run and run.has_model else None), *_next("", data.warnings)],
    )


def of_ranking(ranking: Ranking) -> FirstScreen:
    """Return the first screen of a ranking."""
    bases = {one.base for one in ranking.encoders}
    looked = f"{_count(len(bases), 'encoder')} seen on {ranking.rows:,} training rows, cross-validated"
    words = _read_again(ranking.repeat)
    best = ["--base", ranking.chosen.base]
    best += ["--set", f"keep_layers={ranking.chosen.keep_layers}"] if ranking.chosen.keep_layers else []
    return FirstScreen(
        asked=[*_task(ranking.data), f"{looked}; validation and test rows were not looked at."],
        answer=ranking.sentence,
        lines=[],
        metric=metric_name(ranking.metric),
        trust=[*_of_data(ranking.data)],
        labels=[],
        commands=[("Train with it", shlex.join(["nlptransfer", "finetune", *words, *best]))] if words else [],
    )


def of_audit(audit: Audit) -> FirstScreen:
    """Return the first screen of an audit, whose table of answers follows it."""
    seen = audit.base or "TF-IDF in place of an encoder: texts are alike only where their words are"
    found = [name for name, section in audit.sections.items() if section.findings]
    dropped = [name for name in found if name in DROPPABLE and audit.sections[name].advises_drop]
    data, *read = _read_again(audit.repeat) or [""]
    commands = []
    if data and dropped:
        words = ["nlptransfer", "audit", data, *read, "--clean-to", "cleaned", "--drop", ",".join(dropped)]
        commands.append(("Look at these rows below, and leave them out", shlex.join(words)))
    if data:
        commands.append(("Train a classifier", shlex.join(["nlptransfer", "finetune", data, *read])))
    said = f"something was found: {', '.join(found)}".replace("_", " ") if found else "nothing was found"
    return FirstScreen(
        asked=[*_task(audit.data), f"{_rows(audit.data)}; seen by {seen}."],
        answer=f"For {len(found)} of {_count(len(audit.sections), 'question')} {said}.",
        lines=[],
        metric="",
        trust=[],
        labels=[],
        commands=commands,
    )


def _task(data: DataSummary) -> Iterator[str]:
    names, columns = data.labels.names, data.columns
    kind = "any number" if data.labels.multi_label else "one"
    some = ", ".join(names[:8]) + (", ..." if len(names) > 8 else "")
    text, label = (_named(columns.get(f"{name}_column")) for name in ("text", "label"))
    yield f"Give a text{text} {kind} of {len(names):,} labels{label}: {some}."


def _named(column: Any) -> str:
    return f" (column {column if isinstance(column, str) else ', '.join(column)})" if column else ""


def _rows(data: DataSummary) -> str:
    uses = {"train": "to learn from", "validation": "to choose by", "calibration": "to calibrate", "test": "to test"}
    return ", ".join(f"{data.rows[name]:,} rows {use}" for name, use in uses.items() if data.rows.get(name))


def _count(number: int, noun: str) -> str:
    return f"{number:,} {noun}{'' if number == 1 else 's'}"


def _interval(scores: Mapping[str, Any], metric: str) -> tuple[float, float] | None:
    low, high = scores.get(f"{metric}_interval") or (None, None)
    return None if low is None or high is None else (low, high)


def _best_first(lines: Sequence[Line], metric: str) -> list[Line]:
    is_more_better = metric not in SCORE_NAMES or higher_is_better(metric)
    return sorted(lines, key=lambda line: -line.score if is_more_better else line.score)


def _answer(
    metric: str,
    scores: Mapping[str, Any],
    interval: tuple[float, float] | None,
    rows: Predictions | None,
    split: str,
) -> str:
    name = metric_name(metric)
    ends = "" if interval is None else f", 95% interval {interval[0]:.3f} to {interval[1]:.3f}"
    said = f"{name[0].upper()}{name[1:]} {scores[metric]:.3f}{ends}"
    if rows is None:
        return f"{said}, on {split} rows."
    what = "no label wrong or missing" if rows.labels.multi_label else "their label right"
    return f"{said}: {rows.right.sum():,} of {len(rows):,} {split} rows have {what}."


def _against_baseline(lines: Sequence[Line], metric: str) -> Iterator[tuple[str, bool]]:
    """Say whether the classifier is better than the best baseline, as far as two intervals can tell."""
    answer = next((line for line in lines if line.is_answer), None)
    best = next((line for line in lines if not line.is_answer), None)
    if answer is None or best is None:
        return
    sign = 1 if higher_is_better(metric) else -1
    if sign * (answer.score - best.score) <= 0:
        yield f"It is no better than the baseline “{best.name}”, which costs next to nothing.", True
    elif answer.interval and best.interval and _apart(answer.interval, best.interval):
        yield f"It is better than the best baseline, “{best.name}”: their intervals do not overlap.", False
    else:
        yield f"Its interval overlaps that of the baseline “{best.name}”: it may be no better.", True


def _apart(one: tuple[float, float], other: tuple[float, float]) -> bool:
    return one[0] > other[1] or other[0] > one[1]


def _trust(run: RunResult, split: str | None, interval: tuple[float, float] | None) -> Iterator[tuple[str, bool]]:
    if split == "test":
        yield from _of_test(run.data, interval)
    elif split is not None:
        what = "Validation rows took part in choices" if split == "validation" else "Training rows are what was learned"
        yield f"There were no test rows. {what}: expect less on other texts.", True
    if (share := run.data.truncated.get(split or "", 0.0)) > MUCH_TRUNCATED:
        yield f"{share:.1%} of the {split} texts are longer than what is read of them.", True
    yield from _of_data(run.data)


def _of_test(data: DataSummary, interval: tuple[float, float] | None) -> Iterator[tuple[str, bool]]:
    rows = f"{_count(data.rows.get('test', 0), 'test row')}, by which nothing was learned or chosen"
    if interval is None:
        yield f"{rows}.", False
        return
    half = (interval[1] - interval[0]) / 2
    few = " They are few: more would tell the score better." if half > WIDE else ""
    yield f"{rows}: they tell the score to within {half:.3f}.{few}", bool(few)


def _of_data(data: DataSummary) -> Iterator[tuple[str, bool]]:
    for warning in data.warnings:
        yield warning, True
    if not data.warnings:
        yield "Nothing was found in the data that makes scores look better than they are.", False


def _labels(classes: Mapping[str, Mapping[str, Any]], rows: Predictions | None) -> Iterator[str]:
    """Name the labels of the highest and of the lowest F1, and what the last is most often taken for."""
    found = sorted((name for name, one in classes.items() if one["support"]), key=lambda name: -classes[name]["f1"])
    if len(found) < 2:
        return
    best, worst = found[0], found[-1]
    for word, name in (("Best", best), ("Worst", worst)):
        one = classes[name]
        said = f"{word} label: {name}, F1 {one['f1']:.3f} on {_count(one['support'], 'row')}"
        yield f"{said}{_taken_for(worst, rows) if name == worst else ''}."


def _taken_for(label: str, rows: Predictions | None) -> str:
    if rows is None or rows.labels.multi_label:
        return ""
    place = rows.labels.names.index(label)
    wrong = rows.predicted[(rows.targets == place) & (rows.predicted != place)]
    if not len(wrong):
        return ""
    counts = [int((wrong == other).sum()) for other in range(rows.labels.num_labels)]
    most = max(range(len(counts)), key=counts.__getitem__)
    return f"; {counts[most]:,} of them are taken for {rows.labels.names[most]}"


def _uses(folder: str | None) -> Iterator[tuple[str, str]]:
    if folder is not None:
        yield "Try it, and see which words count", shlex.join(["nlptransfer", "explain", folder, "A text of yours"])
        yield "Label a file", shlex.join(["nlptransfer", "predict", folder, "FILE", "--output", "labeled.csv"])
        yield "Share it", shlex.join(["nlptransfer", "push", folder, "OWNER/NAME"])


def _next(repeat: str, warnings: Sequence[str]) -> Iterator[tuple[str, str]]:
    if not (read := _read_again(repeat)):
        return
    if warnings:
        yield "Look at the data", shlex.join(["nlptransfer", "audit", *read])
    yield "See whether another route is better", shlex.join(["nlptransfer", "compare", *read])


def _read_again(repeat: str) -> list[str]:
    """Return the words of a command that say what data is read and how; none where there is no command."""
    data, words, read = shlex.split(repeat)[2:3], shlex.split(repeat)[3:], fields_of(DataSettings)
    for option, value in pairwise(words):
        data += [option, value] if option == "--set" and value.partition("=")[0] in read else []
    return data
