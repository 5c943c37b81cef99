"""This machine and what is installed on it, as records name them, and the memory that this process holds."""

import platform
import re
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from functools import cache
from importlib.metadata import version
from pathlib import Path
from typing import Any

import psutil
import torch

PEAK_EVERY = 0.02
"""Seconds between two looks at the memory in use."""
PACKAGES = (
    "nlptransfer",
    "torch",
    "transformers",
    "accelerate",
    "datasets",
    "evaluate",
    "gensim",
    "tokenizers",
    "numpy",
    "peft",
    "scikit-learn",
    "scipy",
)
"""That decide what comes out."""


def machine() -> dict[str, Any]:
    """What figures of cost were measured on."""
    found = re.search(r"model name\s*:\s*(.+)", info.read_text()) if (info := Path("/proc/cpuinfo")).exists() else None
    return {
        "processor": found[1].strip() if found else platform.processor() or platform.machine(),
        "cores": psutil.cpu_count(),
        "memory_gb": round(psutil.virtual_memory().total / 2**30, 1),
        "gpu": torch.cuda.get_device_name() if torch.cuda.is_available() else None,
        "platform": platform.platform(),
    }


@cache
def versions() -> dict[str, str]:
    """Of Python and of the packages that decide what comes out."""
    return {"python": platform.python_version(), **{name: version(name) for name in PACKAGES}}


def peak_memory_mb() -> float:
    """The most memory this process has held, in MiB."""
    if sys.platform == "win32":
        return psutil.Process().memory_info().peak_wset / 2**20
    import resource

    # Bytes on macOS, kibibytes elsewhere.
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / (2**20 if sys.platform == "darwin" else 2**10)


@contextmanager
def watched_memory() -> Iterator[list[float]]:
    """Yield a list whose one number is the most memory that this process has held meanwhile, in MiB."""
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
