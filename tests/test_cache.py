"""Entries of the cache: sealed, opened, made anew where damaged, and done without where nothing can be written."""

import os
import shutil
from pathlib import Path

import pytest

from nlptransfer import files
from nlptransfer.cache import SEAL, cache_folder, cached_entry, check_seal, seal
from nlptransfer.errors import BaseModelError, StorageError
from nlptransfer.files import content_stamp


@pytest.fixture
def entry(own_cache: Path) -> Path:
    return cache_folder("some") / "entry"


class Maker:
    """Writes a file into a folder, and counts how often."""

    def __init__(self) -> None:
        self.calls = 0

    def __call__(self, folder: Path) -> None:
        self.calls += 1
        (folder / "deep").mkdir()
        (folder / "deep" / "text").write_text("whole")


def read(folder: Path) -> str:
    return (folder / "deep" / "text").read_text()


def test_made_once(entry: Path, caplog: pytest.LogCaptureFixture) -> None:
    make = Maker()
    assert [cached_entry(entry, "it", make, read) for _ in range(3)] == ["whole"] * 3
    assert make.calls == 1 and not caplog.messages
    assert sorted(path.name for path in entry.iterdir()) == ["deep", SEAL] and [*entry.parent.iterdir()] == [entry]


def test_what_is_damaged_is_made_anew_and_said(entry: Path, caplog: pytest.LogCaptureFixture) -> None:
    make = Maker()
    cached_entry(entry, "it", make, read)
    (entry / "deep" / "text").write_text("whale")
    assert cached_entry(entry, "it", make, read) == "whole" and make.calls == 2
    damaged = f"{entry}: damaged: deep/text is not as it was written"
    assert caplog.messages == [f"it: the copy in the cache is damaged, and is made anew ({damaged})"]


def test_what_cannot_be_opened_is_made_anew(entry: Path, caplog: pytest.LogCaptureFixture) -> None:
    make = Maker()

    def opened(folder: Path) -> str:
        if make.calls == 1:
            raise BaseModelError("of another version")
        return read(folder)

    cached_entry(entry, "it", make, read)
    assert cached_entry(entry, "it", make, opened) == "whole"
    assert caplog.messages == ["it: the copy in the cache is damaged, and is made anew (of another version)"]


def test_an_error_in_making_leaves_nothing(entry: Path) -> None:
    def make(folder: Path) -> None:
        (folder / "half").touch()
        raise BaseModelError("no such base")

    with pytest.raises(BaseModelError, match=r"^no such base$"):
        cached_entry(entry, "it", make, read)
    assert not [*entry.parent.iterdir()]


def test_what_another_process_has_made_meanwhile_is_taken(entry: Path) -> None:
    first, second = Maker(), Maker()

    def slow(folder: Path) -> None:
        cached_entry(entry, "it", first, read)
        second(folder)
        (folder / "deep" / "text").write_text("other")

    assert cached_entry(entry, "it", slow, read) == "whole"
    assert (first.calls, second.calls) == (1, 1) and [*entry.parent.iterdir()] == [entry]


def test_a_file_is_hashed_once_for_each_of_its_states(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    hashed: list[Path] = []

    def counted(file: Path, *state: int) -> str:
        hashed.append(file)
        return content_stamp(file)

    monkeypatch.setattr(files, "_sha256_of", counted)
    (tmp_path / "large").write_text("whole")
    seal(tmp_path)
    assert len(hashed) == 1
    check_seal(tmp_path)
    assert len(hashed) == 1
    # Copied, or touched.
    shutil.copytree(tmp_path, tmp_path / "copy")
    os.utime(tmp_path / "copy" / "large", (1, 1))
    check_seal(tmp_path / "copy")
    check_seal(tmp_path / "copy")
    assert len(hashed) == 2
    os.utime(tmp_path / "large", (2, 2))
    (tmp_path / "large").write_text("whale")
    with pytest.raises(StorageError, match=r"^/.*: damaged: large is not as it was written$"):
        check_seal(tmp_path)


@pytest.mark.parametrize("content", ["", "{}", "[]", "7", '{"large": 7}', '{"large": {"state": null}}', "[" * 50_000])
def test_a_seal_that_is_none(tmp_path: Path, content: str) -> None:
    (tmp_path / "large").write_text("whole")
    (tmp_path / SEAL).write_text(content)
    with pytest.raises(StorageError, match=r"^/.*: damaged: [^\n]+$"):
        check_seal(tmp_path)


def test_a_seal_does_not_count_as_content(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("whole")
    before = content_stamp(tmp_path)
    seal(tmp_path)
    assert content_stamp(tmp_path) == before


def test_without_a_cache_it_is_made_once_in_a_process(
    entry: Path, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    entry.parent.parent.parent.mkdir(parents=True)
    entry.parent.parent.write_text("no folder")
    make = Maker()
    assert [cached_entry(entry, "it", make, read) for _ in range(2)] == ["whole"] * 2
    assert cached_entry(entry.with_name("other"), "it", make, read) == "whole"
    assert make.calls == 2
    (line,) = caplog.messages
    assert line.startswith("The cache cannot be written, so each command computes anew what it would hold (/")
    # Nor temporary files.
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path / "none"))
    (tmp_path / "none").write_text("no folder")
    with pytest.raises(StorageError, match=r"none/third: cannot be written: File exists: something"):
        cached_entry(entry.with_name("third"), "it", make, read)
