"""Arrays in files without a name: as in memory, out of it where they are let go, and gone with the process."""

import errno
import logging
from pathlib import Path

import numpy as np
import psutil
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from nlptransfer import mapped
from nlptransfer.errors import StorageError

PARTS = st.tuples(st.integers(1, 3), st.sampled_from(["<f4", "<i4", "<u1"])).flatmap(
    lambda shape: st.lists(arrays(shape[1], st.tuples(st.integers(0, 5), st.just(shape[0]))), min_size=1)
)


@pytest.fixture(autouse=True)
def little_memory(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(mapped, "MEMORY", 40)
    monkeypatch.setattr(mapped, "_BLOCK", 20)


@settings(max_examples=40)
@given(PARTS)
def test_arrays_are_joined_as_numpy_joins_them(parts: list[np.ndarray]) -> None:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(mapped, "MEMORY", 40)
        found = mapped.concatenated(iter(parts))
    expected = np.concatenate(parts)
    assert found.dtype == expected.dtype and found.shape == expected.shape
    np.testing.assert_array_equal(found, expected)
    np.testing.assert_array_equal(np.concatenate([*mapped.blocks(found)]), expected)


def test_numbers_are_counted_block_by_block() -> None:
    numbers = np.random.default_rng(0).integers(0, 9, 200, np.int32)
    assert len([*mapped.blocks(numbers)]) == 40
    np.testing.assert_array_equal(mapped.counted(numbers), np.bincount(numbers))
    assert mapped.counted(numbers[:0], 3).tolist() == [0, 0, 0]


def test_what_is_let_go_takes_no_memory_and_leaves_no_file(own_cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.undo()
    monkeypatch.setenv("HF_HOME", str(own_cache))
    monkeypatch.setattr(mapped, "MEMORY", 0)
    process, ones = psutil.Process(), np.ones(2**20, np.int64)
    array = mapped.concatenated([ones] * 8)
    assert [*(own_cache / "nlptransfer" / "rows").iterdir()] == []
    before = process.memory_info().rss
    assert array.sum() == 2**23
    read = process.memory_info().rss
    mapped.release(array[3:])
    assert read - before > 2**25 and read - process.memory_info().rss > 2**25
    assert array.sum() == 2**23


def test_a_full_disk_is_one_line(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(mapped, "_nameless", lambda _: open("/dev/full", "r+b", buffering=0))  # noqa: SIM115
    with pytest.raises(
        StorageError, match=r"rows: cannot be written: No space left on device: make room there"
    ) as told:
        mapped.concatenated([np.zeros(100)])
    assert isinstance(told.value.__cause__, OSError) and told.value.__cause__.errno == errno.ENOSPC


def test_without_a_cache_it_is_among_temporary_files(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    (tmp_path / "file").touch()
    monkeypatch.setenv("HF_HOME", str(tmp_path / "file"))
    with caplog.at_level(logging.WARNING, logger="nlptransfer"):
        assert mapped.concatenated([np.arange(100)]).tolist() == [*range(100)]
    assert "The cache cannot be written" in caplog.text
