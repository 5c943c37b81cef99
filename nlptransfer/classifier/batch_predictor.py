"""BatchPredictor: adds labels to batches of rows, in whatever processes an engine starts for them.

It knows the forms of a batch, not the engine, nor how rows are read and written.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from threading import Lock
from typing import Any

import torch

from nlptransfer.classifier.classifier import Classifier
from nlptransfer.classifier.persistence import is_hub_source, local_folder, saved_folder, stamp_of
from nlptransfer.errors import DataError, RunFolderError, SettingError, abridged
from nlptransfer.files import named_path

_lock = Lock()
_loaded: dict[tuple[str, str | None], tuple[str | None, Classifier]] = {}
"""What this process has loaded, with its hash, by source and device."""


@dataclass(frozen=True)
class BatchPredictor:
    """Adds predictions to a batch of rows: a worker for Ray Data, Spark, ``datasets.map`` and other engines.

    It holds no model. Pickled it is a few hundred bytes; a process loads the classifier when it first calls a worker,
    once for all of them. One in a folder must then be the one that was there when the worker was made.

    Args:
        source: a folder, or a hub id (owner/name), as in ``Classifier.load``.
        text_column: column of the texts, or several.
        outputs: columns that are added, of those of ``predict_file``: label and score, or labels and scores where
            there may be several, and score_LABEL.

    Raises:
        RunFolderError: no classifier is in the folder; when called, another one.
        SettingError: no outputs, or one twice; when called, one that the classifier does not give.
        DataError: when called: a batch of another kind, without the text column, or with a column of the outputs.
    """

    source: str | Path
    text_column: str | Sequence[str]
    outputs: Sequence[str] = ("label", "score")
    saved: str | None = field(default=None, init=False)
    """hash of the classifier, where it is in a folder"""

    def __post_init__(self) -> None:
        columns, outputs = _names(self.text_column), _names(self.outputs)
        if not outputs or len({*outputs}) < len(outputs):
            raise SettingError(f"outputs={outputs}: expected names of columns, each once, as label and score")
        if not is_hub_source(self.source):
            # Where the engine's processes run is another folder.
            object.__setattr__(self, "source", str(named_path(self.source).absolute()))
        for name, value in (("text_column", columns), ("outputs", outputs), ("saved", _stamp(self.source))):
            object.__setattr__(self, name, value)

    def __call__(self, batch: Any, rank: int | None = None) -> Any:
        """Return the batch with predictions added, in its own form.

        A dict of arrays or lists, a pandas frame, or an Arrow table or record batch. Where no label is given they are
        null; scores in arrays and frames NaN. By ``rank``, the number of a process among all, GPUs are dealt round.
        """
        import pyarrow as pa

        is_arrow, is_frame = isinstance(batch, (pa.Table, pa.RecordBatch)), hasattr(batch, "iloc")
        if not (is_arrow or is_frame or isinstance(batch, Mapping)):
            expected = "a dict of columns, a DataFrame or an Arrow table"
            raise DataError(f"batch: expected {expected}, found {type(batch).__name__}")
        names = [*map(str, batch.schema.names if is_arrow else batch)]
        self._check_columns(names)
        columns = [*self.text_column]
        texts = batch.select(columns) if is_arrow else batch[columns] if is_frame else {c: batch[c] for c in columns}
        added = self._predicted(texts, rank)
        if is_arrow:
            schema = batch.schema
            for name, values in added.items():
                schema = schema.append(pa.field(name, values.type))
            return type(batch).from_arrays([*batch.columns, *added.values()], schema=schema)
        if is_frame:
            return batch.assign(**{name: values.to_pandas().array for name, values in added.items()})
        as_lists = isinstance(batch[columns[0]], list)
        return {**batch} | {
            name: values.to_pylist() if as_lists else values.to_numpy(zero_copy_only=False)
            for name, values in added.items()
        }

    def _check_columns(self, names: Sequence[str]) -> None:
        for name in self.text_column:
            if names.count(name) != 1:
                found = f"{names.count(name)}" if name in names else f"only {abridged([*map(repr, names)], 30)}"
                raise DataError(f"batch: expected one column {name!r} (text_column), found {found}")
        if taken := [name for name in self.outputs if name in names]:
            raise DataError(
                f"batch: expected no column {taken[0]!r}, as predictions go there, found one: rename it, or leave it "
                f"out of outputs={self.outputs}"
            )

    def _predicted(self, texts: Any, rank: int | None) -> dict[str, Any]:
        """Return the added columns as Arrow arrays."""
        import pyarrow as pa

        all_scores = not {*self.outputs} <= {"label", "score", "labels", "scores"}
        rows = self._classifier(rank).batches(texts, text_column=[*self.text_column])
        parts = [predicted.columns(all_scores=all_scores) for predicted in rows]
        if unknown := [name for name in self.outputs if name not in parts[0]]:
            given = abridged([*parts[0]], 10)
            raise SettingError(f"outputs={self.outputs}: expected of {given}, found {unknown[0]!r}")
        return {name: pa.concat_arrays([part[name] for part in parts]) for name in self.outputs}

    def _classifier(self, rank: int | None) -> Classifier:
        key, device = str(self.source), None
        if rank is not None and (accelerator := torch.accelerator.current_accelerator(check_available=True)):
            device = f"{accelerator.type}:{rank % torch.accelerator.device_count()}"
        with _lock:
            saved, classifier = _loaded.get((key, device), (None, None))
            if classifier is None or saved != self.saved:
                if _stamp(key) != self.saved:
                    raise RunFolderError(
                        f"{key}: expected the classifier that was there when the worker was made, found another: make "
                        "a new worker"
                    )
                classifier = Classifier.load(key, device=device)
                _loaded[key, device] = self.saved, classifier
            return classifier


def _names(value: str | Sequence[str]) -> tuple[str, ...]:
    return (value,) if isinstance(value, str) else tuple(value)


def _stamp(source: str | Path) -> str | None:
    return None if is_hub_source(source) else stamp_of(saved_folder(local_folder(source, None, None)))
