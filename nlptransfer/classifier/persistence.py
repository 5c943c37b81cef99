"""Open a saved classifier: its record, its folder, and the route that it was made by."""

from collections.abc import Collection, Mapping
from pathlib import Path
from typing import Any

from nlptransfer.classifier.onnx import Exported
from nlptransfer.errors import RunFolderError
from nlptransfer.files import read_json, write_json
from nlptransfer.hub import fetch, is_hub_id
from nlptransfer.routes import ROUTES, SavedFormat
from nlptransfer.settings import check, fill

RECORD = "nlptransfer.json"


def note_results(folder: Path, results: Mapping[str, Any]) -> None:
    """Add to the record of a saved classifier how it was made and what it scores, for its model card."""
    record = read_json(folder / RECORD)
    told = record.pop("verified")
    write_json(folder / RECORD, {**record, "results": {**record.get("results", {}), **results}, "verified": told})


def ours(folder: str | Path) -> Path:
    """A folder to save to.

    Raises:
        RunFolderError: it holds something that is not a saved classifier.
    """
    folder = Path(folder)
    if folder.exists() and not (folder / RECORD).exists() and (not folder.is_dir() or any(folder.iterdir())):
        raise RunFolderError(f"{folder}: expected a new folder or a saved classifier, found other files: name another")
    return folder


def saved_folder(folder: Path) -> Path:
    """The folder of a saved classifier, given it or its run's."""
    found = next((place for place in (folder, folder / "model") if (place / RECORD).exists()), None)
    if found is None:
        raise RunFolderError(
            f"{folder}: expected a saved classifier, found no {RECORD}: give a run's folder, its model folder or a hub "
            "id (owner/name)"
        )
    return found


def route_of(record: Mapping[str, Any]) -> SavedFormat:
    """Return the route of a record, or what a classifier in ONNX has in place of one."""
    name = record["route"]
    kind = Exported if name == Exported.name else ROUTES.find(name)
    return fill({"route": kind}, record["settings"])["route"]


def local_folder(source: str | Path, revision: str | None, token: str | None) -> Path:
    """Where a classifier lies: here, or in the cache after it was fetched from the hub."""
    folder = Path(source).expanduser()
    if folder.suffix == ".onnx":
        return folder.parent
    if folder.exists() or isinstance(source, Path) or "/" not in source or not is_hub_id(source):
        check(revision is None, "revision", revision, "none, as a local folder has no revisions")
        return folder
    return fetch(source, revision, token)


def check_known(what: str, name: str, known: Collection[str], folder: Path) -> str:
    if name not in known:
        raise RunFolderError(
            f"{folder / RECORD}: expected a {what} among {', '.join(known)}, found {name!r}: upgrade nlptransfer, as a "
            "newer one has saved this"
        )
    return name
