"""Runs whose rows, tokens and features are in mapped files are those of rows in memory, to the bit."""

import json
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from helpers.runs import finetune, record_of, report_of, same_weights
from nlptransfer import mapped
from nlptransfer.data import load_data
from nlptransfer.data.files import parsing
from nlptransfer.data.texts import MappedTexts

ROUTES = {
    "linear": {"route": "word2vec", "head_type": "linear", "max_length": "auto"},
    "mlp": {"route": "word2vec", "head_type": "mlp", "num_train_epochs": 2, "pooling": ("mean", "max")},
    "full": {"route": "full", "max_length": 12, "long_text": "windows", "max_steps": 3, "trim_vocabulary": True},
}


@pytest.fixture(scope="module")
def files(remarks, tickets, tmp_path_factory) -> dict[str, Path]:
    folder = tmp_path_factory.mktemp("large")
    texts, labels = remarks
    odd = [*texts[:30], "", "  ", *texts[30:], "Ünïcode, de\u0301composed 国", *texts[:9]]
    labels = [*labels[:30], "negative", None, *labels[30:], "positive", *labels[:9]]
    pq.write_table(pa.table({"text": odd, "label": labels, "n": range(len(odd))}), folder / "one.parquet", 50)
    lines = (json.dumps({"text": text, "label": row}) for text, row in zip(*tickets, strict=True))
    (folder / "several.jsonl").write_text("\n".join(lines))
    return {"one": folder / "one.parquet", "several": folder / "several.jsonl"}


@pytest.fixture
def little_memory(monkeypatch):
    def set_limit() -> None:
        monkeypatch.setattr(mapped, "MEMORY", 500)

    return set_limit


@pytest.mark.parametrize("name", ["one", "several"])
def test_data_is_the_same(name, files, little_memory, monkeypatch) -> None:
    monkeypatch.setattr(parsing, "_WHOLE_ROWS", 40)
    expected = load_data(files[name])
    little_memory()
    found = load_data(files[name])
    assert all(isinstance(split.texts, MappedTexts) for split in found.splits.values())
    assert found.fingerprints() == expected.fingerprints() and repr(found) == repr(expected)
    assert found.warnings == expected.warnings
    for split, these in expected.splits.items():
        np.testing.assert_array_equal(found.splits[split].numbers, these.numbers)


@pytest.mark.parametrize(("name", "data"), [("linear", "one"), ("mlp", "several"), ("full", "one")])
def test_runs_are_the_same(name, data, files, little_memory, tmp_path, vectors_file, bases) -> None:
    base = bases("bert").path if name == "full" else vectors_file
    expected = finetune(files[data], base=base, output_dir=tmp_path / "memory", **ROUTES[name])
    little_memory()
    found = finetune(files[data], base=base, output_dir=tmp_path / "file", **ROUTES[name])
    assert same_weights(found, expected)
    for part in ("train", "validation", "test"):
        assert report_of(found.folder)[part] == report_of(expected.folder)[part]
    one, other = record_of(found.folder), record_of(expected.folder)
    assert one["training"].pop("seconds") > 0 < other["training"].pop("seconds")
    assert one == other
