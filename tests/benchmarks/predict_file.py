"""Predict of a parquet file by the command line: columns and order kept, peak memory, texts per second.

python tests/benchmarks/predict_file.py [--rows N]
"""

import argparse
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

MOST_MB = 200
"""Memory at the peak above that of loading the model."""
CHARACTERS = 200
GROUPS = (1, 30)
WORDS, DIMENSIONS = 20_000, 100
LAUNCH = """
import resource, subprocess, sys
subprocess.run(sys.argv[1:], check=True, stderr=subprocess.DEVNULL)
print(resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss)
"""
LOAD = "import sys; from nlptransfer import Classifier; Classifier.load(sys.argv[1]).predict(['one text'])"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rows", type=int, default=300_000)
    rows = parser.parse_args().rows
    with TemporaryDirectory() as place:
        folder = Path(place)
        words, model = made_words(), folder / "model"
        save_model(words, model, folder)
        table = made_rows(words, rows)
        loading, seconds = measured([sys.executable, "-c", LOAD, str(model)])
        print(f"{rows:,} texts of {CHARACTERS} characters; loading the model: {loading:.0f} MB, {seconds:.1f} s")
        print(
            f"{'row groups':>10} {'output':>8} {'peak MB above':>14} {'limit':>6} {'seconds':>8} {'texts/s':>8}  rows"
        )
        for groups in GROUPS:
            source = folder / f"rows-{groups}.parquet"
            pq.write_table(table, source, row_group_size=-(-rows // groups))
            for kind in (".parquet", ".csv"):
                output = folder / f"out{kind}"
                call = [
                    sys.executable,
                    "-m",
                    "nlptransfer",
                    "predict",
                    str(model),
                    str(source),
                    "--output",
                    str(output),
                ]
                peak, spent = measured(call)
                above, speed = peak - loading, rows / (spent - seconds)
                kept = "kept" if kind == ".csv" or is_kept(table, output) else "CHANGED"
                print(f"{groups:>10} {kind:>8} {above:>14.0f} {MOST_MB:>6} {spent:>8.1f} {speed:>8,.0f}  {kept}")
                output.unlink()
            source.unlink()


def made_words() -> list[str]:
    draw = np.random.default_rng(0)
    letters = draw.integers(97, 123, (WORDS, 6)).astype(np.uint8)
    return sorted({bytes(row).decode() for row in letters})


def save_model(words: Sequence[str], model: Path, folder: Path) -> None:
    """Save a linear classifier on word vectors; what its weights are does not matter here."""
    from nlptransfer import finetune

    draw = np.random.default_rng(1)
    lines = [f"{word} {' '.join(f'{value:.3f}' for value in draw.normal(size=DIMENSIONS))}" for word in words]
    (folder / "vectors.txt").write_text(f"{len(words)} {DIMENSIONS}\n" + "\n".join(lines) + "\n")
    texts = [" ".join(draw.choice(words, 20)) for _ in range(200)]
    data = (texts, ["good", "bad"] * 100)
    call = {"base": folder / "vectors.txt", "route": "word2vec", "head_type": "linear", "report": False}
    run = finetune(data, output_dir=folder / "run", progress=False, **call)
    run.classifier.save_pretrained(model)


def made_rows(words: Sequence[str], rows: int) -> pa.Table:
    draw = np.random.default_rng(2)
    # 28 words of six letters and 27 spaces are 195 characters.
    chosen = draw.integers(0, len(words), (rows, CHARACTERS // 7))
    texts = [" ".join(map(words.__getitem__, row)).ljust(CHARACTERS, ".") for row in chosen.tolist()]
    return pa.table({
        "id": pa.array(range(rows)),
        "text": texts,
        "price": pa.array(range(rows), pa.decimal128(9, 2)),
        "tags": [["a", str(row % 7)] for row in range(rows)],
        "label": ["as it was"] * rows,
    })  # fmt: skip


def measured(call: Sequence[str]) -> tuple[float, float]:
    """Return a process's peak memory in MB and its seconds."""
    start = time.perf_counter()
    # By a small process: one that this one starts would begin with the peak of this one.
    printed = subprocess.run([sys.executable, "-c", LAUNCH, *call], stdout=subprocess.PIPE, check=True, text=True)
    return int(printed.stdout.split()[-1]) / 1024, time.perf_counter() - start


def is_kept(table: pa.Table, output: Path) -> bool:
    found = pq.read_table(output)
    added = found.column_names[len(table.column_names) :]
    return found.select(table.column_names).equals(table) and added == ["predicted_label", "predicted_score"]


if __name__ == "__main__":
    main()
