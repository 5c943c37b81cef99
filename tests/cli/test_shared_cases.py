"""Files as people have them, through the command line: what is read of each, said of it, or refused."""

from dataclasses import dataclass

import pytest

from helpers.folders import SHARED, needs_shared
from nlptransfer import RunResult
from nlptransfer.cli.app import main

CASES = SHARED / "cases"
ROWS = 60


@dataclass(frozen=True)
class Case:
    """What a file is read as."""

    text: str | list[str] = "text"
    label: str | list[str] = "label"
    labels: tuple[str, ...] = ("neg", "pos")
    multi_label: bool = False
    rows: int = ROWS
    log: tuple[str, ...] = ()
    """what the log says of what was inferred"""
    options: tuple[str, ...] = ()
    """without which it is refused"""
    error: str | None = None
    """the one line that it is refused with, without these options if there are any"""
    predict_error: str | None = None
    """the same of predict"""
    predicted: int = 0
    """rows that predict reads, where there are more than are learned from"""


SEMI = ("separator ';'", "set separator=")
READ = {
    "bin.parquet": Case(),
    "bs.csv": Case(
        error='bs.csv, line 2: expected the quotes " at the start and the end of cells, and doubled inside, found',
        predict_error="where a backslash precedes quotes inside",
        options=("--escape", "\\"),
        predicted=2,
    ),
    "cats.jsonl": Case(label="cats", log=("mappings of labels to 0 and 1 are read as one label a row",)),
    "cols.json": Case(log=("the file is a table, column by column",)),
    "cp.csv": Case(
        error="cp.csv, line 2: expected UTF-8, found the byte 0x96 at position 65; encoding=cp1252 reads the line",
        predict_error="encoding=cp1252",
        options=("--encoding", "cp1252"),
    ),
    "d.csv": Case(
        error="found 'a|b', whose parts are labels of other rows; set label_delimiter='|' if a row has several",
        options=("--set", "label_delimiter=|"),
        labels=("a", "b"),
        multi_label=True,
    ),
    "data.json": Case(log=("rows are those under 'data'",)),
    "date.parquet": Case(error="row 1: expected a label (text, a whole number, true or false, or a flat list"),
    "dec.parquet": Case(labels=("0", "1")),
    "excel_tail.csv": Case(log=("2 empty columns without name left out",)),
    "fsl.parquet": Case(
        error="found [0, 1, 0]; name the columns of vectors of 0 and 1 in label_names",
        options=("--set", "label_names=x,y,z"),
        labels=("x", "y"),
        multi_label=True,
    ),
    "ft.txt": Case(log=("__label__",)),
    "gz_as.csv": Case(),
    "hfparts": Case(),
    "inch.csv": Case(
        error='inch.csv, line 2: expected the quotes " at the start and the end of cells, and doubled inside, found',
        predict_error="set quoting=none where quotes are plain characters",
        options=("--quoting", "none"),
        predicted=2,
    ),
    "l.csv": Case(labels=("a", "b"), multi_label=True, log=("lists written as text", "several labels a row")),
    "l3.csv": Case(labels=("a", "b"), multi_label=True, log=("lists written as text", "several labels a row")),
    "lab.csv": Case(
        error="expected one text column, found none among the columns 'label' (as 'pos', 2 distinct)",
        predict_error="expected one text column, found none among the columns 'label' (as 'pos', 2 distinct)",
    ),
    "lfs.csv": Case(
        error="lfs.csv: expected rows, found a Git LFS pointer in place of the file; run git lfs pull",
        predict_error="run git lfs pull",
    ),
    "list.jsonl": Case(),
    "m.csv": Case(labels=("0", "1")),
    "mac.csv": Case(),
    "nest.jsonl": Case(text="data.text", label="annotations.label"),
    "nohead.csv": Case(text="column_1", label="column_2", log=("no header", "header=true")),
    "nohead3.csv": Case(error="expected one label column, found none among the columns 'column_1'", predicted=6),
    "nul_tail.csv": Case(log=("64 NUL bytes at the end are left out",)),
    "onehot2.csv": Case(
        text="comment_text",
        error="set label_column=toxic, or label_column=toxic,insult for all of them",
        options=("--label-column", "toxic,insult"),
        label=["toxic", "insult"],
        labels=("insult", "toxic"),
        multi_label=True,
    ),
    "parts": Case(),
    "pipe.csv": Case(log=("separator '|'",)),
    "pp.json": Case(log=("rows are those under 'data'",)),
    "pretty.jsonl": Case(),
    "r.csv": Case(error="expected labels, found a number on a scale (60 different ones from 0.000 to 8.429); cut it"),
    "ragged.csv": Case(
        log=("1 lines short of cells", "left out are 0 rows without text and 1 without label"), predicted=61
    ),
    "saved": Case(),
    "semi.csv": Case(log=SEMI),
    "semi3.csv": Case(
        error="expected two labels or more to tell apart, found the same in all 6 rows: 'x'", predicted=6
    ),
    "sep.csv": Case(log=SEMI),
    "spelled-1-and-1.0": Case(
        labels=("0", "1"), rows=59, log=("test.csv: left out are 0 rows without text and 1 without",)
    ),
    "spelled-True-and-true": Case(labels=("false", "true")),
    "split.json": Case(),
    "t.tsv": Case(log=("separator ','",)),
    "tab2.csv": Case(log=("separator '\\t'",)),
    "u16.tsv": Case(log=("encoding utf-16",)),
    "v.csv": Case(
        labels=("NEG", "Pos", "neg", "pos", "pos\u200b", "\ufeffneg"),
        log=("labels that differ by case, white space or invisible characters alone", "label_mapping={"),
    ),
}
FOLDERS = ("hfparts", "parts", "saved", "spelled-1-and-1.0", "spelled-True-and-true")


@needs_shared
def test_the_table_is_of_the_whole_folder():
    assert READ.keys() == {path.name for path in CASES.iterdir()} - {"README.md", "vectors"}


@needs_shared
@pytest.mark.parametrize("name", READ)
def test_training(name, command_line, vectors_file, tmp_path):
    case = READ[name]
    call = ["finetune", CASES / name, "--base", vectors_file, "--output-dir", tmp_path / "run", "--no-report"]
    call += ["--set", "head_type=linear", "--set", "calibration_size=0"]
    ended = command_line(main, *call)
    said = " ".join(ended.err.split())
    if case.error is not None:
        assert ended.code == 2 and case.error in said
        assert ended.err.strip().splitlines()[-1].startswith("error: ") and not (tmp_path / "run").exists()
        if not case.options or case.predicted:
            return
        ended = command_line(main, *call, *case.options)
        said = " ".join(ended.err.split())
    assert ended.code == 0, ended.err
    for line in case.log:
        assert line in said
    run = RunResult.load(tmp_path / "run")
    assert (run.data.labels.names, run.data.labels.multi_label) == (case.labels, case.multi_label)
    assert sum(run.data.rows.values()) == case.rows
    columns = run.settings["data"]
    assert (columns["text_column"], columns["label_column"]) == (case.text, case.label)
    for what in (case.text, case.label):
        assert all(repr(column) in said for column in ([what] if isinstance(what, str) else what))


@needs_shared
@pytest.mark.parametrize("name", [name for name in READ if name not in FOLDERS])
def test_prediction(name, command_line, run, tmp_path):
    case, output = READ[name], tmp_path / "out.jsonl"
    call = ["predict", run.folder, CASES / name, "--output", output]
    ended = command_line(main, *call)
    if case.predict_error is not None:
        assert ended.code == 2 and case.predict_error in " ".join(ended.err.split()) and not output.exists()
        assert ended.err.strip().splitlines()[-1].startswith("error: ")
        if not case.options:
            return
        ended = command_line(main, *call, *case.options)
    assert ended.code == 0, ended.err
    lines = output.read_text(encoding="utf-8").splitlines()
    assert len(lines) == (case.predicted or ROWS) and all('score": 0.' in line for line in lines)
