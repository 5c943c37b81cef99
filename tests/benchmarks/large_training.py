"""Train on more rows than fit beside each other in memory: peak memory and time of a process, by route.

python tests/benchmarks/large_training.py [--rows N] [--only linear mlp full] [--form parquet|csv]

Rows of 50 words, each one piece of the default encoder, are made in a temporary folder (TMPDIR moves it; 2 GB for
3,000,000), and so are the word vectors. Every training has a process of its own of one thread, and an empty cache.
"""

import argparse
import os
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.csv
import pyarrow.parquet as pq
from pyarrow import compute

LENGTH, LABELS, DIMENSIONS, PART = 50, 4, 100, 100_000
HELD_OUT, MOST_MB = 0.0005, 4_000
ROUTES: dict[str, dict[str, Any]] = {
    "linear": {"route": "word2vec", "head_type": "linear"},
    "mlp": {"route": "word2vec", "head_type": "mlp", "num_train_epochs": 1, "per_device_train_batch_size": 512},
    "full": {"route": "full", "max_steps": 100},
}


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rows", type=int, default=3_000_000)
    parser.add_argument("--only", nargs="+", choices=ROUTES, default=[*ROUTES])
    parser.add_argument("--form", choices=("parquet", "csv"), default="parquet")
    parser.add_argument("--train", nargs=3, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.train:
        return train(*options.train)
    with TemporaryDirectory() as place:
        folder = Path(place)
        words = made_words()
        write_vectors(words, folder / "vectors.txt")
        write_rows(words, options.rows, folder / f"rows.{options.form}")
        return max(
            subprocess.run(
                [sys.executable, __file__, "--train", name, options.form, place],
                env={**os.environ, "OMP_NUM_THREADS": "1", "HF_HOME": f"{place}/{name}"},
            ).returncode
            for name in options.only
        )


def made_words() -> list[str]:
    from nlptransfer.hub import fast_tokenizer, find_base

    pieces = fast_tokenizer(find_base()).get_vocab()
    return sorted((word for word in pieces if word.isascii() and word.isalpha()), key=pieces.__getitem__)


def write_vectors(words: Sequence[str], file: Path) -> None:
    values = np.random.default_rng(1).normal(size=(len(words), DIMENSIONS))
    rows = (" ".join([word, *(f"{value:.3f}" for value in row)]) for word, row in zip(words, values, strict=True))
    file.write_text(f"{len(words)} {DIMENSIONS}\n" + "\n".join(rows) + "\n")


def write_rows(words: Sequence[str], rows: int, file: Path) -> None:
    schema = pa.schema({"text": pa.string(), "label": pa.string()})
    is_csv = file.suffix == ".csv"
    with (pyarrow.csv.CSVWriter if is_csv else pq.ParquetWriter)(str(file), schema) as writer:
        for table in tables(words, rows, schema):
            writer.write_table(table)
    print(f"{rows:,} rows of {LENGTH} words in a file of {file.stat().st_size / 1e6:,.0f} MB", flush=True)


def tables(words: Sequence[str], rows: int, schema: pa.Schema) -> Iterator[pa.Table]:
    """Yield rows of words by Zipf's law, one of twenty by the label."""
    draw, values = np.random.default_rng(2), pa.array(words)
    likely = 1 / np.arange(1, len(words) + 1)
    ends = np.cumsum(likely / likely.sum())
    for start in range(0, rows, PART):
        count = min(PART, rows - start)
        labels = draw.integers(0, LABELS, count)
        ids = np.searchsorted(ends, draw.random((count, LENGTH))).clip(max=len(words) - 1)
        of_label = 100 + draw.integers(0, 20, ids.shape) * LABELS + labels[:, None]
        ids = np.where(draw.random(ids.shape) < 0.05, of_label, ids)
        places = np.arange(0, ids.size + 1, LENGTH, dtype=np.int32)
        texts = compute.binary_join(pa.ListArray.from_arrays(places, values.take(pa.array(ids.ravel()))), " ")
        names = pa.array([f"label {number}" for number in range(LABELS)]).take(pa.array(labels))
        yield pa.table([texts, names], schema)


def train(name: str, form: str, place: str) -> int:
    from nlptransfer import finetune
    from nlptransfer.experiments.environment import watched_memory

    settings, folder, started = dict(ROUTES[name]), Path(place), time.perf_counter()
    settings |= {f"{split}_size": HELD_OUT for split in ("validation", "calibration", "test")}
    if settings["route"] == "word2vec":
        settings["base"] = folder / "vectors.txt"
    with watched_memory() as peak:
        run = finetune(folder / f"rows.{form}", output_dir=folder / f"run-{name}", **settings)
    is_good, spent = (
        peak[0] < MOST_MB,
        f"{time.perf_counter() - started:,.0f} s ({time.process_time():,.0f} s of a core)",
    )
    print(
        f"{name}: {run.data.rows['train']:,} training rows, accuracy {run.metrics['accuracy']:.3f}, {spent}, "
        f"{peak[0]:,.0f} MiB at the peak (limit {MOST_MB:,}): {'ok' if is_good else 'MISSED'}",
        flush=True,
    )
    return 0 if is_good else 1


if __name__ == "__main__":
    sys.exit(main())
