"""Arrays of the cache: made once, limited in size, and done without where it cannot be written; in parts."""

import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from nlptransfer.errors import SettingError
from nlptransfer.files import size_mb
from nlptransfer.models import arrays
from nlptransfer.models.arrays import Part, cached, cached_in_parts


@pytest.fixture
def folder(own_cache: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.delenv(arrays.CACHE_LIMIT, raising=False)
    return own_cache / "nlptransfer" / "features"


class Maker:
    """Makes an array and counts how often."""

    def __init__(self, value: float = 1.0, shape: tuple[int, ...] = (40, 8)) -> None:
        self.array, self.calls = np.full(shape, value, dtype=np.float16), 0

    def __call__(self) -> np.ndarray:
        self.calls += 1
        return self.array


def test_made_once_then_mapped(folder: Path) -> None:
    make = Maker()
    for _ in range(3):
        found = cached({"rows": "a", "layers": [1, 2]}, make)
        assert isinstance(found, np.memmap) and not found.flags.writeable
        np.testing.assert_array_equal(found, make.array)
        assert found.dtype == np.float16
    assert make.calls == 1
    cached({"layers": [1, 2], "rows": "a"}, make)
    assert make.calls == 1
    cached({"rows": "a", "layers": [2, 1]}, make)
    assert make.calls == 2
    assert len([*folder.iterdir()]) == 2


def test_full_disk(folder: Path, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(file: Path, array: np.ndarray, **_: Any) -> None:
        file.write_bytes(b"a part of it")
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(np, "save", full)
    make = Maker()
    for number in range(2):
        assert cached({"number": number}, make) is make.array
    (line,) = caplog.messages
    assert line.startswith("The cache cannot be written, ") and "No space left on device: make room there" in line
    assert not [*folder.iterdir()]


def age(file: Path, days: float) -> None:
    then = file.stat().st_mtime - 86_400 * days
    os.utime(file, (then, then))


def test_what_was_used_longest_ago_goes(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    makers = {name: Maker(value) for value, name in enumerate("abcd")}
    files: dict[str, Path] = {}
    for place, name in enumerate("abc"):
        before = {*folder.glob("*")}
        cached({"rows": name}, makers[name])
        (files[name],) = {*folder.iterdir()} - before
        age(files[name], 30 - place)
    cached({"rows": "a"}, makers["a"])
    leftover = folder / ".of_a_run_that_was_killed.npy.x7"
    leftover.write_bytes(b"0" * 100)
    age(leftover, 2)
    monkeypatch.setenv(arrays.CACHE_LIMIT, str(3 * size_mb(files["a"]) / 2**10))
    cached({"rows": "d"}, makers["d"])
    left = {*folder.iterdir()}
    assert {name for name, file in files.items() if file in left} == {"a"}
    assert len(left) == 3 and leftover in left
    age(leftover, 90)
    cached({"rows": "b"}, makers["b"])
    assert len([*folder.iterdir()]) == 3 and not leftover.exists()
    assert [make.calls for make in makers.values()] == [1, 2, 1, 1]


def test_entry_larger_than_the_limit_stays_alone(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    cached({"rows": "small"}, Maker(shape=(1, 1)))
    monkeypatch.setenv(arrays.CACHE_LIMIT, "0")
    make = Maker()
    assert isinstance(cached({"rows": "large"}, make), np.memmap)
    cached({"rows": "large"}, make)
    assert make.calls == 1
    assert len([*folder.iterdir()]) == 1


@pytest.mark.parametrize("said", ["many", "-1", "nan"])
def test_limit_that_is_none(folder: Path, monkeypatch: pytest.MonkeyPatch, said: str) -> None:
    monkeypatch.setenv(arrays.CACHE_LIMIT, said)
    with pytest.raises(SettingError, match=f"NLPTRANSFER_CACHE_GB='{said}': expected the GiB"):
        cached({}, Maker())


# In parts


class Parts:
    """Parts of an array, dealt out at random, and which of them were made."""

    def __init__(self, shape: tuple[int, ...] = (50, 3), stop_at: int | None = None) -> None:
        draw = np.random.default_rng(0)
        self.array, self.made, self.stop_at = draw.normal(size=shape).astype(np.float16), list[int](), stop_at
        self.rows = np.split(draw.permutation(len(self.array)), [1, 1, 20, 27])

    def __call__(self) -> Iterator[Part]:
        for number, rows in enumerate(map(np.sort, self.rows)):
            yield Part(str(number), rows, lambda number=number, rows=rows: self.make(number, rows))

    def make(self, number: int, rows: np.ndarray) -> np.ndarray:
        if number == self.stop_at:
            raise KeyboardInterrupt
        self.made.append(number)
        return self.array[rows]


@pytest.mark.parametrize("shape", [(50,), (50, 3), (50, 2, 3)])
def test_an_array_in_parts_is_that_of_one_piece(folder: Path, shape: tuple[int, ...]) -> None:
    parts = Parts(shape)
    found = cached_in_parts({"rows": "a"}, parts)
    assert isinstance(found, np.memmap) and found.dtype == np.float16 and parts.made == [0, 1, 2, 3, 4]
    (entry,) = folder.iterdir()
    assert np.load(entry / "array.npy").tobytes() == parts.array.tobytes()
    cached({"rows": "b"}, lambda: parts.array)
    one, other = (path.read_bytes() for path in folder.rglob("array.npy"))
    assert one == other
    assert cached_in_parts({"rows": "a"}, parts) is not found and len(parts.made) == 5


def test_what_was_made_before_an_interruption_is_not_made_again(folder: Path, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level("INFO", "nlptransfer")
    first, second = Parts(stop_at=3), Parts()
    with pytest.raises(KeyboardInterrupt):
        cached_in_parts({}, first)
    for name in ("whole.json", "array.npy"):
        next(folder.glob(f"*/{name}")).write_bytes(b"no more")
    np.testing.assert_array_equal(cached_in_parts({}, second), first.array)
    assert first.made == [0, 1, 2] and len(second.made) in (3, 4)
    before, *damaged = caplog.messages
    assert before == "3 parts of the features are in the cache, and the others are computed"
    assert len(damaged) == len(second.made) - 2
    assert all(line.startswith("features: the copy in the cache is damaged, and is made anew (") for line in damaged)
    (entry,) = folder.iterdir()
    # Of a process that was killed when others had made the whole.
    (folder / f"{entry.name}-7").mkdir()
    cached_in_parts({}, second)
    assert [*folder.iterdir()] == [entry]


def test_parts_stay_in_memory_where_nothing_can_be_written(own_cache: Path, caplog: pytest.LogCaptureFixture) -> None:
    own_cache.write_text("a file")
    parts = Parts()
    np.testing.assert_array_equal(cached_in_parts({}, parts), parts.array)
    (line,) = caplog.messages
    assert line.startswith("The cache cannot be written, ") and parts.made == [0, 1, 2, 3, 4]


def test_parts_that_others_remove_are_in_memory(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    parts = Parts()

    def make(number: int, rows: np.ndarray) -> np.ndarray:
        for part in folder.glob("*"):
            arrays.remove(part)
        return parts.array[rows]

    monkeypatch.setattr(parts, "make", make)
    np.testing.assert_array_equal(cached_in_parts({}, parts), parts.array)
