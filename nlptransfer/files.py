"""Write files whole or not at all, stamp their content, and say in one line what storage refuses."""

import errno
import hashlib
import json
import os
import re
import tempfile
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, contextmanager, suppress
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

from nlptransfer.errors import NlpTransferError, StorageError

if TYPE_CHECKING:
    from jinja2 import Environment

SEAL = "whole.json"
"""Name of what :mod:`nlptransfer.cache` notes of the other files in a folder."""
_ROOM = "make room there or name another place, and give the same command again"
_PERMISSION = "change its permissions or name another place"
_OTHER_PLACE = "name another place"
_ADVICE = {
    errno.ENOSPC: _ROOM,
    errno.EDQUOT: _ROOM,
    errno.EFBIG: "raise the limit of a file's size (ulimit -f) or name another place",
    errno.EROFS: _PERMISSION,
    errno.EACCES: _PERMISSION,
    errno.EPERM: _PERMISSION,
    errno.ENAMETOOLONG: "take a shorter name",
    errno.EISDIR: "a folder is in the place of a file: move it away or name another place",
    errno.ENOTDIR: "a file is in the place of a folder: move it away or name another place",
    errno.EEXIST: _OTHER_PLACE,
    errno.ENOTEMPTY: _OTHER_PLACE,
    errno.EBUSY: _OTHER_PLACE,
    errno.EINVAL: _OTHER_PLACE,
    errno.ELOOP: _OTHER_PLACE,
    errno.EIO: "look after the disk, or name another place",
    errno.ESTALE: "look after the network's file system, or name another place",
    errno.EMFILE: "raise the limit of open files (ulimit -n)",
}
"""What to do by what the operating system refuses; its other errors are none of storage, or ours."""
# safetensors, tokenizers and shutil say it in their words alone; torch and numpy not even that.
_NUMBER = re.compile(r"(?:\(os error |\[Errno )(\d+)")
_PARTLY = re.compile(r"inline_container\.cc|iostream error|\d+ requested and \d+ written")


@contextmanager
def storage_errors(path: str | Path, what: str = "written") -> Iterator[None]:
    """Turn what storage refuses in this block, to whatever library, into a StorageError of one line.

    It names ``path``, unless the operating system names another place than that, the folders above it and the temporary
    one that becomes it. A file that is missing stays a FileNotFoundError.
    """
    try:
        yield
    except Exception as error:
        if (refused := _refused(error)) is None:
            raise
        reason, advice = refused
        # What is copied is named before what it is copied to.
        named = [getattr(error, name, None) for name in ("filename", "filename2")]
        places = [Path(place) for place in named if isinstance(place, (str, Path))]
        is_here = not places or any(_stands_for(place, Path(path)) for place in places)
        where = f"{path}: cannot be {what}" if is_here else str(places[-1])
        raise StorageError(f"{where}: {reason}: {advice}") from error


def _stands_for(place: Path, path: Path) -> bool:
    temporary = (part.startswith(f".{path.name}.") for part in place.parts)
    return place.is_relative_to(path) or path.is_relative_to(place) or any(temporary)


def _refused(error: Exception) -> tuple[str, str] | None:
    """Return in words what storage refuses, and what to do; None for any other error."""
    if isinstance(error, NlpTransferError):
        return None
    number = error.errno if isinstance(error, OSError) else None
    if number is None and (match := _NUMBER.search(str(error))):
        number = int(match[1])
    if number is None and isinstance(error, (OSError, RuntimeError)) and _PARTLY.search(str(error)):
        return "only a part of it could be written", _ROOM
    return None if number not in _ADVICE else (os.strerror(number), _ADVICE[number])


@contextmanager
def atomic_file(path: str | Path) -> Iterator[Path]:
    """Yield a temporary path beside ``path``; rename it to ``path`` on success, remove it on failure."""
    path = Path(path)
    with storage_errors(path):
        path.parent.mkdir(parents=True, exist_ok=True)
        handle, name = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.")
        os.close(handle)
    temporary = Path(name)
    try:
        with storage_errors(path):
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
    with ExitStack() as stack:
        with storage_errors(path):
            path.parent.mkdir(parents=True, exist_ok=True)
            made = tempfile.TemporaryDirectory(dir=path.parent, prefix=f".{path.name}.", ignore_cleanup_errors=True)
            scratch = Path(stack.enter_context(made))
        stack.enter_context(storage_errors(path))
        new, old = scratch / path.name, scratch / ".old"
        new.mkdir()
        yield new
        # safetensors makes private files.
        for place in new.rglob("*"):
            place.chmod(_usual_mode(0o777 if place.is_dir() else 0o666))
        # A folder cannot be renamed over a full one: the old one steps aside first.
        if path.exists():
            os.replace(path, old)
        try:
            os.replace(new, path)
        except OSError:
            if old.exists():
                os.replace(old, path)
            raise


@contextmanager
def scratch_folder() -> Iterator[Path]:
    """Yield a folder for temporary files, and remove it; a StorageError where they cannot be written."""
    with storage_errors(temporary_root()), tempfile.TemporaryDirectory(ignore_cleanup_errors=True) as folder:
        yield Path(folder)


def temporary_root() -> Path:
    """Return the folder of temporary files; a StorageError where there is none."""
    try:
        return Path(tempfile.gettempdir())
    except FileNotFoundError as error:
        raise StorageError(f"{error.strerror}: set TMPDIR to a folder that can be written") from error


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
