"""How test and validation differ from train: in what a classifier sees, in words, labels and lengths."""

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
from scipy import stats

from nlptransfer.data import DriftingWord, drifting_words
from nlptransfer.errors import abridged
from nlptransfer.evaluation import holm, wilson_interval
from nlptransfer.experiments.auditing.rows import COMPONENTS, AuditRows
from nlptransfer.models import Ngrams
from nlptransfer.results import Finding, Section, quoted
from nlptransfer.transfer import chance_distance, proxy_a_distance

if TYPE_CHECKING:
    import pandas as pd

COMPARED_ROWS = 500
"""Most rows of each split that a classifier is to separate."""
LEAST_ROWS = 20
"""Rows of a split from which it is compared."""
SIGNIFICANCE = 0.01
"""How often at most a difference is named that is chance, of words, of labels and of lengths each."""
LEAST_SHARE, LEAST_SHIFT = 0.01, 0.05
"""Least difference of a label's share, and of the chance that a text of one split is longer than one of the other, from
1/2: less is beyond chance in large splits too."""
NAMED = 5
"""Words or labels in one sentence."""
_ADVICE = (
    "If new texts are like those of {0}, scores on it hold and more such rows in train help; if they are like train, "
    "draw test anew: one file without splits is split here."
)


def find_drift(rows: AuditRows) -> Section:
    """Compare test, and validation, with train."""
    import pandas as pd

    findings, words, labels = list[Finding](), [], []
    facts: dict[str, Any] = {}
    for name in ("test", "validation"):
        if min(len(rows.data.train), len(rows.data.splits[name])) < LEAST_ROWS:
            continue
        facts[name] = _told_apart(rows, name)
        found = drifting_words(rows.data.train.texts, rows.data.splits[name].texts)
        of_labels = _label_shares(rows, name)
        words += [(name, *one) for one in found]
        labels.append(of_labels)
        said = (
            _of_classifier(rows, name, facts[name]),
            _of_words(rows, name, found),
            _of_labels(rows, name, of_labels),
            _of_lengths(rows, name, facts[name]),
        )
        findings += filter(None, said)
    columns = {"split": "str", "word": "str", "train_share": float, "share": float}
    frame = pd.DataFrame(words, columns=[*columns]).astype(columns)
    shares = pd.concat(labels, ignore_index=True) if labels else frame.rename(columns={"word": "label"})
    return Section("drift", tuple(findings), {"drift": frame, "label_shares": shares}, facts)


def _told_apart(rows: AuditRows, name: str) -> dict[str, Any]:
    """Return how well a linear classifier of the features tells a split from train, as many rows of each held out."""
    rng, splits = np.random.default_rng(0), ("train", name)
    count = min(COMPARED_ROWS, *(len(rows.data.splits[split]) for split in splits))
    some = [np.sort(rng.choice(len(rows.data.splits[split]), count, replace=False)) for split in splits]
    if rows.base is None:
        sides = _words_of_both([rows.data.splits[split].take(at).texts for split, at in zip(splits, some, strict=True)])
    else:
        sides = [rows.features(split)[at].astype(np.float32) for split, at in zip(splits, some, strict=True)]
    accuracy = 0.5 + proxy_a_distance(sides[0], sides[1]) / 4
    return {
        "rows": 2 * count,
        "accuracy": accuracy,
        "interval": [*wilson_interval(round(accuracy * 2 * count), 2 * count)],
        "chance": 0.5 + chance_distance(2 * count) / 4,
    }


def _words_of_both(sides: Sequence[Sequence[str]]) -> list[np.ndarray]:
    """Reduce TF-IDF of two samples by what both have: what is fitted on train alone tells it from any other rows."""
    from sklearn.decomposition import TruncatedSVD

    texts = [text for side in sides for text in side]
    features = Ngrams.of(texts, 2).features(texts)
    if features.shape[1] < 2:
        return [np.zeros((len(side), 1)) for side in sides]
    dimensions = min(COMPONENTS, features.shape[1] - 1, len(texts) - 1)
    reduced = TruncatedSVD(dimensions, random_state=0, n_iter=2).fit_transform(features)
    return np.split(reduced, [len(sides[0])])


def _finding(rows: AuditRows, name: str, sentence: str, example: str, advice: str = _ADVICE) -> Finding:
    return Finding("drift", len(rows.data.splits[name]), sentence, example, advice.format(name))


def _of_classifier(rows: AuditRows, name: str, found: dict[str, Any]) -> Finding | None:
    if found["accuracy"] <= found["chance"]:
        return None
    low, high = found["interval"]
    return _finding(
        rows,
        name,
        f"A classifier tells {name} from train with an accuracy of {found['accuracy']:.3f} ({low:.3f} to "
        f"{high:.3f}) on held-out rows; splits of one kind of text stay below {found['chance']:.3f}",
        f"{quoted(rows.data.splits[name].texts[0])} and {quoted(rows.data.train.texts[0])}",
    )


def _of_words(rows: AuditRows, name: str, found: Sequence[DriftingWord]) -> Finding | None:
    if not found:
        return None
    named = abridged([f"{word!r} ({other:.1%} and {train:.1%})" for word, train, other in found], NAMED)
    word, train, other = found[0]
    texts = rows.data.splits[name if other > train else "train"].texts
    example = next((text for text in texts if word in text.casefold()), texts[0])
    return _finding(
        rows,
        name,
        f"{len(found):,} {'word is' if len(found) == 1 else 'words are'} in another share of the {name} texts than "
        f"of the training texts, beyond chance: {named}",
        quoted(example),
    )


def _label_shares(rows: AuditRows, name: str) -> "pd.DataFrame":
    """Return each label's share of either split, and the p-value of a difference, corrected for their number."""
    import pandas as pd

    splits, labels = (rows.data.train, rows.data.splits[name]), rows.data.labels
    sizes = np.array([len(split) for split in splits])
    counts = np.stack([labels.count(split.targets) for split in splits])
    p_values = []
    for having in counts.T:
        table = np.stack([having, sizes - having])
        p_values.append(stats.chi2_contingency(table).pvalue if table.sum(axis=1).all() else 1.0)
    shares = counts / sizes[:, None]
    frame = {"split": name, "label": labels.names, "train_share": shares[0], "share": shares[1]}
    return pd.DataFrame({**frame, "p_value": holm(p_values)})


def _of_labels(rows: AuditRows, name: str, shares: "pd.DataFrame") -> Finding | None:
    apart = shares[
        (shares["p_value"] <= SIGNIFICANCE) & ((shares["share"] - shares["train_share"]).abs() >= LEAST_SHARE)
    ].sort_values("p_value", kind="stable")
    if not len(apart):
        return None
    named = [f"{one.label!r} ({one.share:.1%} and {one.train_share:.1%})" for one in apart.itertuples()]
    return _finding(
        rows,
        name,
        f"{len(apart)} of {len(shares)} labels have another share of {name} than of train, beyond chance: "
        f"{abridged(named, NAMED)}",
        named[0],
        "A model expects the shares of train: look at macro F1, which the shares of {0} move less.",
    )


def _of_lengths(rows: AuditRows, name: str, facts: dict[str, Any]) -> Finding | None:
    train, other = ([*map(len, rows.data.splits[split].texts)] for split in ("train", name))
    test = stats.mannwhitneyu(other, train)
    longer = float(test.statistic) / len(other) / len(train)
    medians = [float(np.median(lengths)) for lengths in (other, train)]
    facts["lengths"] = {
        "median": medians[0],
        "train_median": medians[1],
        "longer": longer,
        "p_value": float(test.pvalue),
    }
    if test.pvalue > SIGNIFICANCE or abs(longer - 0.5) < LEAST_SHIFT:
        return None
    return _finding(
        rows,
        name,
        f"Texts of {name} are {'longer' if longer > 0.5 else 'shorter'} than those of train: {medians[0]:.0f} and "
        f"{medians[1]:.0f} characters (medians); in {longer:.0%} of pairs that of {name} is the longer one",
        quoted(rows.data.splits[name].texts[int(np.argsort(other)[len(other) // 2])]),
    )
