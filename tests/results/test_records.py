"""How a result lies in its folder: saved and loaded it is the same, and records.py alone knows files and keys."""

import ast
import shutil
from dataclasses import MISSING, fields, replace
from itertools import chain
from threading import Event, Thread

import numpy as np
import pyarrow.parquet as pq
import pytest

from helpers.folders import ROOT
from helpers.results import ONE_LABEL, SEVERAL, VERDICT, result_of
from nlptransfer.errors import DataError, RunFolderError
from nlptransfer.files import read_json
from nlptransfer.results import CandidateResult, ComparisonResult, Fit, Predictions, RunResult, TransferSummary, records

TRANSFER = TransferSummary(
    name="copy", label_free=False, settings={"temperature": 1.0}, source="probe",
    stages={"source": Fit(1.0, 80, chosen_by="validation", details={"other": [1, 2]})},
    scores={"source": {"split": "test", "after": {"accuracy": 0.5}}}, similarity=[{"layer": 1}],
)  # fmt: skip


@pytest.mark.parametrize("labels", [ONE_LABEL, SEVERAL])
def test_what_is_saved_is_loaded(labels, tmp_path):
    thresholds = (0.5, 0.25, 0.75) if labels.multi_label else None
    saved = result_of(tmp_path, labels, thresholds=thresholds)
    saved = replace(saved, verdict=VERDICT, transfer=replace(TRANSFER, source=saved.data))
    saved.save()
    loaded = RunResult.load(tmp_path)
    for field in fields(RunResult):
        if field.name not in ("predictions", "live"):
            assert getattr(loaded, field.name) == getattr(saved, field.name), field.name
    one, other = saved.predictions["test"], loaded.predictions["test"]
    for field in fields(Predictions):
        if field.name not in ("labels", "thresholds"):
            assert np.array_equal(getattr(one, field.name), getattr(other, field.name)), field.name
    assert other.thresholds.tolist() == list(thresholds or (0.5,) * 3)


def test_only_a_finished_run_is_loaded(tmp_path):
    with pytest.raises(RunFolderError, match=r"expected the folder of a finished run, found no experiment\.json"):
        RunResult.load(tmp_path)
    records.begin_run(tmp_path, {"seed": 7})
    with pytest.raises(RunFolderError, match="expected the folder of a finished run, found a run that is running"):
        RunResult.load(tmp_path)


@pytest.mark.parametrize("name", ["experiment.json", "metrics.json", "predictions.parquet"])
@pytest.mark.parametrize("content", [b"", b"{", b"[]", b"\xff", b'{"status": "finished"}', None])
def test_damaged_records_are_one_line(name, content, tmp_path):
    result_of(tmp_path, ONE_LABEL).save()
    (tmp_path / name).unlink()
    if content is not None:
        (tmp_path / name).write_bytes(content)
    elif name == "predictions.parquet":
        assert not RunResult.load(tmp_path).predictions
        return
    with pytest.raises(RunFolderError) as caught:
        RunResult.load(tmp_path)
    message = str(caught.value)
    assert message.startswith(f"{tmp_path}: expected ") and "\n" not in message


def test_scores_that_are_not_there(tmp_path):
    result = result_of(tmp_path, split="validation")
    with pytest.raises(DataError, match="no test rows"):
        _ = result.metrics
    with pytest.raises(RunFolderError, match="expected a saved model, found none"):
        _ = result.classifier


def test_the_validation_score_is_that_of_rows_that_were_not_learned_from(tmp_path):
    result = result_of(
        tmp_path, scores={"train": {"rows": 30, "accuracy": 0.5}, "validation": {"rows": 10, "accuracy": 0.9}}
    )
    assert result.validation_score("accuracy") == 0.9
    assert replace(result, transfer=TRANSFER).validation_score("accuracy") == pytest.approx(0.6)
    crossed = Fit(1.0, 1, chosen_by="cross-validation", best_score=0.7)
    assert replace(result, training=crossed).validation_score("accuracy") == 0.7


FILES = {
    "experiment.json", "metrics.json", "predictions.parquet", "comparison.json", "report.html", "gains.json",
    "gap.json", "fitted.json",
}  # fmt: skip
KEYS = {
    "asked", "best_epoch", "command", "distance_from_source", "estimated_seconds", "fingerprints", "fit", "history",
    "label_counts", "label_free", "others_fit", "recommendation", "rows_to_reach", "seconds_of_run", "similarity",
    "spent_seconds", "true", "truncated", "validation_logits",
}  # fmt: skip
"""Those keys in the files that no mapping in memory has."""


def keys_on_disk(folder):
    """The keys of the files of a run, of a stage and of a comparison, and of those objects in them that have a form."""
    run = replace(result_of(folder), verdict=VERDICT)
    run = replace(run, transfer=replace(TRANSFER, source=run.data, distance_from_source={"head": 1.0}))
    run.save()
    records.write_stage(folder, {}, run.training, None)
    names = [field.name for field in fields(ComparisonResult) if field.default is MISSING]
    asked = dict.fromkeys(names) | {"folder": folder, "data": run.data, "candidates": (CandidateResult("a", "full"),)}
    ComparisonResult(**asked).save()
    files = [read_json(path) for path in folder.rglob("*.json")]
    parts = [file[name] for file in files for name in ("data", "transfer", "training", "fit") if name in file]
    parts += [*chain.from_iterable(file["candidates"] for file in files if "candidates" in file)]
    columns = pq.read_schema(folder / records.PREDICTIONS).names
    return {key for part in (*files, *parts) for key in part}.union(columns)


def keys_read_by(code):
    """The constants by which a module takes something out of a mapping."""
    for node in ast.walk(code):
        if isinstance(node, ast.Subscript) and isinstance(node.ctx, ast.Load):
            yield from (part.value for part in [node.slice] if isinstance(part, ast.Constant))
        elif isinstance(node, ast.Call) and getattr(node.func, "attr", "") == "get":
            yield from (part.value for part in node.args[:1] if isinstance(part, ast.Constant))


def test_records_alone_knows_the_names_of_files_and_the_keys_in_them(tmp_path):
    assert {value for value in vars(records).values() if isinstance(value, str)} >= FILES
    assert keys_on_disk(tmp_path) >= KEYS
    for path in (ROOT / "nlptransfer").rglob("*.py"):
        if path.name != "records.py":
            code = ast.parse(path.read_text())
            assert not FILES & {node.value for node in ast.walk(code) if isinstance(node, ast.Constant)}, path
            assert not KEYS.intersection(keys_read_by(code)), path


def test_who_stops_a_run_is_told_how_far_it_is_while_others_write_in_it(tmp_path):
    """As another process of the same launch does, which has not been stopped yet."""
    checkpoints, over = tmp_path / "checkpoints", Event()
    (checkpoints / "step_00000003").mkdir(parents=True)

    def write():
        while not over.is_set():
            (checkpoints / "writing" / "model").mkdir(parents=True)
            (checkpoints / "writing").rename(checkpoints / "step_00000002")
            shutil.rmtree(checkpoints / "step_00000002")

    writer = Thread(target=write)
    writer.start()
    try:
        for _ in range(300):
            with pytest.raises(KeyboardInterrupt) as stopped, records.at_work(tmp_path):
                raise KeyboardInterrupt
            (note,) = stopped.value.__notes__
            assert note.startswith("the same command goes on from step ")
    finally:
        over.set()
        writer.join()
