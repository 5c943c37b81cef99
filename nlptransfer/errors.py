"""Errors raised on purpose: what was expected, found, where, what to do. The command line exits with 2 on them."""

from collections.abc import Iterable, Sequence
from difflib import get_close_matches


class NlpTransferError(Exception):
    """Base class of all errors below."""


class SettingError(NlpTransferError):
    """A setting that is not known, or a value that makes no sense for it."""


class DataError(NlpTransferError):
    """Labeled text that cannot be read, mapped to text and label, or split."""


class VectorsError(NlpTransferError):
    """A file of word vectors that is broken, lies about its size, or would run code."""


class BaseModelError(NlpTransferError):
    """A pretrained model that cannot be found, or is not what it should be."""


class TrainingError(NlpTransferError):
    """Training, or prediction, that cannot go on."""


class RunFolderError(NlpTransferError):
    """A folder of a run or a classifier that does not fit what was asked."""


class VerificationError(NlpTransferError):
    """A saved, merged or loaded model that does not give what the live one gave."""


class StorageError(NlpTransferError):
    """A file or folder that cannot be written or read: no room, no permission, or something else in its place."""


class HubError(NlpTransferError):
    """The model hub cannot be reached, or refuses."""


def nearest(name: str, known: Iterable[str]) -> str:
    """Return a sentence that names the known name nearest to ``name``, or all of them."""
    names = sorted(known)
    close = get_close_matches(name, names, n=1, cutoff=0.6)
    return f"did you mean {close[0]!r}?" if close else f"known: {', '.join(names)}"


def abridged(parts: Sequence[str], most: int) -> str:
    """Join the first ``most`` parts by commas, and say how many more there are."""
    more = f" and {len(parts) - most} more" if len(parts) > most else ""
    return ", ".join(parts[:most]) + more


def first_line(error: BaseException) -> str:
    """Return the first line of another library's message, and the next where it announces that; or the error's kind."""
    first, *others = str(error).strip().splitlines() or [type(error).__name__]
    return f"{first} {others[0].strip()}" if first.endswith(":") and others else first
