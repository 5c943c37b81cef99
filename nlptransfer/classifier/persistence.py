"""How a classifier lies in a folder: nlptransfer.json, and where the folder is. Does not load models."""

import hashlib
import json
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from nlptransfer.data import NORMALIZATIONS, Labels
from nlptransfer.errors import DataError, RunFolderError, SettingError, abridged
from nlptransfer.files import content_stamp, file_hash, named_path, read_json, without_leftovers, write_json
from nlptransfer.hub import CARD, RECORD, fetch, is_hub_id
from nlptransfer.routes import ROUTES
from nlptransfer.settings import Count, NonNegative, check, convert, fill
from nlptransfer.storage import storage_errors

if TYPE_CHECKING:
    from nlptransfer.routes import SavedFormat

_STAMP = "sha256"
"""Key of the hash of all other content."""
_MOST_LISTED = 3
"""Classifiers of a folder that an error names."""
_FIELDS: dict[str, Any] = {
    "route": str,
    "settings": dict[str, Any],
    "labels": list[str],
    "multi_label": bool,
    "thresholds": list[float] | None,
    "normalization": str,
    "max_length": Count,
    "text_columns": list[str],
    "base": dict[str, Any],
    "verified": dict[str, Any] | None,
    "files": dict[str, str] | None,
}
"""Type of each field that is read when a classifier is opened."""
_VERIFIED: dict[str, Any] = {"texts": list[str], "logits": list[list[float]], "tolerance": NonNegative}
_REPAIR = "it is damaged or was changed: fetch it again, or save it anew"


@dataclass(frozen=True)
class SavedRecord:
    """What nlptransfer.json says: all that the weights and the config do not."""

    route: "SavedFormat"
    labels: Labels
    thresholds: tuple[float, ...] | None
    normalization: str
    max_length: int
    """tokens, or words, that are read of a text, or at once"""
    text_columns: tuple[str, ...] = ()
    """columns of the texts in training"""
    further: dict[str, Any] = field(default_factory=dict)
    """base, calibration, results, ..., by their keys in the file"""
    verified: dict[str, Any] | None = None
    """what was compared when it was saved, see verification.py"""
    files: Mapping[str, str] | None = None
    """sha256 of each other file in the folder by its name, but of the card; None where an older nlptransfer saved it"""

    def as_json(self) -> dict[str, Any]:
        return {
            "route": self.route.name,
            "settings": self.route.recorded(),
            "labels": list(self.labels.names),
            "multi_label": self.labels.multi_label,
            "thresholds": None if self.thresholds is None else list(self.thresholds),
            "normalization": self.normalization,
            "max_length": self.max_length,
            "text_columns": list(self.text_columns),
            **self.further,
            "verified": self.verified,
            **({} if self.files is None else {"files": dict(self.files)}),
        }

    @classmethod
    def of_json(cls, content: Mapping[str, Any], place: Path) -> "SavedRecord":
        """Read the content of the file; raise a RunFolderError where a newer nlptransfer has saved it."""
        from nlptransfer.classifier.onnx import Exported

        name, normalization = content["route"], content["normalization"]
        try:
            kind = Exported if name == Exported.name else ROUTES.find(name)
            route = fill({"route": kind}, content["settings"])["route"]
            known = f"one of {', '.join(NORMALIZATIONS)}"
            check(normalization in NORMALIZATIONS, "normalization", normalization, known)
        except SettingError as error:
            raise RunFolderError(f"{place}: {error}: upgrade nlptransfer, as a newer one has saved this") from error
        thresholds = content["thresholds"]
        record = cls(
            route,
            Labels(tuple(content["labels"]), content["multi_label"]),
            None if thresholds is None else tuple(thresholds),
            normalization,
            content["max_length"],
            # Folders from before it was saved have none.
            tuple(content.get("text_columns", ())),
            verified=content.get("verified"),
            files=content.get("files"),
        )
        fields = {*record.as_json(), _STAMP}
        return replace(record, further={name: value for name, value in content.items() if name not in fields})

    @classmethod
    def read(cls, folder: Path) -> "SavedRecord":
        """Read the file in a folder; a RunFolderError where it is not as it was saved."""
        with _as_saved(folder / RECORD) as place:
            return cls.of_json(_content(place), place)

    def check_files(self, folder: Path) -> None:
        """Raise a RunFolderError for the first file that is missing or not as it was saved."""
        for name, expected in (self.files or {}).items():
            if not (folder / name).is_file():
                raise RunFolderError(f"{folder / name}: expected the file that was saved, found none: {_REPAIR}")
            if (found := file_hash(folder / name)) != expected:
                what = f"sha256 {expected[:12]}..., as it was saved, found {found[:12]}..."
                raise RunFolderError(f"{folder / name}: expected {what}: {_REPAIR}")

    def write(self, folder: Path) -> None:
        """Write the file, with the hashes of all others in the folder."""
        others = {path.relative_to(folder).as_posix(): path for path in sorted(folder.rglob("*")) if path.is_file()}
        files = {name: file_hash(path) for name, path in others.items() if name not in (RECORD, CARD)}
        content = replace(self, files=files).as_json()
        write_json(folder / RECORD, content | {_STAMP: _stamp(content)})


@contextmanager
def _as_saved(place: Path) -> Iterator[Path]:
    """Raise a RunFolderError for what is not as it was saved."""
    try:
        yield place
    except (ValueError, KeyError, TypeError, AttributeError, OSError, DataError, SettingError) as error:
        found = f"no {error}" if isinstance(error, KeyError) else str(error)
        raise RunFolderError(f"{place}: expected what nlptransfer saved there, found {found}: {_REPAIR}") from error


def _content(place: Path) -> dict[str, Any]:
    content = dict(read_json(place))
    if "files" in content and content.pop(_STAMP, None) != _stamp(content):
        raise ValueError("other content than was saved")
    _check_types(content)
    return content


def saved_task(source: str | Path) -> tuple[Labels, tuple[str, ...]] | None:
    """Return the labels and text columns of a classifier that is saved here, without opening it; None on the hub."""
    if is_hub_source(source):
        return None
    with storage_errors(source, "read"), _as_saved(saved_folder(local_folder(source, None, None)) / RECORD) as place:
        content = _content(place)
        return Labels(tuple(content["labels"]), content["multi_label"]), tuple(content.get("text_columns", ()))


def _check_types(content: Mapping[str, Any]) -> None:
    """Raise an error for values of other types than are written."""
    verified = content.get("verified") or {"texts": [], "logits": []}
    for fields, values in ((_FIELDS, content), (_VERIFIED, verified)):
        for name in fields.keys() & values.keys():
            convert(name, values[name], fields[name])
    texts, logits = verified["texts"], verified["logits"]
    if len(texts) != len(logits) or {*map(len, logits)} - {len(content["labels"])}:
        raise ValueError("logits that are not one for each text and label")


def _stamp(content: Mapping[str, Any]) -> str:
    return hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()


def stamp_of(folder: Path) -> str:
    """Return a hash of all that a saved classifier is; of one that an older nlptransfer saved, of samples of it."""
    return str(read_json(folder / RECORD).get(_STAMP) or content_stamp(folder))


def note_results(folder: Path, results: Mapping[str, Any]) -> None:
    """Add to the record of a saved classifier how it was made and its scores, for its model card."""
    record = SavedRecord.read(folder)
    results = {**record.further.get("results", {}), **results}
    replace(record, further={**record.further, "results": results}).write(folder)


def writable_folder(folder: str | Path) -> Path:
    """Return a folder to save to; raise a RunFolderError where it holds something else than a saved classifier."""
    folder = named_path(folder)
    if (
        folder.exists()
        and not (folder / RECORD).exists()
        and (not folder.is_dir() or any(without_leftovers(folder).iterdir()))
    ):
        raise RunFolderError(f"{folder}: expected a new folder or a saved classifier, found other files: name another")
    return folder


def saved_folder(folder: Path) -> Path:
    """Return the folder of a saved classifier, given it or its run's; raise a RunFolderError where there is none."""
    for place in _places(folder):
        if (place / RECORD).exists():
            return place
    # A comparison has those of its candidates.
    inside = sorted(str(place.parents[1]) for depth in ("*", "*/*") for place in folder.glob(f"{depth}/model/{RECORD}"))
    listed = f": give one that is in it: {abridged(inside, _MOST_LISTED)}" if inside else ""
    raise RunFolderError(
        f"{folder}: expected a saved classifier, found no {RECORD}"
        + (listed or ": give a run's folder, its model folder or a hub id (owner/name)")
    )


def is_saved(source: str | Path) -> bool:
    """Tell whether a source is the folder of a saved classifier, or of a run that has one."""
    return any((place / RECORD).exists() for place in _places(named_path(source)))


def _places(folder: Path) -> tuple[Path, Path]:
    return folder, folder / "model"


def is_hub_source(source: str | Path) -> bool:
    """Tell whether a source is a hub id, and no folder or graph."""
    folder = named_path(source)
    named = isinstance(source, str) and "/" in source and is_hub_id(source)
    return named and folder.suffix != ".onnx" and not folder.exists()


def local_folder(source: str | Path, revision: str | None, token: str | None) -> Path:
    """Return where a classifier lies: here, or in the cache after it was fetched from the hub."""
    if is_hub_source(source):
        return fetch(str(source), revision, token)
    folder = named_path(source)
    if folder.suffix == ".onnx":
        return folder.parent
    check(revision is None, "revision", revision, "none, as a local folder has no revisions")
    return folder
