"""Labels that are likely wrong, by heads that have not seen the row, and what leaving such rows out does to a score."""

import logging
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from nlptransfer.data import Split, percentage
from nlptransfer.errors import abridged
from nlptransfer.evaluation import default_metric, estimated_joint, likely_errors, margins, measure, paired, predicted
from nlptransfer.experiments.auditing.rows import FOLDS, AuditRows
from nlptransfer.results import Finding, Section, quoted
from nlptransfer.training import Head

if TYPE_CHECKING:
    import pandas as pd

log = logging.getLogger("nlptransfer")

NAME = "label_errors"
NAMED = 5
"""Labels named in one sentence."""
LEAST_ESTIMATED = 0.5
"""Rows from which a confusion is listed."""
TINY = 1e-7
"""A probability that is taken for 0."""


@dataclass(frozen=True, eq=False)
class Doubts:
    """What is doubted of the rows that have judged labels; arrays of (rows,)."""

    places: np.ndarray
    """among the training rows"""
    margin: np.ndarray
    """logarithm of the probability of the given label less that of the likeliest other one"""
    probability: np.ndarray
    """of the given label"""
    suggested_probability: np.ndarray
    suggested: np.ndarray
    """targets with the likeliest other label"""
    is_error: np.ndarray
    """whether confident learning names the row"""
    confusions: "pd.DataFrame"


def find_label_errors(rows: AuditRows) -> Section:
    """Name the training labels that are likely wrong, and measure on held-out rows what leaving their rows out does.

    With several labels a row, each is a question of its own: whether the row should have it. A row is as doubtful as
    the most doubtful of them, whose probabilities the frame has.
    """
    doubts = doubts_of(rows)
    order = np.lexsort((doubts.places, doubts.margin))
    order = order[doubts.margin[order] < 0]
    frame = rows.frame("train", doubts.places[order])
    frame["suggested"] = rows.labels_of(doubts.suggested[order])
    frame["probability"] = doubts.probability[order]
    frame["suggested_probability"] = doubts.suggested_probability[order]
    frame["margin"], frame["rank"] = doubts.margin[order], np.arange(1, len(order) + 1)
    frame["drop"] = doubts.is_error[order]
    frames = {NAME: frame, "label_confusions": doubts.confusions}
    facts: dict[str, Any] = {"judged_rows": len(doubts.places)}
    if not doubts.is_error.any():
        return Section(NAME, (), frames, facts)
    facts["without_them"] = _effect(rows, doubts.places[doubts.is_error])
    return Section(NAME, (_finding(frames, facts),), frames, facts)


def _finding(frames: "Mapping[str, pd.DataFrame]", facts: Mapping[str, Any]) -> Finding:
    frame, effect = frames[NAME], facts["without_them"]
    first, count, judged = frame[frame["drop"]].iloc[0], int(frame["drop"].sum()), facts["judged_rows"]
    (low, high), difference = effect["interval"], effect["difference"]
    confusion = frames["label_confusions"].iloc[0]
    sentence = (
        f"{count:,} of {judged:,} training labels ({percentage(count, judged)}) are likely wrong, most often "
        f"{confusion['label']!r} in place of {confusion['suggested']!r}; without these rows {effect['metric']} on "
        f"{effect['rows']:,} held-out rows is {effect['score']:.3f} instead of {effect['score_of_all']:.3f} "
        f"({difference:+.3f}, 95% interval {low:+.3f} to {high:+.3f}). Heads that have not seen them give "
        f"{1 - len(frame) / judged:.0%} of all rows the label they have"
    )
    example = (
        f"{quoted(first['text'])}: labeled {first['label']!r} ({first['probability']:.2f}), "
        f"suggested {first['suggested']!r} ({first['suggested_probability']:.2f})"
    )
    if low > 0:
        advice = "Leave them out, drop=label_errors, or write down the labels that are right, the least margin first."
    elif high < 0:
        advice = "Do not leave them out, which costs score: look at some, as hard rows are among them."
    else:
        advice = "Look at them, the least margin first: that the score gains by leaving them out is not sure."
    return Finding(NAME, count, sentence, example, advice)


def doubts_of(rows: AuditRows) -> Doubts:
    """Return what is doubted of the training rows, but for labels that heads hardly know.

    These are labels of few texts; of several labels a row also those to which the rows that have them are given a
    probability below a half: there a label is better evidence than the heads.
    """
    labels, targets = rows.data.labels, rows.data.train.targets
    judged = rows.distinct_texts >= FOLDS
    if labels.multi_label:
        counts = targets.sum(axis=0)
        judged &= (rows.out_of_fold * targets).sum(axis=0) >= counts / 2
    if few := [name for name, is_judged in zip(labels.names, judged, strict=True) if not is_judged]:
        log.info(
            "Rows of these labels are not checked for wrong labels, as too few rows have them: %s", abridged(few, NAMED)
        )
    if judged.sum() + labels.multi_label < 2:
        return _nothing(rows)
    return (_of_several if labels.multi_label else _of_one)(rows, judged)


def _nothing(rows: AuditRows) -> Doubts:
    none, numbers, flags = np.zeros(0), np.zeros(0, np.int64), np.zeros(0, bool)
    confusions = _confusions(np.zeros((0, 0)), numbers, numbers, flags, ())
    return Doubts(numbers, none, none, none, rows.data.train.targets[:0], flags, confusions)


def _of_one(rows: AuditRows, judged: np.ndarray) -> Doubts:
    targets, known = rows.data.train.targets, np.flatnonzero(judged)
    places = np.flatnonzero(judged[targets])
    given = np.searchsorted(known, targets[places])
    p = _of_labels(rows.reweighted[places], known)
    margin, other = margins(np.log(p), given)
    joint = estimated_joint(p, given)
    is_error = likely_errors(joint, np.log(p), given)
    return Doubts(
        places=places,
        margin=margin,
        probability=p[np.arange(len(given)), given],
        suggested_probability=p[np.arange(len(given)), other],
        suggested=known[other],
        is_error=is_error,
        confusions=_confusions(joint, given, other, is_error, [rows.data.labels.names[label] for label in known]),
    )


def _of_several(rows: AuditRows, judged: np.ndarray) -> Doubts:
    import pandas as pd

    names, known = rows.data.labels.names, np.flatnonzero(judged)
    targets, places = rows.data.train.targets, np.arange(len(rows.data.train))
    right, named, confusions = np.ones((len(places), len(known)), np.float32), [], []
    for number, label in enumerate(known):
        # Of not having the label and of having it.
        p = np.column_stack([1 - rows.out_of_fold[:, label], rows.out_of_fold[:, label]]).clip(TINY, 1)
        given = targets[:, label].astype(np.int64)
        _, other = margins(p, given)
        right[:, number] = p[places, given]
        joint = estimated_joint(p, given)
        named.append(likely_errors(joint, p, given))
        confusions.append(_confusions(joint, given, other, named[-1], [f"without {names[label]}", names[label]]))
    is_error, worst = np.column_stack(named), right.argmin(axis=1)
    # What is named is suggested otherwise, and else what is most doubtful.
    changed = is_error.copy()
    changed[places, worst] |= ~is_error.any(axis=1)
    suggested = targets.copy()
    suggested[:, known] = np.abs(targets[:, known] - changed)
    probability = right[places, worst]
    return Doubts(
        places=places,
        margin=np.log(probability) - np.log1p(-probability),
        probability=probability,
        suggested_probability=1 - probability,
        suggested=suggested,
        is_error=np.asarray(is_error.any(axis=1)),
        confusions=_sorted(pd.concat(confusions)),
    )


def _of_labels(probabilities: np.ndarray, labels: np.ndarray) -> np.ndarray:
    """Return the probabilities of some labels, as if there were no others."""
    some = probabilities[:, labels].clip(TINY, 1)
    of_them: np.ndarray = some / some.sum(axis=1, keepdims=True)
    return of_them


def _confusions(
    joint: np.ndarray, given: np.ndarray, other: np.ndarray, is_error: np.ndarray, names: Sequence[str]
) -> "pd.DataFrame":
    """Return how many rows of one label are named and suggested another, and how many there are by the joint."""
    import pandas as pd

    counts = np.bincount(given, minlength=len(names))
    named = np.zeros(joint.shape, np.int64)
    np.add.at(named, (given[is_error], other[is_error]), 1)
    one, two = np.nonzero(((named > 0) | (joint >= LEAST_ESTIMATED)) & ~np.eye(len(names), dtype=bool))
    frame = pd.DataFrame(
        {
            "label": [names[label] for label in one.tolist()],
            "suggested": [names[label] for label in two.tolist()],
            "rows": named[one, two],
            "estimated": joint[one, two],
            "share": joint[one, two] / counts[one],
        }
    )
    return _sorted(frame)


def _sorted(frame: "pd.DataFrame") -> "pd.DataFrame":
    return frame.sort_values(["estimated", "rows"], ascending=False, kind="stable", ignore_index=True)


def _effect(rows: AuditRows, dropped: np.ndarray) -> dict[str, Any]:
    """Score the heads of all training rows and of those but the dropped ones, on rows that neither has seen.

    All held-out rows judge, also those whose labels may be wrong themselves: to leave out the ones that a head doubts
    would favor this head, while wrong labels that have nothing to do with the text make the difference smaller, but
    do not turn it.
    """
    data, kept = rows.data, np.ones(len(rows.data.train), bool)
    kept[dropped] = False
    held_out = Split.joined([data.validation, data.calibration])
    shares = data.train.targets.mean(axis=0) if data.labels.multi_label else None

    def guessed(head: Head) -> np.ndarray:
        p = np.concatenate([rows.probabilities(split, head) for split in ("validation", "calibration")])
        # Each of several labels is given as often as training rows have it, or rows left out would move the threshold.
        of_labels = (
            None
            if shares is None
            else [np.quantile(column, 1 - share) for column, share in zip(p.T, shares, strict=True)]
        )
        return predicted(p, data.labels, of_labels)

    guesses = [guessed(rows.fitted(part)) for part in (kept, np.ones_like(kept))]
    metric = measure(default_metric(data.labels), data.labels)
    found = paired(held_out.targets, guesses[:1], guesses[1:], data.labels, metric)
    return {
        "metric": metric,
        "rows": len(held_out),
        "score": found.one,
        "score_of_all": found.other,
        "difference": found.difference,
        "interval": found.interval,
    }
