"""This machine, what is installed on it, and what a run costs here: time, memory, speed."""

import platform
import re
import sys
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from functools import cache
from importlib.metadata import version
from itertools import cycle, islice
from math import ceil
from pathlib import Path
from typing import Any

import numpy as np
import psutil
import torch

from nlptransfer.classifier import Classifier
from nlptransfer.results import Cost, Fit

PEAK_EVERY = 0.02
"""Seconds between two looks at the memory in use."""
SPEED_SECONDS = 0.3
"""Least time of a measurement of speed."""
PACKAGES = (
    "nlptransfer", "torch", "transformers", "accelerate", "datasets", "evaluate", "gensim", "tokenizers", "numpy",
    "peft", "scikit-learn", "scipy",
)  # fmt: skip
"""Packages that decide what comes out."""


def machine() -> dict[str, Any]:
    """Describe the machine that costs are measured on."""
    model = re.search(r"model name\s*:\s*(.+)", info.read_text()) if (info := Path("/proc/cpuinfo")).exists() else None
    return {
        "processor": model[1].strip() if model else platform.processor() or platform.machine(),
        "cores": psutil.cpu_count(),
        "memory_gb": round(psutil.virtual_memory().total / 2**30, 1),
        "gpu": torch.cuda.get_device_name() if torch.cuda.is_available() else None,
        "platform": platform.platform(),
    }


@cache
def versions() -> dict[str, str]:
    """Return the versions of Python and of ``PACKAGES``."""
    return {"python": platform.python_version(), **{name: version(name) for name in PACKAGES}}


def _peak_memory_mb() -> float:
    if sys.platform == "win32":
        return psutil.Process().memory_info().peak_wset / 2**20
    import resource

    # Bytes on macOS, kibibytes elsewhere.
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / (2**20 if sys.platform == "darwin" else 2**10)


@contextmanager
def watched_memory() -> Iterator[list[float]]:
    """Yield a list whose one number is the most memory that this process has held since, in MiB."""
    process, over = psutil.Process(), threading.Event()
    peak = [process.memory_info().rss / 2**20]

    def watch() -> None:
        while not over.wait(PEAK_EVERY):
            peak[0] = max(peak[0], process.memory_info().rss / 2**20)

    watcher = threading.Thread(target=watch, daemon=True)
    watcher.start()
    try:
        yield peak
    finally:
        over.set()
        watcher.join()


def speeds(probabilities: Callable[[Sequence[str]], np.ndarray], texts: Sequence[str]) -> dict[str, float]:
    """Measure the texts per second that are predicted, one at a time and 64 at a time, after a warm-up."""
    measured = {}
    for at_once in (1, 64):
        stream = cycle(texts)
        probabilities(list(islice(stream, at_once)))
        started, done, spent = time.perf_counter(), 0, 0.0
        while not done or spent < SPEED_SECONDS:
            probabilities(list(islice(stream, at_once)))
            done, spent = done + at_once, time.perf_counter() - started
        measured[f"texts_per_second_{at_once}"] = round(done / spent, 1)
    return measured


def texts_per_second(classifier: Classifier, texts: Sequence[str]) -> float:
    """Measure the texts per second that are predicted, as many at a time as take long enough to be timed."""
    count = 64
    while True:
        some = list(islice(cycle(texts), count))
        started = time.perf_counter()
        classifier.probabilities(some)
        if (spent := time.perf_counter() - started) > SPEED_SECONDS:
            return count / spent
        # As many as are likely to take long enough, by the time of these; a few may have been slow to begin.
        count = min(16 * count, ceil(1.5 * count * SPEED_SECONDS / spent))


def with_wall_seconds(cost: Cost, started: float) -> Cost:
    """Add the time since ``started``, of :func:`time.monotonic`; what was resumed has trained for longer."""
    return replace(cost, wall_seconds=round(max(time.monotonic() - started, cost.train_seconds), 3))


def cost_of(fit: Fit, trainable: int, total: int, **measured: float) -> Cost:
    """Return the cost of a run of so many parameters, with further fields."""
    return Cost(
        train_seconds=round(fit.seconds, 3),
        examples_per_second=round(fit.examples / fit.seconds, 1) if fit.seconds else 0.0,
        trainable_parameters=trainable,
        total_parameters=total,
        peak_memory_mb=round(_peak_memory_mb(), 1),
        **measured,
    )
