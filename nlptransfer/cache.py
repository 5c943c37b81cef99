"""Folders of what can be made anew: where they are damaged it is, and where the cache cannot be written it stays out.

Each is sealed by a file that notes size, sha256 and state of the others. This file does not know what they hold.
"""

import atexit
import logging
import os
from collections.abc import Callable
from contextlib import ExitStack, suppress
from pathlib import Path
from typing import TypeVar

from nlptransfer.errors import NlpTransferError, StorageError
from nlptransfer.files import SEAL, atomic_folder, file_hash, read_json, scratch_folder, temporary_root, write_json

log = logging.getLogger("nlptransfer")

Opened = TypeVar("Opened")
_elsewhere: dict[Path, Path] = {}
"""By places in the cache, which cannot be written, what stands in for them until this process ends."""
_until_exit = ExitStack()
atexit.register(_until_exit.close)
_warned: set[Path] = set()


def cache_folder(kind: str) -> Path:
    """Return the folder of one kind of cache: in that of Hugging Face, so that ``HF_HOME`` moves it too."""
    default = Path(os.environ.get("XDG_CACHE_HOME") or "~/.cache") / "huggingface"
    return Path(os.environ.get("HF_HOME") or default).expanduser() / "nlptransfer" / kind


def cached_entry(folder: Path, name: str, make: Callable[[Path], object], opened: Callable[[Path], Opened]) -> Opened:
    """Open a folder of the cache, which ``make`` fills the first time, and again where it is damaged, with a warning.

    Where the cache cannot be written a temporary folder stands in for it until the process ends. What ``opened``
    refuses by an NlpTransferError is made anew, too.
    """
    if (entry := open_entry(folder, name, opened)) is not None:
        return entry
    try:
        with suppress(_MadeMeanwhile), atomic_folder(folder) as new:
            make(new)
            seal(new)
            if os.path.lexists(folder):
                check_seal(folder)
                raise _MadeMeanwhile
    except StorageError as error:
        warn_of_cache(error)
        with ExitStack() as stack:
            instead = stack.enter_context(scratch_folder(temporary_root() / folder.name))
            make(instead)
            _until_exit.push(stack.pop_all())
        _elsewhere[folder] = instead
        return opened(instead)
    return opened(folder)


def open_entry(folder: Path, name: str, opened: Callable[[Path], Opened]) -> Opened | None:
    """Open a sealed folder; None where there is none, or it is damaged and so removed, with a warning."""
    if folder in _elsewhere:
        return opened(_elsewhere[folder])
    if (found := _identity(folder)) is None:
        return None
    try:
        check_seal(folder)
        return opened(folder)
    except (NlpTransferError, FileNotFoundError) as error:
        if _identity(folder) != found:  # another process has removed it or put another one there
            return open_entry(folder, name, opened)
        log.warning("%s: the copy in the cache is damaged, and is made anew (%s)", name, error)
        remove(folder)
    return None


def entries(prefix: Path) -> list[Path]:
    """Return the folders of the cache whose names begin so, what stands in for them included."""
    instead = (folder for folder in _elsewhere if str(folder).startswith(str(prefix)))
    return sorted({*prefix.parent.glob(f"{prefix.name}*"), *instead})


class _MadeMeanwhile(Exception):
    """Another process was faster, and what it has made is as good."""


def seal(folder: Path) -> None:
    """Note all other files in a folder, so that :func:`check_seal` sees what is changed later."""
    files = [file for file in sorted(folder.rglob("*")) if file.is_file() and file != folder / SEAL]
    noted = {file: {"state": _state(file), "sha256": file_hash(file)} for file in files}
    write_json(folder / SEAL, {file.relative_to(folder).as_posix(): known for file, known in noted.items()})


def check_seal(folder: Path) -> None:
    """Raise a StorageError unless all files are as they were when they were sealed.

    A file is hashed only where its size, time or inode are others than when it was hashed last: hashing word vectors
    whole takes longer than all else that is done with them. So bytes that change without any of these, as those of a
    failing disk may, are not seen.
    """
    try:
        noted, has_moved = read_json(folder / SEAL), False
        for name, known in noted.items():
            if (state := _state(folder / name)) == known["state"]:
                continue
            if state[0] != known["state"][0] or file_hash(folder / name) != known["sha256"]:
                raise ValueError(f"{name} is not as it was written")
            known["state"], has_moved = state, True
        if not noted:
            raise ValueError(f"{SEAL} is empty")
    except FileNotFoundError as error:
        raise StorageError(f"{folder}: damaged: {Path(error.filename).name} is missing") from error
    except (OSError, ValueError, KeyError, TypeError, AttributeError, StorageError) as error:
        raise StorageError(f"{folder}: damaged: {error}") from error
    if has_moved:
        with suppress(StorageError):  # where a cache may only be read, each process hashes anew
            write_json(folder / SEAL, noted)


def _state(file: Path) -> list[int]:
    stat = file.stat()
    return [stat.st_size, stat.st_mtime_ns, stat.st_ino]


def _identity(place: Path) -> tuple[int, int] | None:
    try:
        stat = place.lstat()
    except OSError:
        return None
    return stat.st_dev, stat.st_ino


def remove(place: Path) -> None:
    """Remove a folder, or what is in its place, at once; it stays where that cannot be done."""
    # Another process that reads it must not see a part of it.
    with suppress(OSError, StorageError), scratch_folder(place) as scratch:
        os.replace(place, scratch / place.name)


def warn_of_cache(error: StorageError) -> None:
    """Say once of a cache that it cannot be written."""
    if (root := cache_folder("")) not in _warned:
        _warned.add(root)
        log.warning("The cache cannot be written, so each command computes anew what it would hold (%s)", error)
