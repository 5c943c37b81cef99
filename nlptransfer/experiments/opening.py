"""What a run begins with, in sentences: its rows, labels, route, base and folder. Knows nothing of how it goes on."""

from pathlib import Path

import numpy as np

from nlptransfer.data import Data
from nlptransfer.errors import abridged
from nlptransfer.results import RunConfig

NAMED = 12
"""Labels that are named."""
_USES = {
    "train": "to learn from",
    "validation": "to choose by",
    "calibration": "to calibrate",
    "test": "to score in the end",
}


def opening_lines(config: RunConfig, folder: Path) -> list[str]:
    """Say what is learned, from what and where to."""
    source, lines = config.source, data_lines(config.data)
    if source is not None:
        lines += (
            [f"{source.name}, a saved classifier, is learned from"] if source.data is None else data_lines(source.data)
        )
        lines.append(f"Transfer from {source.name} to {config.data.name} by {config.transfer.name}")
    base = "" if config.base is None else f" from {config.base}"
    return [*lines, f"Training by the route {config.route.name}{base}, into {folder}"]


def data_lines(data: Data) -> list[str]:
    """Say how many rows each split and each label has."""
    splits = {name: split for name, split in data.splits.items() if len(split)}
    rows = [f"{len(split):,} {_USES[name]} ({name})" for name, split in splits.items()]
    rows += [f"{len(data.unlabeled):,} texts without labels"] if data.unlabeled else []
    counts = sum((data.labels.count(split.targets) for split in splits.values()), np.zeros(len(data.labels.names), int))
    order = np.argsort(-counts, kind="stable")
    named = abridged([f"{data.labels.names[label]} ({counts[label]:,})" for label in order], NAMED)
    several = ", several a row" if data.labels.multi_label else ""
    total = sum(map(len, splits.values()))
    return [
        f"{data.name}: {total:,} rows with labels: {', '.join(rows)}",
        f"{data.name}: {len(counts)} labels{several}, with their rows: {named}",
    ]
