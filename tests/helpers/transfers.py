"""Transfers that take little time, by every route: their settings, and rows of source and target."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
from safetensors.numpy import load_file

from helpers.corpora import HELD_OUT, splits, topic_splits
from nlptransfer import RunResult

ALONE = {
    "num_train_epochs": 4, "per_device_train_batch_size": 16, "learning_rate": 5e-3, "calibration_size": 0.0,
    # Tests of what is cut off ask for checkpoints themselves.
    "save_epochs": False,
}  # fmt: skip
QUICK = ALONE | {"verdict": False}
ON_WORDS = {
    "num_train_epochs": 8, "learning_rate": 0.05, "num_filters": 8, "kernel_sizes": (1, 2), "mlp_sizes": (8,),
    "dropout": 0.0,
}  # fmt: skip
# So few steps and so small encoders learn whatever the seed is, but only without dropout.
ENCODERS = {"num_train_epochs": 8, "dropout": 0.0}
ROUTES: dict[str, dict[str, Any]] = {
    "words linear": {"route": "word2vec", "head_type": "linear"},
    "words mlp": {"route": "word2vec", "head_type": "mlp", **ON_WORDS},
    "words cnn": {"route": "word2vec", "head_type": "cnn", **ON_WORDS},
    "probe linear": {"route": "probe"},
    "probe ngrams": {"route": "probe", "features": ("encoder", "ngrams")},
    "probe mlp": {"route": "probe", "head_type": "mlp", "mlp_sizes": (8,)},
    "full": {"route": "full", "max_length": 16, **ENCODERS},
    "lora": {"route": "lora", "max_length": 16, "rank": 4, **ENCODERS},
}
FITTED = ("words linear", "probe linear", "probe ngrams")


def sides_of(
    route: str, vectors: Path, bases: Callable[[str], Any], target: int, names: dict[str, str] | None = None
) -> tuple[Any, Any, Any]:
    """Source rows, with other label names if asked for, target rows and a base that the route can read."""
    if not route.startswith("words"):
        return splits(60, 0, names), splits(target, 5), str(bases("bert").path)
    source = topic_splits({"train": 60, **HELD_OUT}, 0, names)
    return source, topic_splits({"train": target, **HELD_OUT}, 1), vectors


def weights(run: RunResult) -> dict[str, np.ndarray]:
    (file,) = (run.folder / "model").glob("*model.safetensors")
    return load_file(file)
