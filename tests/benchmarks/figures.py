"""The figures: each is one function that measures nlptransfer beside its peers and returns the rows of a table."""

import gzip
import json
import os
import shutil
import subprocess
import sys
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from statistics import median
from tempfile import TemporaryDirectory
from typing import Any

import peers

HEADS = ("linear", "mlp", "cnn")
BIG_ROWS, BIG_DIMENSIONS = 3_000_000, 300
BIG_DISK = 3 * BIG_ROWS * BIG_DIMENSIONS * 4
"""Bytes that must be free for the big file: itself, its converted copy, and as much again to spare."""

OPEN = """
import json, resource, sys, time
from nlptransfer import open_vectors
started = time.perf_counter()
vectors = open_vectors(sys.argv[1])
seconds = time.perf_counter() - started
peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * (1 if sys.platform == "darwin" else 1024)
print(json.dumps({"seconds": seconds, "peak": peak, "shape": vectors.matrix.shape}))
"""
"""What a fresh process runs to open vectors; ru_maxrss is in KiB, but in bytes on macOS."""


class Missing(Exception):
    """Something that a figure needs is not there."""


@dataclass(frozen=True)
class Places:
    """Where the texts and vectors lie."""

    data: Path
    """a folder with folders of data sets: NAME/train.jsonl.gz and NAME/test.jsonl.gz"""
    vectors: Path
    """a word2vec text file"""

    def texts(self, split: str, name: str = "ag_news") -> tuple[list[str], list[str]]:
        """Texts and label names of one split of a data set."""
        path = self.data / name / f"{split}.jsonl.gz"
        _need(path, f"{name}/{split}.jsonl.gz in the folder given by --data")
        with gzip.open(path, "rt", encoding="utf-8") as lines:
            rows = [json.loads(line) for line in lines]
        return [row["text"] for row in rows], [row["label"] for row in rows]

    def word_vectors(self) -> Path:
        """The file, converted once already, as it is from its second use on."""
        from nlptransfer import open_vectors

        _need(self.vectors, "the word2vec text file given by --vectors")
        open_vectors(self.vectors)
        return self.vectors


@dataclass(frozen=True)
class Row:
    """One measured value, beside a peer's where there is one."""

    what: str
    ours: float
    unit: str
    """"s" or "GB", where less is better, or a speed such as "texts/s" """
    peer: str = ""
    theirs: float | None = None
    times: float | None = None
    """limit: at least so many times as fast as the peer"""
    most: float | None = None
    """limit: at most this, in ``unit``"""

    @property
    def ratio(self) -> float | None:
        """How many times as fast as the peer."""
        if self.theirs is None:
            return None
        return self.ours / self.theirs if self.unit.endswith("/s") else self.theirs / self.ours

    @property
    def reached(self) -> bool | None:
        """Whether the limit is kept; None without one."""
        if self.times is not None and self.ratio is not None:
            return self.ratio >= self.times
        return None if self.most is None else self.ours <= self.most


def alternate(calls: Mapping[str, Callable[[], Any]], rounds: int, warm_up: bool = True) -> dict[str, float]:
    """Median seconds of each call; they take turns, so that a slow minute of the machine falls on all of them."""
    return in_turns({name: partial(clock, call) for name, call in calls.items()}, rounds, warm_up)


def in_turns(clocks: Mapping[str, Callable[[], float]], rounds: int, warm_up: bool = True) -> dict[str, float]:
    """As :func:`alternate`, of calls that say themselves how many seconds count."""
    seconds: dict[str, list[float]] = {name: [] for name in clocks}
    for turn in range(-warm_up, rounds):
        for name in list(clocks) if turn % 2 else reversed(list(clocks)):
            spent = clocks[name]()
            if turn >= 0:
                seconds[name].append(spent)
    return {name: median(spent) for name, spent in seconds.items()}


def clock(call: Callable[[], Any]) -> float:
    """Seconds of one call."""
    started = time.perf_counter()
    call()
    return time.perf_counter() - started


def train(places: Places) -> list[Row]:
    """Training time: texts in memory to a trained linear classifier"""
    from nlptransfer import finetune

    texts, labels = places.texts("train")
    vectors = places.word_vectors()

    def whole() -> None:
        with TemporaryDirectory() as folder:
            finetune((texts, labels), base=vectors, head_type="linear", output_dir=f"{folder}/run", progress=False)

    found = alternate(
        {
            "head": lambda: _features_and_head(texts, labels, vectors),
            "finetune": whole,
            "fastText": lambda: peers.fasttext_train(texts, labels),
        },
        rounds=3,
    )
    peer = ("fastText, 25 epochs", found["fastText"])
    return [
        Row("features and linear classifier", found["head"], "s", *peer, times=1),
        Row("the whole of finetune(): also scores with intervals, and the saved folder", found["finetune"], "s", *peer),
    ]


def _features_and_head(texts: list[str], labels: list[str], vectors: Path) -> None:
    """What finetune() does between reading and scoring: split, model, features, strength, the last solution."""
    from nlptransfer import Word2Vec, load_data
    from nlptransfer.data.dataset import DataSettings

    data = load_data((texts, labels), DataSettings(test_size=0, calibration_size=0))
    route = Word2Vec(head_type="linear")
    fit_head(route, route.build(data, str(vectors), None, seed=0), data)


def fit_head(route: Any, built: Any, data: Any) -> None:
    """What finetune() does with a linear head on frozen features: the features, a strength, the last solution."""
    from nlptransfer.training import Features, HeadTask
    from nlptransfer.training.losses import LabelLoss

    splits = data.train, data.validation
    learner, parts = route.learning(built.model, built.tokenizer, *(split.texts for split in splits))
    inputs = [route.head_inputs(learner, rows) for rows in parts]
    train, validation = (
        Features(values, split.targets, ngrams=ngrams) for (values, ngrams), split in zip(inputs, splits, strict=True)
    )

    def accuracy(targets: Any, logits: Any) -> float:
        return float((logits.argmax(axis=1) == targets).mean())

    may_drop = route.chooses_ngrams
    HeadTask(LabelLoss(data.labels), train, validation, accuracy, may_drop_ngrams=may_drop).choose_l2()


def predict(places: Places) -> list[Row]:
    """Prediction: text in, label out"""
    from nlptransfer import finetune
    from nlptransfer.hub.base_models import find_base

    train, (texts, _) = places.texts("train"), places.texts("test")
    vectors = places.word_vectors()
    fasttext = peers.fasttext_train(*train, epochs=5)
    model2vec = peers.model2vec_train(find_base().path, *train)
    calls: dict[str, Callable[[], Any]] = {
        "fastText": lambda: peers.fasttext_predict(fasttext, texts),
        "model2vec": lambda: peers.model2vec_predict(model2vec, texts),
    }
    with TemporaryDirectory() as folder:
        for head in HEADS:
            run = finetune(
                train, base=vectors, head_type=head, num_train_epochs=1, output_dir=f"{folder}/{head}", progress=False
            )
            calls[head] = partial(run.classifier.predict, texts)
    seconds = alternate(calls, rounds=5)
    speed = {name: len(texts) / spent for name, spent in seconds.items()}
    return [
        Row(
            f"Classifier.predict, {head}",
            speed[head],
            "texts/s",
            peer,
            speed[peer],
            # A convolution reads every word many times over: no match for a mean, and not meant as one.
            times=None if head == "cnn" else 1,
        )
        for head in HEADS
        for peer in ("fastText", "model2vec")
    ]


def startup(_: Places) -> list[Row]:
    """Start: whole processes, from nothing to their end"""
    command = Path(sys.executable).with_name("nlptransfer")
    _need(command, "the command nlptransfer beside this Python: install the package")
    found = alternate(
        {
            "pass": lambda: _spawn(sys.executable, "-c", "pass"),
            "import": lambda: _spawn(sys.executable, "-c", "import nlptransfer"),
            "help": lambda: _spawn(str(command), "--help"),
        },
        rounds=7,
    )
    peer = ("python -c pass", found["pass"])
    return [
        Row("python -c 'import nlptransfer'", found["import"], "s", *peer, most=0.2),
        Row("nlptransfer --help", found["help"], "s", *peer, most=0.5),
    ]


def vectors(places: Places) -> list[Row]:
    """Word vectors: every load after the first"""
    from nlptransfer import open_vectors

    path = places.word_vectors()

    def read_all() -> None:
        opened = open_vectors(path)
        opened.words()
        opened.matrix.sum()

    found = alternate(
        {"open": lambda: open_vectors(path), "read": read_all, "gensim": lambda: peers.gensim_load(path)},
        rounds=3,
        warm_up=False,
    )
    peer = ("gensim load_word2vec_format", found["gensim"])
    size = " x ".join(f"{n:,}" for n in open_vectors(path).matrix.shape)
    return [
        Row(f"open_vectors, {size}", found["open"], "s", *peer, most=0.1),
        Row("the same, and then every word and number read", found["read"], "s", *peer),
    ]


def bigfile(_: Places) -> list[Row]:
    """A big file of vectors: binary word2vec, each step in a fresh process"""
    with TemporaryDirectory() as folder:
        free = shutil.disk_usage(folder).free
        if free < BIG_DISK:
            raise Missing(f"expected {BIG_DISK / 1e9:.1f} GB free in the temporary folder, found {free / 1e9:.1f} GB")
        path = Path(folder) / "big.bin"
        _write_big(path)
        # The converted copy goes where it is removed again.
        environment = os.environ | {"HF_HOME": folder}
        first, *later = [
            json.loads(_spawn(sys.executable, "-c", OPEN, str(path), environment=environment)) for _ in range(6)
        ]
        assert first["shape"] == [BIG_ROWS, BIG_DIMENSIONS], first
    size = f"{BIG_ROWS:,} x {BIG_DIMENSIONS}"
    return [
        Row(f"first load of {size}: peak memory", first["peak"] / 1e9, "GB", most=2),
        Row(f"first load of {size}: time", first["seconds"], "s"),
        Row(f"later loads of {size}", median(load["seconds"] for load in later), "s", most=0.2),
    ]


def _write_big(path: Path) -> None:
    import numpy as np

    # One block of numbers is enough, for what is read is not looked at; the words are all different.
    block = np.zeros(20_000, dtype=[("word", "S9"), ("vector", "<f4", BIG_DIMENSIONS)])
    block["vector"] = np.random.default_rng(0).standard_normal(block["vector"].shape)
    with path.open("wb") as file:
        file.write(f"{BIG_ROWS} {BIG_DIMENSIONS}\n".encode())
        for start in range(0, BIG_ROWS, len(block)):
            block["word"] = [b"w%07d " % number for number in range(start, start + len(block))]
            block.tofile(file)


def _spawn(*command: str, environment: Mapping[str, str] | None = None) -> str:
    return subprocess.run(command, check=True, capture_output=True, text=True, env=environment).stdout


def _need(path: Path, what: str) -> None:
    if not path.exists():
        raise Missing(f"not found: {what}")


FIGURES: dict[str, Callable[[Places], list[Row]]] = {
    figure.__name__: figure for figure in (train, predict, startup, vectors, bigfile)
}
"""The figures by name; the first line of a docstring is the heading."""
