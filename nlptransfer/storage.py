"""Say in one line what storage refuses: no room, no permission, something else in a place."""

import errno
import os
import re
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from nlptransfer.errors import NlpTransferError, StorageError

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
    errno.EEXIST: "something else is in its place: move it away or name another place",
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


def is_refusal(error: Exception) -> bool:
    """Tell whether an error is one that :func:`storage_errors` turns into its own."""
    return _refused(error) is not None


def _stands_for(place: Path, path: Path) -> bool:
    return place.is_relative_to(path) or path.is_relative_to(place) or ".nlptransfer-" in str(place)


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
