"""Runs without report, baseline and progress, unless a test asks for them, and what lies in their folders."""

from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

import nlptransfer
from helpers.transfers import weights
from nlptransfer import RunResult
from nlptransfer.files import read_json

finetune = partial(nlptransfer.finetune, report=False, baseline=False, progress=False)
compare = partial(nlptransfer.compare, progress=False)
gain_curve = partial(nlptransfer.gain_curve, progress=False)


def record_of(folder: Path) -> dict[str, Any]:
    return read_json(folder / "experiment.json")


def report_of(folder: Path) -> dict[str, Any]:
    return read_json(folder / "metrics.json")


def same_weights(one: RunResult, other: RunResult) -> bool:
    """Whether two runs have saved the same weights, to the bit."""
    ours, theirs = weights(one), weights(other)
    return ours.keys() == theirs.keys() and all(np.array_equal(ours[name], theirs[name]) for name in ours)
