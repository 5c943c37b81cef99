"""Predict of 20 parquet parts that is killed and goes on, by two processes at once; and how fast two are.

python tests/benchmarks/predict_parts.py [--rows N] [--kills N] [--seed N]
"""

import argparse
import os
import random
import re
import signal
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np
import psutil
import pyarrow as pa
import pyarrow.parquet as pq

PARTS = 20
WORDS, DIMENSIONS, LENGTH = 20_000, 100, 20
MOST_MB, LEAST_RATIO = 1000, 1.6
ENVIRONMENT = {**os.environ, "OMP_NUM_THREADS": "1"}
_DONE = re.compile(r"(\S+): [\d,]+ texts; \d+ of \d+ parts done")


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rows", type=int, default=1_000_000)
    parser.add_argument("--kills", type=int, default=5)
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args()
    with TemporaryDirectory() as place:
        folder = Path(place)
        words = made_words()
        save_model(words, folder)
        write_parts(words, folder / "in", options.rows)
        print(f"{options.rows:,} texts of {LENGTH} words in {PARTS} parts; word2vec linear; one thread a process")
        one = measured(folder, "whole", 1)
        two = measured(folder, "two", 2)
        good = [
            said("two processes are as fast as", two / one, LEAST_RATIO, "times one", two / one >= LEAST_RATIO),
            killed(folder, options.kills, random.Random(options.seed)),
        ]
    return 0 if all(good) else 1


def said(what: str, value: float, limit: float, unit: str, is_good: bool) -> bool:
    print(f"{what} {value:,.2f} {unit} (limit {limit:g}): {'ok' if is_good else 'MISSED'}")
    return is_good


def made_words() -> list[str]:
    letters = np.random.default_rng(0).integers(97, 123, (WORDS, 6)).astype(np.uint8)
    return sorted({bytes(row).decode() for row in letters})


def save_model(words: Sequence[str], folder: Path) -> None:
    """Save a linear classifier on word vectors; what its weights are does not matter here."""
    from nlptransfer import finetune

    draw = np.random.default_rng(1)
    lines = [f"{word} {' '.join(f'{value:.3f}' for value in draw.normal(size=DIMENSIONS))}" for word in words]
    (folder / "vectors.txt").write_text(f"{len(words)} {DIMENSIONS}\n" + "\n".join(lines) + "\n")
    data = ([" ".join(draw.choice(words, LENGTH)) for _ in range(200)], ["good", "bad"] * 100)
    call = {"base": folder / "vectors.txt", "route": "word2vec", "head_type": "linear", "report": False}
    run = finetune(data, output_dir=folder / "run", progress=False, **call)
    run.classifier.save_pretrained(folder / "model")


def write_parts(words: Sequence[str], folder: Path, rows: int) -> None:
    draw, size = np.random.default_rng(2), rows // PARTS
    folder.mkdir()
    for part in range(PARTS):
        chosen = draw.integers(0, len(words), (size, LENGTH)).tolist()
        texts = [" ".join(map(words.__getitem__, row)) for row in chosen]
        ids = pa.array(range(part * size, (part + 1) * size))
        pq.write_table(pa.table({"id": ids, "text": texts}), folder / f"part-{part:05}.parquet")


def command(folder: Path, out: str, *options: object) -> list[str]:
    call = [sys.executable, "-m", "nlptransfer", "predict", folder / "model", folder / "in", "--output-dir"]
    return [*map(str, (*call, folder / out, *options))]


def measured(folder: Path, out: str, processes: int) -> float:
    """Predict undisturbed; return texts per second from the first part on, as the last line of the log has them."""
    run = subprocess.run(
        command(folder, out, "--processes", processes), env=ENVIRONMENT, stderr=subprocess.PIPE, text=True, check=True
    )
    last = [line for line in run.stderr.splitlines() if _DONE.match(line)][-1]
    speed = float(re.findall(r"([\d,]+) texts/s", last)[0].replace(",", ""))
    print(f"{processes} process{'es' * (processes > 1)}: {speed:,.0f} texts/s")
    return speed


def killed(folder: Path, kills: int, draw: random.Random) -> bool:
    """Let two processes at once, each with a shard, be killed at random moments and begun again until all is done."""
    shards: dict[int, subprocess.Popen[str]] = {}
    log, peak, left = folder / "log", 0.0, kills
    done: Counter[str] = Counter()

    def start(shard: int) -> None:
        with log.open("a") as file:
            shards[shard] = subprocess.Popen(
                command(folder, "killed", "--shard", f"{shard}/2"), env=ENVIRONMENT, stderr=file, text=True
            )

    for shard in (0, 1):
        start(shard)
    seconds = 0.0
    while shards:
        begun, wait = time.monotonic(), draw.uniform(8, 40)
        while time.monotonic() - begun < wait and any(process.poll() is None for process in shards.values()):
            for process in shards.values():
                try:
                    peak = max(peak, psutil.Process(process.pid).memory_info().rss / 2**20)
                except psutil.NoSuchProcess:
                    continue
            time.sleep(0.2)
        seconds += wait
        for shard in [*shards]:
            if (code := shards[shard].poll()) is not None:
                assert code == 0, log.read_text()
                del shards[shard]
        if left and shards:
            shard = draw.choice([*shards])
            os.kill(shards[shard].pid, signal.SIGKILL)
            assert shards[shard].wait() == -signal.SIGKILL
            left -= 1
            print(f"shard {shard} killed, {len([*(folder / 'killed').glob('*.parquet')])} parts done", flush=True)
            start(shard)
    for name in _DONE.findall(log.read_text()):
        done[Path(name).name] += 1
    names = sorted(path.name for path in (folder / "whole").iterdir())
    are_equal = names == sorted(path.name for path in (folder / "killed").iterdir())
    for name in names:
        if name[0] != ".":
            whole, other = ((folder / out / name) for out in ("whole", "killed"))
            are_equal &= whole.read_bytes() == other.read_bytes() and pq.read_table(whole).equals(pq.read_table(other))
    twice = [name for name, count in done.items() if count > 1]
    return all([
        said("killed with -9", kills - left, kills, "times", left == 0),
        said("parts of other names, rows, labels, scores or bytes:", not are_equal, 0, "", are_equal),
        said("parts done twice:", len(twice), 0, "", not twice),
        said("peak of a process:", peak, MOST_MB, "MB", peak < MOST_MB),
    ])  # fmt: skip


if __name__ == "__main__":
    sys.exit(main())
