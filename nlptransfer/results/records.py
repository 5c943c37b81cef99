"""How a run lies in its folder: the names of its files, and the keys in them. Nothing else in the package knows these.

It does not know how a result is made or shown.
"""

import json
import logging
import shutil
from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from safetensors.torch import load_file, save_file
from torch import Tensor

from nlptransfer import distributed
from nlptransfer.data import Labels
from nlptransfer.errors import RunFolderError
from nlptransfer.evaluation import checked_probabilities
from nlptransfer.files import atomic_file, atomic_folder, read_json, write_json
from nlptransfer.results.candidates import (
    CandidateResult,
    CandidateScore,
    CurvePoint,
    PairDifference,
    RowsToReach,
    Trial,
)
from nlptransfer.results.predictions import Predictions
from nlptransfer.results.summaries import Cost, DataSummary, Fit, TransferSummary, Verdict

if TYPE_CHECKING:
    from nlptransfer.results.comparison import ComparisonResult
    from nlptransfer.results.result import RunResult

log = logging.getLogger("nlptransfer")

EXPERIMENT = "experiment.json"
METRICS = "metrics.json"
PREDICTIONS = "predictions.parquet"
MODEL = "model"
REPORT = "report.html"
CHECKPOINTS = "checkpoints"
"""Begins the name of each stage's folder of checkpoints."""
COMPARISON = "comparison.json"
GAINS = "gains.json"
GAP = "gap.json"
CANDIDATES, TRIALS, PILOTS, CURVE = "candidates", "trials", "pilots", "curve"
"""Folders of a comparison's runs."""
VERDICT_RUNS = "verdict"
"""The folder with the runs that a verdict rests on."""
_FINISHED, _RUNNING = "finished", "running"
_STAGE_STATE, _STAGE_FIT = "state.safetensors", "fitted.json"
_SPLITS = ("train", "validation", "test")


def claim(folder: Path, question: Mapping[str, Any], overwrite: bool, record: str = EXPERIMENT) -> bool:
    """Make the folder ours; all processes call this together. Return True when a finished run is there.

    Args:
        record: the file that says what was asked for and whether it is finished.

    Raises:
        RunFolderError: it holds a run with other settings, or something that is no run.
    """
    return bool(
        distributed.from_main(_claimed(folder / record, question, overwrite) if distributed.is_main() else None)
    )


def _claimed(record: Path, question: Mapping[str, Any], overwrite: bool) -> bool:
    folder = record.parent
    if overwrite and record.exists():
        shutil.rmtree(folder)
    if not record.exists():
        if folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
            raise RunFolderError(
                f"{folder}: expected a new folder or a run's, found other files: name another output_dir"
            )
        folder.mkdir(parents=True, exist_ok=True)
        return False
    saved = read_json(record)
    known = saved["asked"]
    changed = [name for name in {**known, **question} if known.get(name) != question.get(name)]
    if changed:
        name = changed[0]
        raise RunFolderError(
            f"{folder}: holds a run with {name}={known.get(name)!r}, asked for {name}={question.get(name)!r}"
            + (f" (and {len(changed) - 1} more: {', '.join(changed[1:])})" if len(changed) > 1 else "")
            + ": name another output_dir, or overwrite"
        )
    if saved["status"] == _FINISHED:
        log.info("%s: finished before, with the same settings; returned as it is", folder)
        return True
    return False


def begin_run(folder: Path, question: Mapping[str, Any]) -> None:
    """Note what is asked for in a folder that was claimed, so that it can be resumed."""
    write_json(folder / EXPERIMENT, {"status": _RUNNING, "asked": question})


def is_run(folder: Path) -> bool:
    """Return whether a folder holds a run, finished or not."""
    return (folder / EXPERIMENT).exists()


def remove(folder: Path) -> None:
    """Delete a folder, if it is there."""
    shutil.rmtree(folder, ignore_errors=True)


def remove_checkpoints(folder: Path) -> None:
    """Delete the checkpoints of all stages of a run."""
    for checkpoints in folder.glob(f"{CHECKPOINTS}*"):
        remove(checkpoints)


def write_stage(checkpoints: Path, weights: Mapping[str, Tensor], fit: Fit, logits: np.ndarray | None) -> None:
    """Keep what a finished stage has learned, until the whole run is finished.

    Args:
        weights: whatever the stage may have changed.
        logits: (validation rows, labels), where the model has learned from these rows since.
    """
    with atomic_folder(checkpoints / _FINISHED) as new:
        save_file(dict(weights), new / _STAGE_STATE)
        held_out = None if logits is None else logits.tolist()
        write_json(new / _STAGE_FIT, {"fit": fit.to_record(), "validation_logits": held_out})


def read_stage(checkpoints: Path) -> tuple[dict[str, Tensor], Fit, np.ndarray | None] | None:
    """Return what ``write_stage`` kept; None where the stage was not finished."""
    folder = checkpoints / _FINISHED
    if not (folder / _STAGE_FIT).exists():
        return None
    record = read_json(folder / _STAGE_FIT)
    logits = record["validation_logits"]
    held_out = None if logits is None else np.asarray(logits)
    return load_file(folder / _STAGE_STATE), Fit.from_record(record["fit"]), held_out


def write_run(result: "RunResult") -> None:
    """Write the record, the scores and the predictions of a finished run; the record last, as it says so."""
    folder = result.folder
    _write_predictions(folder / PREDICTIONS, result.predictions)
    write_json(folder / METRICS, _metrics(result))
    write_json(folder / EXPERIMENT, _experiment(result))


def read_run(folder: Path) -> dict[str, Any]:
    """Return the fields of a finished run's RunResult, but for its folder.

    Raises:
        RunFolderError: no finished run is there.
    """
    record = read_json(folder / EXPERIMENT) if is_run(folder) else None
    if record is None or record["status"] != _FINISHED:
        found = f"no {EXPERIMENT}" if record is None else f"a run that is {record['status']}"
        raise RunFolderError(f"{folder}: expected the folder of a finished run, found {found}")
    report = read_json(folder / METRICS)
    data = _data_summary(record["data"])
    thresholds = record["thresholds"]
    verdict = record.get("verdict")
    return {
        "data": data,
        "settings": record["settings"],
        "question": record["asked"],
        "command": record["command"],
        "base": record["base"],
        "scores": {name: report[name] for name in _SPLITS if name in report},
        "cost": Cost(**report["cost"]),
        "training": Fit.from_record(record["training"]),
        "processes": record["processes"],
        "machine": record["machine"],
        "versions": record["versions"],
        "transfer": _read_transfer(record["transfer"], report) if "transfer" in record else None,
        "verdict": None if verdict is None else Verdict(**{**verdict, "interval": tuple(verdict["interval"])}),
        "calibration": record["calibration"],
        "thresholds": None if thresholds is None else tuple(thresholds),
        "predictions": _read_predictions(folder / PREDICTIONS, data.labels, thresholds),
    }


def _metrics(result: "RunResult") -> dict[str, Any]:
    transfer: dict[str, Any] = dict(result.transfer.scores) if result.transfer is not None else {}
    if result.verdict is not None:
        transfer["gain"] = result.verdict.to_record()
    return {**result.scores, **({"transfer": transfer} if transfer else {}), "cost": result.cost.to_record()}


def _experiment(result: "RunResult") -> dict[str, Any]:
    record = {
        "status": _FINISHED,
        "asked": result.question,
        "command": result.command,
        "data": _data_record(result.data),
        "base": result.base,
        "settings": result.settings,
        "calibration": result.calibration,
        "thresholds": None if result.thresholds is None else list(result.thresholds),
        "processes": result.processes,
        "machine": result.machine,
        "versions": result.versions,
    }
    if result.transfer is not None:
        record["transfer"] = _transfer_record(result.transfer)
    if result.verdict is not None:
        record["verdict"] = result.verdict.to_record()
    return record | {"training": result.training.to_record()}


def _data_record(data: DataSummary) -> dict[str, Any]:
    return {
        "name": data.name,
        "labels": list(data.labels.names),
        "multi_label": data.labels.multi_label,
        "fingerprints": data.fingerprints,
        "label_counts": data.label_counts,
        "truncated": data.truncated,
    }


def _data_summary(record: Mapping[str, Any]) -> DataSummary:
    labels = Labels(tuple(record["labels"]), record["multi_label"])
    return DataSummary(
        record["name"], labels, record["fingerprints"], record.get("label_counts", {}), record.get("truncated", {})
    )


def _transfer_record(transfer: TransferSummary) -> dict[str, Any]:
    record: dict[str, Any] = {"name": transfer.name, "label_free": transfer.label_free, "settings": transfer.settings}
    if transfer.source is not None:
        source = transfer.source
        record["source"] = _data_record(source) if isinstance(source, DataSummary) else {"name": source}
    record["stages"] = {name: fit.to_record() for name, fit in transfer.stages.items()}
    for name in ("distance_from_source", "similarity"):
        if (found := getattr(transfer, name)) is not None:
            record[name] = found
    return record


def _read_transfer(record: Mapping[str, Any], report: Mapping[str, Any]) -> TransferSummary:
    source = record.get("source")
    return TransferSummary(
        name=record["name"],
        label_free=record["label_free"],
        settings=record["settings"],
        source=source if source is None else _data_summary(source) if "labels" in source else source["name"],
        stages={name: Fit.from_record(fit) for name, fit in record["stages"].items()},
        scores={role: found for role, found in report.get("transfer", {}).items() if role != "gain"},
        distance_from_source=record.get("distance_from_source"),
        similarity=record.get("similarity"),
    )


def _write_predictions(path: Path, predictions: Mapping[str, Predictions]) -> None:
    import pyarrow as pa
    import pyarrow.parquet as pq

    columns: dict[str, list[Any]] = {"split": [], "id": [], "true": [], "predicted": [], "probabilities": []}
    for name, rows in predictions.items():
        columns["split"] += [name] * len(rows)
        columns["id"] += rows.ids.tolist()
        columns["true"] += rows.labels.decode(rows.targets)
        columns["predicted"] += rows.labels.decode(rows.predicted)
        columns["probabilities"] += rows.probabilities.astype(np.float32).tolist()
    with atomic_file(path) as temporary:
        pq.write_table(pa.table(columns), temporary)


def _read_predictions(path: Path, labels: Labels, thresholds: list[float] | None) -> dict[str, Predictions]:
    import pyarrow.parquet as pq

    if not path.exists():
        return {}
    columns = pq.read_table(path).to_pydict()
    splits = np.asarray(columns["split"])
    found = {}
    for name in dict.fromkeys(columns["split"]):
        rows = np.flatnonzero(splits == name).tolist()
        taken = {column: [values[row] for row in rows] for column, values in columns.items()}
        targets, predicted = (labels.encode(taken[column]).astype(np.int64) for column in ("true", "predicted"))
        probabilities = checked_probabilities(taken["probabilities"])
        limits = np.asarray(thresholds or [0.5] * labels.num_labels)
        found[name] = Predictions(labels, np.asarray(taken["id"]), targets, predicted, probabilities, limits)
    return found


def write_comparison(result: "ComparisonResult") -> None:
    """Write the record of a comparison, finished or not."""
    lists = ("candidates", "pairs", "curve", "rows_to_reach")
    record = {
        "status": _FINISHED if result.finished else _RUNNING,
        "asked": result.settings,
        "data": {**_data_record(result.data), "warnings": result.warnings},
        **{name: getattr(result, name) for name in ("metric", "machine", "versions", "spent_seconds")},
        **{name: [asdict(one) for one in getattr(result, name)] for name in lists},
        **{name: getattr(result, name) for name in ("recommended", "best", "recommendation")},
    }
    write_json(result.folder / COMPARISON, record)


def is_comparison(folder: Path) -> bool:
    """Return whether a folder holds a comparison, finished or not."""
    return (folder / COMPARISON).exists()


def read_comparison(folder: Path) -> dict[str, Any]:
    """Return the fields of a comparison's ComparisonResult, finished or not, but for its folder."""
    record = read_json(folder / COMPARISON)
    same = ("metric", "machine", "versions", "spent_seconds", "recommended", "best", "recommendation")
    return {
        "finished": record["status"] == _FINISHED,
        "settings": record["asked"],
        "data": _data_summary(record["data"]),
        "warnings": tuple(record["data"]["warnings"]),
        "candidates": tuple(_read_candidate(one) for one in record["candidates"]),
        "pairs": tuple(PairDifference(**_with_tuples(one)) for one in record["pairs"]),
        "curve": tuple(CurvePoint(**_with_tuples(one)) for one in record["curve"]),
        "rows_to_reach": tuple(RowsToReach(**one) for one in record["rows_to_reach"]),
        **{name: record[name] for name in same},
    }


def _read_candidate(record: Mapping[str, Any]) -> CandidateResult:
    test = None if record["test"] is None else CandidateScore(**_with_tuples(record["test"]))
    trials = tuple(Trial(**one) for one in record["trials"])
    return CandidateResult(**_with_tuples({**record, "trials": trials, "test": test}))


def _with_tuples(record: Mapping[str, Any]) -> dict[str, Any]:
    return {name: tuple(value) if isinstance(value, list) else value for name, value in record.items()}


def card_results(result: "RunResult") -> dict[str, Any]:
    """Return what a saved classifier's record says of its making and its scores, for the model card."""
    found: dict[str, Any] = {
        "data": result.data.name,
        "rows": {name: rows for name, rows in result.data.rows.items() if name in (*_SPLITS, "calibration")},
        "label_counts": result.data.label_counts,
        "fingerprints": result.data.fingerprints,
        "command": result.command,
        "seed": result.settings["training"]["seed"],
        "training": result.settings["training"],
        "versions": result.versions,
        "cost": result.cost.to_record(),
    }
    if result.transfer is not None and result.transfer.source is not None:
        source = result.transfer.source
        name = source.name if isinstance(source, DataSummary) else source
        found["transfer"] = {"name": result.transfer.name, "source": {"name": name}}
    if "test" in result.scores:
        found["test"] = result.scores["test"]
    if result.verdict is not None:
        found["verdict"] = result.verdict.to_record()
    return found


def plain(value: Any) -> Any:
    """Return a value as JSON would give it back."""
    return json.loads(json.dumps(value))
