"""Labels that are likely wrong, by heads that have not seen the row, and what leaving such rows out does to a score."""

import logging
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from nlptransfer.data import Split
from nlptransfer.errors import abridged
from nlptransfer.evaluation import default_metric, estimated_joint, likely_errors, margins, measure, paired, predicted
from nlptransfer.experiments.auditing.rows import FOLDS, AuditRows
from nlptransfer.results import Finding, Section

if TYPE_CHECKING:
    import pandas as pd

log = logging.getLogger("nlptransfer")

NAME = "label_errors"
NAMED = 5
"""Labels named in one sentence."""
LEAST_ESTIMATED = 0.5
"""Rows from which a confusion is listed."""
ORDER = ["estimated", "rows"]


@dataclass(frozen=True, eq=False)
class _Doubts:
    """What is doubted of the rows that have judged labels; arrays of (rows,)."""

    places: np.ndarray
    """among the training rows"""
    margin: np.ndarray
    """probability of the given label less that of the likeliest other one"""
    probability: np.ndarray
    """of the given label"""
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
    labels, judged = rows.data.labels, rows.distinct_texts >= FOLDS
    few = [name for name, is_judged in zip(labels.names, judged, strict=True) if not is_judged]
    if few:
        log.info("label errors: labels of fewer than %d texts are not judged: %s", FOLDS, abridged(few, NAMED))
    doubts = (_of_several if labels.multi_label else _of_one)(rows, judged)
    order = np.lexsort((doubts.places, doubts.margin))
    order = order[doubts.margin[order] < 0]
    frame = rows.frame("train", doubts.places[order])
    frame["suggested"] = rows.labels_of(doubts.suggested[order])
    frame["probability"] = doubts.probability[order]
    frame["suggested_probability"] = (doubts.probability - doubts.margin)[order]
    frame["margin"], frame["rank"] = doubts.margin[order], np.arange(1, len(order) + 1)
    frame["drop"] = doubts.is_error[order]
    frames = {NAME: frame, "label_confusions": doubts.confusions}
    facts: dict[str, Any] = {"judged_rows": len(doubts.places), "not_judged": few}
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
        f"{count:,} of {judged:,} training labels ({count / judged:.1%}) are likely wrong, most often "
        f"{confusion['label']!r} in place of {confusion['suggested']!r}; without these rows {effect['metric']} on "
        f"{effect['rows']:,} held-out rows is {effect['score']:.3f} instead of {effect['score_of_all']:.3f} "
        f"({difference:+.3f}, 95% interval {low:+.3f} to {high:+.3f})"
    )
    example = (
        f"{first['text']!r:.200}: labeled {first['label']!r} ({first['probability']:.2f}), "
        f"suggested {first['suggested']!r} ({first['suggested_probability']:.2f})"
    )
    if low > 0:
        advice = "Leave them out, drop=label_errors, or write down the labels that are right, the least margin first."
    elif high < 0:
        advice = "Do not leave them out, which costs score: look at some, as hard rows are among them."
    else:
        advice = "Look at them, the least margin first: that the score gains by leaving them out is not sure."
    return Finding(NAME, count, sentence, example, advice)


def _of_one(rows: AuditRows, judged: np.ndarray) -> _Doubts:
    targets, known = rows.data.train.targets, np.flatnonzero(judged)
    places = np.flatnonzero(judged[targets])
    p, given = rows.out_of_fold[places][:, known], np.searchsorted(known, targets[places])
    p /= p.sum(axis=1, keepdims=True)
    margin, other = margins(p, given)
    is_error = likely_errors(p, given)
    return _Doubts(
        places=places,
        margin=margin,
        probability=p[np.arange(len(given)), given],
        suggested=known[other],
        is_error=is_error,
        confusions=_confusions(p, given, is_error, [rows.data.labels.names[label] for label in known]),
    )


def _of_several(rows: AuditRows, judged: np.ndarray) -> _Doubts:
    import pandas as pd

    names, known = rows.data.labels.names, np.flatnonzero(judged)
    given, p = rows.data.train.targets[:, known].astype(np.int64), rows.out_of_fold[:, known]
    # Of having the label and of not having it.
    both = [np.column_stack([1 - p[:, place], p[:, place]]) for place in range(len(known))]
    named = np.column_stack([likely_errors(*one) for one in zip(both, given.T, strict=True)])
    every = np.where(given > 0, p, 1 - p)
    worst, places = every.argmin(axis=1), np.arange(len(p))
    # What is named is suggested otherwise, and else what is most doubtful.
    changed = named.copy()
    changed[places, worst] |= ~named.any(axis=1)
    suggested = rows.data.train.targets.copy()
    suggested[:, known] = given ^ changed
    confusions = [
        _confusions(both[place], given[:, place], named[:, place], [f"without {names[label]}", names[label]])
        for place, label in enumerate(known)
    ]
    return _Doubts(
        places=places,
        margin=2 * every[places, worst] - 1,
        probability=every[places, worst],
        suggested=suggested,
        is_error=np.asarray(named.any(axis=1)),
        confusions=pd.concat(confusions, ignore_index=True).sort_values(
            ORDER, ascending=False, kind="stable", ignore_index=True
        ),
    )


def _confusions(p: np.ndarray, given: np.ndarray, is_error: np.ndarray, names: Sequence[str]) -> "pd.DataFrame":
    """Return how many rows with one label are named and suggested another, and how many there are by the joint."""
    import pandas as pd

    joint, counts = estimated_joint(p, given), np.bincount(given, minlength=len(names))
    named = np.zeros(joint.shape, np.int64)
    np.add.at(named, (given[is_error], margins(p, given)[1][is_error]), 1)
    one, other = np.nonzero(((named > 0) | (joint >= LEAST_ESTIMATED)) & ~np.eye(len(names), dtype=bool))
    frame = pd.DataFrame(
        {
            "label": np.array(names, object)[one],
            "suggested": np.array(names, object)[other],
            "rows": named[one, other],
            "estimated": joint[one, other],
            "share": joint[one, other] / counts[one],
        }
    )
    return frame.sort_values(ORDER, ascending=False, kind="stable", ignore_index=True)


def _effect(rows: AuditRows, dropped: np.ndarray) -> dict[str, Any]:
    """Score the heads of all training rows and of those but the dropped ones, on rows that neither has seen.

    All held-out rows judge, also those whose labels may be wrong themselves: to leave out the ones that a head doubts
    would favor this head, while wrong labels that have nothing to do with the text make the difference smaller, but
    do not turn it.
    """
    data, kept = rows.data, np.ones(len(rows.data.train), bool)
    kept[dropped] = False
    held_out = Split.joined([data.validation, data.calibration])
    guesses = [
        predicted(
            np.concatenate([rows.probabilities(split, head) for split in ("validation", "calibration")]), data.labels
        )
        for head in (rows.fitted(kept), rows.head.head)
    ]
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
