"""Micro and macro F1 of 90 labels with a long tail, beside scikit-learn's OneVsRestClassifier(LogisticRegression) on
the same features: raw, and standardized as the routes do it.

    python tests/benchmarks/long_tail.py                  # all three: a quarter of an hour on two cores
    python tests/benchmarks/long_tail.py --only linear    # a minute

7,000 rows with the label frequencies of Reuters-21578, composed of news and short questions (helpers/long_tail.py); the
tail has labels of one row. scikit-learn has the rows that the head is fitted on (train and validation), then also those
that a route sets aside for calibration. Macro means are over the labels that a row of test has.
"""

import argparse
import gzip
import json
import random
import sys
import tempfile
import warnings
from collections import defaultdict
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import f1_score
from sklearn.multiclass import OneVsRestClassifier

sys.path.insert(0, str(Path(__file__).parent.parent))

from helpers.folders import SHARED
from helpers.long_tail import long_tailed, tail
from nlptransfer import Probe, Word2Vec, finetune
from nlptransfer.data import Data, load_data
from nlptransfer.routes.pooled import PooledRoute

LABELS = 90
FREQUENT = (3300, 1900, 620, 500)
"""Rows of the commonest labels: by their shares earn, acq, money-fx and grain."""
ROUTES = {"linear": Word2Vec(head_type="linear"), "cnn": Word2Vec(), "probe": Probe()}


@dataclass(frozen=True)
class Line:
    """One row of the table."""

    name: str
    micro: float
    macro: float
    given: int
    """labels that a row of test is given"""
    learned: int
    """labels that a row which has them and was learned from is given"""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--only", action="append", choices=ROUTES, help="this route")
    parser.add_argument("--data", type=Path, default=SHARED / "data", help="folder of ag_news and clinc150")
    parser.add_argument("--vectors", type=Path, default=SHARED / "vectors" / "en_word2vec_100d.txt.gz")
    options = parser.parse_args()
    table = rows_of(options.data)
    print("| of 90 labels | micro F1 | macro F1 | given on test | given to rows learned from | |")
    print("|---|---:|---:|---:|---:|---|")
    for name in options.only or ROUTES:
        ours, *theirs = measured(name, table, options.vectors)
        for line in (ours, *theirs):
            reached = ours.micro >= line.micro and ours.macro >= line.macro
            verdict = "" if line is ours else "ok" if reached else "not reached"
            print(f"| {line.name} | {line.micro:.4f} | {line.macro:.4f} | {line.given} | {line.learned} | {verdict} |")
        sys.stdout.flush()


def rows_of(folder: Path) -> tuple[list[str], list[list[str]]]:
    """Compose the rows: news of the four frequent labels, questions of the others, which fall from 150 rows to one."""
    news, questions = by_label(folder / "ag_news"), by_label(folder / "clinc150")
    names = random.Random(0).sample(sorted(questions), LABELS - len(news))
    counts = dict(zip(sorted(news), FREQUENT, strict=True))
    return long_tailed(news | questions, counts | dict(zip(names, tail(len(names), 150), strict=True)))


def measured(name: str, table: tuple[list[str], list[list[str]]], vectors: Path) -> list[Line]:
    """Return the route's line, then scikit-learn's on its features; cnn's are those that linear would have."""
    base = None if name == "probe" else vectors
    data = load_data(table)
    with tempfile.TemporaryDirectory() as folder:
        classifier = finetune(
            table, route=ROUTES[name], base=base, output_dir=folder, report=False, progress=False
        ).classifier
    least = np.array(classifier.thresholds)
    lines = [line(name, data, *(classifier.probabilities(texts) >= least for texts in _texts(data)))]
    pooled = ROUTES["linear" if name == "cnn" else name]
    raw, standardized = zip(*pooled_features(pooled, data, base), strict=True)
    for rows in (len(data.train) + len(data.validation), len(_learned(data))):
        for what, (test, learned) in (("raw", raw), ("standardized", standardized)):
            with warnings.catch_warnings():
                # Of labels that nearly all rows lack, or have.
                warnings.simplefilter("ignore")
                peer = OneVsRestClassifier(LogisticRegression(max_iter=1000)).fit(learned[:rows], _learned(data)[:rows])
            title = f"scikit-learn, {what} features of {pooled.name}, {rows:,} rows"
            lines.append(line(title, data, *map(peer.predict, (test, learned))))
    return lines


def line(name: str, data: Data, test: np.ndarray, learned: np.ndarray) -> Line:
    targets, known = data.test.targets, _learned(data)
    judged = targets.any(axis=0)
    micro = f1_score(targets, test, average="micro", zero_division=0)
    macro = f1_score(targets[:, judged], test[:, judged], average="macro", zero_division=0)
    right = (learned > 0) & (known > 0)
    return Line(name, micro, macro, int(test.any(axis=0).sum()), int(right.any(axis=0).sum()))


def pooled_features(route: PooledRoute, data: Data, base: Path | None) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    """Yield the raw and the standardized features of test, and of the rows that are learned from, (rows, width)."""
    built = route.build(data, base and str(base), None, seed=0)
    for texts in _texts(data):
        rows = route.rows(built.model, built.tokenizer, texts, share=True)
        yield np.asarray(rows.features, np.float32), built.model.last_inputs(rows.features)


def by_label(folder: Path) -> dict[str, list[str]]:
    """Read the distinct texts of each label, of all splits."""
    found = defaultdict[str, dict[str, None]](dict)
    for split in ("train", "validation", "test"):
        if (path := folder / f"{split}.jsonl.gz").exists():
            with gzip.open(path, "rt", encoding="utf-8") as lines:
                for row in map(json.loads, lines):
                    found[row["label"]].setdefault(row["text"])
    return {label: [*texts] for label, texts in found.items()}


def _texts(data: Data) -> tuple[list[str], list[str]]:
    return data.test.texts, data.train.texts + data.validation.texts + data.calibration.texts


def _learned(data: Data) -> np.ndarray:
    return np.concatenate([data.train.targets, data.validation.targets, data.calibration.targets])


if __name__ == "__main__":
    main()
