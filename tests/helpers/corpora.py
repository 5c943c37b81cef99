"""Rows to learn from: of words that small vectors tell apart, of words for tiny encoders, and in files."""

import json
import random
from collections import Counter
from itertools import product
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from nlptransfer.data.dataset import Data, Split

Rows = tuple[list[str], list[Any]]
"""Texts and their labels."""

TOPICS = ("good", "bad", "delivery", "billing", "praise")
FILLER = [f"word{a}{b}" for a, b in product("abcdefghij", "abcdefghijkl")]
TOPIC_WORDS = {topic: [f"{topic}{a}{b}" for a, b in product("abcd", "efghi")] for topic in TOPICS}
DIMENSIONS = 8
"""Of the small vectors."""
WORDS = [f"word{number}" for number in range(20)]
"""What tiny encoders know."""
FILM_WORDS = ["a", "and", "the", "film", "plot", "cast", "was", "good", "great", "gem", "bad", "dull", "mess", "long"]
"""What those of make_film_base know."""
HELD_OUT = {"validation": 16, "test": 20}
"""Rows to hold out beside few to learn from."""


def text_of(draw: random.Random, topics: list[str]) -> str:
    """Three words of each topic among seven that say nothing."""
    words = draw.sample(FILLER, 7) + [word for topic in topics for word in draw.sample(TOPIC_WORDS[topic], 3)]
    return " ".join(draw.sample(words, len(words)))


def texts_of(count: int, seed: int) -> tuple[list[str], list[str]]:
    """Texts whose words tell their label, and some that do not."""
    draw = random.Random(seed)
    texts, labels = [], []
    for row in range(count):
        words = draw.choices(WORDS[5 * (row % 2) :][:5], k=draw.randint(2, 4)) + draw.choices(WORDS[10:], k=row % 3)
        texts.append(" ".join(draw.sample(words, len(words))))
        labels.append(("bad", "good")[row % 2])
    return texts, labels


def splits_of(several: bool = False) -> dict[str, Any]:
    """Such texts as splits, with one label each or several."""
    found = {name: texts_of(*size) for name, size in {"train": (60, 0), "validation": (20, 1), "test": (20, 2)}.items()}
    if several:
        return {
            name: (texts, [[label] * (row % 5 > 0) for row, label in enumerate(names)])
            for name, (texts, names) in found.items()
        }
    return dict(found)


def splits(train: int, seed: int, names: dict[str, str] | None = None) -> dict[str, Any]:
    """Rows for encoders, of splits of their own, under other label names if asked for."""
    found = {}
    for number, (name, rows) in enumerate({"train": train, **HELD_OUT}.items()):
        texts, labels = texts_of(rows, seed + number)
        found[name] = (texts, [(names or {}).get(label, label) for label in labels])
    return found


def topic_rows(count: int, draw: random.Random) -> Rows:
    """Texts whose words small vectors tell apart, "good" and "bad" by turns."""
    topics = ["good", "bad"] * (count // 2)
    return [text_of(draw, [topic]) for topic in topics], topics


def topic_splits(sizes: dict[str, int], seed: int, names: dict[str, str] | None = None) -> dict[str, Rows]:
    """Such rows for each split, under other label names if asked for."""
    draw = random.Random(seed)
    found = {split: topic_rows(count, draw) for split, count in sizes.items()}
    return {
        split: (texts, [(names or {}).get(label, label) for label in labels])
        for split, (texts, labels) in found.items()
    }


def cut(rows: Rows, train: int, validation: int) -> dict[str, Rows]:
    """The rows as splits; test has what is left."""
    parts = {
        "train": slice(train),
        "validation": slice(train, train + validation),
        "test": slice(train + validation, None),
    }
    return {split: (rows[0][part], rows[1][part]) for split, part in parts.items()}


def write_rows(path: Path, rows: Rows) -> Path:
    texts, labels = rows
    name = "label" if isinstance(labels[0], str) else "labels"
    lines = (json.dumps({"text": text, name: label}) + "\n" for text, label in zip(texts, labels, strict=True))
    path.write_text("".join(lines))
    return path


def write_splits(folder: Path, splits: dict[str, Rows]) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    for name, rows in splits.items():
        write_rows(folder / f"{name}.jsonl", rows)
    return folder


def rows_of(sizes: dict[str, int]) -> tuple[list[str], list[str]]:
    """Distinct texts, so many of each label."""
    pairs = [(f"text {number} of {label}", label) for label, size in sizes.items() for number in range(size)]
    return [text for text, _ in pairs], [label for _, label in pairs]


def counts(split: "Split", data: "Data") -> Counter[str]:
    names = data.labels.decode(split.targets)
    return Counter(name for row in names for name in ([row] if isinstance(row, str) else row))


def hashes(data: "Data") -> dict[str, str]:
    return {name: found["hash"] for name, found in data.fingerprints().items()}


def texts_by_split(data: "Data") -> list[set[str]]:
    return [set(split.texts) for split in data.splits.values()]
