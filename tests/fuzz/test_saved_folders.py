"""Saved classifiers of all routes and ONNX, in which something is another: refused, or it predicts the same."""

import json
import random
import shutil
from collections.abc import Callable
from functools import cache, partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from helpers.classifiers import LABELS, TEXTS, changed, without_hashes
from helpers.fuzzing import ChangedPredictionError, Fuzzer, mutated
from nlptransfer import Classifier, Full, Lora, Probe, Word2Vec
from nlptransfer.classifier.persistence import SavedRecord
from nlptransfer.files import read_json

ROUTES = {
    "full": Full(max_length=12),
    "lora": Lora(max_length=12, rank=2),
    "probe": Probe(features=("encoder", "word2vec", "ngrams"), dimensions=4),
    "word2vec": Word2Vec(head_type="linear", features=("word2vec", "ngrams"), dimensions=4),
}
STRANGERS = {
    "README.md": "# Mine",
    "added_tokens.json": '{"word1": 5}',
    "special_tokens_map.json": '{"unk_token": "word1", "pad_token": "word2"}',
    "tokenizer_config.json.bak": "{}",
    "generation_config.json": "{}",
    "vocab.txt": "word1\nword2\n",
    "model.safetensors.index.json": '{"weight_map": {"x": "y"}}',
    "pytorch_model.bin": "x",
    "adapter_config.json": '{"peft_type": "LORA"}',
    "adapter_model.bin": "x",
    "chat_template.jinja": "{{ 1 / 0 }}",
    "processor_config.json": "{}",
    "ngrams.safetensors": "x",
    "modeling.py": "raise SystemExit",
    "words": "x",
}
VALUES = [
    None,
    True,
    7,
    -1,
    2**70,
    0.5,
    "x",
    "../../x",
    "a" * 5000,
    "\0",
    "\x1b[2J",
    [],
    {},
    [1, "a"],
    {"a": 1},
    [[0.1]],
]


@pytest.fixture(scope="module")
def saved(
    bases: Callable[[str], Any], tmp_path_factory: pytest.TempPathFactory
) -> Callable[[str], tuple[Path, np.ndarray]]:
    """A saved classifier by its kind, and its logits."""

    @cache
    def made(kind: str) -> tuple[Path, np.ndarray]:
        folder = tmp_path_factory.mktemp("saved") / kind
        if kind in ROUTES:
            changed(ROUTES[kind], bases("bert"), LABELS).save_pretrained(folder)
        else:
            Classifier.load(made("word2vec")[0]).export_onnx(folder)
        return folder, Classifier.load(folder).logits(TEXTS)

    return made


def damage(folder: Path, draw: random.Random) -> str:
    """Change something that is checked, and say what."""
    files = sorted(path for path in folder.rglob("*") if path.is_file())
    path, other = draw.sample(files, 2)
    match draw.randrange(8):
        case 0:
            path.unlink()
        case 1:
            path.unlink()
            path.mkdir()
        case 2:
            path.unlink()
            path.symlink_to(draw.choice(["nowhere", path.name, other]))
        case 3:
            content = path.read_bytes()
            path.write_bytes(other.read_bytes())
            other.write_bytes(content)
        case 4:
            path = folder / draw.choice([*STRANGERS])
            if path.is_dir():
                shutil.rmtree(path)
            path.write_text(STRANGERS[path.name])
        case 5 if path.suffix == ".json":
            content = read_json(path)
            content[draw.choice([*content])] = draw.choice(VALUES)
            path.write_text(json.dumps(content))
        case _:
            path.write_bytes(mutated(path.read_bytes(), draw, (other.read_bytes(),)))
    return path.name


def predicts_the_same(folder: Path, expected: np.ndarray) -> None:
    if not np.array_equal(Classifier.load(folder).logits(TEXTS), expected):
        raise ChangedPredictionError("other logits")


def test_damaged_folders(fuzz: Fuzzer, saved, tmp_path: Path) -> None:
    for seed, draw in fuzz.draws(18):
        kind = [*ROUTES, "onnx"][seed % 5]
        whole, expected = saved(kind)
        folder = shutil.copytree(whole, tmp_path / str(seed))
        name = damage(folder, draw)
        fuzz.attempt(f"{seed} {kind} {name}", partial(predicts_the_same, folder, expected))
        shutil.rmtree(folder)


def places_in(value: Any, place: tuple = ()) -> list[tuple]:
    """The path to each value within JSON."""
    inner = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    return [found for key, item in inner for found in [(*place, key), *places_in(item, (*place, key))]]


def test_hostile_records(fuzz: Fuzzer, saved, tmp_path: Path) -> None:
    """Records that somebody wrote by hand: nothing vouches for them, but they end in a line."""
    for seed, draw in fuzz.draws(18):
        kind = [*ROUTES, "onnx"][seed % 5]
        folder = without_hashes(shutil.copytree(saved(kind)[0], tmp_path / str(seed)))
        record = read_json(folder / "nlptransfer.json")
        *place, last = draw.choice(places_in(record))
        inner = record
        for key in place:
            inner = inner[key]
        if draw.random() < 0.2:
            del inner[last]
        else:
            inner[last] = draw.choice(VALUES)
        (folder / "nlptransfer.json").write_text(json.dumps(record))
        if draw.random() < 0.5:
            fuzz.attempt(f"{seed} {kind} stamped {place} {last}", partial(restamped, folder))
        fuzz.attempt(f"{seed} {kind} {place} {last}", partial(opened, folder))
        shutil.rmtree(folder)


def restamped(folder: Path) -> None:
    SavedRecord.read(folder).write(folder)


def opened(folder: Path) -> None:
    Classifier.load(folder).predict(TEXTS)
