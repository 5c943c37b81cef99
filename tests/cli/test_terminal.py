"""What the terminal is shown: no name of a label, a file or a column can make it do anything, and none is cut."""

import json
import re
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from nlptransfer.classifier.parts import Part, PartState
from nlptransfer.cli.app import main
from nlptransfer.cli.log import visible
from nlptransfer.cli.terminal import show_parts

HOSTILE = "\x1b]0;mine\x07\x9b2J\u202egood\u2066\u200f\r\x08"


@given(st.text(st.characters(exclude_categories=["Cs"])))
def test_what_is_shown_is_the_same_json(text):
    shown = visible(json.dumps(text, ensure_ascii=False))
    assert json.loads(shown) == text and not set(HOSTILE) - set("0;mine]2Jgood") & set(shown)


def test_text_that_people_read_stays_as_it_is():
    for text in ("a\tb\nc", "é 好 🎬 שלום مرحبا क्‍ष", "\\u001b"):
        assert visible(text) == text
    assert visible("a\nb", breaks=False) == r"a\nb"
    assert visible("name\udcff") == r"name\udcff"


@pytest.mark.parametrize("verb", ["finetune", "predict"])
def test_names_of_files_labels_and_columns(verb, command_line, run, tmp_path):
    folder = tmp_path / f"x{HOSTILE}"
    folder.mkdir()
    rows = [{"text": f"wordaa goodae {number}", "label": HOSTILE, HOSTILE: "b"} for number in range(4)]
    (folder / "rows.jsonl").write_text("\n".join(map(json.dumps, rows)), encoding="utf-8")
    (folder / "empty.jsonl").write_text("")
    for name in ("rows.jsonl", "empty.jsonl", "gone.jsonl"):
        arguments = [verb, *([run.folder] if verb == "predict" else []), folder / name]
        ended = command_line(main, *arguments)
        shown = ended.out + ended.err
        assert shown and not [sign for sign in shown if sign in HOSTILE and not sign.isprintable()], shown
        assert ended.code == (0 if verb == "predict" and name == "rows.jsonl" else 2)


@pytest.mark.parametrize("width", [80, 120])
def test_long_names_of_parts_fold(width, monkeypatch, capsys):
    monkeypatch.setenv("COLUMNS", "80")
    # Where it is no terminal, there is more room.
    monkeypatch.setattr("sys.stdout.isatty", lambda: width == 80)
    names = [f"rows/{'of some year/' * number}part-0000{number}-c000.snappy.parquet" for number in (0, 9)]
    notes = [f"{names[1]}, after row 0: broken parquet: {'no magic bytes ' * 9}", "process 7 on node-17"]
    parts = [Part(Path(name), Path("out")) for name in names]
    show_parts([PartState(parts[0], "failed", notes[0]), PartState(parts[1], "at work", notes[1])])
    *table, last = re.sub("\x1b\\[[0-9;]*m", "", capsys.readouterr().out).splitlines()
    assert {*map(len, table)} == {width} and last == "1 failed, 1 at work, of 2 parts"
    rows = [line[1:-1].split("│") for line in table if line.startswith("│")]
    columns = ["".join(cell.strip() for cell in column) for column in zip(*rows, strict=True)]
    wanted = ["".join(names), "failed" + "at work", "".join(notes)]
    assert [column.replace(" ", "") for column in columns] == [column.replace(" ", "") for column in wanted]
