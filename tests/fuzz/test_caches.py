"""Damaged caches, checkpoints, records and word vectors: made anew with the same numbers, read or refused."""

import gzip
import json
import os
import random
import shutil
from collections.abc import Callable
from dataclasses import replace
from functools import partial
from itertools import count
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow
import pyarrow.parquet
import pytest
import torch
from safetensors.numpy import save_file

from helpers.fasttext_files import save_fasttext
from helpers.fuzzing import ChangedPredictionError, Fuzzer, HalfFileError, mutated
from helpers.results import ONE_LABEL, result_of
from helpers.training import BASE, Tiny, fit, same
from nlptransfer.cache import SEAL, cache_folder, check_seal
from nlptransfer.errors import NlpTransferError, StorageError
from nlptransfer.files import file_hash
from nlptransfer.hub import packaged
from nlptransfer.hub.base_models import base_record, find_base, recorded_base
from nlptransfer.models.arrays import cached
from nlptransfer.results import Fit, RunResult, read_stage, write_stage
from nlptransfer.vectors import open_vectors, save_vectors
from nlptransfer.vectors.distillation import distill_vectors
from nlptransfer.vectors.store import WordVectors
from nlptransfer.vectors.training import continued_vectors

WORDS = ["the", "café", "电影", "film", "films", "don't", "a", "b"]
MATRIX = np.random.default_rng(0).standard_normal((len(WORDS), 5)).astype(np.float32)
TEXTS = ["the film", "films don't", "a café", "the new film", "a new film", "the new 电影"]
ticks = count(10**9)

pytestmark = pytest.mark.usefixtures("own_cache")


def damage(file: Path, draw: random.Random) -> None:
    """Change a file, or put something else in its place."""
    kind = draw.choice(["bytes", "bytes", "bytes", "cut", "empty", "missing", "folder", "link"])
    if kind in ("bytes", "cut", "empty"):
        content = file.read_bytes()
        cut = content[: draw.randrange(len(content) + 1)]
        file.write_bytes({"bytes": mutated(content, draw), "cut": cut, "empty": b""}[kind])
        # Two changes can come within one tick of a file system's clock.
        os.utime(file, ns=(next(ticks), next(ticks)))
        return
    file.unlink()
    if kind == "folder":
        (file / "inside").mkdir(parents=True)
    if kind == "link":
        file.symlink_to(file.name)


def damage_one(entries: Path, draw: random.Random) -> Path:
    """Damage a file of a cache, or a whole folder of it, and return it."""
    file = draw.choice(sorted(path for path in entries.rglob("*") if path.is_file()))
    if draw.random() < 0.1 and file.parent != entries:
        shutil.rmtree(file.parent)
        if draw.random() < 0.5:
            file.parent.write_bytes(b"no folder")
        return file.parent
    damage(file, draw)
    return file


def numbers(vectors: WordVectors) -> tuple[Any, ...]:
    """All that vectors hold, apart from their files."""
    more = [] if vectors.subwords is None else vectors.subwords.vectors(["filmes", "unseen"]).tolist()
    return vectors.words(), vectors.matrix.tolist(), vectors.rows(["film", "no such word"]).tolist(), more


@pytest.fixture
def caches(tmp_path: Path, bases: Any, monkeypatch: pytest.MonkeyPatch) -> dict[str, tuple[str, Callable[[], Any]]]:
    """By name, the kind of the cache, and what comes out of it."""
    save_vectors(tmp_path / "v.bin", WORDS, MATRIX)
    fasttext = save_fasttext(tmp_path / "f.bin", [text.split() for text in TEXTS])
    encoder = find_base(str(bases("bert").path))
    (tmp_path / "site" / "tiny_encoder").mkdir(parents=True)
    (tmp_path / "site" / "tiny_encoder" / "__init__.py").touch()
    packed = tmp_path / "site" / "tiny_encoder" / "packed.bin"
    packed.write_bytes(MATRIX.tobytes())
    monkeypatch.syspath_prepend(tmp_path / "site")

    def decode(source: Path, folder: Path) -> None:
        (folder / "config.json").write_text("{}")
        shutil.copy(source, folder / packaged.WEIGHTS)

    monkeypatch.setattr(packaged, "_decode", decode)
    hashes = {"sha256": file_hash(packed), "packed_sha256": file_hash(packed)}
    tiny = replace(packaged.E5_EN_PT, id="me/tiny", package="tiny_encoder", file="packed.bin", **hashes)

    def decoded() -> dict[str, bytes]:
        return {path.name: path.read_bytes() for path in tiny.folder().iterdir() if path.name != SEAL}

    known = open_vectors(save_vectors(tmp_path / "known", WORDS, MATRIX).folder)
    return {
        "converted": ("vectors", lambda: numbers(open_vectors(tmp_path / "v.bin"))),
        "fasttext": ("vectors", lambda: numbers(open_vectors(fasttext))),
        "continued": ("vectors", lambda: numbers(continued_vectors(known, TEXTS, min_count=2, epochs=1))),
        "distilled": ("vectors", lambda: numbers(distill_vectors(["good", "film", "bad"], encoder))),
        "features": ("features", lambda: cached({"rows": "some"}, MATRIX.copy).tolist()),
        "decoded": ("encoders", decoded),
    }


@pytest.mark.parametrize("name", ["converted", "fasttext", "continued", "distilled", "features", "decoded"])
def test_caches(fuzz: Fuzzer, caches: Any, name: str, caplog: pytest.LogCaptureFixture) -> None:
    kind, work = caches[name]
    whole, entries = work(), cache_folder(kind)

    def made_anew() -> None:
        caplog.clear()
        try:
            result = work()
        except NlpTransferError as error:
            raise AssertionError(f"not made anew: {error}") from error
        if result != whole:
            raise ChangedPredictionError(f"{result!r:.200}")
        check_whole(entries)
        lines = len(caplog.messages)
        assert work() == whole and len(caplog.messages) == lines, "made anew twice"

    for seed, draw in fuzz.draws(12):
        touched = damage_one(entries, draw)
        for last in entries.glob("distilled-*"):
            # Made of what was damaged, it would stand for it.
            if not touched.is_relative_to(last):
                shutil.rmtree(last)
        fuzz.attempt(f"{name} {seed} {touched.name}", made_anew)


def check_whole(entries: Path) -> None:
    """Look for what is not sealed, or not as it was sealed, in a folder of the cache."""
    try:
        for entry in entries.iterdir():
            check_seal(entry)
    except StorageError as error:
        raise HalfFileError(str(error)) from error


def test_notes_of_local_bases(fuzz: Fuzzer, bases: Any) -> None:
    base = find_base(str(bases("bert").path))

    def opened(record: dict[str, Any]) -> None:
        # Where a base lies nothing else knows: it is named when it is needed.
        if recorded_base(record).path != base.path:
            raise ChangedPredictionError

    for seed, draw in fuzz.draws(25):
        record = base_record(base)
        damage_one(cache_folder("bases"), draw)
        fuzz.attempt(f"base {seed}", partial(opened, record))
        shutil.rmtree(cache_folder("bases"))


def test_saved_folders_of_vectors(fuzz: Fuzzer, tmp_path: Path) -> None:
    whole = numbers(save_vectors(tmp_path / "whole", WORDS, MATRIX))

    def opened(folder: Path) -> None:
        if numbers(open_vectors(folder)) != whole:
            raise ChangedPredictionError

    for seed, draw in fuzz.draws(25):
        folder = shutil.copytree(tmp_path / "whole", tmp_path / "v")
        touched = damage_one(folder, draw)
        fuzz.attempt(f"saved {seed} {touched.name}", partial(opened, folder))
        shutil.rmtree(folder)


def test_checkpoints(fuzz: Fuzzer, tmp_path: Path) -> None:
    settings = replace(BASE, save_steps=3)
    whole, _ = fit(tmp_path / "whole", settings, Tiny(0.3))
    with pytest.raises(KeyboardInterrupt):
        fit(tmp_path / "cut", settings, Tiny(0.3, stop_at=12))

    def resumed(folder: Path) -> None:
        if not same(whole, fit(folder, settings, Tiny(0.3))[0]):
            raise ChangedPredictionError

    for seed, draw in fuzz.draws(8):
        folder = shutil.copytree(tmp_path / "cut", tmp_path / "damaged")
        touched = damage_one(folder, draw)
        fuzz.attempt(f"checkpoint {seed} {touched.name}", partial(resumed, folder))
        shutil.rmtree(folder)


def test_finished_stages(fuzz: Fuzzer, tmp_path: Path) -> None:
    weights, fitted = {"head": torch.from_numpy(MATRIX)}, Fit(seconds=1.0, examples=80)

    def read(folder: Path) -> None:
        kept = read_stage(folder)
        if kept is not None and not (torch.equal(kept[0]["head"], weights["head"]) and kept[1] == fitted):
            raise ChangedPredictionError

    for seed, draw in fuzz.draws(25):
        write_stage(tmp_path / "stage", weights, fitted, MATRIX)
        touched = damage_one(tmp_path / "stage", draw)
        fuzz.attempt(f"stage {seed} {touched.name}", partial(read, tmp_path / "stage"))


def test_records_of_runs(fuzz: Fuzzer, tmp_path: Path) -> None:
    result_of(tmp_path / "run", ONE_LABEL).save()

    def read(folder: Path) -> None:
        RunResult.load(folder)

    for seed, draw in fuzz.draws(25):
        folder = shutil.copytree(tmp_path / "run", tmp_path / "damaged")
        touched = draw.choice(sorted(folder.iterdir()))
        damage(touched, draw)
        fuzz.attempt(f"record {seed} {touched.name}", partial(read, folder))
        shutil.rmtree(folder)


def parquet_of(words: list[str]) -> bytes:
    sink = pyarrow.BufferOutputStream()
    pyarrow.parquet.write_table(pyarrow.table({"word": words}), sink)
    return sink.getvalue().to_pybytes()


@pytest.fixture(scope="module")
def files(tmp_path_factory: pytest.TempPathFactory) -> dict[str, dict[str, bytes]]:
    """By what is opened, the files that hold word vectors, by their names."""
    place = tmp_path_factory.mktemp("vectors")
    for name in ("v.txt", "v.bin", "v.txt.gz", "v.bin.gz"):
        save_vectors(place / name, WORDS, MATRIX)
    text = (place / "v.txt").read_bytes()
    np.save(place / "m.npy", MATRIX)
    save_file({"embeddings": MATRIX}, place / "m.safetensors")
    save_file({"embeddings": MATRIX[:4], "mapping": np.arange(8) % 4}, place / "shared.safetensors")
    model = save_fasttext(place / "f.bin", [text.split() for text in TEXTS]).read_bytes()
    npy, safetensors = (place / "m.npy").read_bytes(), (place / "m.safetensors").read_bytes()
    lines = "\n".join(WORDS).encode()
    by_row = json.dumps({word: row for row, word in enumerate(WORDS)}).encode()
    return {
        "v.txt": {"v.txt": text},
        "glove.txt": {"glove.txt": text.partition(b"\n")[2]},
        "v.vec": {"v.vec": text.replace(b" ", b"\t")},
        "v.bin": {"v.bin": (place / "v.bin").read_bytes()},
        "v.txt.gz": {"v.txt.gz": (place / "v.txt.gz").read_bytes()},
        "v.bin.gz": {"v.bin.gz": (place / "v.bin.gz").read_bytes()},
        "f.bin": {"f.bin": model},
        "f.bin.gz": {"f.bin.gz": gzip.compress(model)},
        "m.npy": {"m.npy": npy, "m.words.txt": lines},
        "": {"m.npy": npy, "vocab.json": by_row},
        "m.safetensors": {"m.safetensors": safetensors, "words.json": json.dumps(WORDS).encode()},
        "n.npy": {"n.npy": npy, "n.parquet": parquet_of(WORDS)},
        "s.safetensors": {"s.safetensors": (place / "shared.safetensors").read_bytes(), "s.tsv": lines},
    }


def test_files_of_vectors(fuzz: Fuzzer, files: dict[str, dict[str, bytes]], tmp_path: Path) -> None:
    every = tuple(content for contents in files.values() for content in contents.values())

    def read(source: Path) -> None:
        try:
            opened = open_vectors(source)
            assert np.isfinite(opened.matrix).all() and len(opened.words()) == len(opened.matrix) > 0
            assert (opened.rows(opened.words()) == np.arange(len(opened))).all()
        finally:
            if (entries := cache_folder("vectors")).exists():
                check_whole(entries)
                shutil.rmtree(entries)

    for seed, draw in fuzz.draws(60):
        source = draw.choice([*files])
        folder = tmp_path / str(seed)
        folder.mkdir()
        for name, content in files[source].items():
            (folder / name).write_bytes(content)
        file = draw.choice([*folder.iterdir()])
        if draw.random() < 0.2:
            damage(file, draw)
        else:
            file.write_bytes(mutated(file.read_bytes(), draw, every))
        fuzz.attempt(f"{source} {seed} {file.name}", partial(read, folder / source))
        shutil.rmtree(folder)
