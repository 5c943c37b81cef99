"""Copies that are planted in public texts, and texts of ag_news that repeat, beside SemHash where that is installed.

    python tests/benchmarks/audit_copies.py --folder DATA                     # a minute on two cores
    python tests/benchmarks/audit_copies.py --folder DATA --peer semhash --only ag_news     # features of 17,600 texts
    python tests/benchmarks/audit_copies.py --only 500000                                   # synthetic rows

In each set 100 rows are written again with an edit; they are found if they are in the group of their row. Of 1,000
pairs that are no copies (rows of one label; questions of one template about different things; rows with the same
sentence added) those in one group are wrong. SemHash compares mean vectors of words, distilled from the default encoder
by model2vec, at its default threshold; it is given the rows that are compared here.
"""

import argparse
import gzip
import json
import random
import re
import sys
import time
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path

import numpy as np

sys.path.insert(0, str(Path(__file__).parent.parent))

from audit_quality import synthetic

from helpers.folders import SHARED
from nlptransfer import load_data
from nlptransfer.data import KINDS, Copies, copies_of
from nlptransfer.experiments.auditing.copies import find_copies
from nlptransfer.experiments.auditing.rows import AuditRows
from nlptransfer.experiments.environment import watched_memory
from nlptransfer.hub import find_base

PLANTED, PAIRS = 100, 1000
TEMPLATES = (
    "What is the capital of {} ?",
    "Who was the first president of {} ?",
    "How many people live in {} ?",
    "When did {} become a member of the United Nations ?",
    "What is the name of the longest river in {} ?",
    "Where can I find a good restaurant in the old town of {} ?",
    "Which newspaper has the highest circulation in {} ?",
    "What does it cost to send a letter from here to {} ?",
)
PLACES = (
    *("Albania", "Argentina", "Australia", "Belgium", "Brazil", "Canada", "Chile", "China", "Denmark", "Ecuador"),
    *("Finland", "France", "Greece", "Hungary", "India", "Indonesia", "Ireland", "Italy", "Japan", "Kenya", "Peru"),
    *("Madagascar", "Mexico", "Morocco", "New Zealand", "Norway", "Poland", "Portugal", "South Africa", "Yugoslavia"),
)  # fmt: skip
Rows = list[dict[str, str]]
Edit = Callable[[str, Sequence[str], random.Random], str]


def other_case(text: str, _: Sequence[str], draw: random.Random) -> str:
    return draw.choice([text.upper(), text.title(), text.swapcase()])


def other_spaces(text: str, _: Sequence[str], draw: random.Random) -> str:
    return draw.choice(["  ", "\t", "\n "]).join(text.split(" ")) + " "


def other_punctuation(text: str, _: Sequence[str], draw: random.Random) -> str:
    plain = re.sub(r"""[.,;:!?'"()-]""", "", text)
    return draw.choice([f"{plain}!", plain.replace(" ", ", ", 1) + ";", f'"{text}"...'])


def word_swapped(text: str, texts: Sequence[str], draw: random.Random) -> str:
    words = text.split(" ")
    at = draw.choice([place for place, word in enumerate(words) if word.isalpha()])
    words[at] = draw.choice([word for word in draw.choice(texts).split() if word.isalpha() and word != words[at]])
    return " ".join(words)


def sentence_added(text: str, texts: Sequence[str], draw: random.Random) -> str:
    sentences = split_sentences(text)
    sentences.insert(draw.randint(0, len(sentences)), draw.choice(split_sentences(draw.choice(texts))))
    return " ".join(sentences)


def split_sentences(text: str) -> list[str]:
    return re.split(r"(?<=[.!?])\s+", text)


SETS: dict[str, dict[str, Edit]] = {
    **{name: {"case": other_case, "spaces": other_spaces, "punctuation": other_punctuation}
       for name in ("sst2", "trec6")},
    **{name: {"a word": word_swapped, "a sentence": sentence_added} for name in ("amazon_books", "ag_news")},
}  # fmt: skip


def read(folder: Path, split: str) -> Rows:
    with gzip.open(folder / f"{split}.jsonl.gz", "rt", encoding="utf-8") as lines:
        return [*map(json.loads, lines)]


def planted(texts: Sequence[str], edit: Edit, draw: random.Random) -> tuple[Copies, np.ndarray]:
    """Return the copies among texts with some edited ones at the end, and which of these are found."""
    chosen = draw.sample(range(len(texts)), PLANTED)
    edited = [edit(texts[row], [text for text in texts[:2000] if len(text.split()) > 3], draw) for row in chosen]
    copies = copies_of([*texts, *edited])
    return copies, copies.first[len(texts) :] == copies.first[chosen]


def no_copies(rows: Rows, draw: random.Random) -> dict[str, list[tuple[str, str]]]:
    by_label: dict[str, list[str]] = {}
    for row in draw.sample(rows, min(len(rows), 5000)):
        by_label.setdefault(row["label"], []).append(row["text"])
    labels = draw.choices([*by_label], [*map(len, by_label.values())], k=PAIRS * 4 // 10)
    pairs = {"one label": [distinct(draw, by_label[label]) for label in labels]}
    questions = [draw.choice(TEMPLATES) for _ in range(PAIRS * 3 // 10)]
    pairs["one template"] = []
    for question in questions:
        one, other = draw.sample(PLACES, 2)
        pairs["one template"].append((question.format(one), question.format(other)))
    texts = [text for of_label in by_label.values() for text in of_label]
    pairs["a sentence shared"] = []
    for _ in range(PAIRS * 3 // 10):
        one, other = distinct(draw, texts)
        shared = draw.choice(split_sentences(draw.choice(texts)))
        pairs["a sentence shared"].append((f"{one} {shared}", f"{other} {shared}"))
    return pairs


def distinct(draw: random.Random, texts: Sequence[str]) -> tuple[str, str]:
    one, other = draw.sample(texts, 2)
    return (one, other) if one != other else distinct(draw, texts)


def taken_for_copies(pairs: Iterable[tuple[str, str]]) -> list[tuple[str, str]]:
    """Return pairs that are in one group, each judged by itself."""
    return [pair for pair in pairs if copies_of(pair).of[1] >= 0]


def show_planted(folder: Path) -> None:
    print(f"| data | rows | alike | edit | found of {PLANTED} | as | no copies | wrong of {PAIRS} |")
    print("|---|---:|---:|---|---:|---|---|---:|", flush=True)
    for name, edits in SETS.items():
        rows = read(folder / name, "train")
        texts, draw = [*dict.fromkeys(row["text"] for row in rows)], random.Random(0)
        pairs = no_copies(rows, draw)
        wrong = {kind: taken_for_copies(some) for kind, some in pairs.items()}
        made = ", ".join(f"{kind} {len(wrong[kind])} of {len(some)}" for kind, some in pairs.items())
        for edit, write in edits.items():
            copies, found = planted(texts, write, draw)
            kinds = np.bincount(copies.kinds[len(texts) :][found], minlength=len(KINDS))
            written = ", ".join(f"{count} {kind}" for kind, count in zip(KINDS, kinds, strict=True) if count)
            cells = [name, f"{len(texts):,}", f"{len(copies.alike):,}", edit, found.sum(), written, made]
            print(f"| {' | '.join(map(str, [*cells, sum(map(len, wrong.values()))]))} |", flush=True)
        for kind, some in wrong.items():
            for one, other in some:
                print(f"    {kind}: {one[:200]!r} | {other[:200]!r}")


def show_repeats(folder: Path, peer: str | None) -> None:
    data = load_data(folder / "ag_news")
    rows = AuditRows.of(data)
    for name in ("train", "test"):
        rows.features(name)
    rows.probabilities("test")
    began = time.process_time()
    section = find_copies(rows)
    print(f"\nag_news, {len(data.train):,} training and {len(data.test):,} test rows, {rows.base}")
    print(f"copies and paraphrases: {time.process_time() - began:.1f} s of processor, with features at hand")
    for finding in section.findings:
        print(f"- {finding.sentence}\n  {finding.example}")
    frame, pairs = section.frames["copies"], section.frames["paraphrases"]
    in_train = frame[frame["group"].isin(frame["group"][frame["split"] == "train"])]
    test = in_train[in_train["split"] == "test"]
    copies = {**dict(zip(test["text"], test["kind"], strict=True))}
    same = {row.text: (row.other_text, row.similarity) for row in pairs[pairs["split"] == "test"].itertuples()}
    print(f"of test in train: {len(test)} copies ({test['kind'].value_counts().to_dict()}), {len(same)} say the same")
    if peer:
        beside(data.train.texts, data.test.texts, copies, same, rows.base)


def beside(
    train: Sequence[str],
    test: Sequence[str],
    copies: dict[str, str],
    same: dict[str, tuple[str, float]],
    base: str | None,
) -> None:
    """Compare what is found with what SemHash finds."""
    from model2vec.distill import distill
    from semhash import SemHash

    static = distill(model_name=str(find_base(base).path), pca_dims=256)
    began = time.process_time()
    found = SemHash.from_records([*train], model=static).deduplicate([*test])
    of = {one.record: (one.duplicate_of, one.score) for one in found.filtered}
    print(f"SemHash: {len(of)} test texts, {time.process_time() - began:.1f} s; threshold {found.threshold}")
    sides = {
        "both, copies": of.keys() & copies.keys(),
        "both, same meaning": of.keys() & same.keys() - copies.keys(),
        "SemHash alone": of.keys() - copies.keys() - same.keys(),
        "copies here alone": copies.keys() - of.keys(),
        "same meaning here alone": same.keys() - copies.keys() - of.keys(),
    }
    for side, texts in sides.items():
        print(f"- {side}: {len(texts)}")
        for text in sorted(texts)[:: max(1, len(texts) // 8)]:
            other, score = of.get(text) or same.get(text) or (copies[text], 1.0)
            print(f"    {score:.3f} {text[:200]!r} | {other[:200]!r}")


def show_cost(rows: int) -> None:
    """Group synthetic texts of 20 words, a tenth of which are others with a word added."""
    texts, draw = synthetic(rows)[0], random.Random(1)
    for row in draw.sample(range(rows), rows // 10):
        texts[row] = f"{draw.choice(texts)} again"
    with watched_memory() as before:
        pass
    began = time.process_time()
    with watched_memory() as peak:
        kinds = np.bincount(copies_of(texts).kinds, minlength=len(KINDS))
    seconds = time.process_time() - began
    memory = f"{peak[0] - before[0]:,.0f} MiB besides the texts"
    print(f"{rows:,} rows: {seconds:.1f} s of processor, {memory}, {kinds[3]:,} near copies")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--folder", type=Path, default=SHARED / "data")
    parser.add_argument("--only", help="planted, ag_news, or a number of synthetic rows")
    parser.add_argument("--peer", choices=["semhash"], help="beside it")
    options = parser.parse_args()
    if options.only in (None, "planted"):
        show_planted(options.folder)
    if options.only in (None, "ag_news"):
        show_repeats(options.folder, options.peer)
    if options.only and options.only.isdecimal():
        show_cost(int(options.only))


if __name__ == "__main__":
    main()
