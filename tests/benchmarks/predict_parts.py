"""Predict of 20 parquet parts that is killed and goes on, by two processes at once; and how fast two are.

python tests/benchmarks/predict_parts.py [--rows N] [--kills N] [--seed N]
python tests/benchmarks/predict_parts.py --routes    # texts per second a core of each route instead
"""

import argparse
import json
import os
import random
import re
import signal
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Sequence
from itertools import cycle, islice
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
import psutil
import pyarrow as pa
import pyarrow.parquet as pq

PARTS = 20
WORDS, DIMENSIONS, LENGTH = 20_000, 100, 20
MOST_MB, LEAST_RATIO, TURNS = 1000, 1.6, 3
ENVIRONMENT = {**os.environ, "OMP_NUM_THREADS": "1"}
FILMS = Path(__file__).parents[2] / "data" / "films"
ROUTES = {
    "word2vec, linear": (40_000, "word2vec", {"head_type": "linear"}),
    "word2vec, mlp": (40_000, "word2vec", {"head_type": "mlp"}),
    "word2vec, cnn": (10_000, "word2vec", {"head_type": "cnn"}),
    "probe": (400, "probe", {"features": ("encoder",)}),
    "probe with n-grams": (400, "probe", {"features": ("encoder", "ngrams")}),
    "lora, merged": (400, "lora", {"merge": True}),
    "full": (400, "full", {}),
}
"""By name: how many texts, route and settings."""
_DONE = re.compile(r"(\S+): [\d,]+ texts; \d+ of \d+ parts done")


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rows", type=int, default=1_000_000)
    parser.add_argument("--kills", type=int, default=5)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--routes", action="store_true")
    options = parser.parse_args()
    with TemporaryDirectory() as place:
        folder = Path(place)
        if options.routes:
            return by_route(folder)
        words = made_words()
        save_model(words, folder)
        write_parts(words, folder / "in", options.rows)
        print(f"{options.rows:,} texts of {LENGTH} words in {PARTS} parts; word2vec linear; one thread a process")
        speed = measured(command(folder, "whole"))
        print(f"undisturbed: {speed:,.0f} texts/s", flush=True)
        good = [
            killed(folder, options.kills, options.rows / PARTS / speed, random.Random(options.seed)),
            shared_out(folder),
        ]
    return 0 if all(good) else 1


def by_route(folder: Path) -> int:
    """Train each route for a moment on the films of this repository, and predict their texts over and over.

    Seconds are those of processors, as others are at work on a machine, more or less.
    """
    from nlptransfer import Classifier, finetune

    rows = [json.loads(line)["text"] for line in (FILMS / "train.jsonl").read_text().splitlines()]
    words = sum(map(len, map(str.split, rows))) / len(rows)
    print(f"texts of {words:.0f} words and {sum(map(len, rows)) / len(rows):.0f} characters")
    for name, (count, route, settings) in ROUTES.items():
        call = {"num_train_epochs": 1, "max_train_rows": 60, "progress": False, "report": False, **settings}
        run = finetune(FILMS, route=route, output_dir=folder / name, **call)
        forms = {"": run.folder}
        if route == "full":
            for form in ("fp32", "int8"):
                forms[f" as ONNX, {form}"] = folder / form
                run.classifier.export_onnx(folder / form, int8=form == "int8")
        pq.write_table(pa.table({"text": [*islice(cycle(rows), count)]}), folder / "texts.parquet")
        for form, place in forms.items():
            classifier = Classifier.load(place)
            classifier.predict(rows[:64])
            start = time.process_time()
            classifier.predict_file(folder / "texts.parquet", folder / "labeled.parquet")
            print(f"{name}{form}: {count / (time.process_time() - start):,.0f} texts/s a core", flush=True)
    return 0


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


def command(folder: Path, out: str, *options: object) -> list[object]:
    return [folder / "model", folder / "in", "--output-dir", folder / out, *options]


def started(call: Sequence[object], stderr: Any) -> subprocess.Popen[str]:
    call = [sys.executable, "-m", "nlptransfer", "predict", *map(str, call)]
    # Linux shares cores out to sessions first: in one, two processes get no more than one where others work too.
    return subprocess.Popen(call, env=ENVIRONMENT, stderr=stderr, text=True, start_new_session=True)


def measured(*calls: Sequence[object]) -> float:
    """Predict undisturbed; return the texts per second of all calls at once, each from its first part to its last."""
    speed, processes = 0.0, [started(call, subprocess.PIPE) for call in calls]
    logs = [process.communicate()[1] for process in processes]
    for process, log in zip(processes, logs, strict=True):
        assert process.returncode == 0, log
        last = [line for line in log.splitlines() if _DONE.match(line)][-1]
        speed += float(re.findall(r"([\d,]+) texts/s", last)[0].replace(",", ""))
    return speed


def shared_out(folder: Path) -> bool:
    """Measure one process and two by turns, the best of each: others are at work on a machine, more or less."""
    best = {1: 0.0, 2: 0.0}
    for turn in range(TURNS):
        for count in best:
            calls = [command(folder, f"{count}-{turn}", "--shard", f"{shard}/3") for shard in range(count)]
            best[count] = max(best[count], speed := measured(*calls))
            print(f"processes at once: {count}: {speed:,.0f} texts/s", flush=True)
    ratio = best[2] / best[1]
    return said("two processes are as fast as", ratio, LEAST_RATIO, "times one", ratio >= LEAST_RATIO)


def killed(folder: Path, kills: int, part_seconds: float, draw: random.Random) -> bool:
    """Let two processes at once, each with a shard, be killed at random moments and begun again until all is done."""
    shards: dict[int, subprocess.Popen[str]] = {}
    log, peak, left = folder / "log", 0.0, kills
    done: Counter[str] = Counter()

    def start(shard: int) -> None:
        with log.open("a") as file:
            shards[shard] = started(command(folder, "killed", "--shard", f"{shard}/2"), file)

    for shard in (0, 1):
        start(shard)
    moment = None
    while shards:
        time.sleep(0.1)
        for shard, process in [*shards.items()]:
            if (code := process.poll()) is not None:
                assert code == 0, log.read_text()
                del shards[shard]
            else:
                peak = max(peak, psutil.Process(process.pid).memory_info().rss / 2**20)
        at_work = [
            shard for shard, process in shards.items() if any((folder / "killed").glob(f".*.claim/{process.pid}_*"))
        ]
        if left and at_work:
            # At any moment of the parts that they are at work on, and of the next two.
            moment = moment or time.monotonic() + draw.uniform(0, 3 * part_seconds)
            if time.monotonic() >= moment:
                shard = draw.choice(at_work)
                os.kill(shards[shard].pid, signal.SIGKILL)
                assert shards[shard].wait() == -signal.SIGKILL
                left, moment = left - 1, None
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
