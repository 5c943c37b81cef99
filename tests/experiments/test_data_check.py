"""What is said of data before training: once, in few lines, and in the record and the report of the run."""

import json
from pathlib import Path
from typing import Any

import pytest

from helpers.corpora import topic_splits
from helpers.runs import finetune
from nlptransfer import RunResult
from nlptransfer.data import load_data
from nlptransfer.experiments import data_check
from nlptransfer.experiments.data_check import checked_data
from nlptransfer.results import begin_run


def flawed() -> dict[str, Any]:
    """Rows of five labels, two of them nearly one: some twice, some of two labels, some in every split."""
    splits = topic_splits({"train": 80, "validation": 20, "test": 40}, 0)
    texts, labels = splits["train"]
    test = splits["test"][0]
    rows = [*((text, "Good ") for text in texts[:3]), *((text.upper(), "bad") for text in texts[:9])]
    rows += [(f"{text} !", "good") for text in (*test[:12], *splits["validation"][0][:4])]
    rows += [*(("one more", "rare") for _ in range(2))]
    train = [*texts, *(text for text, _ in rows)], [*labels, *(label for _, label in rows)]
    return {**splits, "train": train, "test": ([f"{text} refund" for text in test[20:]] + test[:20], splits["test"][1])}


@pytest.fixture
def lines(caplog: pytest.LogCaptureFixture):
    """What the log has said of the data since the last call."""

    def said() -> list[str]:
        found = [record.getMessage() for record in caplog.records if record.levelname == "WARNING"]
        caplog.clear()
        return [line for line in found if line.startswith("data: ")]

    return said


def test_the_most_harmful_is_said_once_in_five_lines_and_all_is_in_record_and_report(lines, vectors_file, tmp_path):
    call = {"base": vectors_file, "head_type": "linear", "output_dir": tmp_path / "run", "report": True}
    run = finetune(flawed(), **call)
    kinds = [
        "leak: 12 of the 40 test texts",
        "conflicting labels",
        "labels that differ by case",
        "no row of validation",
    ]
    kinds += ["leak: 4 of the 20 validation texts", "drift: 1 word", "imbalance", "few rows", "copies: "]
    assert all(said.startswith(kind) for said, kind in zip(run.data.warnings, kinds, strict=True))
    said = lines()
    # Reading has said the third and the fourth.
    assert sorted(said) == sorted(f"data: {warning}" for warning in run.data.warnings[:5])
    assert said[2:] == [f"data: {run.data.warnings[place]}" for place in (0, 1, 4)]
    report = (tmp_path / "run" / "report.html").read_text()
    assert all(f'<li class="wrong">{kind[:18]}' in report for kind in kinds)
    assert RunResult.load(run.folder).data.warnings == run.data.warnings
    # What is returned as it is was looked at before.
    assert finetune(flawed(), **call).data.warnings == run.data.warnings
    assert [line for line in lines() if "leak" in line or "conflict" in line] == []


def test_a_record_of_before_is_read(vectors_file, tmp_path):
    call = {"base": vectors_file, "head_type": "linear", "output_dir": tmp_path / "run"}
    finetune(flawed(), **call)
    path = tmp_path / "run" / "experiment.json"
    record = json.loads(path.read_text())
    del record["data"]["warnings"]
    path.write_text(json.dumps(record))
    assert RunResult.load(tmp_path / "run").data.warnings == finetune(flawed(), **call).data.warnings == ()


def test_what_was_begun_is_not_checked_again(lines, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    data = load_data(flawed())
    whole = checked_data(data, tmp_path)
    assert len(whole.warnings) == 9 and len(lines()) == 5
    begin_run(tmp_path, {"fingerprints": data.fingerprints()}, warnings=["said before"])
    assert checked_data(data, tmp_path).warnings == ("said before",) and not lines()
    # Other data, or a run that is thrown away, is.
    other = load_data(flawed(), split_seed=1, calibration_size=0.3)
    assert checked_data(other, tmp_path).warnings[0].startswith("leak") and lines()
    assert checked_data(data, tmp_path, overwrite=True).warnings == whole.warnings and len(lines()) == 3
    monkeypatch.setattr(data_check.distributed, "is_main", lambda: False)
    monkeypatch.setattr(data_check.distributed, "from_main", lambda found: ("of another",) if found is None else found)
    assert checked_data(data, tmp_path / "new").warnings == ("of another",) and not lines()


def test_a_verdict_has_them_and_those_of_the_source(lines, vectors_file, tmp_path):
    target, source = (topic_splits({"train": 60, "validation": 20, "test": 40}, seed) for seed in (3, 5))
    test, train = target["test"], source["train"]
    source["train"] = ([*train[0], *test[0][:10]], [*train[1], *test[1][:10]])
    call = {"base": vectors_file, "head_type": "linear", "source": source, "seeds": 1}
    run = finetune(target, output_dir=tmp_path / "run", **call)
    (leak, *_), said = run.data.warnings, lines()
    assert run.verdict and leak.startswith("leak: 10 of the 40 test texts (25.0%) are in the source too")
    assert said == [f"data: {warning}" for warning in run.data.warnings]
    assert RunResult.load(tmp_path / "run").data.warnings == run.data.warnings
