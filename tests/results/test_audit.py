"""What an audit keeps in its folder, and the data without what it marks."""

import tempfile
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from hypothesis import given
from hypothesis import strategies as st

from helpers.audits import made_audit
from helpers.folders import files_of
from nlptransfer import Audit, Labels
from nlptransfer.classifier import as_cell, from_cell
from nlptransfer.data import Split
from nlptransfer.errors import RunFolderError, SettingError
from nlptransfer.files import read_json, write_json
from nlptransfer.results.audit import _without, quoted
from nlptransfer.results.records import _read_table, write_table

ODD = "=1+1\r\n\x00,\"'NA'\t\x1b[2J"


def test_what_is_saved_is_loaded(tmp_path: Path) -> None:
    made = made_audit(tmp_path, ODD)
    made.save()
    assert {"audit.json", "findings.csv", "copies.csv", "paraphrases.csv", "drift.csv"} < set(files_of(tmp_path))
    loaded = Audit.load(tmp_path)
    assert loaded.findings == made.findings and loaded.summary == made.summary and loaded.data.rows == made.data.rows
    assert loaded.sections.keys() == made.sections.keys() and loaded.frames.keys() == made.frames.keys()
    for name, frame in made.frames.items():
        pd.testing.assert_frame_equal(loaded.frames[name], frame)
    assert loaded.sections["copies"].facts == made.sections["copies"].facts
    assert loaded.copies["text"][0].startswith(ODD) and (tmp_path / "copies.csv").read_bytes().count(b"\"'=1+1") == 10


def test_an_example_is_the_beginning_of_a_text_as_people_quote_it() -> None:
    assert quoted('I didn\'t say\n\t"yes".\x1b') == '“I didn\'t say "yes".”'
    assert quoted("a" * 121) == f"“{'a' * 120}…”" and quoted("a" * 120) == f"“{'a' * 120}”"


@given(st.lists(st.text(st.characters(exclude_categories=["Cs"])).filter(lambda text: not text.startswith("'"))))
def test_tables_come_back_as_they_were(texts: list[str]) -> None:
    frame = pd.DataFrame({"text": pd.Series(texts, dtype="str"), "row": np.arange(len(texts)), "drop": False})
    with tempfile.TemporaryDirectory() as folder:
        write_table(Path(folder) / "a.csv", frame)
        kinds = {name: str(kind) for name, kind in frame.dtypes.items()}
        pd.testing.assert_frame_equal(_read_table(Path(folder) / "a.csv", kinds), frame)


@pytest.mark.parametrize("text", ["=1+1", "-1", "-x", "@a", "'a", "a", "", "'"])
def test_a_cell_is_the_text_again(text: str) -> None:
    assert from_cell(as_cell(text)) == text and (as_cell(text) == f"'{text}") == (text in ("=1+1", "-x", "@a"))


def test_clean_leaves_out_what_is_marked_but_no_row_of_test(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    audit = made_audit(tmp_path, drop=(13, 16))
    assert audit.rows is not None
    cleaned = audit.clean(["copies"])
    # Row 16 is the only one of its label, and 11 of validation the first.
    assert cleaned.train.numbers.tolist() == [11, 12, 14, 15, 16] and cleaned.validation.numbers.tolist() == [11]
    assert cleaned.test is audit.rows.test and cleaned.labels == audit.rows.labels
    assert [line.split(",")[0] for line in caplog.messages] == ["Row 16 of train stays", "Row 11 of validation stays"]
    assert audit.clean(()).fingerprints() == audit.rows.fingerprints()
    assert audit.clean(["conflicts"]).fingerprints() == audit.rows.fingerprints()


@given(st.lists(st.tuples(st.sets(st.sampled_from(["bad", "good"])), st.booleans()), min_size=1))
def test_of_several_labels_none_loses_its_last_row(rows: list[tuple[set[str], bool]]) -> None:
    labels = Labels(("bad", "good"), True)
    targets = labels.encode([sorted(names) for names, _ in rows])
    split = Split([str(row) for row in range(len(rows))], targets)
    dropped = {number for number, (_, drop) in enumerate(rows, 1) if drop}
    left = _without(split, "train", dropped, labels)
    assert {int(text) + 1 for text in split.texts} - dropped <= {int(text) + 1 for text in left.texts}
    assert (labels.count(left.targets) > 0).tolist() == (labels.count(targets) > 0).tolist()
    # No more of them stay than there are labels.
    assert len(left) <= len(split) - len(dropped) + 2


@pytest.mark.parametrize("name", ["copy", "drift"])
def test_what_cannot_be_dropped(name: str, tmp_path: Path) -> None:
    with pytest.raises(SettingError, match=f"drop: unknown finding '{name}': "):
        made_audit(tmp_path).clean([name])


def test_a_folder_without_one(tmp_path: Path) -> None:
    with pytest.raises(RunFolderError, match=r"expected the folder of an audit, found no audit\.json"):
        Audit.load(tmp_path)
    made = made_audit(tmp_path)
    made.save()
    with pytest.raises(RunFolderError, match="expected an audit with its data, found its record alone: audit"):
        Audit.load(tmp_path).clean()
    (tmp_path / "drift.csv").unlink()
    with pytest.raises(RunFolderError, match=r"found no drift\.csv: make it again with overwrite"):
        Audit.load(tmp_path)
    write_json(tmp_path / "audit.json", read_json(tmp_path / "audit.json") | {"status": "running"})
    with pytest.raises(RunFolderError, match="found one that is not finished"):
        Audit.load(tmp_path)
