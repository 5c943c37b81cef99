"""What the terminal is shown: no name of a label, a file or a column can make it do anything, and none is cut."""

import json
import re
from dataclasses import replace
from itertools import takewhile
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from helpers.results import ONE_LABEL, SEVERAL, VERDICT, result_of
from nlptransfer.classifier.parts import Part, PartState
from nlptransfer.cli.app import main
from nlptransfer.cli.log import visible
from nlptransfer.cli.terminal import NO_ROUTE, show_comparison, show_parts, show_runs
from nlptransfer.results import Baseline, CandidateResult, CandidateScore, ComparisonResult, RunResult

HOSTILE = "\x1b]0;mine\x07\x9b2J\u202egood\u2066\u200f\r\x08"


@given(st.text(st.characters(exclude_categories=["Cs"])))
def test_what_is_shown_is_the_same_json(text):
    shown = visible(json.dumps(text, ensure_ascii=False))
    assert json.loads(shown) == text and not set(HOSTILE) - set("0;mine]2Jgood") & set(shown)


def test_text_that_people_read_stays_as_it_is():
    for text in ("a\tb\nc", "é 好 🎬 שלום مرحبا क्‍ष", "\\u001b"):
        assert visible(text) == text
    assert visible("a\nb", breaks=False) == r"a\nb"
    assert visible("name\udcff") == r"name\udcff"


@pytest.mark.parametrize("verb", ["finetune", "predict"])
def test_names_of_files_labels_and_columns(verb, command_line, run, tmp_path):
    folder = tmp_path / f"x{HOSTILE}"
    folder.mkdir()
    rows = [{"text": f"wordaa goodae {number}", "label": HOSTILE, HOSTILE: "b"} for number in range(4)]
    (folder / "rows.jsonl").write_text("\n".join(map(json.dumps, rows)), encoding="utf-8")
    (folder / "empty.jsonl").write_text("")
    for name in ("rows.jsonl", "empty.jsonl", "gone.jsonl"):
        arguments = [verb, *([run.folder] if verb == "predict" else []), folder / name]
        ended = command_line(main, *arguments)
        shown = ended.out + ended.err
        assert shown and not [sign for sign in shown if sign in HOSTILE and not sign.isprintable()], shown
        assert ended.code == (0 if verb == "predict" and name == "rows.jsonl" else 2)


@pytest.mark.parametrize("width", [80, 120])
def test_long_names_of_parts_fold(width, monkeypatch, capsys):
    monkeypatch.setenv("COLUMNS", "80")
    # Where it is no terminal, there is more room.
    monkeypatch.setattr("sys.stdout.isatty", lambda: width == 80)
    names = [f"rows/{'of some year/' * number}part-0000{number}-c000.snappy.parquet" for number in (0, 9)]
    notes = [f"{names[1]}, after row 0: broken parquet: {'no magic bytes ' * 9}", "process 7 on node-17"]
    parts = [Part(Path(name), Path("out")) for name in names]
    show_parts([PartState(parts[0], "failed", notes[0]), PartState(parts[1], "at work", notes[1])])
    *table, last = re.sub("\x1b\\[[0-9;]*m", "", capsys.readouterr().out).splitlines()
    assert {*map(len, table)} == {width} and last == "1 failed, 1 at work, of 2 parts"
    rows = [line[1:-1].split("│") for line in table if line.startswith("│")]
    columns = ["".join(cell.strip() for cell in column) for column in zip(*rows, strict=True)]
    wanted = ["".join(names), "failed" + "at work", "".join(notes)]
    assert [column.replace(" ", "") for column in columns] == [column.replace(" ", "") for column in wanted]


def run_of(folder: Path, route: str, labels=ONE_LABEL, **settings) -> RunResult:
    """A run with baselines, by a route with settings."""
    run = result_of(folder, labels, settings={"route": {"name": route}, "training": {}})
    baselines = {name: Baseline(run.scores["test"], 0.4, 90, is_sample=True) for name in ("majority", "tfidf")}
    cost = replace(run.cost, texts_per_second=12_345.6, wall_seconds=1234.5)
    return replace(run, cost=cost, baselines=baselines, question={"route": route, **settings})


@pytest.fixture
def shown(monkeypatch, capsys):
    """The lines that are shown of runs in a terminal of 80 columns."""
    monkeypatch.setenv("COLUMNS", "80")
    monkeypatch.setattr("sys.stdout.isatty", lambda: True)

    def call(*runs: RunResult) -> list[str]:
        show_runs(runs)
        lines = re.sub("\x1b\\[[0-9;]*m", "", capsys.readouterr().out).splitlines()
        table = takewhile(lambda line: not line.startswith(("The baselines", "written")), lines)
        assert max(map(len, table)) <= 80
        return [" ".join(line.split()) for line in lines]

    return call


def test_a_run_is_shown_beside_its_baselines(shown, tmp_path):
    run = run_of(tmp_path, "probe")
    test, lines = run.metrics, shown(run)
    interval = "[{:.3f}, {:.3f}]".format(*test["accuracy_interval"])
    assert lines[:2] == ["remarks: scores on 60 test rows", "route accuracy (95%) macro F1 train s whole s texts/s"]
    score = f"{test['accuracy']:.3f} {interval} {test['f1_macro']:.3f}"
    assert lines[3:6] == [f"probe {score} 12.5 1,234.5 12,346"] + [
        f"baseline: {name} {score} 0.4" for name in ("majority", "tfidf")
    ]
    assert lines[6].startswith("The baselines learned from 90 rows and were scored on 60")


def test_the_score_that_was_chosen_by_comes_first(shown, tmp_path):
    several = run_of(tmp_path, "probe", SEVERAL)
    assert "route micro F1 (95%) macro F1" in shown(several)[1]
    by_macro = replace(several, settings={**several.settings, "training": {"metric_for_best_model": "f1_macro"}})
    assert "route macro F1 (95%) accuracy" in shown(by_macro)[1]


def test_runs_of_one_route_are_told_apart_by_what_differs(shown, tmp_path):
    runs = [run_of(tmp_path, "lora", rank=rank, dropout=0.1) for rank in (4, 16)]
    lines = shown(*runs, replace(run_of(tmp_path, "full"), verdict=VERDICT))
    assert [line.partition(" 0.")[0] for line in lines[3:6]] == ["lora rank=4", "lora rank=16", "full"]
    assert "full: the source helps: accuracy +0.060 [+0.010, +0.110] (95%), by 3 seeds" in lines


def test_validation_rows_are_named_where_there_are_no_others(shown, tmp_path):
    run = result_of(tmp_path, split="validation", settings={"route": {"name": "full"}})
    assert shown(run)[0] == "remarks: scores on 60 validation rows"


def comparison(folder: Path, recommended: str | None) -> ComparisonResult:
    run = result_of(folder)
    score, cost = CandidateScore(0.8, 0.01, (0.7, 0.9), (0.8,)), {"train_seconds": 2.0, "size_mb": 0.5}
    candidates = (
        *(
            CandidateResult(name, name, status="finished", validation=0.8, test=score, cost=cost, seconds_of_run=61.5)
            for name in ("majority", "tfidf", "probe")
        ),
        CandidateResult("full [mine]", "full", status="failed", reason="pip install 'nlptransfer[offline]'"),
    )
    found = ComparisonResult(
        folder, run.data, {}, "accuracy", {}, {}, candidates, best="probe", recommended=recommended
    )
    return replace(found, recommendation="It is so.", made={name: (run,) for name in ("tfidf", "probe")})


@pytest.mark.parametrize("recommended", ["probe", "tfidf", None])
def test_a_comparison_without_a_trained_winner_says_what_to_do(recommended, tmp_path, capsys):
    show_comparison(comparison(tmp_path, recommended))
    shown = capsys.readouterr().out
    assert "0.800 [0.700, 0.900]" in shown and "61.5" in shown and "It is so." in shown
    assert "full [mine] failed: pip install 'nlptransfer[offline]'" in shown
    assert (NO_ROUTE in shown) == (recommended != "probe")
