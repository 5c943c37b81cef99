"""Whole audits of small data with known flaws: what is found, what lies in the folder, and how the command ends."""

import random
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import pandas as pd
import pytest

import nlptransfer
from helpers.corpora import FILM_WORDS, write_splits
from helpers.encoders import make_film_base
from helpers.folders import contents, files_of, no_path_in
from nlptransfer import Audit, load_data
from nlptransfer.cli.app import main
from nlptransfer.errors import BaseModelError, DataError, RunFolderError, SettingError
from nlptransfer.experiments.auditing import rows as auditing_rows
from nlptransfer.files import read_json, write_json
from nlptransfer.results import QUESTIONS

FRAMES = {"copies", "paraphrases", "alike", "conflicts", "label_errors", "label_confusions", "overlaps", "giveaways"}
FRAMES |= {"outliers", "balance", "lengths", "drift", "label_shares"}
FOUND = {"copies", "conflicts", "label_errors"}
FILES = {"audit.json", "findings.csv", "report.html"} | {f"{name}.csv" for name in FRAMES}
HOSTILE = "\x1b]0;mine\x07<b>\u202e"
OPINIONS = {"bad": ["awful", "dire", "grim", "dull", "weak"], "good": ["fine", "superb", "lovely", "bold", "keen"]}
Rows = tuple[list[str], list[Any]]
audit = partial(nlptransfer.audit, base="tfidf", report=False)


def some(count: int, seed: int) -> Rows:
    """Texts of eight words, half of which tell the label."""
    draw = random.Random(seed)
    labels = ["bad", "good"] * (count // 2)
    words = [[*draw.choices(FILM_WORDS, k=4), *draw.choices(OPINIONS[label], k=4)] for label in labels]
    return [" ".join(draw.sample(each, len(each))) for each in words], labels


def flawed(count: int = 100) -> dict[str, Rows]:
    """In train three rows that are copies but for case, a text with both labels, and four wrong labels; in test two
    rows of train."""
    (texts, labels), test = some(count, 0), some(20, 1)
    for row in (10, 21, 32, 43):
        labels[row] = "good" if labels[row] == "bad" else "bad"
    test[0][:2], test[1][:2] = texts[50:52], labels[50:52]
    return {
        "train": (texts + [text.upper() for text in texts[:3]] + [texts[5]], [*labels, *labels[:3], "bad"]),
        "test": test,
    }


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory) -> str:
    words = [*FILM_WORDS, *OPINIONS["bad"], *OPINIONS["good"]]
    return make_film_base(tmp_path_factory.mktemp("bases") / "films", words=words)


@pytest.fixture
def films(tmp_path: Path) -> Path:
    return write_splits(tmp_path / "films", flawed())


def test_an_audit_finds_what_is_wrong_and_keeps_it(base: str, films: Path, tmp_path: Path) -> None:
    found = audit(films, base=base, report=True, output_dir=tmp_path / "audit")
    assert set(files_of(found.folder)) == FILES
    no_path_in(found.folder, tmp_path)
    assert found.base == "films" and [*found.sections] == [*QUESTIONS] and {*found.frames} == FRAMES
    assert {finding.kind for finding in found.findings} >= FOUND
    page = (found.folder / "report.html").read_text(encoding="utf-8")
    listed = pd.read_csv(found.folder / "findings.csv")
    assert listed["sentence"].tolist() == [finding.sentence for finding in found.findings]
    for finding in found.findings:
        assert finding.rows > 0 and finding.example and f'href="#rows-{finding.kind}"' in page
        for text in (finding.sentence, finding.advice):
            assert text[0].isupper() or text[0].isdigit() or text[0] == "'"
        assert finding.advice.endswith(".") and not finding.sentence.endswith(".")
    for name in FRAMES:
        assert (f'id="rows-{name}"' in page) == (len(getattr(found, name)) > 0)
    loaded = Audit.load(found.folder)
    assert loaded.findings == found.findings and loaded.summary == found.summary
    for name, frame in found.frames.items():
        pd.testing.assert_frame_equal(loaded.frames[name], frame)


def test_a_finished_audit_is_returned_and_another_refused(films: Path, tmp_path: Path) -> None:
    folder, rows = tmp_path / "audit", flawed()
    other = {name: pd.DataFrame({"text": texts, "label": labels, "day": 1}) for name, (texts, labels) in rows.items()}
    fewer = {**rows, "test": (rows["test"][0][1:], rows["test"][1][1:])}
    first = audit(films, output_dir=folder)
    before = files_of(folder)
    again = audit(films, output_dir=folder)
    assert again.findings == first.findings and again.rows is not None and files_of(folder) == before
    assert audit(films, output_dir=folder, report=True).folder == folder and (folder / "report.html").exists()
    for data, settings, name in (
        (fewer, {}, "fingerprints"),
        (other, {}, "columns"),
        (films, {"max_length": 16}, "route"),
    ):
        with pytest.raises(RunFolderError, match=f"holds a run with {name}="):
            audit(data, output_dir=folder, **settings)
    # Killed on its way, it is made by the same command.
    write_json(folder / "audit.json", {"status": "running", "asked": read_json(folder / "audit.json")["asked"]})
    assert audit(films, output_dir=folder).findings == Audit.load(folder).findings == first.findings


@pytest.mark.parametrize("several", [False, True])
def test_data_of_any_form(several: bool, tmp_path: Path) -> None:
    texts, labels = some(60, 3)
    if several:
        sets = [
            [label, "long"] if len(text) > 40 else [label] * (len(text) % 7 > 0)
            for text, label in zip(texts, labels, strict=True)
        ]
        data: Any = pd.DataFrame({"text": texts, "labels": sets, "day": range(60)})
    else:
        data = (
            [f"{'很好' if label == 'good' else '太差'}的电影，我看了{row}遍" for row, label in enumerate(labels)],
            labels,
        )
    found = audit(data, output_dir=tmp_path / "audit", report=True)
    assert found.data.labels.multi_label == several and set(files_of(found.folder)) == FILES
    assert Audit.load(found.folder).summary == found.summary and found.summary.startswith("data: ")
    assert found.rows is not None
    assert found.clean().fingerprints()["test"] == found.rows.fingerprints()["test"]


def test_without_an_encoder_at_hand_it_says_so(
    films: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def gone(*_: Any) -> None:
        raise BaseModelError("no encoder: install one")

    monkeypatch.setattr(auditing_rows, "find_base", gone)
    monkeypatch.setattr(auditing_rows, "base_for", lambda *_: None)
    found = audit(films, base=None, output_dir=tmp_path / "audit", report=True)
    assert found.base is None and "TF-IDF" in (found.folder / "report.html").read_text(encoding="utf-8")
    assert [line for line in caplog.messages if "TF-IDF" in line and "no encoder: install one" in line]


@pytest.mark.parametrize(
    ("settings", "error", "message"),
    [
        ({"nothing": 1}, SettingError, "unknown setting 'nothing'"),
        ({"drop": ["drift"]}, SettingError, "drop: unknown finding 'drift'"),
        ({"base": "nobody/nothing"}, BaseModelError, "nobody/nothing: not a local folder"),
        ({"clean_to": "clean.txt"}, DataError, r"expected a folder, .* found the name of a file: leave out \.txt"),
        ({"clean_to": "clean.csv"}, DataError, "expected a folder, for the splits"),
    ],
)
def test_what_makes_no_sense_makes_no_folder(
    settings: dict[str, Any], error: type[Exception], message: str, films: Path, tmp_path: Path
) -> None:
    if "clean_to" in settings:
        settings = {"clean_to": tmp_path / settings["clean_to"]}
    with pytest.raises(error, match=message):
        audit(films, output_dir=tmp_path / "audit", **settings)
    assert not (tmp_path / "audit").exists()


def test_on_the_command_line(command_line: Callable[..., Any], films: Path, tmp_path: Path) -> None:
    folder, clean = tmp_path / "audit", tmp_path / "clean"
    call = ["audit", films, "--base", "tfidf", "--output-dir", folder, "--clean-to", clean, "--drop", "label_errors"]
    ended = command_line(main, *call, "--fail-on", "overlaps,label_errors", "--quiet")
    found = Audit.load(folder)
    sentence = next(finding.sentence for finding in found.findings if finding.kind == "label_errors")
    assert ended.code == 3 and ended.err == f"failed on label_errors: {sentence}\n" and set(files_of(folder)) == FILES
    before, after = load_data(films), load_data(clean)
    named = found.label_errors["drop"].sum()
    assert named and after.test.texts == before.test.texts
    assert sum(map(len, after.splits.values())) == sum(map(len, before.splits.values())) - named
    ended = command_line(main, *call, "--fail-on", "overlaps")
    assert ended.code == 0 and f"written: {folder / 'report.html'}" in ended.out
    shown = " ".join(ended.out.replace("│", " ").split())
    assert all(finding.sentence[:40] in shown and finding.advice[:40] in shown for finding in found.findings)
    there = contents(tmp_path)
    for wrong in ("--fail-on=typos", "--set=rank=2", "--text-column=typos"):
        ended = command_line(main, *call, wrong)
        assert ended.code == 2 and ended.err and contents(tmp_path) == there


def test_no_text_or_label_moves_the_terminal_or_the_page(command_line: Callable[..., Any], tmp_path: Path) -> None:
    splits = {
        name: ([f"{text} {HOSTILE}" for text in texts], [f"{label}{HOSTILE}" for label in labels])
        for name, (texts, labels) in flawed().items()
    }
    call = ["audit", write_splits(tmp_path / "films", splits), "--base", "tfidf", "--output-dir", tmp_path / "audit"]
    ended = command_line(main, *call, "--fail-on", ",".join(QUESTIONS))
    assert ended.code == 3 and not {"\x1b", "\x07", "\u202e"} & {*ended.out, *ended.err}
    page = (tmp_path / "audit/report.html").read_text(encoding="utf-8")
    assert not {"\x1b", "\x07", "\u202e"} & {*page} and "<b>\u202e" not in page and "&lt;b&gt;" in page
