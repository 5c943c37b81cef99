"""Write files whole or not at all, and stamp their content."""

import errno
import hashlib
import json
import os
import platform
import re
import shutil
import tempfile
import zlib
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

from nlptransfer.errors import NlpTransferError, RunFolderError, SettingError, StorageError, first_line
from nlptransfer.locks import Holder, is_running, started
from nlptransfer.storage import storage_errors

if TYPE_CHECKING:
    from jinja2 import Environment

SEAL = "whole.json"
"""Name of what :mod:`nlptransfer.cache` notes of the other files in a folder."""
_TEMPORARY = re.compile(r"\..*\.nlptransfer-([0-9a-f]{8})-(\d+)-(\d+)-\w{8}(\..*)?", re.DOTALL)
"""Names of temporary files and folders: of what, machine, process id, when it was started, and what makes it unique."""

_OLD = ".old"
"""Name of a folder that steps aside for a new one."""


@contextmanager
def atomic_file(path: str | Path) -> Iterator[Path]:
    """Yield a temporary path beside ``path``; rename it to ``path`` on success, remove it on failure.

    What killed processes have left there is removed.
    """
    path = Path(path)
    with storage_errors(path):
        handle, name = tempfile.mkstemp(dir=without_leftovers(path.parent), prefix=_temporary_prefix(path))
        os.close(handle)
        temporary = Path(name)
        try:
            yield temporary
            # mkstemp makes private files.
            temporary.chmod(_usual_mode(0o666))
            os.replace(temporary, path)
        finally:
            temporary.unlink(missing_ok=True)


@contextmanager
def atomic_folder(path: str | Path) -> Iterator[Path]:
    """Yield a temporary folder beside ``path``; it takes the place of ``path`` on success only."""
    path = Path(path)
    with scratch_folder(path) as scratch:
        new, old = scratch / path.name, scratch / _OLD
        new.mkdir()
        yield new
        # safetensors makes private files.
        for place in new.rglob("*"):
            place.chmod(_usual_mode(0o777 if place.is_dir() else 0o666))
        # A folder cannot be renamed over a full one: the old one steps aside first.
        try:
            if path.exists():
                os.replace(path, old)
            os.replace(new, path)
        except BaseException:
            if old.exists() and not path.exists():
                os.replace(old, path)
            raise


@contextmanager
def scratch_folder(path: str | Path) -> Iterator[Path]:
    """Yield an empty folder beside ``path``, and remove it; what killed processes have left there is removed too."""
    path = Path(path)
    with storage_errors(path):
        place, prefix = without_leftovers(path.parent), _temporary_prefix(path)
        with tempfile.TemporaryDirectory(dir=place, prefix=prefix, ignore_cleanup_errors=True) as scratch:
            yield Path(scratch)


def temporary_root() -> Path:
    """Return the folder of temporary files; a StorageError where there is none."""
    try:
        return Path(tempfile.gettempdir())
    except FileNotFoundError as error:
        raise StorageError(f"{error.strerror}: set TMPDIR to a folder that can be written") from error


def _temporary_prefix(path: Path) -> str:
    # A name has at most 255 bytes, and a character up to four.
    return f".{path.name[:50]}.nlptransfer-{_machine()}-{os.getpid()}-{started():.0f}-"


def _machine(host: str | None = None) -> str:
    return f"{zlib.crc32((host or platform.node()).encode()):08x}"


def without_leftovers(folder: Path, ended: Holder | None = None) -> Path:
    """Return a folder, made where it is missing, without the temporary files of dead processes of this machine.

    Nor those of ``ended``, a process of another machine that is no longer there, as the caller knows.
    """
    folder.mkdir(parents=True, exist_ok=True)
    over = None if ended is None else (_machine(ended.host), str(ended.pid), f"{ended.started:.0f}")
    for path in folder.iterdir():
        name = _TEMPORARY.fullmatch(path.name)
        if name is None:
            continue
        if name.groups()[:3] == over or (name[1] == _machine() and not is_running(int(name[2]), int(name[3]))):
            with suppress(OSError):  # another process was faster, or another user's must stay
                _remove_leftover(path)
    return folder


def _remove_leftover(path: Path) -> None:
    if (path / _OLD).exists():
        # It was killed between two renames, of the old folder and of the new one: that is whole.
        for new in path.iterdir():
            if new.name != _OLD and not (place := path.with_name(new.name)).exists():
                os.replace(new, place)
    shutil.rmtree(path) if path.is_dir() else path.unlink()


def _usual_mode(mode: int) -> int:
    """Return a mode less what the user's umask takes away."""
    umask = os.umask(0)
    os.umask(umask)
    return mode & ~umask


@contextmanager
def no_empty_folder(path: Path) -> Iterator[None]:
    """Remove a folder that was made within this block where an error leaves it empty."""
    existed = path.exists()
    try:
        yield
    except BaseException:
        if not existed:
            with suppress(OSError):  # it holds something, or was never made
                path.rmdir()
        raise


def write_json(path: str | Path, value: Any) -> None:
    """Write ``value`` as indented UTF-8 JSON, atomically; a ValueError for NaN or infinity, which JSON has not."""
    text = json.dumps(value, indent=2, ensure_ascii=False, allow_nan=False)
    with atomic_file(path) as temporary:
        temporary.write_text(text + "\n", encoding="utf-8")


def read_json(path: str | Path) -> Any:
    """Read a file of UTF-8 JSON; a ValueError for anything else."""
    try:
        with storage_errors(path, "read"):
            return json.loads(Path(path).read_text(encoding="utf-8"))
    except RecursionError as error:
        raise ValueError("JSON that is nested too deep to be read") from error


@contextmanager
def as_written(folder: Path, repair: str) -> Iterator[None]:
    """Raise a RunFolderError, with how to repair it, where what this block reads there is damaged or missing."""
    try:
        with storage_errors(folder, "read"):
            yield
    except (NlpTransferError, MemoryError):
        raise
    except Exception as error:  # pyarrow, safetensors and torch raise kinds of their own
        found = f"it damaged ({first_line(error):.200})"
        if isinstance(error, FileNotFoundError) and error.filename:
            found = f"no {Path(error.filename).name}"
        raise RunFolderError(f"{folder}: expected what was written there, found {found}: {repair}") from error


def named_path(name: str | Path) -> Path:
    """Return the path that a user names, "~" being home; a SettingError for what can be none: too long, with a NUL."""
    try:
        path = Path(os.path.expanduser(name))
        path.lstat()
        return path
    except OSError as error:
        if error.errno != errno.ENAMETOOLONG:
            return path
        reason = error.strerror
    except ValueError as error:  # of a NUL, or half a character
        reason = str(error)
    raise SettingError(f"{str(name)[:80]!r}: expected a path or a name, found {reason}: check the name")


def is_there(name: str | Path) -> bool:
    """Tell whether what a user wrote is the path of something here."""
    try:
        return os.path.exists(named_path(name))
    except SettingError:
        return False


def size_mb(folder: str | Path) -> float:
    """Return the size on disk of a file or a whole folder, in MiB."""
    files = [Path(folder), *Path(folder).rglob("*")]
    return sum(file.stat().st_size for file in files if file.is_file()) / 2**20


def content_stamp(path: str | Path) -> str:
    """Hash the sizes and bytes of a file, or of the files of a folder; those above 4 MiB in 64 places alone."""
    with storage_errors(path, "read"):
        return _sampled(Path(path))


def _sampled(path: Path) -> str:
    digest = hashlib.sha256()
    for file in sorted(path.iterdir()) if path.is_dir() else [path]:
        if not file.is_file() or file.name == SEAL:
            continue
        size = file.stat().st_size
        if path.is_dir():
            digest.update(file.name.encode("utf-8", "surrogateescape"))
        digest.update(size.to_bytes(8, "little"))
        with file.open("rb") as stream:
            for place in range(0, size, max(2**16, size // 64)):
                stream.seek(place)
                digest.update(stream.read(2**16))
    return digest.hexdigest()


def file_hash(file: Path) -> str:
    """Return the sha256 of a file in hexadecimal, computed once as long as it stays as it is."""
    with storage_errors(file, "read"):
        stat = file.stat()
        return _sha256_of(file.resolve(), stat.st_size, stat.st_mtime_ns)


@cache
def _sha256_of(file: Path, size: int, mtime_ns: int) -> str:
    with file.open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()


def templates(filters: Mapping[str, Callable[..., Any]]) -> "Environment":
    """Open the package's templates, which escape what is put into them, with these filters."""
    from jinja2 import Environment, FileSystemLoader, StrictUndefined

    environment = Environment(
        loader=FileSystemLoader(Path(__file__).with_name("templates")),
        undefined=StrictUndefined,
        autoescape=True,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters |= filters
    return environment
