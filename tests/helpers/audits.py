"""An audit of a few rows, as if sections had found something in them."""

from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from nlptransfer import Audit, Data, Labels
from nlptransfer.data import Split
from nlptransfer.results import QUESTIONS, DataSummary, Finding, Section

NAMES = ("bad", "good")


def rows_of(texts: list[str], labels: list[str], names: tuple[str, ...] = NAMES) -> Split:
    return Split(texts, Labels(names).encode(labels), None, np.arange(11, 11 + len(texts)), "train")


def made_audit(
    folder: Path, text: str = "a film", names: tuple[str, ...] = NAMES, drop: tuple[int, ...] = (13,)
) -> Audit:
    """Of six training rows, from number 11 on, copies of these numbers can be dropped, and of all other splits all."""
    train = rows_of([f"{text} {row}" for row in range(6)], [names[0]] * 5 + [names[1]], names)
    other = rows_of([text, text], [*names], names)
    data = Data("films", Labels(names), train, other, other.take([]), other)
    places: list[dict[str, Any]] = [
        {"split": name, "row": number, "text": text, "label": names[target], "drop": name != "train" or number in drop}
        for name, split in data.splits.items()
        for text, target, number in zip(split.texts, split.targets, split.numbers, strict=True)
    ]
    copies = pd.DataFrame(places).assign(share=[0.1234, np.nan, *[1.0] * (len(places) - 2)])
    frames = {name: {name: copies.head(0)} for name in QUESTIONS}
    frames["copies"] = {"copies": copies, "paraphrases": pd.DataFrame({"text": [text], "cosine": [0.97]})}
    found = Finding("copies", 7, f"7 rows repeat {text}", text, f"Drop them, drop=copies: {text}")
    sections = {
        name: Section(name, (found,) if name == "copies" else (), frames[name], {"threshold": 0.5, "scores": {"a": 1}})
        for name in QUESTIONS
    }
    return Audit(folder, DataSummary.of(data), {"base": None}, None, sections, {"cores": 2}, {"torch": "2"}, data)
