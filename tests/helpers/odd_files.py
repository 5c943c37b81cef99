"""Files of rows to damage, and columns of types that hold neither texts nor labels."""

import bz2
import datetime
import decimal
import gzip
import io
import json
import lzma
import random
import zipfile
from functools import cache
from typing import Any

import openpyxl
import pyarrow
import pyarrow.feather
import pyarrow.parquet

from helpers.folders import SHARED
from helpers.fuzzing import mutated

CASES = SHARED / "cases"
ROWS = [
    {"text": f'The {thing} is {word}, I\'d say: "{word}"', "label": label, "tags": [word] * (number % 3), "n": number}
    for number, (thing, word, label) in enumerate(
        [("whisk", "good", "pos"), ("pan", "bad", "neg"), ("kn\u00edfe", "fine", "pos"), ("\u9505", "dull", "neg")] * 10
    )
]
ENDINGS = (
    ".csv",
    ".tsv",
    ".json",
    ".jsonl",
    ".txt",
    ".parquet",
    ".arrow",
    ".feather",
    ".xlsx",
    ".gz",
    ".zip",
    ".dat",
    "",
)


def lines(separator: str) -> bytes:
    cells = [["text", "label"], *([row["text"].replace(separator, ""), row["label"]] for row in ROWS)]
    return "\n".join(
        separator.join(f'"{cell.replace(chr(34), chr(34) * 2)}"' for cell in row) for row in cells
    ).encode()


def written(write) -> bytes:
    sink = io.BytesIO()
    write(sink)
    return sink.getvalue()


def sheet() -> bytes:
    book = openpyxl.Workbook()
    for row in [["text", "label"], *([row["text"], row["label"]] for row in ROWS)]:
        book.active.append(row)
    return written(book.save)


def zipped(content: bytes) -> bytes:
    def write(sink):
        with zipfile.ZipFile(sink, "w", zipfile.ZIP_DEFLATED) as archive:
            archive.writestr("rows.csv", content)

    return written(write)


def streamed(table: pyarrow.Table) -> bytes:
    def write(sink):
        with pyarrow.ipc.new_stream(sink, table.schema) as writer:
            writer.write_table(table)

    return written(write)


@cache
def files() -> dict[str, bytes]:
    """Whole files to damage: made here, and as people have them where there are such."""
    table, csv = pyarrow.Table.from_pylist(ROWS), lines(",")
    hub = table.replace_schema_metadata(
        {"huggingface": json.dumps({"info": {"features": {"label": {"names": ["a", "b"], "_type": "ClassLabel"}}}})}
    )
    made = {
        "a.csv": csv,
        "a.tsv": lines("\t"),
        "b.csv": lines(";"),
        "c.csv": lines(",").decode().encode("utf-16"),
        "a.jsonl": "\n".join(map(json.dumps, ROWS)).encode(),
        "a.json": json.dumps(ROWS, indent=1).encode(),
        "b.json": json.dumps({"data": ROWS}).encode(),
        "c.json": json.dumps({name: {str(n): row[name] for n, row in enumerate(ROWS)} for name in ROWS[0]}).encode(),
        "a.txt": "\n".join(f"__label__{row['label']} {row['text']}" for row in ROWS).encode(),
        "b.txt": "\n".join(row["text"] for row in ROWS).encode(),
        "a.parquet": written(lambda sink: pyarrow.parquet.write_table(table, sink)),
        "b.parquet": written(lambda sink: pyarrow.parquet.write_table(hub, sink, compression="none", row_group_size=7)),
        "a.feather": written(lambda sink: pyarrow.feather.write_feather(table, sink)),
        "b.feather": written(lambda sink: pyarrow.feather.write_feather(table, sink, compression="uncompressed")),
        "a.arrow": streamed(table),
        "a.xlsx": sheet(),
        "a.csv.gz": gzip.compress(csv),
        "a.csv.bz2": bz2.compress(csv),
        "a.csv.xz": lzma.compress(csv),
        "a.csv.zip": zipped(csv),
        "a.csv.zst": pyarrow.compress(csv, "zstd", asbytes=True),
    }
    shared = [path for path in sorted(CASES.iterdir()) if path.is_file()] if CASES.is_dir() else []
    return made | {path.name: path.read_bytes() for path in shared}


def damaged(draw: random.Random) -> tuple[str, bytes]:
    name = draw.choice([*files()])
    content = mutated(files()[name], draw, tuple(files().values()))
    if draw.random() < 0.1:
        name += draw.choice(ENDINGS)
    if draw.random() < 0.1:
        content = draw.choice([gzip.compress, zipped, bz2.compress, lambda same: same + content])(content)
    return name, content


HALF, DAY = decimal.Decimal("1.5"), datetime.datetime(2024, 2, 29, 1, 2, 3)
SIMPLE: list[tuple[Any, Any]] = [
    (pyarrow.null(), None),
    (pyarrow.bool_(), True),
    (pyarrow.int8(), 1),
    (pyarrow.uint64(), 2**64 - 1),
    (pyarrow.float16(), 0.5),
    (pyarrow.float64(), float("nan")),
    (pyarrow.float64(), float("inf")),
    (pyarrow.decimal128(5, 2), HALF),
    (pyarrow.decimal256(60, 2), HALF),
    (pyarrow.decimal128(38, -2), decimal.Decimal(1500)),
    (pyarrow.date32(), DAY.date()),
    (pyarrow.date64(), DAY.date()),
    (pyarrow.time32("ms"), DAY.time()),
    (pyarrow.time64("ns"), DAY.time()),
    (pyarrow.timestamp("ns"), DAY),
    (pyarrow.timestamp("s"), 2**62),
    (pyarrow.timestamp("us", "UTC"), DAY),
    (pyarrow.timestamp("ns", "Nowhere/City"), DAY),
    (pyarrow.duration("ns"), 12345678901),
    (pyarrow.duration("s"), 2**62),
    (pyarrow.month_day_nano_interval(), (1, 2, 3)),
    (pyarrow.string(), "a text of words"),
    (pyarrow.large_string(), "x"),
    (pyarrow.string_view(), "viewed from far enough to be no inline text"),
    (pyarrow.binary(), b"\xff\x00"),
    (pyarrow.binary(), b"words"),
    (pyarrow.large_binary(), b"words"),
    (pyarrow.binary_view(), b"words that are no inline text"),
    (pyarrow.binary(2), b"ab"),
    (pyarrow.uuid(), b"0123456789abcdef"),
    (pyarrow.json_(), '{"a": 1}'),
]


def column(draw: random.Random, rows: int) -> Any:
    """A column of any type, of rows that are partly null."""
    kind, value = draw.choice(SIMPLE)
    for _ in range(draw.choice([0, 0, 0, 1, 2, 5])):
        kind, value = draw.choice(
            [
                (pyarrow.list_(kind), [value, None]),
                (pyarrow.large_list(kind), []),
                (pyarrow.list_(kind, 2), [value, value]),
                (pyarrow.struct({"text": kind, "": kind}), {"text": value, "": None}),
                (pyarrow.struct({}), {}),
                (pyarrow.map_(pyarrow.string(), kind), [("a", value)]),
            ]
        )
    values = [value if draw.random() < 0.8 else None for _ in range(rows)]
    try:
        array = pyarrow.array(values, kind)
        return array.dictionary_encode() if draw.random() < 0.2 else array
    except (pyarrow.ArrowException, TypeError, ValueError):  # what Arrow has no such array of
        return pyarrow.nulls(rows, kind)
