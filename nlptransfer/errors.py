"""Every error that nlptransfer raises on purpose, one tree:

    NlpTransferError
    ├── SettingError        an unknown setting, or a value that makes no sense
    ├── DataError           labeled text that cannot be read, mapped or split
    ├── VectorsError        a file of word vectors that cannot be read or trusted
    ├── BaseModelError      a pretrained model that cannot be found or used
    ├── TrainingError       training that cannot go on (a NaN loss)
    ├── RunFolderError      a run's or a classifier's folder that does not fit what was asked
    ├── VerificationError   a saved model that does not give what the live one gave
    └── HubError            the model hub cannot be reached, or refuses

Each message says what was expected, what was found, where, and what to do. The
command line prints it on one line and exits with code 2.
"""

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
    """Training that cannot go on."""


class RunFolderError(NlpTransferError):
    """A folder of a run or a classifier that does not fit what was asked."""


class VerificationError(NlpTransferError):
    """A saved, merged or loaded model that does not give what the live one gave."""


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
