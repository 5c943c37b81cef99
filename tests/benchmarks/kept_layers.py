"""Half of an encoder's layers beside all of them, by every route: accuracy on test, texts per second, size.

    python tests/benchmarks/bases.py trec6 sst2 tnews --write rows
    python tests/benchmarks/kept_layers.py rows/trec6 rows/sst2 rows/tnews --output-dir runs/kept    # half an hour

Each route learns from 500 training rows of at most 128 tokens with its own defaults. What is done lies in the folder,
and the same command goes on.
"""

import argparse
from pathlib import Path

from nlptransfer import ROUTES, RunResult, finetune
from nlptransfer.hub.packaged import E5

ALL, HALF = 12, 6
ROWS, MAX_LENGTH = 500, 128


def trained(data: Path, route: str, layers: int, folder: Path) -> RunResult:
    return finetune(
        data, route=route, base=E5.id, keep_layers=layers, max_train_rows=ROWS, max_length=MAX_LENGTH, report=False,
        progress=False, output_dir=folder / data.name / f"{route}-{layers}",
    )  # fmt: skip


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("data", nargs="+", type=Path, help="folders of rows")
    parser.add_argument("--output-dir", type=Path, required=True)
    options = parser.parse_args()
    print("| data | route | accuracy | half | texts/s | half | train s | half | MB | half |")
    print("|---|---|" + "---:|" * 8)
    for data in options.data:
        for route in ROUTES:
            pair = [trained(data, route, layers, options.output_dir) for layers in (ALL, HALF)]
            cells = [f"{run.metrics['accuracy']:.3f}" for run in pair]
            cells += [f"{run.cost.texts_per_second:,.0f}" for run in pair]
            cells += [f"{run.cost.train_seconds:,.0f}" for run in pair]
            cells += [f"{run.cost.size_mb:,.0f}" for run in pair]
            print(f"| {data.name} | {route} | {' | '.join(cells)} |", flush=True)


if __name__ == "__main__":
    main()
