"""What finetune() and compare() look for before training: its processor time for 10,000 rows, and what it says.

    python tests/benchmarks/audit_quality.py DATA/*            # asked: at most 2 s for 10,000 rows on 2 cores
    python tests/benchmarks/audit_quality.py --rows 500000     # synthetic rows: the peak of memory besides the rows

Nothing is asserted.
"""

import argparse
import logging
import random
import time
from itertools import accumulate
from pathlib import Path
from typing import Any

from nlptransfer import load_data
from nlptransfer.data import data_warnings
from nlptransfer.experiments.environment import watched_memory

LABELS, WORDS, LENGTH = 10, 50_000, 20


def synthetic(rows: int) -> tuple[list[str], list[str]]:
    """Texts of words as frequent as in a language."""
    draw, words = random.Random(0), [f"w{number}" for number in range(WORDS)]
    likely = [*accumulate(1 / rank for rank in range(1, WORDS + 1))]
    texts = [" ".join(draw.choices(words, cum_weights=likely, k=LENGTH)) for _ in range(rows)]
    return texts, [f"label{row % LABELS}" for row in range(rows)]


def cost(name: str, source: Any) -> None:
    data = load_data(source)
    with watched_memory() as before:
        pass
    with watched_memory() as peak:
        # Of the processor, which others use too.
        started = time.process_time()
        found = data_warnings(data)
        seconds = time.process_time() - started
    rows = sum(map(len, data.splits.values()))
    memory = f"{before[0]:,.0f} MiB before, {peak[0]:,.0f} MiB at the peak"
    print(f"{name}: {rows:,} rows, {seconds:.2f} s, {1e4 * seconds / rows:.2f} s for 10,000 rows; {memory}")
    print(*(f"    {warning}" for warning in found), sep="\n")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("data", nargs="*", type=Path, help="folders of rows")
    parser.add_argument("--rows", type=int, help="as many synthetic rows")
    options = parser.parse_args()
    logging.getLogger("nlptransfer").setLevel(logging.ERROR)
    for data in options.data:
        cost(data.name, data)
    if options.rows:
        cost("synthetic", synthetic(options.rows))


if __name__ == "__main__":
    main()
