"""Files of rows whose predictions go to a file each, and what is said beside those. Does not know who predicts.

Beside an output lies its marker, a hidden file that says what the output is made of: hashes of the input and of the
classifier, and the options that decide what is in it. The marker comes first, and the output whole: where both are
there, the part is done.
"""

import json
import logging
import os
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Annotated, Any, Literal

from annotated_types import Interval

from nlptransfer.claims import holder_of
from nlptransfer.classifier.classifier import Classifier
from nlptransfer.classifier.onnx import Exported
from nlptransfer.classifier.persistence import SavedRecord, local_folder, saved_folder, stamp_of
from nlptransfer.data import FileSettings, Names, name_of_part, parts_of
from nlptransfer.errors import DataError, NlpTransferError, RunFolderError, StorageError, abridged
from nlptransfer.files import content_stamp, named_path, read_json, write_json
from nlptransfer.locks import Holder
from nlptransfer.settings import Count, as_text, check, check_arguments, fill
from nlptransfer.storage import storage_errors

log = logging.getLogger("nlptransfer")

Format = Literal["parquet", "csv", "tsv", "jsonl"]
_FAILED = "failed"
_DAMAGED = "a damaged marker"


@dataclass(frozen=True)
class Part:
    """A file of rows, and the file that they go to with their labels."""

    source: Path
    output: Path

    @property
    def marker(self) -> Path:
        """The file that says what the output is made of."""
        return self.output.with_name(f".{self.output.name}.json")

    @property
    def claim(self) -> Path:
        """Where a worker claims the part."""
        return self.output.with_name(f".{self.output.name}.claim")


@dataclass(frozen=True)
class PartState:
    """How far a part is."""

    part: Part
    status: Literal["done", "at work", "failed", "to do"]
    note: str = ""
    """who is at work on it, or why it failed"""


@dataclass(frozen=True)
class Plan:
    """What is to be predicted, and by what."""

    parts: tuple[Part, ...]
    model: Path
    """the folder of a saved classifier"""
    made_of: dict[str, Any]
    """what a marker says of the classifier and the options"""
    options: dict[str, Any]
    """those of ``Classifier.predict_file``"""
    base: str | None
    device: str | None
    is_onnx: bool

    def states(self) -> list[PartState]:
        """Return the state of each part; a RunFolderError for an output that is made of something else."""
        return [*map(self.state, self.parts)]

    def state(self, part: Part) -> PartState:
        # In this order, as the marker of an output is there before it is.
        with storage_errors(part.output, "read"):
            is_there, marker = part.output.exists(), _read(part.marker)
        if is_there:
            self._check(part, marker)
            return PartState(part, "done")
        if (holder := holder_of(part.claim)) is not None and not holder.has_ended:
            return PartState(part, "at work", str(holder))
        if reason := self.failure(part):
            return PartState(part, "failed", reason[0])
        return PartState(part, "to do")

    def failure(self, part: Part) -> tuple[str, str] | None:
        """Return why a part has failed, and whose failure it was, if it has."""
        failed = (_read(part.marker) or {}).get(_FAILED)
        return None if failed is None else (str(failed["error"]), str(failed["worker"]))

    def mark(self, part: Part) -> int:
        """Write the marker of an output that is to come, and return the bytes of the input."""
        try:
            with storage_errors(part.source, "read"):
                stat, stamp = part.source.stat(), content_stamp(part.source)
        except (StorageError, FileNotFoundError) as error:
            raise DataError(str(error)) from error
        rows = {"name": part.source.name, "bytes": stat.st_size, "mtime_ns": stat.st_mtime_ns, "sha256": stamp}
        write_json(part.marker, {"input": rows, **self.made_of})
        return stat.st_size

    def mark_failed(self, part: Part, error: NlpTransferError) -> None:
        """Write a marker that says why a part has failed."""
        failed = {"error": str(error), "worker": str(Holder.of_this_process())}
        write_json(part.marker, {**self.made_of, _FAILED: failed})

    def load(self, number: int) -> Classifier:
        """Open the classifier as the worker of a number on this machine, on a GPU of its turn."""
        import torch

        device = self.device
        if device is None and not self.is_onnx:
            gpu = torch.accelerator.current_accelerator(check_available=True)
            device = "cpu" if gpu is None else f"{gpu.type}:{number % torch.accelerator.device_count()}"
        return Classifier.load(self.model, self.base, device=device)

    def _check(self, part: Part, marker: dict[str, Any] | None) -> None:
        if marker is None:
            raise RunFolderError(
                f"{part.output}: expected no file, or one that was predicted here, found one without a marker: move it "
                "away, or name another output_dir"
            )
        try:
            others = self._differences(part, marker)
        except (KeyError, TypeError, AttributeError):
            others = [_DAMAGED]
        if others:
            raise RunFolderError(
                f"{part.output}: expected what is to be predicted now, found {abridged(others, 3)}: remove it, or name "
                "another output_dir"
            )

    def _differences(self, part: Part, marker: dict[str, Any]) -> list[str]:
        found = [] if marker["model"] == self.made_of["model"] else ["labels of another model"]
        then, now = marker["options"], self.made_of["options"]
        for name in sorted({*then, *now}):
            if then.get(name) != now.get(name):
                found.append(f"{name}={as_text(then.get(name))} and not {as_text(now.get(name))}")
        rows, stat = marker["input"], part.source.stat()
        # A copy of the same bytes is the same input; without a new time nobody changes a file but on purpose.
        is_same = rows["bytes"] == stat.st_size and (
            rows["mtime_ns"] == stat.st_mtime_ns or rows["sha256"] == content_stamp(part.source)
        )
        return found if is_same else [*found, f"other rows than {part.source} has now"]


def plan_parts(
    source: str | Path,
    inputs: str | Path | Sequence[str | Path],
    output_dir: str | Path,
    *,
    shard: tuple[int, int] | None = None,
    format: Format = "parquet",
    base: str | None = None,
    device: str | None = None,
    revision: str | None = None,
    text_column: Names = None,
    min_confidence: Annotated[float, Interval(ge=0, le=1)] = 0.0,
    top_k: Count | None = None,
    all_scores: bool = False,
    raw_cells: bool = False,
    batch_size: Count | None = None,
    **reading: Any,
) -> Plan:
    """Find the parts of a shard, and what they are predicted by; see ``predict_parts``."""
    check_arguments(plan_parts, format=format, min_confidence=min_confidence, top_k=top_k, batch_size=batch_size)
    read = asdict(fill({"file": FileSettings}, reading)["file"])
    labels = {"text_column": text_column, "min_confidence": min_confidence, "top_k": top_k, "all_scores": all_scores}
    options = {name: value for name, value in (labels | {"raw_cells": raw_cells}).items() if value}
    options |= {name: value for name, value in read.items() if value is not None}
    folder = local_folder(source, revision, None)
    with storage_errors(source, "read"):
        folder = saved_folder(folder)
        record = SavedRecord.read(folder)
        # As JSON has them.
        made_of = json.loads(json.dumps({"model": stamp_of(folder), "options": options}))
    parts = _found(inputs, named_path(output_dir), format)
    if shard is not None:
        is_one = len(shard) == 2 and 0 <= shard[0] < shard[1]
        check(is_one, "shard", shard, "its number from 0 and how many there are, as 3/16 or (3, 16)")
        parts = parts[shard[0] :: shard[1]]
    is_onnx = record.route.name == Exported.name
    return Plan(parts, folder, made_of, options | {"batch_size": batch_size}, base, device, is_onnx)


def _found(inputs: str | Path | Sequence[str | Path], output_dir: Path, format: str) -> tuple[Part, ...]:
    """Return the parts in the order of their names, which are the same on every machine.

    Below ``output_dir`` lie the folders that lie below the folder that all inputs have in common.
    """
    named = [named_path(each) for each in ([inputs] if isinstance(inputs, (str, Path)) else inputs)]
    if not named:
        raise DataError("expected files of rows, or folders of them, found none: name some")
    roots, files = list[str](), dict[str, Path]()
    for path in named:
        if not path.exists():
            raise DataError(f"{path}: expected a file of rows, or a folder of them, found none: check the path")
        roots.append(os.path.abspath(path if path.is_dir() else path.parent))
        if path.is_dir() and Path(os.path.abspath(output_dir)).is_relative_to(roots[-1]):
            raise DataError(f"{output_dir}: expected a folder that is not within {path}, which is read: name another")
        some, others = parts_of(path) if path.is_dir() else ([path], [])
        if not some:
            raise DataError(f"{path}: expected files of rows, found none: name a folder that has some")
        if others:
            log.info(
                "%s: these files are not read: %s",
                path,
                abridged([str(other.relative_to(path)) for other in others], 5),
            )
        files |= {os.path.abspath(file): file for file in some}
    root, parts = os.path.commonpath(roots), dict[Path, Part]()
    for place, file in sorted(files.items()):
        inner = Path(os.path.relpath(place, root))
        output = output_dir / inner.with_name(f"{name_of_part(file)}.{format}")
        if output in parts:
            raise DataError(
                f"{parts[output].source}, {file}: expected files of other names, found that both go to {output}: "
                "rename one, or give each an output_dir"
            )
        if os.path.abspath(output) in files:
            raise DataError(f"{output}: expected an output that is not an input: name another output_dir")
        parts[output] = Part(file, output)
    return tuple(parts.values())


def _read(marker: Path) -> dict[str, Any] | None:
    """Read a marker; None where there is none."""
    try:
        content = read_json(marker)
    except FileNotFoundError:
        return None
    except ValueError:
        content = None
    return content if isinstance(content, dict) else {}
