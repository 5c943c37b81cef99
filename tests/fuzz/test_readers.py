"""Damaged, spliced and odd files of rows: read, or refused in one line."""

import json
import random
import shutil
from functools import partial
from pathlib import Path
from typing import Any

import pyarrow
import pyarrow.feather
import pyarrow.parquet

from helpers.fuzzing import Fuzzer, mutated
from helpers.odd_files import CASES, column, damaged, files, streamed
from nlptransfer import Classifier, RunResult
from nlptransfer.classifier import check_output, push_saved
from nlptransfer.data import load_data, read_texts
from nlptransfer.hub import find_base
from nlptransfer.report import report_on
from nlptransfer.vectors import open_vectors


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


METADATA = ["", "{", "[]", "null", "1", '"x"', "[" * 5000, "\ud800", '{"info": null}', '{"info": {"features": []}}']
METADATA += [json.dumps({"info": {"features": {"label": one}}}) for one in (None, 1, "x", [], [[]], {}, {"feature": 1})]
METADATA += [
    json.dumps({"info": {"features": {"label": {"names": names, "_type": "ClassLabel"}}}})
    for names in (["a", "b"], ["a"], [], [1, None], "ab", {"a": 0}, ["a", "a"], [["a"]], ["\u001b[2J", "", " "])
]


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


NAMED = {
    "load_data": load_data,
    "read_texts": texts_of,
    "find_base": find_base,
    "open_vectors": open_vectors,
    "load": Classifier.load,
    "push": partial(push_saved, repo_id="me/mine", dry_run=True),
    "load a run": RunResult.load,
    "report": report_on,
    "save": partial(check_output, source="-"),
}
PARTS = ["x" * 300, "x" * 5000, "\0", "~", "~nobody", "..", ".", "a/b/c", "//", "\ud800", "\x1b[2J", "a:b", "CON", "-"]


def test_names_of_sources(fuzz: Fuzzer, tmp_path: Path) -> None:
    for seed, draw in fuzz.draws(20):
        name = draw.choice(["", "/", f"{tmp_path}/"]) + "".join(draw.choices(PARTS, k=draw.choice([1, 2, 3])))
        name += draw.choice(["", ".csv", ".jsonl", ".parquet", "/", "/x.csv", "/x", "/model.onnx"])
        for what, call in NAMED.items():
            fuzz.attempt(f"{what} {seed} {name[:60]!r}", partial(call, name))
