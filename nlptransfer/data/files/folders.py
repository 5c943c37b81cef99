"""Find the files of each split in a folder, in order. Does not read them."""

import re
from collections import defaultdict
from collections.abc import Iterable, Sequence
from pathlib import Path

from nlptransfer.data.files.opening import unpacked_name
from nlptransfer.data.files.parsing import KINDS, kind_of, stem_of
from nlptransfer.errors import DataError, abridged

SPLIT_NAMES = {
    **dict.fromkeys(("train", "training"), "train"),
    **dict.fromkeys(("validation", "valid", "val", "dev"), "validation"),
    **dict.fromkeys(("test", "testing", "eval", "evaluation"), "test"),
}
"""Names that a split goes by, in files, folders and in a DatasetDict, and its name here."""
WHOLE = "all"
"""The name of the only part of a source that comes without splits."""
_KEYWORD = "|".join(SPLIT_NAMES)
_NAME = re.compile(rf"({_KEYWORD})", re.IGNORECASE)
_SHARD = re.compile(rf"({_KEYWORD})[-._ ]?\d+([-._ ]of[-._ ]\d+)?(-[0-9a-f]{{8,}})?", re.IGNORECASE)
_WORD = re.compile(rf"(?:.*[-._ 0-9])?({_KEYWORD})(?:[-._ 0-9].*)?", re.IGNORECASE)
_PART_NAME = re.compile(r"\D*\d+(\D\d+)?")
_NO_ROWS = ("dataset_dict.json", "dataset_info.json", "dataset_infos.json", "state.json")
"""Names of what ``datasets`` says of the rows that it saves."""
_PART = re.compile(r"(\d+)[-._ ]of[-._ ](\d+)")


def files_of_splits(folder: Path) -> dict[str, tuple[Path, ...]]:
    """Find the files of each split of a folder, by split; under :data:`WHOLE` alone where it has no splits.

    Files are of the split that their name is, with the number of a part or without, or the name of their folder; else
    of the split that a word of their name says, as in datasets.load_dataset(folder). Files whose names differ in
    nothing but numbers are the parts of a whole. A folder "data", or the only folder, in it counts as the folder
    itself. A DataError where there is none of these, where a split has two files that are no parts, or where a part is
    missing.
    """
    places = (folder, folder / "data")
    files = [file for place in places for file in _row_files(place)]
    folders = [inner for place in places for inner in entries_of(place) if inner.is_dir()]
    splits: dict[str, tuple[Path, ...]] = {}
    for patterns in (_NAME, _SHARD), (_WORD,):
        found: dict[str, dict[str, list[Path]]] = defaultdict(lambda: defaultdict(list))
        for file in files:
            if split := _split_of(stem_of(file), patterns):
                found[split][_without_numbers(file)].append(file)
        for inner in folders:
            if (split := _split_of(inner.name, patterns)) and (parts := _row_files(inner)):
                found[split][str(inner)] += parts
        splits |= {split: _only(split, groups, folder) for split, groups in found.items() if split not in splits}
    if splits:
        return splits
    if not files and len(folders) == 1:
        return files_of_splits(folders[0])
    groups = defaultdict(list)
    for file in files:
        groups[_without_numbers(file)].append(file)
    if len(groups) == 1:
        return {WHOLE: _only(WHOLE, groups, folder)}
    there = abridged([entry.name for entry in entries_of(folder)], 20) or "nothing"
    raise DataError(
        f"{folder}: expected files named train, validation, test (csv, jsonl, parquet, ...), or the numbered parts of "
        f"one table, found {there}"
    )


def parts_of(folder: Path) -> tuple[list[Path], list[Path]]:
    """List the files of rows in a folder and in those within it, whatever splits they are of, and all other files."""
    entries = entries_of(folder)
    files = [file for file in _row_files(folder) if file.name not in _NO_ROWS]
    others = [entry for entry in entries if entry.is_file() and entry not in files]
    for inner in entries:
        if inner.is_dir() and not inner.is_symlink():
            inner_files, inner_others = parts_of(inner)
            files, others = [*files, *inner_files], [*others, *inner_others]
    return files, others


def name_of_part(file: Path) -> str:
    """Return the name of a file of rows without what says its kind: of "a.csv.gz" it is "a", of "rows.7" all."""
    return stem_of(file) if kind_of(file) in (*KINDS, ".txt") else unpacked_name(file.name)


def entries_of(folder: Path) -> list[Path]:
    """List what is in a folder, part 10 behind part 9, without what is hidden, or no data by its name."""
    entries = folder.iterdir() if folder.is_dir() else ()
    return sorted((entry for entry in entries if entry.name[0] not in "._"), key=_natural)


def _natural(path: Path) -> list[tuple[int, str]]:
    return [(int(number or 0), word) for word, number in re.findall(r"(\D*)(\d*)", path.name)]


def _row_files(folder: Path) -> list[Path]:
    """List the files of rows in a folder; text files only where there are no others, or where they name a split."""
    files = [file for file in entries_of(folder) if file.is_file()]
    rows = [file for file in files if kind_of(file) in KINDS or _PART_NAME.fullmatch(unpacked_name(file.name))]
    texts = [file for file in files if kind_of(file) == ".txt"]
    return rows + [file for file in texts if not rows or _split_of(stem_of(file), (_NAME, _SHARD))]


def _split_of(name: str, patterns: Iterable[re.Pattern[str]]) -> str | None:
    match = next(filter(None, (pattern.fullmatch(name) for pattern in patterns)), None)
    return SPLIT_NAMES[match[1].lower()] if match else None


def _without_numbers(file: Path) -> str:
    return re.sub(r"\d+|-[0-9a-f]{16}(?=\.)", "", str(file))


def _only(split: str, groups: dict[str, list[Path]], folder: Path) -> tuple[Path, ...]:
    if len(groups) > 1:
        first, second = (files[0].relative_to(folder) for files in list(groups.values())[:2])
        raise DataError(f"{folder}: expected one {split} split, found two ({first}, {second}); keep one of them")
    (files,) = groups.values()
    _check_parts(files)
    return tuple(files)


def _check_parts(files: Sequence[Path]) -> None:
    numbers = [match for file in files if (match := _PART.search(file.name))]
    if len(numbers) == len(files):
        count, there = int(numbers[0][2]), {int(match[1]) for match in numbers}
        missing = [str(number) for number in range(count) if number not in there]
        # Some count from 1.
        if missing and there != set(range(1, count + 1)):
            raise DataError(
                f"{files[0]}: expected {count} parts, found {len(files)}, without {abridged(missing, 10)}; copy these"
            )
