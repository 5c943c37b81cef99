"""Write the rows that are left of a source, with all of its columns. Does not know why the others are left out."""

import logging
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from nlptransfer.classifier import KINDS, check_output, open_output
from nlptransfer.data import Data, SourceRows, Table
from nlptransfer.errors import DataError
from nlptransfer.files import atomic_folder, named_path

log = logging.getLogger("nlptransfer")


def check_clean_to(clean_to: str | Path, source: Any, rows: SourceRows) -> Path:
    """Return the path of the file, or of the folder of a file for each split, that rows go to.

    A DataError for a file where the source has splits, for what is to be read, and for a folder with other files.
    """
    path = named_path(clean_to)
    if not _is_folder(path):
        if rows.has_splits:
            raise DataError(
                f"{path}: expected a folder, for the splits {', '.join(rows.tables)}, found the name of a file: "
                f"leave out {''.join(path.suffixes)}"
            )
        return check_output(path, source)
    names = {check_output(path / f"{split}{_kind(rows)}", source).name for split in ("train", "validation", "test")}
    if path.is_dir() and (others := sorted({file.name for file in path.iterdir()} - names)):
        raise DataError(f"{path}: expected a new folder, found {others[0]!r} in it: name another one")
    return path


def write_clean(path: Path, audited: Data, cleaned: Data, rows: SourceRows) -> None:
    """Write the rows of cleaned data, in the order of the source: one file of all, or a folder of a file a split.

    In a folder the rows of calibration are in train, of which they are split off again; test is as it was.
    """
    if _is_folder(path):
        with atomic_folder(path) as new:
            for split, table in _by_split(cleaned, rows).items():
                _write(new / f"{split}{_kind(rows)}", table)
    else:
        _write(path, rows.rows([*cleaned.splits.values()]))
    before, after = (sum(map(len, data.splits.values())) for data in (audited, cleaned))
    again = "" if _is_folder(path) else "; what reads this file splits it anew: name a folder, to keep test as it is"
    log.info("%s: %d of the %d rows are written, and %d are left out%s", path, after, before, before - after, again)


def _by_split(cleaned: Data, rows: SourceRows) -> Mapping[str, Table]:
    tables = {"train": rows.rows([cleaned.train, cleaned.calibration]), "validation": rows.rows([cleaned.validation])}
    if "test" in rows.tables:
        return {**tables, "test": rows.tables["test"]}
    return {**tables, "test": rows.rows([cleaned.test])} if len(cleaned.test) else tables


def _is_folder(path: Path) -> bool:
    return path.is_dir() or not path.suffix


def _kind(rows: SourceRows) -> str:
    return rows.kind if rows.kind in KINDS else ".jsonl"


def _write(path: Path, table: Table) -> None:
    # Cells are what they were in the source: with a ' before them texts would be others.
    with open_output(path, raw_cells=True) as writer:
        writer.write(table, {})
