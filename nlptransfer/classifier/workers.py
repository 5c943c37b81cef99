"""Workers that predict the parts of a plan, in one process or several. Does not know what lies beside an output."""

import logging
import os
import signal
import sys
import time
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from datetime import timedelta
from multiprocessing import connection, get_context
from pathlib import Path
from typing import Any

from nlptransfer.claims import Claim, Claims, clear
from nlptransfer.classifier.parts import Part, PartState, Plan, plan_parts
from nlptransfer.errors import DataError, NlpTransferError, TrainingError, abridged
from nlptransfer.models import share_cores
from nlptransfer.progress import Bar, no_progress, shown
from nlptransfer.settings import Count, Positive, check, check_arguments

log = logging.getLogger("nlptransfer")

SECONDS_TO_LOOK = 1.0
"""After which one who waits for others looks again what they have done."""
LOOKS_TO_SAY = 60
"""After which it says for whom it waits."""
SECONDS_TO_END = 20.0
"""How long workers may take to release what they have claimed."""


def predict_parts(
    source: str | Path,
    inputs: str | Path | Sequence[str | Path],
    output_dir: str | Path,
    *,
    processes: Count = 1,
    claim_minutes: Positive = 10.0,
    **options: Any,
) -> list[PartState]:
    """Predict files of rows, each into a file of its own: with others, and where a call before this one has ended.

    Any number of such calls work together, also on other machines, where all see both folders: a part is claimed
    before it is taken, and one that is done is not done again. A call returns when all its parts are done, or have
    failed. In the processes of a launcher (torchrun, accelerate) each begins with other parts.

    Args:
        source: a saved classifier: a folder or a hub id.
        inputs: files of rows, or folders of them, each file a part.
        output_dir: folder of the outputs, which lie in it as the inputs do below the folder that these have in common.
        processes: how many work on this machine; each holds the model, on a GPU of its turn or a share of the cores.
        claim_minutes: after which the part of a worker on another machine is taken over that gives no sign of life.
        options: ``shard``, as (3, 16): the parts of the fourth of 16 workers alone; ``format`` of the outputs: parquet
            (the default), csv, tsv or jsonl; ``base``, ``device`` and ``revision`` as in ``Classifier.load``; all
            others as in ``Classifier.predict_file``.

    Returns:
        The states of the parts. One that cannot be read or predicted has failed, and the others go on.

    Raises:
        DataError: no files, two that would go to one output, or an output that is an input.
        RunFolderError: an output that is there and was made of something else; no classifier is there.
        SettingError: an unknown option, or a value that makes no sense.
        StorageError: an output cannot be written.
        TrainingError: all processes have ended before their time.
    """
    check_arguments(predict_parts, processes=processes, claim_minutes=claim_minutes)
    launched = int(os.environ.get("WORLD_SIZE", 1))
    check(processes == 1 or launched == 1, "processes", processes, "1, as a launcher has started several already")
    plan = plan_parts(source, inputs, output_dir, **options)
    states = plan.states()
    for state in states:
        if state.status == "done":
            clear(state.part.claim)
    left = replace(plan, parts=tuple(state.part for state in states if state.status != "done"))
    report = _Report(left, len(states))
    try:
        with shown(report.bar):
            if processes > 1 and left.parts:
                _by_processes(left, claim_minutes * 60, processes, report)
            else:
                number = int(os.environ.get("RANK", 0))
                _Worker(left, claim_minutes * 60, report, number, launched, int(os.environ.get("LOCAL_RANK", 0))).work()
    except KeyboardInterrupt as stop:
        stop.add_note(f"the same command goes on from {report.said}")
        raise
    log.info("%s: %s done", output_dir, report.said)
    return plan.states()


def part_states(
    source: str | Path, inputs: str | Path | Sequence[str | Path], output_dir: str | Path, **options: Any
) -> list[PartState]:
    """Return how far the parts of a call of :func:`predict_parts` are; the options are those of that call."""
    return plan_parts(source, inputs, output_dir, **options).states()


@dataclass(frozen=True)
class _Event:
    """What a worker says of a part."""

    number: int
    texts: int = 0
    """predicted since the event before"""
    share: float = 0.0
    """of the part that is done, as far as it can be estimated; 1.0: it is done, or has failed"""
    failure: str = ""


class _Lost(Exception):
    """The part of a worker that others took for dead."""


@dataclass
class _Worker:
    """Predicts what is left of a plan until all is done, or has failed; beginning with every ``count``-th part."""

    plan: Plan
    seconds: float
    """after which a claim that is not renewed is taken over"""
    tell: Callable[[_Event | None], object]
    """called with what is new, or None to see whether anybody listens"""
    number: int = 0
    count: int = 1
    place: int = 0
    """its number on this machine"""
    classifier: Any = None
    rows_per_byte: float = 0.0
    """of the part before"""

    def work(self) -> None:
        parts, claims, looks = self.plan.parts, Claims(self.seconds), 0
        before = [self.plan.failure(part) for part in parts]
        left = sorted(range(len(parts)), key=lambda number: (number % self.count != self.number, number))
        while left:
            open_ = [number for number in left if not self._is_over(number, before[number], claims)]
            if open_ == left:
                self.tell(None)
                first = self.plan.state(parts[left[0]])
                if first.status == "at work" and (looks := looks + 1) == LOOKS_TO_SAY:
                    log.info(
                        "Waiting for %s and %d more, which others work on: %s",
                        first.part.output,
                        len(left) - 1,
                        first.note,
                    )
                time.sleep(SECONDS_TO_LOOK)
            left = open_

    def _is_over(self, number: int, before: object, claims: Claims) -> bool:
        """Predict a part unless another is at work on it; tell whether it is done, or has failed."""
        part = self.plan.parts[number]
        failure = self.plan.failure(part)
        if failure not in (None, before):
            self.tell(_Event(number, share=1.0, failure=failure[0]))
            return True
        if self.plan.state(part).status == "done":
            # Its worker may have been killed before it released its claim.
            clear(part.claim)
            self.tell(_Event(number, share=1.0))
            return True
        with claims.claimed(part.claim) as claim:
            # It may have been done, or have failed, before it was claimed: then that is seen the next time.
            is_over = self.plan.state(part).status == "done" or self.plan.failure(part) != failure
            return claim is not None and not is_over and self._predict(number, claim)

    def _predict(self, number: int, claim: Claim) -> bool:
        part, texts, expected = self.plan.parts[number], 0, 0.0

        def advance(count: int) -> None:
            nonlocal texts
            if claim.is_lost:
                raise _Lost
            texts += count
            self.tell(_Event(number, count, min(0.99, texts / expected) if expected else 0.0))

        self.classifier = self.classifier or self.plan.load(self.place)
        self.tell(_Event(number))
        try:
            size = self.plan.mark(part)
            expected = _rows_of(part) or self.rows_per_byte * size
            self.classifier.predict_file(part.source, part.output, advance=advance, **self.plan.options)
        except (DataError, TrainingError) as error:
            self.plan.mark_failed(part, error)
            self.tell(_Event(number, share=1.0, failure=str(error)))
        except (_Lost, FileNotFoundError):
            if not claim.is_lost:
                raise
            log.warning("%s: another worker has taken this part over, as it heard nothing of this one", part.output)
            return False
        else:
            self.rows_per_byte = texts / max(1, size)
            self.tell(_Event(number, share=1.0))
        return True


def _rows_of(part: Part) -> int:
    """Return how many rows a part has, where it says so at once, else 0."""
    import pyarrow as pa
    from pyarrow.parquet import read_metadata

    if part.source.suffix.lower() == ".parquet":
        with suppress(OSError, pa.ArrowException):  # who reads it says what it is
            return int(read_metadata(part.source).num_rows)
    return 0


class _Report:
    """What is said of all workers: a bar in a terminal, and a line of the log for each part."""

    def __init__(self, plan: Plan, parts: int) -> None:
        self.plan, self.parts = plan, parts
        sizes = [part.source.stat().st_size if part.source.exists() else 0 for part in plan.parts]
        self._sizes, self._shares, self._texts = sizes, [0.0] * len(sizes), [0] * len(sizes)
        self._failed: set[int] = set()
        self._begun: float | None = None
        self.bar = Bar(self.said, sum(sizes), unit="")

    @property
    def is_complete(self) -> bool:
        return all(share == 1.0 for share in self._shares)

    @property
    def said(self) -> str:
        done = self.parts - len(self._shares) + self._shares.count(1.0) - len(self._failed)
        return f"{done} of {self.parts} parts"

    def __call__(self, event: _Event | None) -> None:
        if event is None:
            return
        number, now = event.number, time.monotonic()
        self._begun = self._begun or now
        self._texts[number] += event.texts
        was_over = self._shares[number] == 1.0
        self._shares[number] = max(self._shares[number], event.share)
        if event.failure:
            self._failed.add(number)
        pace = self._pace(now - self._begun)
        if event.share == 1.0 and not was_over:
            if event.failure:
                log.warning("A part has failed, and the others go on: %s", event.failure)
            elif texts := self._texts[number]:
                log.info("%s: %s texts; %s done%s", self.plan.parts[number].output, f"{texts:,}", self.said, pace)
        self.bar.say(f"predicting, {self.said}")
        self.bar.advance(self._bytes - self.bar.done, texts=event.texts)

    @property
    def _bytes(self) -> float:
        return sum(size * share for size, share in zip(self._sizes, self._shares, strict=True))

    def _pace(self, seconds: float) -> str:
        done, whole = self._bytes, sum(self._sizes)
        if not (seconds and done):
            return ""
        left = timedelta(seconds=round(seconds * (whole - done) / done))
        return f", {sum(self._texts) / seconds:,.0f} texts/s" + (f", {left} left" if done < whole else "")


def _by_processes(plan: Plan, seconds: float, count: int, report: _Report) -> None:
    """Let several processes work, and say what they say; what one leaves that is killed, the others do."""
    context = get_context("spawn")
    workers: dict[Any, Any] = {}
    codes = list[str]()
    try:
        for number in range(count):
            received, sent = context.Pipe(duplex=False)
            call = (plan, seconds, number, count, log.getEffectiveLevel(), sent)
            workers[received] = context.Process(target=_process, args=call, daemon=True)
            workers[received].start()
            sent.close()
        waiting = {*workers}
        while waiting:
            for ready in connection.wait([*waiting]):
                events: Any = ready
                try:
                    event = events.recv()
                except (EOFError, OSError):
                    waiting.remove(events)
                    workers[events].join()
                    if code := workers[events].exitcode:
                        codes.append(signal.Signals(-code).name if code < 0 else f"exit code {code}")
                        log.warning(
                            "A process has ended before its time (exit code %s), and the others go on", codes[-1]
                        )
                    continue
                if isinstance(event, NlpTransferError):
                    raise event
                if isinstance(event, tuple):
                    log.log(event[0], "%s", event[1])
                else:
                    report(event)
    finally:
        for process in workers.values():
            process.terminate()
        for process in workers.values():
            process.join(SECONDS_TO_END)
    if not report.is_complete:
        raise TrainingError(
            f"expected processes that work to the end, found that all have ended ({abridged(codes, 4)}) after "
            f"{report.said}: the same command goes on; where memory was short take fewer processes"
        )


class _Sent(logging.Handler):
    """Sends what is logged to the process that shows it."""

    def __init__(self, events: Any) -> None:
        super().__init__()
        self.events = events

    def emit(self, record: logging.LogRecord) -> None:
        self.events.send((record.levelno, record.getMessage()))


def _process(plan: Plan, seconds: float, number: int, count: int, level: int, events: Any) -> None:
    def stop(*_: object) -> None:
        signal.signal(signal.SIGTERM, signal.SIG_IGN)
        raise KeyboardInterrupt

    # The first process gets Ctrl-C too, and ends this one.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.signal(signal.SIGTERM, stop)
    log.addHandler(_Sent(events))
    log.setLevel(level)
    try:
        share_cores(count)
        with no_progress():
            _Worker(plan, seconds, events.send, number, count, number).work()
    except NlpTransferError as error:
        events.send(error)
    except (KeyboardInterrupt, BrokenPipeError):  # nobody listens: the first process was killed
        sys.exit(1)
