"""The verb predict: every kind of file in and out, what it adds to the rows, and rows that come one by one."""

import csv
import gzip
import io
import json
import os
import subprocess
import sys
from itertools import product
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from nlptransfer import Classifier
from nlptransfer.cli.app import main

TEXTS = ['wordaa goodae, "goodaf" wordab', "wordac badae\r\nbadaf ü", "", "deliveryae deliveryaf goodae"]
ROWS = [
    {"id": "007", "note": "a,\tb", "text": TEXTS[0], "label": "NA"},
    {"id": "1e5", "note": "", "text": TEXTS[1], "label": "ü"},
    {"id": "3", "note": '"', "text": TEXTS[2], "label": ""},
    {"id": "4.0", "note": "x\ny", "text": TEXTS[3], "label": "positive"},
]


def delimited(path: Path, delimiter: str) -> list[dict[str, str]]:
    text = io.StringIO(path.read_bytes().decode(), newline="")
    return [*csv.DictReader(text, delimiter=delimiter, strict=True)]


READERS = {
    ".csv": lambda path: delimited(path, ","),
    ".tsv": lambda path: delimited(path, "\t"),
    ".jsonl": lambda path: [json.loads(line) for line in path.read_bytes().splitlines()],
    ".parquet": lambda path: pq.read_table(path).to_pylist(),
}


def write(path: Path, rows=ROWS) -> Path:
    if path.suffix == ".jsonl":
        path.write_text("".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows), encoding="utf-8")
    elif path.suffix == ".parquet":
        pq.write_table(pa.Table.from_pylist(rows), path)
    else:
        with path.open("w", encoding="utf-8", newline="") as file:
            writer = csv.DictWriter(file, rows[0], delimiter="\t" if path.suffix == ".tsv" else ",")
            writer.writeheader()
            writer.writerows(rows)
    return path


@pytest.mark.parametrize(("kind", "other"), [*product(READERS, READERS)])
def test_every_kind_of_file_into_every_other(kind, other, command_line, run, tmp_path):
    rows, output = write(tmp_path / f"rows{kind}"), tmp_path / f"out{other}"
    ended = command_line(main, "predict", run.folder, rows, "--output", output)
    assert (ended.code, ended.out) == (0, "")
    assert f"{output}: there is a column 'label' already, so predictions go to 'predicted_label'" in ended.err
    assert f"{rows}: 1 rows have no text, and get no label" in ended.err
    found = READERS[other](output)
    assert [list(row) for row in found] == [["id", "note", "text", "label", "predicted_label", "predicted_score"]] * 4
    assert [{name: row[name] for name in ROWS[0]} for row in found] == ROWS
    expected = run.classifier.predict(TEXTS)
    empty = "" if other in (".csv", ".tsv") else None
    for row, prediction in zip(found, expected, strict=True):
        labels = (row["predicted_label"], row["predicted_score"])
        if prediction.abstained:
            assert labels == (empty, empty)
        else:
            assert (labels[0], float(labels[1])) == (prediction.label, pytest.approx(prediction.score, abs=1e-6))


VALUES = {
    pa.string(): st.text(max_size=5),
    pa.int64(): st.integers(-(2**63), 2**63 - 1),
    pa.float32(): st.floats(width=32, allow_nan=False),
    pa.bool_(): st.booleans(),
    pa.date32(): st.dates(),
    pa.timestamp("us"): st.datetimes(),
    pa.decimal128(20, 3): st.decimals(-(10**9), 10**9, places=3),
    pa.binary(): st.binary(max_size=5),
    pa.list_(pa.string()): st.lists(st.text(max_size=3), max_size=3),
    pa.struct([("a", pa.int8())]): st.fixed_dictionaries({"a": st.none() | st.integers(-128, 127)}),
}


@settings(max_examples=40, deadline=None)
@given(st.data())
def test_a_table_comes_out_as_it_went_in_with_columns_added(run, tmp_path_factory, data):
    names = data.draw(st.lists(st.sampled_from(["label", "score", "ü", "predicted_score", "id", ""]), unique=True))
    kinds = {name: data.draw(st.sampled_from([*VALUES])) for name in names}
    rows = data.draw(st.integers(0, 5))
    columns = {
        name: pa.array(data.draw(st.lists(st.none() | VALUES[kind], min_size=rows, max_size=rows)), kind)
        for name, kind in kinds.items()
    }
    columns["text"] = pa.array(data.draw(st.lists(st.sampled_from([*TEXTS, None]), min_size=rows, max_size=rows)))
    order = data.draw(st.permutations([*columns]))
    table = pa.table({name: columns[name].cast(pa.string()) if name == "text" else columns[name] for name in order})
    folder = tmp_path_factory.mktemp("rows")
    pq.write_table(table, folder / "rows.parquet", row_group_size=data.draw(st.integers(1, 3)))
    found = pq.read_table(run.classifier.predict_file(folder / "rows.parquet", folder / "out.parquet"))
    assert found.select(range(len(order))).equals(table)
    added = found.column_names[len(order) :]
    assert len(added) == 2 and not {*added} & {*order} and added[0].endswith("label") and added[1].endswith("score")
    labels = [each.labels[0] if each.labels else None for each in run.classifier.predict(columns["text"].to_pylist())]
    assert found[added[0]].to_pylist() == labels


def test_several_labels_are_lists(command_line, several, tmp_path):
    rows = write(tmp_path / "rows.jsonl", [{"text": text} for text in TEXTS])
    found = {}
    for kind in READERS:
        ended = command_line(main, "predict", several.folder, rows, "--output", tmp_path / f"out{kind}")
        assert ended.code == 0, ended.err
        found[kind] = READERS[kind](tmp_path / f"out{kind}")
        assert [list(row) for row in found[kind]] == [["text", "labels", "scores"]] * 4
    assert found[".jsonl"] == found[".parquet"]
    assert (found[".csv"][2]["labels"], found[".jsonl"][2]["labels"]) == ("", None)
    for row in (0, 1, 3):
        assert json.loads(found[".csv"][row]["labels"]) == found[".jsonl"][row]["labels"]
        assert json.loads(found[".csv"][row]["scores"]) == found[".jsonl"][row]["scores"]
    assert "delivery" in found[".jsonl"][3]["labels"]


def test_the_likeliest_labels_and_all_scores(command_line, run, several, tmp_path):
    texts = tmp_path / "texts.txt"
    texts.write_text(f"{TEXTS[3]}\n\n")
    call = ["--top-k", 2, "--all-scores"]
    for model, names in ((run, ["label", "score", "labels", "scores"]), (several, ["labels", "scores"])):
        (prediction,) = model.classifier.predict(TEXTS[3:])
        likeliest = sorted(prediction.probabilities, key=prediction.probabilities.__getitem__, reverse=True)[:2]
        scores = {f"score_{name}": value for name, value in prediction.probabilities.items()}
        ended = command_line(main, "predict", model.folder, texts, *call)
        first, second = map(json.loads, ended.out.splitlines())
        assert list(first) == list(second) == ["text", *names, *scores]
        assert first["labels"] == likeliest and {name: first[name] for name in scores} == pytest.approx(scores)
        assert first["scores"] == pytest.approx([prediction.probabilities[name] for name in likeliest])
        assert {*second.values()} == {"", None}
        ended = command_line(main, "predict", model.folder, texts, *call, "--output", tmp_path / "out.csv")
        found = READERS[".csv"](tmp_path / "out.csv")
        assert list(found[0]) == ["text", *names, *scores] and json.loads(found[0]["labels"]) == likeliest
        assert {name: float(found[0][name]) for name in scores} == pytest.approx(scores)
        assert {*found[1].values()} == {""}
    ended = command_line(main, "predict", several.folder, texts, "--top-k", 99)
    assert sorted(json.loads(ended.out.splitlines()[0])["labels"]) == sorted(several.data.labels.names)


def test_no_rows_give_a_header(command_line, run, tmp_path, monkeypatch):
    (tmp_path / "none.csv").write_text("id,text\n")
    for kind in READERS:
        ended = command_line(main, "predict", run.folder, tmp_path / "none.csv", "--output", tmp_path / f"out{kind}")
        assert ended.code == 0, ended.err
        assert READERS[kind](tmp_path / f"out{kind}") == []
    assert (tmp_path / "out.csv").read_text() == "id,text,label,score\n"
    assert pq.read_schema(tmp_path / "out.parquet").names == ["id", "text", "label", "score"]
    monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO()))
    assert command_line(main, "predict", run.folder, "-", "--output", tmp_path / "out.tsv").code == 0
    assert (tmp_path / "out.tsv").read_text() in ("label\tscore\n", "text\tlabel\tscore\n")


# Columns


@pytest.fixture(scope="module")
def of_columns(run, tmp_path_factory) -> Path:
    """A classifier that learned from two columns."""
    classifier = Classifier.load(run.folder)
    object.__setattr__(classifier, "text_columns", ("title", "body"))
    return classifier.save_pretrained(tmp_path_factory.mktemp("model"))


def test_the_text_columns_of_the_training_are_taken(command_line, of_columns, run, tmp_path):
    rows = write(tmp_path / "rows.csv", [{"note": "badae badaf bad " * 3, "body": "wordaa goodae", "title": "goodaf"}])
    ended = command_line(main, "predict", of_columns, rows)
    assert f"{rows}: texts from columns 'title' (as 'goodaf', 1 distinct), 'body' (as" in ended.err
    found = json.loads(ended.out)
    assert found["label"] == "positive" and found["text"].startswith("goodaf")
    assert Classifier.load(of_columns).predict([{"title": "goodaf", "body": "wordaa goodae"}])[0].text == found["text"]
    ended = command_line(main, "predict", of_columns, rows, "--text-column", "note")
    assert json.loads(ended.out)["label"] == "negative"
    ended = command_line(main, "predict", run.folder, rows, "--text-column", "title,body")
    assert json.loads(ended.out)["text"] == found["text"]
    lacking = write(tmp_path / "lacking.csv", [{"id": "1", "says": "wordaa goodae goodaf wordab"}])
    ended = command_line(main, "predict", of_columns, lacking)
    assert ended.code == 0 and f"{lacking}: texts from column 'says' (as" in ended.err


# Pipes


def started(*arguments: object, **more) -> subprocess.Popen[str]:
    command = [sys.executable, "-m", "nlptransfer", *map(str, arguments)]
    pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "stderr": subprocess.PIPE}
    return subprocess.Popen(command, text=True, encoding="utf-8", bufsize=1, **pipes, **more)


def test_rows_are_answered_as_they_come(run):
    with started("predict", run.folder, "-") as process:
        for row, (text, label) in enumerate([("goodae", "positive"), ("badae ü", "negative"), (None, None)]):
            process.stdin.write(json.dumps({"id": row} | ({} if text is None else {"text": text})) + "\n")
            process.stdin.flush()
            answer = json.loads(process.stdout.readline())
            assert (answer["text"], answer["label"]) == (text or "", label)
        rest, log = process.communicate("")
    assert (process.returncode, rest) == (0, "")
    assert "standard input: 1 rows have no text, and get no label" in log


@pytest.mark.skipif(not Path("/dev/fd").exists(), reason="needs /dev/fd")
def test_process_substitution_is_read(command_line, run, tmp_path):
    for kind in (".csv", ".jsonl"):
        rows = write(tmp_path / f"rows{kind}", [{"id": "1", "text": text} for text in TEXTS])
        read, written = os.pipe()
        with os.fdopen(read), os.fdopen(written, "wb") as pipe:
            # They fit into the pipe.
            pipe.write(rows.read_bytes())
            pipe.close()
            ended = command_line(main, "predict", run.folder, f"/dev/fd/{read}")
        assert ended.code == 0, ended.err
        assert [json.loads(line)["text"] for line in ended.out.splitlines()] == TEXTS


FORMULAS = ["=1+1", "+cmd|' /C calc'!A0", "-2+3", "@SUM(A1)", "\tx", "\rx", "\nx", "＝1"]
PLAIN = ["-5", "+3.2", "-1e-5", "-.5%", "'=1", "a=b", ""]


@pytest.mark.parametrize("ending", [".csv", ".tsv", ".csv.gz"])
def test_cells_that_a_spreadsheet_would_run(ending, run, tmp_path, caplog):
    caplog.set_level("INFO", logger="nlptransfer")
    notes = FORMULAS + PLAIN
    pq.write_table(pa.table({"text": ["goodae"] * len(notes), "=note": notes}), tmp_path / "a.parquet")
    for raw in (False, True):
        caplog.clear()
        output = tmp_path / f"{raw}{ending}"
        run.classifier.predict_file(tmp_path / "a.parquet", output, raw_cells=raw)
        content = gzip.decompress(output.read_bytes()) if ending == ".csv.gz" else output.read_bytes()
        found = [*csv.reader(io.StringIO(content.decode(), newline=""), delimiter="\t" if ending == ".tsv" else ",")]
        quoted = [note if raw else f"'{note}" for note in FORMULAS]
        assert [row[1] for row in found] == ["=note" if raw else "'=note", *quoted, *PLAIN]
        assert caplog.text.count("--raw-cells (raw_cells=True) leaves it as it is") == (not raw)


def test_raw_cells_on_the_command_line(command_line, run, tmp_path):
    rows = write(tmp_path / "rows.csv", [{"text": "goodae", "note": "=1"}])
    for options, note in (((), "'=1"), (("--raw-cells",), "=1")):
        command_line(main, "predict", run.folder, rows, "--output", tmp_path / "out.csv", *options)
        assert [row["note"] for row in delimited(tmp_path / "out.csv", ",")] == [note]
