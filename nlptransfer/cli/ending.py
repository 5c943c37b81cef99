"""How a verb ends that is stopped, or cannot print: in one line, with an exit code that says so."""

import os
import signal
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager, redirect_stdout
from types import FrameType
from typing import Any, TextIO, TypeVar, cast

from nlptransfer.cli.log import say, wrapped
from nlptransfer.errors import NlpTransferError

Done = TypeVar("Done")


class OutputError(NlpTransferError):
    """Standard output that is closed, or takes no more."""


@contextmanager
def printable() -> Iterator[None]:
    """Raise an OutputError where standard output is closed, or what was printed within the block did not get there.

    A reader that wants no more, as ``head``, is no error: typer ends the verb in silence.
    """
    if sys.stderr is None:
        # What is opened next must not be taken for it.
        sys.stderr = open(os.devnull, "w")  # noqa: SIM115
    if sys.stdout is None:
        raise OutputError("standard output: expected it open, found it closed: > /dev/null if it is of no use")
    output = _Output(sys.stdout)
    with redirect_stdout(cast(TextIO, output)):
        try:
            yield
        finally:
            if not isinstance(output.failure, BrokenPipeError):
                output.flush()


class _Output:
    """Standard output that raises an OutputError where it cannot be written, from the first time on."""

    def __init__(self, stream: TextIO) -> None:
        self.stream = stream
        self.failure: OSError | None = None

    def __getattr__(self, name: str) -> Any:
        return getattr(self.stream, name)

    def write(self, text: str) -> int:
        return self._tried(lambda: self.stream.write(text))

    def flush(self) -> None:
        self._tried(self.stream.flush)

    def _tried(self, call: Callable[[], Done]) -> Done:
        try:
            if self.failure is None:
                return call()
        except OSError as error:
            self.failure = error
            # Python would try once more as it ends.
            null = os.open(os.devnull, os.O_WRONLY)
            os.dup2(null, self.stream.fileno())
            os.close(null)
        if isinstance(self.failure, BrokenPipeError):
            raise self.failure
        reason = self.failure.strerror or self.failure
        raise OutputError(f"standard output: cannot be written: {reason}") from self.failure


class Terminated(KeyboardInterrupt):
    """SIGTERM: what is under way is left as by Ctrl-C."""


@contextmanager
def stoppable() -> Iterator[None]:
    """End on Ctrl-C and SIGTERM within the block with a line that says where the same command goes on."""
    try:
        with _terminable():
            yield
    except KeyboardInterrupt as stop:
        by_signal = isinstance(stop, Terminated)
        if os.environ.get("RANK", "0") == "0":
            goes_on = "; ".join(getattr(stop, "__notes__", [])) or "the same command begins anew"
            say(wrapped(f"stopped by {'SIGTERM' if by_signal else 'Ctrl-C'}: {goes_on}"), err=True)
        sys.exit(128 + (signal.SIGTERM if by_signal else signal.SIGINT))


@contextmanager
def _terminable() -> Iterator[None]:
    """Raise Terminated on SIGTERM within a block, unless somebody wants something else of it."""

    def stop(_: int, frame: FrameType | None) -> None:
        raise Terminated

    is_ours = threading.current_thread() is threading.main_thread()
    if not is_ours or signal.getsignal(signal.SIGTERM) is not signal.SIG_DFL:
        yield
        return
    signal.signal(signal.SIGTERM, stop)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, signal.SIG_DFL)
