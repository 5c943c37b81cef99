"""recipes/serve.py by a real client: answers, what is refused and how, many at once, and its end."""

import signal
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
import requests

from helpers.classifiers import SEVERAL, TEXTS, changed, write_vectors
from helpers.corpora import WORDS
from helpers.serving import SECONDS, Server, serving, timed
from nlptransfer import Classifier, Word2Vec

pytestmark = pytest.mark.engines


@pytest.fixture(scope="module")
def small(model, tmp_path_factory) -> Iterator[tuple[Server, Path]]:
    """A server of little patience, of a classifier in ONNX with several labels."""
    root = tmp_path_factory.mktemp("onnx")
    classifier = changed(Word2Vec(head_type="linear"), write_vectors(root / "vectors.txt"), SEVERAL)
    classifier.export_onnx(root / "onnx")
    options = ("--max-texts", 8, "--max-characters", 100, "--max-waiting", 4)
    with serving(root / "onnx", *options) as server:
        yield server, root / "onnx"


@pytest.fixture(scope="module")
def large(model) -> Iterator[Server]:
    with serving(model) as server:
        yield server


def test_one_text_and_many(small):
    server, folder = small
    wanted = Classifier.load(folder).predict(TEXTS[:3])
    answers = [server.ask(TEXTS[:3]), *map(server.ask, TEXTS[:3])]
    assert [answer.status_code for answer in answers] == [200] * 4
    many, *single = [answer.json()["predictions"] for answer in answers]
    assert [row["labels"] for row in many] == [[*each.labels] for each in wanted]
    for row, (one,), each in zip(many, single, wanted, strict=True):
        assert row["scores"] == pytest.approx([*each.scores], abs=1e-6) and one["labels"] == row["labels"]
    assert server.ask("").json() == {"predictions": [{"labels": None, "scores": None}]}
    assert server.ask([]).json() == {"predictions": []}
    health = requests.get(f"{server.address}/health", timeout=SECONDS)
    assert (health.status_code, health.json()) == (200, {"status": "ok", "waiting": 0})


@pytest.mark.parametrize(
    ("content", "status", "message"),
    [
        (b'{"texts": ["a', 422, 'expected JSON as {"texts": ["one", "two"]}'),
        (b"", 422, "expected JSON"),
        (b'{"texts": 1}', 422, "expected JSON"),
        (b'{"texts": ["a", null]}', 422, "expected JSON"),
        (b'{"text": "a"}', 422, "expected JSON"),
        (b'{"texts": "\\ud800"}', 422, "expected JSON"),
        (b'{"texts": "\xff"}', 422, "expected JSON"),
        (b'{"texts": ["a", "b", "c", "d", "e"]}', 503, "too many texts wait"),
        (b'{"texts": ["a", "b", "c", "d", "e", "f", "g", "h", "i"]}', 413, "expected 8 texts of 100 characters"),
        (b'{"texts": "%s"}' % (b"a" * 101), 413, "expected 8 texts of 100 characters"),
        (b'{"texts": "%s"}' % (b" " * 10**6), 413, "expected 8 texts of 100 characters"),
    ],
)
def test_what_is_refused(content, status, message, small):
    server, _ = small
    answer = requests.post(f"{server.address}/predict", data=content, timeout=SECONDS)
    assert answer.status_code == status and message in answer.json()["detail"]
    assert (answer.headers.get("Retry-After") == "1") == (status == 503)
    assert server.ask("word1").status_code == 200


def test_more_than_can_wait_are_sent_away(small):
    server, _ = small
    codes = [answer.status_code for answer, _ in timed(server, ["word1 word2"] * 300, clients=30)]
    assert {*codes} <= {200, 503} and codes.count(200) >= 10
    assert server.ask("word1").status_code == 200


def test_fifty_clients_at_once(large, model):
    texts = [f"{WORDS[row % 20]} {WORDS[row % 7]} {WORDS[row % 3]}" for row in range(2000)]
    wanted = Classifier.load(model).predict(texts)
    found = [answer for answer, _ in timed(large, texts, clients=50)]
    assert {answer.status_code for answer in found} == {200}
    for answer, each in zip(found, wanted, strict=True):
        (row,) = answer.json()["predictions"]
        assert row == {"label": each.label, "score": pytest.approx(each.score, abs=1e-6)}


def test_what_is_under_way_is_answered_before_it_ends(model):
    texts = [f"{' '.join(WORDS)} {number} " * 60 for number in range(100)]
    with serving(model) as server, ThreadPoolExecutor(8) as pool:
        asked = [pool.submit(server.ask, texts) for _ in range(8)]
        while not requests.get(f"{server.address}/health", timeout=SECONDS).json()["waiting"]:
            time.sleep(0.01)
        server.process.send_signal(signal.SIGTERM)
        under_way = sum(not each.done() for each in asked)
        # Those that have not come in yet find a closed door, and nobody anything else.
        failed = [error for each in asked if (error := each.exception()) is not None]
        assert all(isinstance(error, requests.ConnectionError) for error in failed)
        answered = [each.result() for each in asked if each.exception() is None]
        assert under_way > len(failed) and {answer.status_code for answer in answered} == {200}
        assert {len(answer.json()["predictions"]) for answer in answered} == {100}
        assert server.process.wait(timeout=SECONDS) in (0, -signal.SIGTERM, 128 + signal.SIGTERM)
        with pytest.raises(requests.ConnectionError):
            server.ask("word1")
