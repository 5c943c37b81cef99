"""The files of a run's folder: who may write there, what the data was, and the predictions."""

import logging
import shutil
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from nlptransfer import distributed
from nlptransfer.data import Data, Labels, Split
from nlptransfer.errors import RunFolderError
from nlptransfer.evaluation import predicted
from nlptransfer.files import atomic_file, read_json

log = logging.getLogger("nlptransfer")

WITHOUT_EFFECT = ("progress", "report_to", "save_steps", "save_epochs", "keep_checkpoints")
"""Settings that change nothing of what is learned: a run may be resumed with others."""


def claim(folder: Path, question: dict[str, Any], overwrite: bool, record: str = "experiment.json") -> bool:
    """Make the folder ours; all processes call this together. True when a finished run is there.

    Args:
        record: the file that says what was asked for and whether it is finished.
    """
    return bool(
        distributed.from_main(_claimed(folder / record, question, overwrite) if distributed.is_main() else None)
    )


def _claimed(record: Path, question: dict[str, Any], overwrite: bool) -> bool:
    """True when a finished run with the same settings is there.

    Raises:
        RunFolderError: it holds a run with other settings, or something that is no run.
    """
    folder = record.parent
    if overwrite and record.exists():
        shutil.rmtree(folder)
    if not record.exists():
        if folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
            raise RunFolderError(
                f"{folder}: expected a new folder or a run's, found other files: name another output_dir"
            )
        folder.mkdir(parents=True, exist_ok=True)
        return False
    saved = read_json(record)
    known = saved["asked"]
    changed = [name for name in {**known, **question} if known.get(name) != question.get(name)]
    if changed:
        name = changed[0]
        raise RunFolderError(
            f"{folder}: holds a run with {name}={known.get(name)!r}, asked for {name}={question.get(name)!r}"
            + (f" (and {len(changed) - 1} more: {', '.join(changed[1:])})" if len(changed) > 1 else "")
            + ": name another output_dir, or overwrite"
        )
    if saved["status"] == "finished":
        log.info("%s: finished before, with the same settings; returned as it is", folder)
        return True
    return False


def described(data: Data) -> dict[str, Any]:
    """What a record says of the data: name, labels, and the fingerprint of each split."""
    return {
        "name": data.name,
        "labels": list(data.labels.names),
        "multi_label": data.labels.multi_label,
        "fingerprints": data.fingerprints(),
    }


def write_predictions(
    path: Path, data: Data, thresholds: Sequence[float] | None, found: Mapping[str, np.ndarray]
) -> None:
    """Write a run's predictions.parquet.

    Args:
        thresholds: with several labels at once, the probability from which each is given; None: 0.5.
        found: by split, the probabilities (rows, labels) of all its rows.
    """
    import pyarrow as pa
    import pyarrow.parquet as pq

    columns: dict[str, list[Any]] = {"split": [], "id": [], "true": [], "predicted": [], "probabilities": []}
    for name, probabilities in found.items():
        split: Split = getattr(data, name)
        given = predicted(probabilities, data.labels, thresholds)
        columns["split"] += [name] * len(split)
        columns["id"] += range(len(split))
        columns["true"] += data.labels.decode(split.targets)
        columns["predicted"] += data.labels.decode(given)
        columns["probabilities"] += probabilities.astype(np.float32).tolist()
    with atomic_file(path) as temporary:
        pq.write_table(pa.table(columns), temporary)


def predictions_on_test(folder: Path, labels: Labels, column: str = "predicted") -> np.ndarray:
    """Targets of the test rows of a finished run: ids (rows,), or 0/1 (rows, labels).

    Args:
        column: "predicted", or "true".
    """
    import pyarrow.parquet as pq

    rows = pq.read_table(folder / "predictions.parquet", columns=["split", column]).to_pydict()
    return labels.encode([name for split, name in zip(rows["split"], rows[column], strict=True) if split == "test"])
