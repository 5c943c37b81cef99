"""Texts that repeat: copies within and across splits, what they do to the score, and texts with several labels."""

from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING, Any

import numpy as np

from nlptransfer.data import KINDS, Copies, copies_of, folded, normalize, percentage
from nlptransfer.evaluation import Neighbors, default_metric, predicted, score_interval
from nlptransfer.experiments.auditing.rows import AuditRows
from nlptransfer.results import Finding, Section, quoted

if TYPE_CHECKING:
    import pandas as pd

SAME_MEANING = 0.85
"""Least cosine of the features of texts that say the same in other words."""
MARKUP = 0.2
"""Share of markup from which features say as much of it as of what a text means."""
COMPARED = 2 * 10**9
"""Most pairs of rows whose features are compared, a minute's work; where there are more, some rows are looked at."""
SHOWN = 1000
"""Most pairs of short texts that are alike in their frame, the most similar first."""
SPLITS = ("train", "validation", "calibration", "test")
PAIR = ["split", "row", "text", "label", "other_split", "other_row", "other_text", "other_label", "similarity"]
_DIFFER = {"exact": "exactly", "folded": "but for case, spaces and punctuation", "near": "but for some words"}
FEW = 20
"""Rows of which a score says nothing."""


@dataclass(frozen=True, eq=False)
class _Every:
    """The rows of all splits, one after the other."""

    rows: AuditRows

    @cached_property
    def texts(self) -> list[str]:
        return [text for name in SPLITS for text in self.rows.data.splits[name].texts]

    @cached_property
    def split(self) -> np.ndarray:
        """(rows,): a place in ``SPLITS``."""
        return np.repeat(np.arange(len(SPLITS)), [len(self.rows.data.splits[name]) for name in SPLITS])

    @cached_property
    def labels(self) -> np.ndarray:
        """(rows,): a number for each label, or set of labels."""
        targets = np.concatenate([self.rows.data.splits[name].targets for name in SPLITS])
        numbers: np.ndarray = np.unique(targets, axis=0, return_inverse=True)[1].reshape(-1)
        return numbers

    def of(self, name: str) -> np.ndarray:
        """(rows,): which are of a split."""
        are: np.ndarray = self.split == SPLITS.index(name)
        return are

    def share(self, are: np.ndarray, name: str) -> str:
        """Write how many rows of a split are so."""
        count, every = int((are & self.of(name)).sum()), int(self.of(name).sum())
        return f"{count:,} of {every:,} {'training' if name == 'train' else name} rows ({percentage(count, every)})"

    def frame(self, places: np.ndarray) -> "pd.DataFrame":
        """Return the rows at some places, in their order."""
        import pandas as pd

        parts = []
        for number in np.unique(self.split[places]) if len(places) else [0]:
            at = np.flatnonzero(self.split[places] == number)
            start = np.searchsorted(self.split, number)
            parts.append(self.rows.frame(SPLITS[number], places[at] - start).set_index(at))
        return pd.concat(parts).sort_index()

    def pairs(self, one: np.ndarray, other: np.ndarray, similarity: np.ndarray) -> "pd.DataFrame":
        """Return pairs of rows, the most similar first."""
        import pandas as pd

        order = np.argsort(-similarity, kind="stable")
        found = pd.concat([self.frame(one[order]), self.frame(other[order])], axis=1)
        return found.set_axis(PAIR[:-1], axis=1).assign(similarity=similarity[order])


def find_copies(rows: AuditRows) -> Section:
    """Find rows that repeat others, or say the same in other words, and score test without those that it shares.

    All but one row of a group are to be left out; where test has the text too, all of train, validation and
    calibration. The one that stays has the label that most of them have.
    """
    every = _Every(rows)
    copies = copies_of(every.texts)
    facts: dict[str, Any] = {"alike": len(copies.alike), "same_meaning_from": SAME_MEANING}
    train = every.of("train")
    findings = []
    for name in reversed(SPLITS[1:]):
        seen = train if name != "test" else ~every.of("test")
        leaked = every.of(name) & np.isin(copies.first, copies.first[seen])
        if leaked.any():
            findings.append(_leak(every, copies, name, leaked, facts))
    repeats = train & (copies.of >= 0)
    if repeats.any():
        findings.append(_repeats(every, copies, repeats))
    said_again = _said_again(every, copies, facts)
    if len(said_again):
        findings.append(_same_meaning(said_again, facts))
    shown = np.argsort(-copies.alike_similarity, kind="stable")[:SHOWN]
    frames = {
        "copies": _frame(every, copies),
        "paraphrases": said_again,
        "alike": every.pairs(copies.alike[shown, 1], copies.alike[shown, 0], copies.alike_similarity[shown]),
    }
    return Section("copies", tuple(findings), frames, facts)


def _leak(every: _Every, copies: Copies, name: str, leaked: np.ndarray, facts: dict[str, Any]) -> Finding:
    data = every.rows.data
    where = "training rows" if name != "test" else "rows of train, validation or calibration"
    sentence = f"{every.share(leaked, name)} repeat {where} ({_by_kind(copies, leaked)})"
    if name == "test":
        facts["score"] = scores = _scores(every.rows, leaked[every.of("test")])
        written = [
            f"{scores[side]['score']:.3f} ({scores[side]['interval'][0]:.3f} to {scores[side]['interval'][1]:.3f}) {of}"
            for side, of in (("all", "on test"), ("without", "without these rows"), ("alone", "on them alone"))
            if side in scores and scores[side]["rows"] >= FEW
        ]
        sentence += f": {scores['metric']} of a head on frozen features is {', '.join(written)}"
    else:
        sentence += ": choices made by them are too hopeful"
    if data.splits[name].part == data.train.part:
        advice = 'Keep copies on one side of the splits: split_by="copies".'
    else:
        advice = f"Leave out what is in {name} too: drop=copies."
    return Finding("copies", int(leaked.sum()), sentence, _example(every, copies, leaked), advice)


def _scores(rows: AuditRows, leaked: np.ndarray) -> dict[str, Any]:
    """Score test with its leaked rows, without them, and on them alone."""
    labels, targets = rows.data.labels, rows.data.test.targets
    metric, guesses = default_metric(labels), predicted(rows.probabilities("test"), labels)
    scores: dict[str, Any] = {"metric": metric}
    for side, are in {"all": np.ones_like(leaked), "without": ~leaked, "alone": leaked}.items():
        if are.any():
            found = score_interval(targets[are], [guesses[are]], labels, metric)
            scores[side] = {"rows": int(are.sum()), "score": found.mean, "interval": [*found.interval]}
    return scores


def _repeats(every: _Every, copies: Copies, repeats: np.ndarray) -> Finding:
    sentence = f"{every.share(repeats, 'train')} repeat earlier ones ({_by_kind(copies, repeats)})"
    advice = "They count several times, and vouch for each other's labels: leave out all but one, drop=copies."
    return Finding("copies", int(repeats.sum()), sentence, _example(every, copies, repeats), advice)


def _by_kind(copies: Copies, are: np.ndarray) -> str:
    counts = np.bincount(copies.kinds[are], minlength=len(KINDS)).tolist()
    return ", ".join(f"{count:,} {_DIFFER[kind]}" for kind, count in zip(KINDS[1:], counts[1:], strict=True) if count)


def _example(every: _Every, copies: Copies, are: np.ndarray) -> str:
    # What differs tells more than what is the same, and is seen in a short text.
    place = min(np.flatnonzero(are).tolist(), key=lambda row: (-copies.kinds[row], len(every.texts[row])))
    pair = every.frame(np.array([place, copies.of[place]])).to_dict("records")
    one, other = (f"{row['split']} {row['row']} ({row['label']}) {quoted(row['text'])}" for row in pair)
    return f"{one} repeats {other}"


def _frame(every: _Every, copies: Copies) -> "pd.DataFrame":
    """Return all rows of groups, group by group, first those that test shares."""
    of_group = np.flatnonzero(np.bincount(copies.first, minlength=len(copies.first))[copies.first] > 1)
    first = copies.first[of_group]
    test = every.of("test")
    is_shared = np.isin(first, copies.first[test]) & np.isin(first, copies.first[~test])
    order = of_group[np.lexsort((of_group, first, ~is_shared))]
    frame, of = every.frame(order), copies.of[order]
    frame["kind"] = [KINDS[kind] for kind in copies.kinds[order]]
    frame["similarity"] = np.where(of >= 0, copies.similarity[order], np.nan)
    others = every.frame(np.maximum(of, 0))
    frame["copy_of"] = (others["split"] + " " + others["row"].astype(str)).where(of >= 0, "")
    frame["group"] = np.cumsum(np.append(True, np.diff(copies.first[order]) != 0)[: len(order)])
    frame["drop"] = _dropped(every, copies)[order]
    return frame


def _dropped(every: _Every, copies: Copies) -> np.ndarray:
    """Tell which rows can be left out, (rows,): of a group that test has all others, else all but one."""
    test = every.of("test")
    groups, stays = np.where(test, -1, copies.first), test.copy()
    stays[_majority(groups, every.labels)] = True
    dropped: np.ndarray = ~stays | (np.isin(copies.first, copies.first[test]) & ~test)
    return dropped


def _majority(groups: np.ndarray, labels: np.ndarray) -> np.ndarray:
    """Return of each group the place of the first row with the label that most have; not of the group -1."""
    import pandas as pd

    rows = pd.DataFrame({"group": groups, "label": labels})[groups >= 0]
    counts = rows.groupby(["group", "label"])["label"].transform("size")
    places: np.ndarray = counts.groupby(rows["group"]).idxmax().to_numpy()
    return places


def _said_again(every: _Every, copies: Copies, facts: dict[str, Any]) -> "pd.DataFrame":
    """Return pairs of rows of test and train, and of train alone, that say the same in other words."""
    rows, found, facts["compared"] = every.rows, [], {}
    # Words alone do not tell what a text means.
    if rows.base is not None:
        neighbors = Neighbors.of(rows.features("train"))
        groups = copies.first[every.of("train")]
        for name in ("test", "train"):
            features, places = rows.features(name), np.flatnonzero(every.of(name))
            if step := -(-len(features) * len(neighbors.features) // COMPARED):
                some = features if step == 1 else features[::step]
                other, cosines = neighbors.most_similar(some, copies.first[places[::step]], groups, SAME_MEANING)
                at = np.flatnonzero(other >= 0)
                found.append((places[::step][at], other[at], cosines[at]))
            facts["compared"][name] = len(places[:: step or 1])
    one, other, cosines = (np.concatenate(parts) for parts in zip((np.empty(0, np.int64),) * 3, *found, strict=True))
    low, high = np.minimum(one, other), np.maximum(one, other)
    _, once = np.unique(np.stack([low, high]), axis=1, return_index=True)
    texts = [every.texts[place] for place in (*low[once], *high[once])]
    shares = [len(plain) / len(text) for plain, text in zip(normalize("web", texts), texts, strict=True)]
    is_text = np.array(shares).reshape(2, -1).min(axis=0, initial=1) > 1 - MARKUP
    facts["left_out_as_markup"] = int((~is_text).sum())
    once = once[is_text]
    return every.pairs(high[once], low[once], cosines[once].astype(np.float32))


def _same_meaning(pairs: "pd.DataFrame", facts: Mapping[str, Any]) -> Finding:
    counts = {name: int((pairs["split"] == name).sum()) for name in ("test", "train")}
    compared = facts["compared"]
    said = [
        f"{counts['test']:,} of {compared['test']:,} test rows that were looked at say what a training row says",
        f"{counts['train']:,} {'pair' if counts['train'] == 1 else 'pairs'} of training rows say the same",
    ]
    found = " and ".join(one for one, count in zip(said, counts.values(), strict=True) if count)
    row = pairs.iloc[0]
    return Finding(
        "paraphrases",
        len(pairs),
        f"{found} in other words (cosine of their features from {SAME_MEANING})",
        f"{quoted(row.text)} and {quoted(row.other_text)} ({row.similarity:.2f})",
        "Read the frame paraphrases; where one event or author comes twice, name a column that says so: group_column.",
    )


def find_conflicts(rows: AuditRows) -> Section:
    """Find texts, folded, that have different labels in different rows of train, validation and calibration.

    To be left out are the rows that most of their text contradict, and all of a text without a majority.
    """
    import pandas as pd

    every = _Every(rows)
    # Those of test come last.
    count = len(every.texts) - len(rows.data.test)
    text = pd.factorize(np.array([folded(one) for one in every.texts[:count]], object))[0]
    label = pd.Series(every.labels[:count])
    having = label.groupby([text, label]).transform("size")
    is_most = having == having.groupby(text).transform("max")
    has_majority = label.where(is_most).groupby(text).transform("nunique") == 1
    in_conflict = np.flatnonzero(label.groupby(text).transform("nunique") > 1)
    order = in_conflict[np.argsort(text[in_conflict], kind="stable")]
    frame = every.frame(order)
    frame["group"] = pd.factorize(text[order])[0]
    frame["share"] = (having / label.groupby(text).transform("size"))[order].to_numpy()
    frame["drop"] = ~(is_most & has_majority)[order].to_numpy()
    findings = (_conflict(frame, count),) if len(frame) else ()
    return Section("conflicts", findings, {"conflicts": frame})


def _conflict(frame: "pd.DataFrame", rows: int) -> Finding:
    texts = int(frame["group"].nunique())
    group = frame[frame["group"] == frame["group"].value_counts(sort=True).index[0]]
    labels = ", ".join(f"{label!r} ({count})" for label, count in group["label"].value_counts().items())
    return Finding(
        "conflicts",
        len(frame),
        f"{texts:,} {'texts have' if texts > 1 else 'text has'} different labels in different rows: "
        f"{len(frame):,} of {rows:,} rows outside of test ({percentage(len(frame), rows)})",
        f"{quoted(group['text'].iloc[0])}: {labels}",
        "Decide which label is right, or leave out the rows that most of their text contradict: drop=conflicts.",
    )
