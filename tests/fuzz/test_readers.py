"""Damaged, spliced and odd files of rows: read, or refused in one line."""

import bz2
import gzip
import io
import json
import lzma
import random
import shutil
import zipfile
from functools import cache, partial
from pathlib import Path

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
