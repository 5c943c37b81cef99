"""Damaged, spliced and odd files of rows: read, or refused in one line."""

import bz2
import datetime
import decimal
import gzip
import io
import json
import lzma
import random
import shutil
import zipfile
from functools import cache, partial
from pathlib import Path
from typing import Any

import openpyxl
import pyarrow
import pyarrow.feather
import pyarrow.parquet

from helpers.folders import SHARED
from helpers.fuzzing import Fuzzer, mutated
from nlptransfer.data import load_data, read_texts

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


def texts_of(path: Path) -> list[str]:
    return [*read_texts(path)]


def options(draw: random.Random) -> dict[str, str]:
    some = {
        "separator": [",", ";", "\t", "|", "x", " "],
        "encoding": ["cp1252", "utf-16", "utf-8", "utf-7", "shift_jis", "idna", "punycode", "utf-32", "hz"],
        "header": ["true", "false"],
        "quoting": ["none", "minimal"],
        "escape": ["\\", "x"],
        "sheet": ["1", "2", "Sheet"],
        "text_column": ["text", "text,label", "data.text", ""],
        "label_column": ["label", "tags", "n", ""],
        "label_delimiter": ["|", "", ","],
    }
    return {name: draw.choice(some[name]) for name in draw.sample([*some], draw.choice([0, 0, 1, 2]))}


def test_files_of_rows(fuzz: Fuzzer, tmp_path: Path) -> None:
    for seed, draw in fuzz.draws(60):
        name, content = damaged(draw)
        path = tmp_path / name
        path.write_bytes(content)
        chosen = options(draw)
        fuzz.attempt(f"load_data {seed} {name} {chosen}", partial(load_data, path, **chosen))
        fuzz.attempt(f"read_texts {seed} {name}", partial(texts_of, path))
        path.unlink()


def test_folders(fuzz: Fuzzer, tmp_path: Path) -> None:
    for seed, draw in fuzz.draws(15):
        folder = tmp_path / str(seed)
        shared = [path for path in sorted(CASES.iterdir()) if path.is_dir()] if CASES.is_dir() else []
        if shared and draw.random() < 0.7:
            shutil.copytree(draw.choice(shared), folder)
        else:
            folder.mkdir()
            for split in draw.sample(["train", "test", "validation", "dev"], draw.choice([1, 2, 3])):
                name = draw.choice([*files()])
                (folder / f"{split}{''.join(Path(name).suffixes)}").write_bytes(files()[name])
        inside = draw.choice(sorted(path for path in folder.rglob("*") if path.is_file()))
        match draw.randrange(6):
            case 0:
                inside.unlink()
            case 1:
                inside.unlink()
                inside.mkdir()
            case 2:
                inside.unlink()
                inside.symlink_to(draw.choice(["nowhere", inside.name, "."]))
            case _:
                inside.write_bytes(mutated(inside.read_bytes(), draw, tuple(files().values())))
        fuzz.attempt(f"load_data {seed} {folder.name}", partial(load_data, folder))
        shutil.rmtree(folder)


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
METADATA = ["", "{", "[]", "null", "1", '"x"', "[" * 5000, "\ud800", '{"info": null}', '{"info": {"features": []}}']
METADATA += [json.dumps({"info": {"features": {"label": one}}}) for one in (None, 1, "x", [], [[]], {}, {"feature": 1})]
METADATA += [
    json.dumps({"info": {"features": {"label": {"names": names, "_type": "ClassLabel"}}}})
    for names in (["a", "b"], ["a"], [], [1, None], "ab", {"a": 0}, ["a", "a"], [["a"]], ["\u001b[2J", "", " "])
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


def test_columns_of_odd_types(fuzz: Fuzzer, tmp_path: Path) -> None:
    for seed, draw in fuzz.draws(60):
        rows = draw.choice([0, 1, 12, 12, 12])
        names = ["text", "label", "other", "", "a.b", "x" * 3000, "\x1b[2J"]
        chosen = draw.sample(names[2:], draw.choice([0, 1, 2]))
        columns = {name: column(draw, rows) for name in chosen}
        good = {"text": [f"word {n} of many" for n in range(rows)], "label": [n % 2 for n in range(rows)]}
        for name, values in good.items():
            columns[name] = pyarrow.array(values) if draw.random() < 0.5 else column(draw, rows)
        table = pyarrow.table(columns)
        if draw.random() < 0.4:
            metadata = draw.choice(METADATA).encode(errors="surrogatepass")
            table = table.replace_schema_metadata({"huggingface": metadata, b"\xff": b"\xff"})
        path = tmp_path / draw.choice(["a.parquet", "a.arrow", "a.feather"])
        try:
            if path.suffix == ".parquet":
                pyarrow.parquet.write_table(table, path)
            elif path.suffix == ".arrow":
                path.write_bytes(streamed(table))
            else:
                pyarrow.feather.write_feather(table, path)
        except (pyarrow.ArrowException, OSError, TypeError):  # what the format cannot hold
            continue
        case = f"{seed} {path.name} {str(table.schema)[:300]!r}"
        fuzz.attempt(f"load_data {case}", partial(load_data, path))
        fuzz.attempt(f"load_data by name {case}", partial(load_data, path, text_column="text", label_column="label"))
        fuzz.attempt(f"read_texts {case}", partial(texts_of, path))
        fuzz.attempt(f"in memory {case}", partial(load_data, table))


def deep(draw: random.Random) -> Any:
    """JSON of any shape, that is nested or has numbers as nobody writes them."""
    value = draw.choice(["text", 1, 1.5, True, None, [], {}, 10**4000, "9" * 5000, 1e308, "\ud800", "", {"text": "a"}])
    for _ in range(draw.choice([0, 1, 2, 3, 900])):
        value = draw.choice([[value], {"text": value}, {"label": value}, {"data": value}, [value, value][:1]])
    return value


def test_json_of_odd_shapes(fuzz: Fuzzer, tmp_path: Path) -> None:
    for seed, draw in fuzz.draws(60):
        rows: Any = [{"text": f"word {n}", "label": n % 2} for n in range(12)]
        for _ in range(draw.choice([1, 1, 3])):
            rows[draw.randrange(12)][draw.choice(["text", "label", "other", "a.b"])] = deep(draw)
        if draw.random() < 0.2:
            rows = deep(draw)
        is_list = isinstance(rows, list) and draw.random() < 0.5
        content = "\n".join(map(json.dumps, rows)) if is_list else json.dumps(rows)
        if draw.random() < 0.2:
            content = content.replace("1", draw.choice(["[" * 3000, "1" * 5000, "1e999", "NaN", "-0", "01", "1.", "١"]))
        path = tmp_path / draw.choice(["a.json", "a.jsonl", "a"])
        path.write_text(content, encoding="utf-8")
        fuzz.attempt(f"load_data {seed} {path.name}", partial(load_data, path))
        fuzz.attempt(f"read_texts {seed} {path.name}", partial(texts_of, path))


PARTS = ["x" * 300, "x" * 5000, "\0", "~", "~nobody", "..", ".", "a/b", "//", "\ud800", "\x1b[2J", "a:b", "CON", "-"]


def test_names_of_sources(fuzz: Fuzzer, tmp_path: Path) -> None:
    for seed, draw in fuzz.draws(20):
        name = draw.choice(["", "/", f"{tmp_path}/"]) + "".join(draw.choices(PARTS, k=draw.choice([1, 2, 3])))
        name += draw.choice([".csv", ".jsonl", ".parquet", "/", "/x.csv"])
        fuzz.attempt(f"load_data {seed} {name[:60]!r}", partial(load_data, name))
        fuzz.attempt(f"read_texts {seed} {name[:60]!r}", partial(texts_of, name))
