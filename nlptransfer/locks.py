"""Let one process at a time work in a folder, and tell which processes are still there."""

import errno
import json
import logging
import os
import platform
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import asdict, dataclass
from datetime import datetime
from functools import partial
from pathlib import Path

from nlptransfer.errors import RunFolderError
from nlptransfer.storage import storage_errors

log = logging.getLogger("nlptransfer")

LOCK = ".lock"
"""The file in a folder that says who works there."""
SECONDS_TO_LEAVE = 3.0
"""How long one is waited for who is about to leave: workers end after their parent process."""
SECONDS_TO_SETTLE = 0.2
"""After which nobody can take the lock of a dead process any more who saw it before another took it."""
CLOCK_SECONDS = 2.0
"""By how much two readings of the start of one process can differ, as it is counted from the start of the machine."""


@dataclass(frozen=True)
class Holder:
    """A process that works in a folder."""

    host: str
    pid: int
    started: float
    """seconds since 1970; another process may get the same pid later"""
    since: str
    """when it began to work there"""

    @classmethod
    def of_this_process(cls) -> "Holder":
        return cls(platform.node(), os.getpid(), started(), datetime.now().astimezone().isoformat(" ", "seconds"))

    @classmethod
    def read(cls, path: Path) -> "Holder | None":
        """Read a lock; None where there is none, or it was not written to its end."""
        try:
            return cls(**json.loads(path.read_text(encoding="utf-8")))
        except (FileNotFoundError, ValueError, TypeError):
            return None

    @property
    def is_here(self) -> bool:
        """Whether it is or was a process of this machine."""
        return self.host == platform.node()

    @property
    def has_ended(self) -> bool:
        """Whether it was a process of this machine, and is none any more."""
        return self.is_here and not is_running(self.pid, self.started)

    def __str__(self) -> str:
        return f"process {self.pid} on {self.host} since {self.since}"


def started() -> float:
    """Return when this process was started, in seconds since 1970."""
    import psutil

    return float(psutil.Process().create_time())


def is_running(pid: int, started: float) -> bool:
    """Tell whether the process of this machine that was started then is still there."""
    import psutil

    try:
        process = psutil.Process(pid)
        is_over = process.status() == psutil.STATUS_ZOMBIE or abs(process.create_time() - started) > CLOCK_SECONDS
    except psutil.NoSuchProcess:
        return False
    except psutil.AccessDenied:
        return True
    return not is_over


@contextmanager
def locked(folder: Path, take_lock: bool = False, *, replaced: bool = False) -> Iterator[None]:
    """Keep all others out of a folder within a block; where one is in it already, that is a RunFolderError.

    All processes of a launch call this together. The lock of a dead process of this machine is taken over; with
    ``take_lock`` that of another machine too, where nobody can see whether the process is still there. ``replaced``:
    the block replaces the whole folder, and so the lock lies beside it.
    """
    from nlptransfer import distributed

    lock, existed = folder.with_name(f".{folder.name}{LOCK}") if replaced else folder / LOCK, folder.exists()
    mine = Holder.of_this_process()
    with storage_errors(folder):
        distributed.on_main(partial(_take, lock, folder, mine, take_lock))
    try:
        yield
    finally:
        if distributed.is_main() and Holder.read(lock) == mine:
            lock.unlink(missing_ok=True)
            if not existed:
                with suppress(OSError):  # it holds something
                    folder.rmdir()


def _take(lock: Path, folder: Path, mine: Holder, take_lock: bool) -> None:
    if lock.parent.exists() and not lock.parent.is_dir():
        raise RunFolderError(f"{folder}: expected a folder or a new one, found a file: name another output_dir")
    lock.parent.mkdir(parents=True, exist_ok=True)
    deadline = time.monotonic() + SECONDS_TO_LEAVE
    while not _written(lock, mine):
        holder = Holder.read(lock)
        is_over = holder is not None and (holder.has_ended or (take_lock and not holder.is_here))
        if not is_over and time.monotonic() < deadline:
            time.sleep(0.05)
            continue
        if not is_over and holder is not None:
            advice = "" if holder.is_here else "; if it is no longer there, --take-lock (take_lock=True)"
            raise RunFolderError(
                f"{folder}: expected nobody at work there, found {holder}: wait for it, or name another "
                f"output_dir{advice}"
            )
        log.info("%s: taken over from %s", folder, holder or "a process that was killed")
        lock.unlink(missing_ok=True)
        if _written(lock, mine):
            # Another process may have seen the same lock, and removed the one that was just written.
            time.sleep(SECONDS_TO_SETTLE)
            if Holder.read(lock) == mine:
                return


def _written(lock: Path, mine: Holder) -> bool:
    """Write a lock where there is none."""
    try:
        file = lock.open("x", encoding="utf-8")
    except FileExistsError:
        return False
    except OSError as error:
        if error.errno in (errno.EROFS, errno.EACCES) and lock.parent.is_dir():
            # Nobody can write there, and what is finished may be read.
            return True
        raise
    try:
        with file:
            file.write(json.dumps(asdict(mine)))
    except BaseException:
        lock.unlink(missing_ok=True)
        raise
    return True
