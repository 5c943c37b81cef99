"""Seeded fuzzing: runs work on many inputs and counts how each ended."""

import os
import random
import signal
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from time import process_time
from typing import Any

from nlptransfer.errors import NlpTransferError

SECONDS, WAIT = 10, 120
"""Of the processor, and in all, after which an input counts as a hang: other work on the machine is no hang."""
OUTCOMES = ("inputs", "right", "clean errors", "raw exceptions", "hangs", "half files", "changed predictions")
WRONG = OUTCOMES[3:]


class HalfFileError(AssertionError):
    """Something was left behind that is no whole result."""


class ChangedPredictionError(AssertionError):
    """A result that came without an error is another one than before."""


class _HangError(BaseException):
    """Took too long; not to be caught by what is fuzzed."""


@dataclass
class Fuzzer:
    """Counts of one test; FUZZ_TIMES multiplies its inputs, FUZZ_SEED is the first seed."""

    counts: Counter[str] = field(default_factory=Counter)
    failures: list[str] = field(default_factory=list)

    def draws(self, inputs: int) -> Iterator[tuple[int, random.Random]]:
        """Yield seeds, ``inputs`` times FUZZ_TIMES, each with what draws by it."""
        first = int(os.environ.get("FUZZ_SEED", 0))
        for seed in range(first, first + inputs * int(os.environ.get("FUZZ_TIMES", 1))):
            yield seed, random.Random(seed)

    def attempt(self, case: str, work: Callable[[], Any]) -> Any:
        """Do ``work`` on one input; an error on purpose is clean if it is one line. Returns None after any error."""
        self.counts["inputs"] += 1
        start, result, outcome, error = process_time(), None, "right", None
        try:
            with _limited():
                result = work()
        except NlpTransferError as caught:
            # An error of one line that says something.
            is_clean = bool(str(caught).strip()) and "\n" not in str(caught)
            outcome, error = ("clean errors" if is_clean else "raw exceptions"), caught
        except HalfFileError as caught:
            outcome, error = "half files", caught
        except ChangedPredictionError as caught:
            outcome, error = "changed predictions", caught
        except _HangError as caught:
            outcome, error = "hangs", caught
        except Exception as caught:
            outcome, error = "raw exceptions", caught
        if process_time() - start > SECONDS:
            outcome = "hangs"
        self.counts[outcome] += 1
        if outcome in WRONG:
            self.failures.append(f"{outcome}, {case}: {type(error).__name__}: {error!s:.300}")
        return result

    def check(self) -> None:
        """Fail where an input ended in a traceback, a hang, half a file or another prediction."""
        assert self.counts["inputs"], "no input"
        assert not self.failures, f"{len(self.failures)} failures:\n" + "\n".join(self.failures[:30])


@contextmanager
def _limited() -> Iterator[None]:
    def stop(*_: Any) -> None:
        raise _HangError

    timers = (
        (signal.SIGPROF, signal.ITIMER_PROF, SECONDS),
        (signal.SIGALRM, signal.ITIMER_REAL, WAIT),
    )
    before = [signal.signal(number, stop) for number, *_ in timers]
    try:
        for _, timer, seconds in timers:
            signal.setitimer(timer, seconds)
        yield
    finally:
        for (number, timer, _), handler in zip(timers, before, strict=True):
            signal.setitimer(timer, 0)
            signal.signal(number, handler)


def mutated(content: bytes, draw: random.Random, others: tuple[bytes, ...] = ()) -> bytes:
    """Change some bytes: flipped, overwritten, cut out, doubled, cut off, or spliced with another file's."""
    data = bytearray(content)
    for _ in range(draw.choice([1, 1, 1, 2, 4, 16])):
        at = draw.randrange(len(data) + 1)
        length = draw.choice([1, 1, 2, 4, 16, 256])
        match draw.randrange(7):
            case 0 if at < len(data):
                data[at] ^= 1 << draw.randrange(8)
            case 1:
                data[at : at + length] = draw.randbytes(length)
            case 2:
                del data[at : at + length]
            case 3:
                data[at:at] = data[at : at + length] * draw.choice([1, 2, 50])
            case 4:
                del data[at:]
            case 5:
                data[at:at] = draw.choice(STRANGE)
            case 6 if others:
                other = draw.choice(others)
                cut = draw.randrange(len(other) + 1)
                data[at:] = other[cut:]
    return bytes(data)


STRANGE = (
    b"\0",
    b"\0" * 300,
    b"\xff\xfe",
    b"\xef\xbb\xbf",
    b"\x80\xc0\xfe",
    b'"',
    b'"""',
    b"\\",
    b"\r",
    b"\r\n\n\r",
    b"\t\t",
    b",,,;;||",
    b"\x1b[31m\x07",
    "\u202e\u2066\ud7ff\U0010ffff".encode(),
    b"\xed\xa0\x80",
    b"[" * 2000,
    b'{"a":' * 2000,
    b"9" * 5000,
    b"1e999",
    b"NaN",
    b"-Infinity",
    b"null",
    b"\\ud800",
    b"__label__ __label__x ",
    b"sep=;\n",
    b"\x1f\x8b\x08",
    b"PK\x03\x04",
    b"PAR1",
    b"ARROW1",
)
"""Bytes that mean something to some reader."""
