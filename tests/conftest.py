"""Shared by the tests: caches of their own, small word vectors, and rows that these vectors can tell apart."""

import gc
import logging
import os
import random
import sys
import tempfile
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

import hypothesis
import numpy as np
import pytest

from helpers.corpora import DIMENSIONS, FILLER, TOPIC_WORDS, TOPICS, cut, text_of, topic_rows, write_rows, write_splits
from helpers.folders import ROOT
from helpers.fuzzing import OUTCOMES
from helpers.hub_server import Hub, free_port

SLOWEST = ("tests", "transfer", "experiments", "classifier")
"""Folders whose files take longest: they start whole commands, or make many runs."""


# A machine that is busy is no fault of what is tested.
hypothesis.settings.register_profile("busy", deadline=None)
hypothesis.settings.load_profile("busy")


def pytest_configure(config: pytest.Config) -> None:
    # Before anything reads it: the user's caches are neither read nor written, and encoders are distilled once.
    caches = tempfile.TemporaryDirectory(prefix="nlptransfer-tests-", ignore_cleanup_errors=True)
    config.add_cleanup(caches.cleanup)
    os.environ["HF_HOME"] = caches.name
    # No test reaches the public hub: what asks for one finds the tests' own, where it runs, or a closed port.
    os.environ["HF_ENDPOINT"] = f"http://127.0.0.1:{free_port()}"
    os.environ["NO_PROXY"] = os.environ["no_proxy"] = "127.0.0.1,localhost"
    os.environ["HF_HUB_DISABLE_XET"] = os.environ["HF_HUB_DISABLE_TELEMETRY"] = "1"
    for name in ("HF_TOKEN", "HUGGING_FACE_HUB_TOKEN"):
        os.environ.pop(name, None)
    # The client uploads large files in a way that its own HTTP library advises against.
    config.addinivalue_line("filterwarnings", "ignore:Use 'content=:DeprecationWarning")
    # Scripts that tests start find what tests share.
    paths = [str(ROOT / "tests"), *filter(None, [os.environ.get("PYTHONPATH")])]
    os.environ["PYTHONPATH"] = os.pathsep.join(paths)
    # On matrices as small as these, threads wait for each other longer than they work.
    os.environ.setdefault("OMP_NUM_THREADS", "1")


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    # What takes longest begins first, so that no process is left alone with it at the end.
    place = {name: number for number, name in enumerate(SLOWEST)}
    items.sort(key=lambda item: place.get(item.path.parent.name, len(place)))


def pytest_collection_finish() -> None:
    # A garbage collection would look each time through all that was imported.
    gc.collect()
    gc.freeze()


def pytest_terminal_summary(terminalreporter: Any) -> None:
    """Print the counts of the fuzzers, see tests/fuzz."""
    # The counts are there when the test is torn down, which is in a report of its own.
    reports = [
        one for some in terminalreporter.stats.values() for one in some if getattr(one, "when", "") == "teardown"
    ]
    for report in reports:
        for name, counts in report.user_properties:
            if name == "fuzz":
                shown = ", ".join(f"{counts.get(outcome, 0):,} {outcome}" for outcome in OUTCOMES)
                terminalreporter.write_line(f"{report.nodeid}: {shown}")


@pytest.fixture(scope="session", autouse=True)
def no_time_for_measuring_speed() -> Iterator[None]:
    """Predictions are timed once, however fast they are."""
    # Where no test to come makes a run, importing what does would take seconds.
    with pytest.MonkeyPatch.context() as patch:
        if "nlptransfer.experiments.environment" in sys.modules:
            patch.setattr("nlptransfer.experiments.environment.SPEED_SECONDS", 0.0)
        yield


@pytest.fixture
def own_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The folder of a cache of this test's own."""
    monkeypatch.setenv("HF_HOME", str(tmp_path / "home"))
    return tmp_path / "home"


@pytest.fixture
def hub(monkeypatch: pytest.MonkeyPatch) -> Iterator[Hub]:
    """A model hub of this test's own, where the client looks for one."""
    # Read from the environment once, when the client is imported; another test may have gone offline.
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", False)
    hub = Hub(int(os.environ["HF_ENDPOINT"].rpartition(":")[2]))
    hub.start()
    yield hub
    hub.stop()


@pytest.fixture(scope="session")
def bases(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], Any]:
    """Checkpoints without a classifier, by model type, each made once."""
    # Imported here, after the environment is set: libraries read it once.
    from helpers.encoders import base_of

    folder = tmp_path_factory.mktemp("bases")
    return cache(lambda kind: base_of(kind, folder / kind))


@pytest.fixture(scope="session")
def vectors_file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """220 words of 8 dimensions; those of one topic lie together."""
    draw = np.random.default_rng(0)
    rows = {word: draw.normal(0, 0.5, DIMENSIONS) for word in FILLER}
    for topic, words in TOPIC_WORDS.items():
        center = 3 * np.eye(DIMENSIONS)[TOPICS.index(topic)]
        rows |= {word: center + draw.normal(0, 0.5, DIMENSIONS) for word in words}
    path = tmp_path_factory.mktemp("vectors") / "small.txt"
    lines = [f"{word} {' '.join(f'{value:.4f}' for value in row)}" for word, row in rows.items()]
    path.write_text("\n".join([f"{len(rows)} {DIMENSIONS}", *lines, ""]))
    return path


@pytest.fixture(scope="session")
def remarks() -> tuple[list[str], list[str]]:
    """160 texts, half of them positive, and their labels."""
    texts, topics = topic_rows(160, random.Random(0))
    return texts, ["positive" if topic == "good" else "negative" for topic in topics]


@pytest.fixture(scope="session")
def tickets() -> tuple[list[str], list[list[str]]]:
    """160 texts with up to three labels each, and these."""
    draw = random.Random(1)
    labels = [[topic for topic in TOPICS[2:] if draw.random() < 0.4] for _ in range(160)]
    return [text_of(draw, topics) for topics in labels], labels


@pytest.fixture(scope="session")
def remarks_folder(remarks: tuple[list[str], list[str]], tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The remarks as train.jsonl, validation.jsonl and test.jsonl."""
    return write_splits(tmp_path_factory.mktemp("corpora") / "remarks", cut(remarks, 110, 20))


@pytest.fixture(scope="session")
def tickets_file(tickets: tuple[list[str], list[list[str]]], tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The tickets as one file."""
    return write_rows(tmp_path_factory.mktemp("corpora") / "tickets.jsonl", tickets)


@dataclass(frozen=True)
class Ended:
    """What a command line left behind."""

    code: int
    out: str
    err: str


@pytest.fixture
def command_line(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Callable[..., Ended]:
    """Call a command line's entry point in this process, with arguments."""

    def call(entry: Callable[[], Any], *arguments: object) -> Ended:
        monkeypatch.setattr("sys.argv", ["nlptransfer", *map(str, arguments)])
        log = logging.getLogger("nlptransfer")
        before, level = list(log.handlers), log.level
        capsys.readouterr()
        try:
            entry()
            code = 0
        except SystemExit as end:
            code = end.code if isinstance(end.code, int) else int(end.code is not None)
        finally:
            # A handler holds the standard error of its time, which is the captured one.
            log.handlers[:] = before
            log.setLevel(level)
        return Ended(code, *capsys.readouterr())

    return call


@pytest.fixture
def told_apart(monkeypatch: pytest.MonkeyPatch) -> None:
    """Both sides of a toy are drawn alike, and would be left as they are."""
    monkeypatch.setattr("nlptransfer.experiments.diagnostics.chance_distance", lambda rows: -1.0)
