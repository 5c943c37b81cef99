"""A ranking before training beside what training gives: Kendall's tau over encoders and numbers of layers, and sources.

    python tests/benchmarks/bases.py sst2 trec6 amazon_kitchen clinc150 chnsenticorp --write rows
    python tests/benchmarks/ranking.py rows/trec6 rows/sst2 --output-dir runs/ranking                # hours
    python tests/benchmarks/ranking.py rows/trec6 --output-dir runs/ranking --seeds 2                # Full's own tau
    python tests/benchmarks/ranking.py DATA/trec6 --cost                                             # a minute
    python tests/benchmarks/ranking.py DATA/amazon_kitchen --output-dir runs/sources --sources DATA/imdb DATA/sst2

Candidates are two encoders with some of their layers. Each is ranked by 500 training rows, and fine-tuned whole by the
route ``full`` on the same rows; the accuracy is that on test. Sources: the accuracy of the route ``probe`` after each
source, on 50 rows of the target. What is done lies in the folder, and the same command goes on.
"""

import argparse
import tempfile
import time
from collections.abc import Sequence
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
from scipy.stats import kendalltau

from nlptransfer import Probe, RunResult, finetune, load_data, rank
from nlptransfer.evaluation import paired
from nlptransfer.hub.packaged import E5, MINILM
from nlptransfer.routes import probe

BASES = MINILM.id, E5.id
KEPT = 2, 4, 6, 8, 10
FEW_TARGET_ROWS = 50
ROWS = {"clinc150": 1500}
MOST_ROWS, MAX_LENGTH = 500, 128
QUIET: dict[str, Any] = {"report": False, "max_length": MAX_LENGTH}


def by_full(data: Path, base: str, layers: int | None, rows: int, seed: int, folder: Path) -> RunResult:
    return finetune(
        data, route="full", base=base, keep_layers=layers, max_train_rows=rows, seed=seed, save_model=False,
        save_epochs=False, progress=False, output_dir=folder / f"{Path(base).name}-{layers or 'all'}-{seed}", **QUIET,
    )  # fmt: skip


def behind(chosen: RunResult, others: Sequence[RunResult]) -> str:
    """Say how far the chosen one is behind the best of all on test, with the paired interval."""
    best = max(others, key=accuracy)
    one, other = best.predictions["test"], chosen.predictions["test"]
    found = paired(one.targets, [one.predicted], [other.predicted], one.labels, "accuracy")
    low, high = found.interval
    return f"the best is {found.difference:+.3f} [{low:+.3f}, {high:+.3f}] before the chosen one"


def accuracy(run: RunResult) -> float:
    return float(run.metrics["accuracy"])


def encoders(data: Path, seeds: int, folder: Path) -> None:
    rows = ROWS.get(data.name, MOST_ROWS)
    ranked = rank(
        data, bases=BASES, keep_layers=KEPT, max_rows=rows, max_train_rows=rows, output_dir=folder / "rank", **QUIET
    )
    trained = []
    for one in ranked.encoders:
        trained.append([by_full(data, one.base, one.keep_layers, rows, seed, folder) for seed in range(seeds)])
    print(f"\n{data.name}, {ranked.rows} rows looked at\n")
    print("| encoder | layers | score | loss | LogME | H-score | texts/s | full |\n|---|" + "---:|" * 7)
    for one, found in zip(ranked.encoders, trained, strict=True):
        full = ", ".join(f"{accuracy(run):.3f}" for run in found)
        scores = f"{one.score:.3f} | {one.loss:.3f} | {one.logme:.3f} | {one.h_score:.3f}"
        chosen = " (chosen)" if one == ranked.chosen else ""
        print(f"| {Path(one.base).name}{chosen} | {one.layers} | {scores} | {one.texts_per_second:.0f} | {full} |")
    first = [found[0] for found in trained]
    print(f"\n{behind(first[ranked.encoders.index(ranked.chosen)], first)}")
    by_seed = np.transpose([[accuracy(run) for run in found] for found in trained])
    for name, sign in (("score", 1), ("loss", -1), ("logme", 1), ("h_score", 1)):
        ranks = [sign * getattr(one, name) for one in ranked.encoders]
        print(f"tau of {name} and full: {tau(ranks, by_seed[0]):.2f}")
    for one, other in pairwise(by_seed):
        print(f"tau of two seeds of full: {tau(one, other):.2f}")


def cost(data: Path) -> None:
    """Time a ranking of texts that no cache has, and within it what a probe needs for its features, and these alone."""
    loaded, spent = load_data(data), {"through": 0.0, "build": 0.0}
    salt = f" {time.time_ns()}"
    texts = [text + salt for text in loaded.train.texts]
    rows = {"train": (texts, loaded.labels.decode(loaded.train.targets))}

    def timed(name: str, function: Any) -> Any:
        def call(*given: Any) -> Any:
            started = time.perf_counter()
            found = function(*given)
            spent[name] += time.perf_counter() - started
            return found

        return call

    probe.through, Probe.build = timed("through", probe.through), timed("build", Probe.build)  # type: ignore[method-assign]
    with tempfile.TemporaryDirectory() as folder:
        started = time.perf_counter()
        ranked = rank(rows, bases=BASES, output_dir=Path(folder) / "rank", **QUIET)
        whole = time.perf_counter() - started
    print(
        f"{data.name}, {ranked.rows} rows: {whole:.1f} s; features {spent['build']:.1f} s with the encoders opened and "
        f"tried ({whole / spent['build']:.2f} times), {spent['through']:.1f} s without"
    )


def tau(one: Sequence[float], other: Sequence[float]) -> float:
    return float(kendalltau(one, other).statistic)


def sources(data: Path, named: Sequence[Path], draws: int, folder: Path) -> None:
    print(f"\n{data.name}, {FEW_TARGET_ROWS} rows\n")
    print("| draw | source | expected gain | accuracy after it |\n|---:|---|---|---:|")
    for draw in range(draws):
        few: dict[str, Any] = {"max_train_rows": FEW_TARGET_ROWS, "rows_seed": draw}
        place = folder / f"draw-{draw}"
        ranked = rank(data, bases=[MINILM.id], sources=named, output_dir=place / "rank", **few, **QUIET)
        runs = []
        for one in ranked.sources:
            source = next(path for path in named if path.name == one.source)
            runs.append(by_probe(data, place / one.source, source=source, verdict=False, **few))
            gain = f"{one.gain:+.3f} [{one.interval[0]:+.3f}, {one.interval[1]:+.3f}]"
            print(f"| {draw} | {one.source} | {gain} | {accuracy(runs[-1]):.3f} |", flush=True)
        print(f"| {draw} | none | | {accuracy(by_probe(data, place / 'none', **few)):.3f} |", flush=True)
        print(f"| {draw} | {behind(runs[0], runs)} | | |", flush=True)


def by_probe(data: Path, folder: Path, **settings: Any) -> RunResult:
    return finetune(
        data, route="probe", base=MINILM.id, save_model=False, progress=False, output_dir=folder, **settings, **QUIET
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("data", nargs="+", type=Path, help="folders of rows")
    parser.add_argument("--output-dir", type=Path)
    parser.add_argument(
        "--cost", action="store_true", help="time a ranking of 1,000 rows with all layers, in place of it"
    )
    parser.add_argument("--seeds", type=int, default=1, help="runs of full, and draws of the target's rows")
    parser.add_argument("--sources", nargs="+", type=Path, help="rank these sources in place of encoders")
    options = parser.parse_args()
    for data in options.data:
        if options.cost:
            cost(data)
        elif options.sources:
            sources(data, options.sources, options.seeds, options.output_dir / data.name)
        else:
            encoders(data, options.seeds, options.output_dir / data.name)


if __name__ == "__main__":
    main()
