"""Which route finetune should take where none is named: validation accuracy and whole seconds of each, on few rows.

    python tests/benchmarks/routes.py tweet_emotion trec6 sst2 --rows 500

Each learns from the same rows of the training split, of each label an equal share, and is judged on others of it that
it has not learned from, or the data's own validation rows. No row of test is read.
"""

import argparse
import sys
import tempfile
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent.parent))

from helpers.folders import SHARED
from nlptransfer import ROUTES, finetune
from nlptransfer.data import load_data
from nlptransfer.experiments.sampling import some_rows

VALIDATION_ROWS = 1000


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("data", nargs="+", help="folders of rows, in --folder")
    parser.add_argument("--routes", nargs="+", default=[*ROUTES])
    parser.add_argument("--rows", type=int, default=500, help="training rows")
    parser.add_argument("--folder", type=Path, default=SHARED / "data")
    options = parser.parse_args()
    print("| data | route | accuracy on validation | whole s |\n|---|---|---:|---:|", flush=True)
    for name in options.data:
        data = load_data(options.folder / name)
        splits = {"train": (data.train, options.rows), "validation": (data.validation, VALIDATION_ROWS)}
        some = {split: some_rows(rows, count) for split, (rows, count) in splits.items()}
        rows = {split: ([*one.texts], data.labels.decode(one.targets)) for split, one in some.items()}
        for route in options.routes:
            with tempfile.TemporaryDirectory() as folder:
                run = finetune(rows, route=route, test_size=0, report=False, progress=False, output_dir=f"{folder}/run")
            # Of a head that is refitted on all rows, that of the fit before.
            score = run.validation_score("accuracy")
            print(f"| {name} | {route} | {score:.3f} | {run.cost.wall_seconds:,.0f} |", flush=True)


if __name__ == "__main__":
    main()
