"""Seconds of a request to recipes/serve.py: 50 clients at once, beside one that asks for one text after the other.

python tests/benchmarks/serving.py [--model FOLDER] [--requests N]
python tests/benchmarks/serving.py --adapters    # of 8 adapters on one base instead: together, and one after the other
"""

import argparse
import json
import sys
import time
from collections.abc import Callable
from functools import partial
from itertools import cycle, islice
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np
from predict_file import made_rows, made_words, save_model

sys.path.insert(0, str(Path(__file__).parent.parent))

from helpers.serving import serving, timed

CLIENTS = (1, 50)
ADAPTERS, WORDS, TURNS = 8, 12, 7


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--model", type=Path, help="folder of a classifier; by default a linear one on word vectors")
    parser.add_argument("--requests", type=int, default=2000)
    parser.add_argument("--adapters", action="store_true")
    options = parser.parse_args()
    if options.adapters:
        by_adapter()
        return
    words = made_words()
    texts = made_rows(words, options.requests)["text"].to_pylist()
    with TemporaryDirectory() as place:
        folder = Path(place)
        if options.model is None:
            save_model(words, folder / "model", folder)
        print(f"{'clients':>7} {'requests':>8} {'median ms':>10} {'99% ms':>8} {'requests/s':>10}")
        with serving(options.model or folder / "model") as server:
            timed(server, texts[:50], 10)  # the first ones wait for what is done once
            for clients in CLIENTS:
                found = timed(server, texts if clients > 1 else texts[: len(texts) // 10], clients)
                assert {answer.status_code for answer, _ in found} == {200}
                seconds = np.array([each for _, each in found])
                median, most = np.percentile(1000 * seconds, (50, 99))
                speed = clients / seconds.mean()
                print(f"{clients:>7} {len(found):>8,} {median:>10.1f} {most:>8.1f} {speed:>10,.0f}")


def by_adapter() -> None:
    """Time the first words of films, of adapters in mixed order: least CPU seconds, as others are at work here."""
    from nlptransfer import Classifier, MixedClassifiers, SharedBase, finetune

    films = Path(__file__).parents[2] / "data" / "films"
    rows = [json.loads(line)["text"] for line in (films / "train.jsonl").read_text().splitlines()]
    with TemporaryDirectory() as place:
        settings = {"num_train_epochs": 1, "max_train_rows": 60, "progress": False, "report": False}
        run = finetune(films, route="lora", output_dir=Path(place) / "run", **settings)
        shared = SharedBase()
        classifiers = {str(number): Classifier.load(run.folder, base=shared) for number in range(ADAPTERS)}
    mixed = MixedClassifiers(classifiers)
    print(f"{ADAPTERS} adapters of rank {run.settings['route']['rank']}, {WORDS} words a text, one thread")
    for each in (1, 4, 32):
        texts = [" ".join(row.split()[:WORDS]) for row in islice(cycle(rows), ADAPTERS * each)]
        names = np.random.default_rng(0).permutation([*classifiers] * each).tolist()
        shares = {name: [text for text, of in zip(texts, names, strict=True) if of == name] for name in classifiers}
        together = least(partial(mixed.logits, texts, names))
        alone = sum(least(partial(classifiers[name].logits, share)) for name, share in shares.items())
        speeds = f"together {len(texts) / together:,.0f}, one after the other {len(texts) / alone:,.0f} texts/s"
        print(f"{len(texts):>4} texts, {each} of each: {speeds}, {alone / together:.2f} times as fast", flush=True)


def least(call: Callable[[], object]) -> float:
    seconds = []
    for _ in range(TURNS):
        start = time.process_time()
        call()
        seconds.append(time.process_time() - start)
    return min(seconds)


if __name__ == "__main__":
    main()
