"""The figures of reading: files of rows beside the readers of pandas and pyarrow."""

import csv
import json
import random
import subprocess
import sys
from collections.abc import Callable
from functools import partial
from itertools import count
from pathlib import Path
from tempfile import TemporaryDirectory

from figures import Places, Row, alternate

ROWS, LENGTH = 500_000, 100
"""Rows of the files, and about as many characters in each."""
FEW, MANY = 10_000, 100_000
"""Columns of the wide files."""
FEW_LABELS, MANY_LABELS = 2_000, 20_000
WORDS = ("the", "grater", "works", "like", "a", "charm", "my", "kids", "love", "it", "solid", "and", "quiet", "handle")

PEAK = """
import json, resource, sys
from pathlib import Path
from nlptransfer.data.files.parsing import FileSettings, read_file, stream_file

def peak():
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * (1 if sys.platform == "darwin" else 1024)

path, few = map(Path, sys.argv[2:])
read_file(few, FileSettings())
before = peak()
kept = read_file(path, FileSettings()) if sys.argv[1] == "whole" else sum(map(len, stream_file(path, FileSettings())))
print(json.dumps(peak() - before))
"""
"""What a fresh process runs to read a file, after a small one that loads the libraries; ru_maxrss is in KiB, but in
bytes on macOS."""


def reading(places: Places) -> list[Row]:
    """Reading 500,000 rows of 5 columns and about 100 characters"""
    with TemporaryDirectory() as folder:
        table, lines = Path(folder, "a.csv"), Path(folder, "a.jsonl")
        _write(table, lines)
        size = table.stat().st_size
        # A process starts with the peak of the one that starts it: these come first.
        whole, streamed = _peak("whole", table), _peak("streamed", table)
        seconds = _seconds(table, lines)
    return [
        Row("csv, whole", seconds["csv"], "s", "pandas.read_csv", seconds["pandas csv"], times=1),
        Row("csv, load_data", seconds["load_data"], "s", "pandas.read_csv", seconds["pandas csv"], times=0.33),
        Row("jsonl, whole", seconds["jsonl"], "s", "pandas.read_json", seconds["pandas jsonl"], times=1),
        Row("csv, whole: peak beside the file's size", whole / size, "times", most=3),
        Row("csv, streamed: peak", streamed / 1e9, "GB", most=0.1),
    ]


def _write(table: Path, lines: Path) -> None:
    draw = random.Random(0)
    with table.open("w", newline="") as cells, lines.open("w") as objects:
        writer = csv.DictWriter(cells, ["id", "text", "label", "source", "date"])
        writer.writeheader()
        for number in range(ROWS):
            text = " ".join(draw.choices(WORDS, k=20))[: LENGTH - 30] + ", "
            day = f"2020-01-{number % 28 + 1:02d}"
            label = draw.choice(["pos", "neg"])
            row = {"id": number, "text": text, "label": label, "source": "web", "date": day}
            writer.writerow(row)
            objects.write(json.dumps(row) + "\n")


def _seconds(table: Path, lines: Path) -> dict[str, float]:
    import pandas as pd

    from nlptransfer.data import DataSettings, load_data
    from nlptransfer.data.files.parsing import FileSettings, read_file

    # Another seed each time, for what was read once is remembered.
    seeds = count()
    return alternate(
        {
            "csv": partial(read_file, table, FileSettings()),
            "pandas csv": partial(pd.read_csv, table),
            "load_data": lambda: load_data(table, DataSettings(label_column="label", split_seed=next(seeds))),
            "jsonl": partial(read_file, lines, FileSettings()),
            "pandas jsonl": partial(pd.read_json, lines, lines=True),
        },
        rounds=3,
    )


def columns(places: Places) -> list[Row]:
    """Reading 10 rows of many columns, by column"""
    from nlptransfer.data.files.parsing import FileSettings, read_file

    with TemporaryDirectory() as folder:
        paths = {width: Path(folder, f"{width}.csv") for width in (FEW, MANY)}
        for width, path in paths.items():
            names = ",".join(f"c{number}" for number in range(width))
            path.write_text(f"text,{names}\n" + f"a fine film,{'1,' * (width - 1)}0\n" * 10)
        few, many = alternate(
            {str(width): partial(read_file, path, FileSettings()) for width, path in paths.items()}, rounds=5
        ).values()
    return [Row(f"microseconds a column at {MANY:,} over {FEW:,}", (many / MANY) / (few / FEW), "times", most=2)]


def labels(places: Places) -> list[Row]:
    """Loading 4 rows of each of many labels, by row"""
    from nlptransfer.data import load_data

    rows = {
        count: ([f"text {row}" for row in range(4 * count)], [str(row % count) for row in range(4 * count)])
        for count in (FEW_LABELS, MANY_LABELS)
    }
    few, many = alternate({str(count): partial(load_data, table) for count, table in rows.items()}, rounds=5).values()
    ratio = (many / MANY_LABELS) / (few / FEW_LABELS)
    return [Row(f"microseconds a row at {MANY_LABELS:,} labels over {FEW_LABELS:,}", ratio, "times", most=2)]


def _peak(how: str, path: Path) -> float:
    """Bytes at the peak above those before, in a fresh process."""
    few = path.with_name("few.csv")
    few.write_text("id,text\n1,a fine film\n")
    call = [sys.executable, "-c", PEAK, how, path, few]
    done = subprocess.run(call, capture_output=True, check=True, text=True)
    return float(json.loads(done.stdout))


FIGURES: dict[str, Callable[[Places], list[Row]]] = {figure.__name__: figure for figure in (reading, columns, labels)}
