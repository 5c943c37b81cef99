"""Every setting with values of any type: taken as what it is declared to be, or refused in one line."""

import json
import random
import shutil
from collections.abc import Callable
from dataclasses import asdict
from decimal import Decimal
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch

from helpers.corpora import topic_splits
from helpers.fuzzing import Fuzzer
from helpers.runs import finetune
from nlptransfer.data import DataSettings
from nlptransfer.errors import SettingError
from nlptransfer.routes import ROUTES
from nlptransfer.settings import convert, fields_of, fill, pairs
from nlptransfer.training import Augment, TrainingSettings
from nlptransfer.transfer import TRANSFERS

KINDS = {"data": DataSettings, "training": TrainingSettings, "augment": Augment, **ROUTES, **TRANSFERS}
NUMBERS = [0, 1, -1, 2, 7, 0.5, -0.0, 1.0, 2**40, 2**63, 2**64, -(2**70), 10**400, 1e-320, 1e308]
TEXTS = ["", " ", "x", "none", "None", "true", "auto", "last", "all", "1", "-1", "0.5", "1e999", "-inf", "nan", "1_0"]
TEXTS += ["٣", "９", "9" * 5000, "\0", "\ud800", "\x1b[2J", "\u202e", "é", ",", ",,", "a,b", "1,2", "[", "[" * 5000]
TEXTS += ["{}", '{"a": 1}', '{"a": NaN}', '{"a": {"a": []}}', '{"text_column": 1}', "mean,mean", "linear", "text"]
OTHERS: list[Any] = [None, True, False, float("nan"), float("inf"), -float("inf"), 1j, b"x", Decimal("nan"), object()]
OTHERS += [[], [1], ["a", None], (), (1, 2), {1}, {}, {"a": 1}, {"a": float("nan")}, {1: "b"}, {"a": {}}, [[1]]]
OTHERS += [np.int64(3), np.float32(0.5), np.float64("nan"), np.bool_(True), np.array(1), np.arange(3), np.array([])]
OTHERS += [torch.tensor(1), torch.ones(2), Path("x"), range(2), int, len, iter([1])]
VALUES = [*NUMBERS, *TEXTS, *OTHERS]
FIELDS = [(kind, name) for kind in dict.fromkeys(KINDS.values()) for name in fields_of(kind)]


def filled(kind: type, name: str, value: Any) -> None:
    made = fill({"kind": kind}, {name: value})["kind"]
    made.check()
    json.dumps(asdict(made), allow_nan=False)


def constructed(kind: type, name: str, value: Any) -> None:
    made = kind(**{name: value})
    made.check()
    json.dumps(asdict(made), allow_nan=False)


def test_any_field_with_any_value(fuzz: Fuzzer) -> None:
    for _, draw in fuzz.draws(500):
        (kind, name), value, text = draw.choice(FIELDS), draw.choice(VALUES), draw.choice(TEXTS)
        for work in (filled, constructed):
            fuzz.attempt(f"{work.__name__} {kind.__name__}.{name} {value!r:.50}", partial(work, kind, name, value))
        (value,) = pairs([f"{name}={text}"]).values()
        fuzz.attempt(f"--set {kind.__name__}.{name}={text:.50}", partial(filled, kind, name, value))


LONG = {
    "num_train_epochs",
    "pretrain_epochs",
    "epochs",
    "rounds",
    "augment_copies",
    "max_words",
    "early_stopping_patience",
}
"""What takes as long as it is large, rightly."""
TAKING = [name for name, kind in TRANSFERS.items() if kind.takes_source]


def setting(draw: random.Random, kinds: list[type]) -> tuple[str, Any]:
    """Draw a setting, with a value that is often of its type."""
    while True:
        kind = draw.choice(kinds)
        if not (names := [*fields_of(kind)]):
            continue
        name, value = draw.choice(names), draw.choice([*NUMBERS, *NUMBERS, *TEXTS, *OTHERS])
        try:
            convert(name, value, fields_of(kind)[name])
        except SettingError:
            if draw.random() < 0.9:
                continue
        if name not in LONG or not (isinstance(value, (int, str)) and len(str(value)) > 1):
            return name, value


def test_runs_with_odd_settings(fuzz: Fuzzer, tmp_path: Path, vectors_file: Path, bases: Callable[[str], Any]) -> None:
    rows, source = topic_splits({"train": 40, "validation": 10, "test": 10}, 0), topic_splits({"train": 40}, 1)
    for seed, draw in fuzz.draws(8):
        route = draw.choice(["word2vec", "word2vec", "probe", "probe", "full", "lora"])
        base = str(vectors_file if route == "word2vec" else bases("bert").path)
        call: dict[str, Any] = {"route": route, "base": base, "num_train_epochs": 1}
        kinds = [DataSettings, TrainingSettings, Augment, ROUTES[route], ROUTES[route]]
        if draw.random() < 0.4:
            call |= {"source": source, "transfer": draw.choice(TAKING), "verdict": False}
            kinds.append(TRANSFERS[call["transfer"]])
        call |= dict(setting(draw, kinds) for _ in range(draw.choice([1, 1, 2])))
        folder = tmp_path / str(seed)
        fuzz.attempt(f"{seed} { {**call, 'source': ''} }", partial(finetune, rows, output_dir=folder, **call))
        shutil.rmtree(folder, ignore_errors=True)
