"""Labels that are made wrong: how many an audit finds, and what comes back of the accuracy that they cost.

    python tests/benchmarks/audit_labels.py DATA/ag_news DATA/trec6 DATA/clinc150 DATA/amazon_books
    python tests/benchmarks/audit_labels.py DATA/trec6 --routes word2vec full --draws 2 --output-dir runs/audit_labels

A share of the training labels is replaced by other ones at random; validation and test rows stay as they are. Precision
at k is the share of wrong labels among the k rows of least margin, k being how many are wrong; named are those that
an audit would leave out. A route is trained on the wrong labels, without the rows named, and on the right labels, each
draw with its seed. What is done lies in the folder, and the same command goes on. --also trains on the rows alone whose
labels are right, which is the most that leaving out can do, or gives the rows named the labels that are suggested.
"""

import argparse
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from nlptransfer import RunResult, finetune, load_data
from nlptransfer.data import Data, Split
from nlptransfer.evaluation import paired
from nlptransfer.experiments.auditing.label_errors import doubts_of
from nlptransfer.experiments.auditing.rows import AuditRows
from nlptransfer.files import read_json, write_json

ROWS = {"ag_news": 3000}
"""Labeled rows of a set that is not taken whole."""
MAX_LENGTH = 128
"""Tokens of a text that ``full`` reads."""


def loaded(folder: Path) -> Data:
    # Calibration rows would be others without the rows named.
    return load_data(folder, max_train_rows=ROWS.get(folder.name), calibration_size=0)


def flipped(data: Data, rate: float, draw: int) -> tuple[Data, np.ndarray]:
    """Replace the labels of a share of the training rows, each by another one; return which these are too."""
    rng, targets, count = np.random.default_rng(draw), data.train.targets.copy(), data.labels.num_labels
    rows = rng.choice(len(targets), round(rate * len(targets)), replace=False)
    targets[rows] = (targets[rows] + rng.integers(1, count, len(rows))) % count
    wrong = np.zeros(len(targets), bool)
    wrong[rows] = True
    return replace(data, train=replace(data.train, targets=targets)), wrong


def named(data: Data, wrong: np.ndarray, file: Path) -> dict[str, Any]:
    """Return what an audit finds, out of the file if it is there."""
    if file.exists():
        return dict(read_json(file))
    doubts = doubts_of(AuditRows.of(data))
    is_named = doubts.places[doubts.is_error]
    first = doubts.places[np.argsort(doubts.margin, kind="stable")[: wrong.sum()]]
    found = {
        "rows": len(wrong),
        "wrong": int(wrong.sum()),
        "precision_at_k": float(wrong[first].mean()),
        "named": len(is_named),
        "precision": float(wrong[is_named].mean()),
        "recall": float(wrong[is_named].sum() / wrong.sum()),
        "places": is_named.tolist(),
        "suggested": doubts.suggested[doubts.is_error].tolist(),
    }
    write_json(file, found)
    return found


def trained(data: Data, train: Split, route: str, seed: int, folder: Path) -> RunResult:
    splits = {"train": train, "validation": data.validation, "test": data.test}
    rows = {name: (split.texts, data.labels.decode(split.targets)) for name, split in splits.items()}
    options: dict[str, Any] = {"max_length": MAX_LENGTH} if route == "full" else {}
    return finetune(
        rows, route=route, calibration_size=0, seed=seed, save_model=False, report=False, output_dir=folder, **options
    )  # fmt: skip


def found(data: Data, rate: float, draws: int, folder: Path) -> list[dict[str, Any]]:
    """Print what an audit finds in each draw; return it."""
    each = [named(*flipped(data, rate, draw), folder / f"{rate:g}-{draw}.json") for draw in range(draws)]
    figures = [[one[name] for one in each] for name in ("precision_at_k", "named", "precision", "recall")]
    precision, count, right, recall = map(np.mean, figures)
    spread = f"{np.std(figures[0], ddof=1):.3f}" if draws > 1 else ""
    name = folder.name
    print(
        f"| {name} | {rate:.0%} | {each[0]['wrong']} of {each[0]['rows']} | {precision:.3f} | {spread} "
        f"| {count:.0f} | {right:.3f} | {recall:.3f} |",
        flush=True,
    )
    return each


def effects(
    data: Data, route: str, rate: float, each: Sequence[dict[str, Any]], folder: Path, also: Sequence[str]
) -> None:
    """Print the accuracy on test by wrong labels, without the rows named, by right labels, and what else is asked."""
    kinds = ["wrong", "without", "right", *also]
    runs: dict[str, list[np.ndarray]] = {kind: [] for kind in kinds}
    for draw, one in enumerate(each):
        for kind in kinds:
            at = folder / route / (f"{draw}-right" if kind == "right" else f"{rate:g}-{draw}-{kind}")
            train = learned_from(kind, data, rate, draw, one)
            runs[kind].append(trained(data, train, route, draw, at).predictions["test"].predicted)
    targets = data.test.targets
    scores = {kind: np.mean([(one == targets).mean() for one in some]) for kind, some in runs.items()}
    loss, *gains = (
        paired(targets, runs[kind], runs["wrong"], data.labels, "accuracy") for kind in ("right", "without", *also)
    )
    intervals = [f"{one.difference:+.3f} [{one.interval[0]:+.3f}, {one.interval[1]:+.3f}]" for one in (loss, *gains)]
    shares = [f"{gain.difference / loss.difference:.0%}" if loss.interval[0] > 0 else "" for gain in gains]
    numbers = " | ".join(f"{score:.3f}" for score in scores.values())
    cells = [numbers, *intervals, *shares]
    print(f"| {folder.name} | {route} | {rate:.0%} | {len(each)} | {' | '.join(cells)} |", flush=True)


def learned_from(kind: str, data: Data, rate: float, draw: int, found: dict[str, Any]) -> Split:
    """Return the training rows of a kind."""
    noisy, wrong = flipped(data, rate, draw)
    if kind == "without":
        wrong = np.isin(np.arange(len(wrong)), found["places"])
    if kind in ("without", "clean"):
        return noisy.train.take(~wrong)
    if kind == "suggested":
        noisy.train.targets[found["places"]] = found["suggested"]
    return data.train if kind == "right" else noisy.train


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("data", nargs="+", type=Path, help="folders of rows")
    parser.add_argument("--rates", nargs="+", type=float, default=[0.25, 0.1], help="shares of labels made wrong")
    parser.add_argument("--draws", type=int, default=5)
    parser.add_argument("--routes", nargs="*", default=[], help="what is trained; none: nothing")
    parser.add_argument("--also", nargs="*", default=[], choices=["clean", "suggested"], help="what is trained too")
    parser.add_argument("--output-dir", type=Path, default=Path("runs/audit_labels"))
    options = parser.parse_args()
    sets = {folder.name: loaded(folder) for folder in options.data}
    print("| data | rate | wrong | precision at k | over draws | named | precision | recall |")
    print("|---|---:|---:|---:|---:|---:|---:|---:|")
    each = {
        (name, rate): found(data, rate, options.draws, options.output_dir / name)
        for rate in options.rates
        for name, data in sets.items()
    }
    if not options.routes:
        return
    gained = ["without", *options.also]
    columns = ["wrong", "without", "right", *options.also, "loss", *(f"gain, {kind}" for kind in gained)]
    columns += [f"back, {kind}" for kind in gained]
    print(f"\n| data | route | rate | draws | {' | '.join(columns)} |")
    print("|---|---|---:|---:|" + "---:|" * len(columns))
    for route in options.routes:
        for (name, rate), draws in each.items():
            effects(sets[name], route, rate, draws, options.output_dir / name, options.also)


if __name__ == "__main__":
    main()
