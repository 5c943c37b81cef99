"""What broken files say, and where they are broken."""

import subprocess
import sys
from functools import cache
from pathlib import Path

import pandas as pd
import psutil
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from helpers.tables import KINDS, QUOTED, ROWS, parquet, write
from nlptransfer.data.files.parsing import FileSettings, kind_of, read_file, stem_of
from nlptransfer.data.reading import read_table, read_texts
from nlptransfer.errors import DataError

BROKEN = {
    "latin.csv": (
        b"text,label\nok,1\ncaf\xe9,0\n",
        "line 3: expected UTF-8, found the byte 0xe9 at position 4; encoding=cp1252 reads the line as 'café,0'",
    ),
    "bad.jsonl": ('{"text": "a"}\n\n{"text": \n', r"bad.jsonl, line 3: broken JSON: .*; write one object a line"),
    "open.csv": ('text,label\na,1\n"b,0\nc,1\n', r"line 3: expected an end of the quotes that open here, found none"),
    "quote.csv": ('text,label\n"a"b,1\n', r"line 2: expected the quotes \" at the start .*; set quoting=none"),
    "slash.csv": ('text,label\n"a \\"b\\" c",1\n', r"line 2: .* set escape=\\\\ where a backslash"),
    "long.csv": (
        "text,label\ngood, very,1\n",
        "line 2: expected 2 cells as in the header, found 3: '1' is too many; put",
    ),
    "bad.parquet": ("PAR1 no", "bad.parquet, after row 0: broken parquet: .*; copy or download it again"),
    "cut.parquet": (KINDS[".parquet"][:-20], "cut.parquet, after row 0: broken parquet"),
    "empty.csv": ("", "empty.csv: expected rows, found an empty file"),
    "header.csv": ("text,label\n", "header.csv: expected rows of text and label, found no row"),
    "empty.jsonl": ("\n", "empty.jsonl: expected rows of text and label, found no row"),
    "empty.json": ("", "empty.json: expected rows"),
    "none.json": ("[]", "none.json: expected rows"),
}


@pytest.mark.parametrize("name", BROKEN)
def test_broken_files(tmp_path, name):
    content, message = BROKEN[name]
    path = write(tmp_path / name, content)
    with pytest.raises(DataError, match=message) as caught:
        read_table(path, "")
    assert str(path) in str(caught.value)


@pytest.mark.parametrize("name", ["quote.csv", "open.csv", "long.csv", "bad.jsonl"])
def test_a_broken_file_is_closed_while_its_error_is_held(tmp_path, name):
    path = write(tmp_path / name, BROKEN[name][0])
    with pytest.raises(DataError) as held:
        read_table(path, "")
    assert held.value and str(path) not in {file.path for file in psutil.Process().open_files()}


def test_file_that_may_not_be_read(tmp_path, monkeypatch):
    path = write(tmp_path / "a.csv", QUOTED)

    def refuse(*_):
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr(Path, "open", refuse)
    with pytest.raises(DataError, match=r"a\.csv: cannot be read: Permission denied"):
        read_table(path, "")


def test_broken_gzip_says_how_far_it_went(tmp_path):
    # Random enough that gzip cannot pack it into one block.
    lines = "".join(f'{{"text": "{hash((seed, 7)) % 10**15}", "label": "a"}}\n' for seed in range(20_000))
    path = write(tmp_path / "a.jsonl.gz", lines)
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])
    with pytest.raises(DataError, match=r"a\.jsonl\.gz, after [\d,]{6,} bytes: expected a whole gzip file"):
        read_table(path, "")


def test_broken_pages_of_parquet_say_how_far_it_went(tmp_path):
    content = bytearray(parquet([{"text": f"text {row} {row**5}", "label": row} for row in range(50_000)]))
    content[len(content) // 3 : len(content) // 3 + 2000] = b"\xff" * 2000
    path = write(tmp_path / "a.parquet", bytes(content))
    message = r"a\.parquet, after row \d+: broken parquet: .*; copy or download it again"
    with pytest.raises(DataError, match=message):
        read_table(path, "")
    with pytest.raises(DataError, match=message):
        list(read_texts(path, text_column="text"))


@pytest.mark.parametrize(
    ("name", "kind", "stem"),
    [("a.csv", ".csv", "a"), ("A.JSONL.GZ", ".jsonl", "A"), ("a.b.parquet", ".parquet", "a.b"), ("a", "", "a")],
)
def test_kind_and_stem(name, kind, stem):
    assert (kind_of(Path(name)), stem_of(Path(name))) == (kind, stem)


@settings(deadline=None, max_examples=150)
@given(
    st.sampled_from([*KINDS, ".arrow", ".xlsx", ".gz", ".bz2", ".xz", ".zip"]),
    st.lists(st.tuples(st.floats(0, 1, exclude_max=True), st.integers(0, 255)), min_size=1, max_size=4),
    st.floats(0.5, 1),
)
def test_a_damaged_file_is_read_or_refused_in_one_line(tmp_path_factory, kind, changes, rest):
    path = tmp_path_factory.getbasetemp() / "damaged"
    content = bytearray(whole_file(kind, path.with_suffix(".whole")))
    for place, byte in changes:
        content[int(place * len(content))] = byte
    path.write_bytes(content[: int(rest * len(content))])
    try:
        assert len(read_file(path, FileSettings())) >= 0
    except DataError as error:
        assert str(path) in str(error) and "\n" not in str(error)


@cache
def whole_file(kind: str, path: Path) -> bytes:
    frame = pd.DataFrame(ROWS * 50)
    if kind == ".arrow":
        frame.to_feather(path)
    elif kind == ".xlsx":
        frame.to_excel(path.with_suffix(".xlsx"), index=False)
        path = path.with_suffix(".xlsx")
    elif kind in KINDS:
        write(path, KINDS[kind])
    else:
        frame.to_csv(path, compression={".gz": "gzip"}.get(kind, kind[1:]), index=False)
    return path.read_bytes()


PEAK = """
import sys
from pathlib import Path
from nlptransfer.data.files.parsing import FileSettings, read_file, stream_file
import pyarrow.compute, pyarrow.csv, pyarrow.json, pyarrow.parquet

def peak():
    return next(int(line.split()[1]) * 1024 for line in open("/proc/self/status") if line.startswith("VmHWM"))

path, few = map(Path, sys.argv[2:])
read_file(few, FileSettings())  # what libraries take by themselves
before = peak()
kept = read_file(path, FileSettings()) if sys.argv[1] == "whole" else sum(map(len, stream_file(path, FileSettings())))
print(peak() - before)
"""


@pytest.mark.skipif(not Path("/proc/self/status").exists(), reason="asks Linux for the peak of a process")
@pytest.mark.parametrize(("how", "name", "most"), [("whole", "a.csv", 3.0), ("streamed", "a.csv", 0.7)])
def test_memory_at_the_peak(tmp_path, how, name, most):
    # 40 MB; what is read at a time takes about 20 besides.
    rows = "".join(f'{row},"a fine film, {"x" * 80}",1\n' for row in range(380_000))
    path = write(tmp_path / name, f"id,text,label\n{rows}")
    call = [sys.executable, "-c", PEAK, how, path, write(tmp_path / "few.csv", QUOTED)]
    done = subprocess.run(call, capture_output=True, check=True, text=True)
    assert int(done.stdout) < most * path.stat().st_size
