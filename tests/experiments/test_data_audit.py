"""Whole audits of small data with known flaws: what is found, what lies in the folder, and how the command ends."""

import random
from functools import partial
from pathlib import Path

import pandas as pd
import pytest

import nlptransfer
from helpers.corpora import FILM_WORDS
from helpers.encoders import make_film_base
from helpers.folders import files_of, no_path_in
from nlptransfer import Audit
from nlptransfer.results import QUESTIONS

OPINIONS = {"bad": ["awful", "dire", "grim", "dull", "weak"], "good": ["fine", "superb", "lovely", "bold", "keen"]}
FRAMES = {"copies", "conflicts"}
FILES = {"audit.json", "findings.csv", "report.html"} | {f"{name}.csv" for name in FRAMES}
audit = partial(nlptransfer.audit, base="tfidf", report=False)


def flawed(seed: int = 0, each: int = 40) -> dict[str, tuple[list[str], list[str]]]:
    """Splits with, in train, three copies but for case, a text with both labels, and two labels flipped; and in test
    two rows of train."""
    draw = random.Random(seed)

    def some(count: int) -> tuple[list[str], list[str]]:
        labels = ["bad", "good"] * count
        words = [[*draw.choices(FILM_WORDS, k=4), *draw.choices(OPINIONS[label], k=4)] for label in labels]
        return [" ".join(draw.sample(each, len(each))) for each in words], labels

    train, test = some(each), some(each // 4)
    texts, labels = train
    labels[10], labels[21] = "good", "bad"
    texts += [text.upper() + "!" for text in texts[:3]] + [texts[5]]
    labels += [*labels[:3], "bad"]
    test[0][:2], test[1][:2] = texts[30:32], labels[30:32]
    return {"train": train, "test": test}


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory) -> str:
    return make_film_base(
        tmp_path_factory.mktemp("bases") / "films", words=[*FILM_WORDS, *OPINIONS["bad"], *OPINIONS["good"]]
    )


def test_an_audit_finds_what_is_wrong_and_keeps_it(base: str, tmp_path: Path) -> None:
    found = audit(flawed(), base=base, report=True, output_dir=tmp_path / "audit")
    assert set(files_of(found.folder)) == FILES
    no_path_in(found.folder, tmp_path)
    assert [*found.sections] == [*QUESTIONS] and found.base == "films" and {*found.frames} == FRAMES
    kinds = {finding.kind for finding in found.findings}
    assert {"copies", "conflicts", "label_errors"} <= kinds <= QUESTIONS.keys()
    for finding in found.findings:
        assert (
            finding.rows > 0
            and finding.sentence
            and finding.advice
            and finding.sentence in (found.folder / "findings.csv").read_text().replace('""', '"')
        )
    for name in FRAMES:
        assert getattr(found, name) is found.frames[name]
    loaded = Audit.load(found.folder)
    assert loaded.findings == found.findings and loaded.summary == found.summary
    assert all(
        finding.sentence in loaded.summary
        for finding in [section.findings[0] for section in loaded.sections.values() if section.findings]
    )
    for name, frame in found.frames.items():
        pd.testing.assert_frame_equal(loaded.frames[name], frame, check_dtype=True)
