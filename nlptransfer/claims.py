"""Let one worker at a time, of all machines that see a folder, work on a thing there. Does not know what it works on.

A claim is a folder with one file, whose name says who holds it. It comes whole, by a rename; and it is taken over by
a rename of that file, which of several workers one alone can do. No clock of one machine is compared with another's.
"""

import errno
import logging
import os
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from datetime import datetime
from pathlib import Path
from urllib.parse import quote, unquote

from nlptransfer.files import scratch_folder, without_leftovers
from nlptransfer.locks import Holder
from nlptransfer.storage import storage_errors

log = logging.getLogger("nlptransfer")

RENEWALS = 4
"""How often a claim is renewed, at least, in the time after which it counts as given up."""
MOST_SECONDS = 30.0
"""From one renewal to the next."""


class Claim:
    """A claim of this process; it is renewed until it is released."""

    def __init__(self, file: Path, seconds: float) -> None:
        self._file, self._over = file, threading.Event()
        pause = min(seconds / RENEWALS, MOST_SECONDS)
        threading.Thread(target=self._renew, args=(pause,), daemon=True).start()

    def _renew(self, pause: float) -> None:
        while not self._over.wait(pause):
            with suppress(OSError):  # it was taken over, or is renewed the next time
                os.utime(self._file)

    @property
    def is_lost(self) -> bool:
        """Whether another has taken it over, as this process did not renew it for so long."""
        return not self._file.exists()

    def release(self) -> None:
        self._over.set()
        _remove(self._file)


class Claims:
    """The claims that one worker holds, and what it sees of those of others."""

    def __init__(self, seconds: float) -> None:
        self.seconds = seconds
        self._seen: dict[Path, tuple[tuple[str, int], float]] = {}
        """by place: file and time of renewal of the claim of another, and since when this one sees them unchanged"""

    @contextmanager
    def claimed(self, place: Path) -> Iterator[Claim | None]:
        """Hold the claim of a place within a block; None where another holds it.

        That of a process of this machine that has ended is taken over, and one that nobody has renewed for
        ``seconds``, as this worker has seen.
        """
        file = place / _name_of(Holder.of_this_process())
        with storage_errors(place):
            claim = Claim(file, self.seconds) if self._take(place, file) else None
        try:
            yield claim
        finally:
            if claim is not None:
                claim.release()

    def _take(self, place: Path, mine: Path) -> bool:
        if (held := _held(place)) is None:
            return _made(place, mine)
        if not self._is_over(held):
            return False
        try:
            os.rename(held, mine)
            os.utime(mine)
        except FileNotFoundError:  # it was released, or another was faster
            return False
        before = _read(held.name)
        log.info("%s: taken over from %s", place, before)
        without_leftovers(place.parent, before)
        return True

    def _is_over(self, held: Path) -> bool:
        holder = _read(held.name)
        if holder is not None and holder.has_ended:
            return True
        try:
            state = held.name, held.stat().st_mtime_ns
        except FileNotFoundError:
            return False
        now = time.monotonic()
        before, since = self._seen.setdefault(held.parent, (state, now))
        if before != state:
            self._seen[held.parent] = state, now
            return False
        return now - since >= self.seconds


def holder_of(place: Path) -> Holder | None:
    """Return who holds the claim of a place, if anybody does."""
    held = _held(place)
    return None if held is None else _read(held.name)


def clear(place: Path) -> None:
    """Remove the claim of a place that nobody needs any more, whoever holds it."""
    with suppress(OSError):  # there is none, or its holder was faster
        for file in place.iterdir():
            file.unlink()
        place.rmdir()


def _held(place: Path) -> Path | None:
    try:
        return next(place.iterdir(), None)
    except FileNotFoundError:
        return None


def _made(place: Path, mine: Path) -> bool:
    """Make a claim where there is none."""
    with scratch_folder(place) as scratch:
        new = scratch / place.name
        new.mkdir()
        (new / mine.name).touch()
        with suppress(OSError):  # it is there if one was killed while it left, and then it is empty
            place.rmdir()
        try:
            os.rename(new, place)
        except OSError as error:
            if error.errno not in (errno.ENOTEMPTY, errno.EEXIST):
                raise
            return False
    return True


def _remove(file: Path) -> None:
    with suppress(OSError):  # another has taken it over
        file.unlink()
        file.parent.rmdir()


def _name_of(holder: Holder) -> str:
    since = datetime.fromisoformat(holder.since).timestamp()
    return f"{holder.pid}_{holder.started}_{since:.0f}_{quote(holder.host, safe='')}"


def _read(name: str) -> Holder | None:
    try:
        pid, started, since, host = name.split("_", 3)
        moment = datetime.fromtimestamp(float(since)).astimezone().isoformat(" ", "seconds")
        return Holder(unquote(host), int(pid), float(started), moment)
    except (ValueError, OverflowError, OSError):
        return None
