"""Word vectors opened, looked up, saved and cached: against gensim, against plain dictionaries, and at size."""

import gzip
import json
import logging
import os
import pickle
import subprocess
import sys
import tempfile
import time
import tracemalloc
from pathlib import Path

import numpy as np
import pytest
from gensim.models import KeyedVectors
from hypothesis import given, settings
from hypothesis import strategies as st

from helpers.folders import SHARED, needs_shared
from helpers.gensim_site import publish, serve
from nlptransfer.cache import cache_folder
from nlptransfer.errors import SettingError, VectorsError
from nlptransfer.vectors import formats, store
from nlptransfer.vectors.store import WordVectors, open_vectors, save_vectors

WORDS = ["the", "café", "电影", "film", "films", "don't"]
MATRIX = np.random.default_rng(0).standard_normal((len(WORDS), 5)).astype(np.float32)

pytestmark = pytest.mark.usefixtures("own_cache")


def cached() -> list[str]:
    folder = cache_folder("vectors")
    return sorted(path.name for path in folder.iterdir()) if folder.exists() else []


def made(folder: Path, words: list[str] = WORDS, matrix: np.ndarray = MATRIX) -> WordVectors:
    saved = save_vectors(folder, words, matrix)
    assert saved is not None
    return saved


def write_text(path: Path, rows: list[str], dimensions: int = 1) -> Path:
    path.write_text("".join(f"{row}\n" for row in [f"{len(rows)} {dimensions}", *rows]), encoding="utf-8")
    return path


# Looking up

ANY_WORD = st.text(st.characters(exclude_categories=["Cs"]), max_size=5) | st.text("ab", max_size=3)


@settings(max_examples=60, deadline=None)
@given(
    words=st.lists(ANY_WORD, min_size=1, max_size=30, unique=True),
    asked=st.lists(ANY_WORD | st.text(max_size=2)),
    start=st.integers(-40, 40) | st.none(),
    stop=st.integers(-40, 40) | st.none(),
)
def test_words_and_rows_are_those_of_a_list(words, asked, start, stop):
    matrix = np.arange(len(words), dtype=np.float32)[:, None]
    with tempfile.TemporaryDirectory() as folder:
        opened = made(Path(folder) / "v", words, matrix)
        place = {word: row for row, word in enumerate(words)}
        assert opened.rows([*asked, *words]).tolist() == [place.get(word, -1) for word in [*asked, *words]]
        assert opened.words(start or 0, stop) == words[start or 0 : stop]
        assert opened.words() == words
        assert opened.words_at(range(len(words))[::-1]) == words[::-1]
        assert all((word in opened) == (word in place) for word in asked)
        np.testing.assert_array_equal(opened.matrix, matrix)
        assert len(opened) == len(words) and opened.dimensions == 1


def test_no_words_asked(tmp_path):
    opened = made(tmp_path / "v")
    assert opened.rows([]).tolist() == opened.words(4, 2) == opened.words_at([]) == []
    assert opened.rows(["\ud800"]).tolist() == [-1]


def test_nearest_as_gensim(tmp_path):
    matrix = np.random.default_rng(1).standard_normal((200, 10)).astype(np.float32)
    words = [f"w{number}" for number in range(200)]
    keyed = KeyedVectors(10)
    keyed.add_vectors(words, matrix)
    found = made(tmp_path / "v", words, matrix).nearest("w17", 12)
    expected = keyed.most_similar("w17", topn=12)
    assert [word for word, _ in found] == [word for word, _ in expected]
    np.testing.assert_allclose([cosine for _, cosine in found], [cosine for _, cosine in expected], atol=1e-6)


def test_nearest_at_the_edges(tmp_path):
    opened = made(tmp_path / "v", ["zero", "up", "down"], np.array([[0, 0], [0, 2], [0, -3]]))
    assert opened.nearest("up", 10) == [("zero", 0.0), ("down", -1.0)]
    assert opened.nearest("zero") == [("up", 0.0), ("down", 0.0)]
    assert made(tmp_path / "one", ["a"], np.ones((1, 2))).nearest("a") == []
    with pytest.raises(VectorsError, match=r"^'left' is not among the 3 words of v$"):
        opened.nearest("left")
    with pytest.raises(SettingError, match=r"^k=0: expected at least 1"):
        opened.nearest("up", 0)


def test_coverage(tmp_path):
    opened = made(tmp_path / "v")
    found = opened.coverage([["the", "film", "was", "the"], ["was", "grand"]])
    assert (found.tokens, found.distinct) == (3 / 6, 2 / 4)
    assert found.missing == [("was", 2), ("grand", 1)]
    assert opened.coverage(["the", "was"]).tokens == 0.5
    nothing = opened.coverage([[]])
    assert (nothing.tokens, nothing.distinct, nothing.missing) == (0.0, 0.0, [])


def test_another_process_opens_the_maps_instead_of_carrying_the_matrix(tmp_path):
    opened = made(tmp_path / "v", [str(n) for n in range(1000)], np.ones((1000, 50)))
    packed = pickle.dumps(opened)
    assert len(packed) < 1000
    assert pickle.loads(packed).words() == opened.words()
    assert isinstance(opened.matrix, np.memmap) and not opened.matrix.flags.writeable


# Saving


def test_saved_folder(tmp_path):
    assert made(tmp_path / "v").source == "v"
    assert save_vectors(tmp_path / "v", ["new"], MATRIX[:1], source="mine").source == "mine"
    assert open_vectors(tmp_path / "v").words() == ["new"]
    assert str(tmp_path) not in "".join(path.read_text() for path in (tmp_path / "v").glob("*.json"))
    assert [path.name for path in tmp_path.iterdir()] == ["v"]


def test_words_with_white_space_are_left_out_of_files_and_said_so(tmp_path, caplog):
    save_vectors(tmp_path / "v.txt", ["a b", "c", "d\ne"], MATRIX[:3])
    assert "v.txt: 2 words have white space, which the format cannot hold, and are left out" in caplog.text
    assert open_vectors(tmp_path / "v.txt").words() == ["c"]


@pytest.mark.parametrize(
    ("words", "matrix", "message"),
    [
        (["a"], np.ones((2, 3)), r"one vector of numbers for each word, found 1 words and an array of shape \(2, 3\)"),
        ([], np.ones((0, 3)), r"found 0 words and an array of shape \(0, 3\)"),
        (["a"], np.ones(3), r"found 1 words and an array of shape \(3,\)"),
        (["a"], np.array([["x"]]), r"found 1 words and an array of shape \(1, 1\) of <U1"),
        (["a", "b"], np.array([[1, 2], [3, np.nan]]), "record 2: number 2 is nan, expected a finite one"),
        (["a"], np.array([[1e39]]), "record 1: number 1 is inf, expected a finite one"),
        (["a", "\ud800"], np.ones((2, 1)), r"record 2: expected a word of text, found '\\ud800'"),
        (["a", 7], np.ones((2, 1)), "record 2: expected a word of text, found 7"),
    ],
)
@pytest.mark.parametrize("name", ["v", "v.txt"])
def test_what_cannot_be_saved_leaves_what_was_there(tmp_path, name, words, matrix, message):
    save_vectors(tmp_path / name, WORDS, MATRIX)
    with pytest.raises(VectorsError, match=rf"^{name}[:,] .*{message}"):
        save_vectors(tmp_path / name, words, matrix)
    assert open_vectors(tmp_path / name).words() == WORDS
    assert {path.name for path in tmp_path.iterdir()} <= {name, "home"}


def test_places_that_are_not_written_to(tmp_path):
    with pytest.raises(
        VectorsError, match=r"^v\.kv: save as \.txt, \.vec, \.bin, with or without \.gz, or as a folder"
    ):
        save_vectors(tmp_path / "v.kv", WORDS, MATRIX)
    (tmp_path / "photos").mkdir()
    with pytest.raises(VectorsError, match=r"^photos: exists already and holds no vectors, so it is not replaced"):
        save_vectors(tmp_path / "photos", WORDS, MATRIX)


def test_of_a_word_that_comes_twice_the_first_is_kept(tmp_path, caplog):
    rows = [f"{word} {number}" for number, word in enumerate(["a", "b", "a", "c", "b", "a"])]
    path = write_text(tmp_path / "v.txt", rows)
    opened, keyed = open_vectors(path), KeyedVectors.load_word2vec_format(str(path))
    assert "v.txt: 3 words come more than once, the first of each is kept" in caplog.text
    assert opened.words() == ["a", "b", "c"]
    np.testing.assert_array_equal(opened.matrix, keyed[opened.words()])
    assert opened.rows(["c", "b", "a", "d"]).tolist() == [2, 1, 0, -1]


# The cache


def refuse(*_: object, **__: object) -> None:
    raise AssertionError("this was not to be asked for")


def test_a_file_is_converted_once_and_again_when_it_changed(tmp_path, monkeypatch):
    path = write_text(tmp_path / "v.txt", ["a 1", "b 2"])
    open_vectors(path)
    with monkeypatch.context() as patch:
        patch.setattr(store, "read_blocks", refuse)
        assert open_vectors(str(path)).words() == ["a", "b"]
    stat = path.stat()
    write_text(path, ["c 1", "d 2"])
    # Same name, size and time: the bytes tell.
    os.utime(path, ns=(stat.st_atime_ns, stat.st_mtime_ns))
    assert open_vectors(path).words() == ["c", "d"]
    assert len(cached()) == 2


def test_a_link_has_its_own_name(tmp_path):
    write_text(tmp_path / "0a1b2c", ["a 1"])
    (tmp_path / "v.txt").symlink_to("0a1b2c")
    assert open_vectors(tmp_path / "v.txt").source == "v.txt"


def test_arrays_beside_a_pickle_count_as_the_file(tmp_path):
    keyed = KeyedVectors(5)
    keyed.add_vectors(WORDS, MATRIX)
    keyed.save(str(tmp_path / "v.kv"), sep_limit=0)
    assert open_vectors(tmp_path / "v.kv", allow_pickle=True).rows(["film"]).tolist() == [3]
    np.save(tmp_path / "v.kv.vectors.npy", 2 * MATRIX)
    np.testing.assert_array_equal(open_vectors(tmp_path / "v.kv", allow_pickle=True).matrix, 2 * MATRIX)
    with pytest.raises(VectorsError, match=r"^v\.kv: a pickle, .*allow_pickle=True"):
        open_vectors(tmp_path / "v.kv")


def test_a_damaged_or_older_copy_is_made_anew(tmp_path, monkeypatch):
    path = write_text(tmp_path / "v.txt", ["a 1", "b 2"])
    folder = open_vectors(path).folder
    for name in ("matrix.bin", "words.arrow", "vectors.json"):
        (folder / name).write_bytes((folder / name).read_bytes()[:-1])
        assert open_vectors(path).words() == ["a", "b"]
    meta = json.loads((folder / "vectors.json").read_text())
    (folder / "vectors.json").write_text(json.dumps(meta | {"format": 0}))
    assert open_vectors(path).words() == ["a", "b"]
    assert cached() == [folder.name]


def test_broken_file_leaves_nothing_in_the_cache(tmp_path):
    with pytest.raises(VectorsError, match=r"^v\.txt, line 4: expected a number, found 'x'"):
        open_vectors(write_text(tmp_path / "v.txt", ["a 1", "b 2", "c x"]))
    assert cached() == []


def test_two_processes_convert_at_once(tmp_path):
    rng = np.random.default_rng(2)
    path = tmp_path / "v.bin"
    save_vectors(path, [f"w{number}" for number in range(20_000)], rng.standard_normal((20_000, 50)))
    script = (
        "import sys; from nlptransfer.vectors.store import open_vectors\n"
        "sys.stdin.readline(); v = open_vectors(sys.argv[1]); print(len(v), v.rows(['w7', 'w19999']), v.matrix.sum())"
    )
    workers = [
        subprocess.Popen([sys.executable, "-c", script, str(path)], stdin=subprocess.PIPE, stdout=subprocess.PIPE)
        for _ in range(3)
    ]
    for worker in workers:
        assert worker.stdin is not None
        worker.stdin.write(b"\n")
        worker.stdin.flush()
    said = {worker.communicate(timeout=60)[0] for worker in workers}
    assert [worker.returncode for worker in workers] == [0, 0, 0]
    assert len(said) == 1 and said.pop().startswith(b"20000 [    7 19999]")
    assert len(cached()) == 1


def test_cache_that_cannot_be_written_is_done_without(tmp_path, monkeypatch, caplog):
    path = write_text(tmp_path / "v.txt", ["a 1", "b 2"])
    (tmp_path / "file").write_text("")
    monkeypatch.setenv("HF_HOME", str(tmp_path / "file"))
    opened = open_vectors(path)
    assert opened.words() == ["a", "b"] and opened.rows(["b"]).tolist() == [1]
    with monkeypatch.context() as patch:
        patch.setattr(store, "read_blocks", refuse)
        assert open_vectors(path).folder == opened.folder and pickle.loads(pickle.dumps(opened)).words() == ["a", "b"]
    open_vectors(write_text(tmp_path / "other.txt", ["c 1"]))
    (line,) = caplog.messages
    assert line.startswith("The cache cannot be written, so each command computes anew what it would hold (")
    assert "Not a directory" in line and (tmp_path / "file").is_file()


# What is opened


@pytest.mark.parametrize("name", ["gone.txt", "gone/v", "two words"])
def test_a_file_that_is_not_there_is_not_looked_up(tmp_path, monkeypatch, name):
    monkeypatch.setattr("urllib.request.urlopen", refuse)
    monkeypatch.chdir(tmp_path)
    with pytest.raises(VectorsError, match=f"^{name}: no such file or folder"):
        open_vectors(name)


def test_folder_that_holds_no_vectors(tmp_path):
    with pytest.raises(VectorsError, match=rf"^{tmp_path}: expected a file of vectors, or a folder that save_vectors"):
        open_vectors(tmp_path)


def test_model_of_gensims_downloader_is_fetched_once(tmp_path, monkeypatch):
    publish(serve(tmp_path / "site", monkeypatch), "glove-tiny-1", gzip.compress(b"2 1\ngood 1\nbad -1\n"))
    opened = open_vectors("glove-tiny-1")
    assert (opened.source, opened.words()) == ("glove-tiny-1", ["good", "bad"])
    monkeypatch.setattr("urllib.request.urlopen", refuse)
    assert open_vectors("glove-tiny-1").words() == ["good", "bad"]
    assert len(cached()) == 1


# At size


def write_large(path: Path, count: int) -> Path:
    record = np.zeros(100, dtype=np.float32).tobytes()
    path.write_bytes(b"%d 100\n" % count + b"".join(b"w%d " % number + record for number in range(count)))
    return path


def test_conversion_in_bounded_memory(tmp_path, monkeypatch):
    monkeypatch.setattr(formats, "_CHUNK", 1 << 18)
    monkeypatch.setattr(formats, "_HEAD", 1 << 18)
    path = write_large(tmp_path / "v.bin", 20_000)
    tracemalloc.start()
    open_vectors(path)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < path.stat().st_size / 2


def test_second_load_at_once(tmp_path, caplog):
    caplog.set_level(logging.INFO, "nlptransfer")
    path = write_large(tmp_path / "v.bin", 90_000)
    assert len(open_vectors(path)) == 90_000
    assert "v.bin is converted into the cache (37 MB)" in caplog.text
    taken = []
    for _ in range(3):
        began = time.process_time()
        open_vectors(path).rows(["film"])
        taken.append(time.process_time() - began)
    assert min(taken) < 0.1


@needs_shared
@pytest.mark.parametrize(
    ("name", "count", "known", "unknown"),
    [
        ("en_word2vec_100d.txt.gz", 89_935, ["don't", "film", "1,000", "."], ["n't", "Film", ""]),
        ("zh_word2vec_100d.txt.gz", 40_000, ["电影", "的", "中国"], ["電影"]),
    ],
)
def test_real_vectors(name, count, known, unknown):
    path = SHARED / "vectors" / name
    opened = open_vectors(path)
    assert (len(opened), opened.dimensions, opened.source) == (count, 100, name)
    assert len(set(opened.words())) == count
    assert (opened.rows(known) >= 0).all() and (opened.rows(unknown) == -1).all()
    keyed = KeyedVectors.load_word2vec_format(str(path), limit=2000)
    assert opened.words(0, 2000) == keyed.index_to_key
    np.testing.assert_array_equal(opened.matrix[:2000], keyed.vectors)
    last, *numbers = gzip.decompress(path.read_bytes()).decode().splitlines()[-1].split(" ")
    assert opened.words(count - 1) == [last]
    assert opened.matrix[-1].tolist() == [np.float32(number) for number in numbers]
