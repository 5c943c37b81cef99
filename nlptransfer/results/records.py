"""How a result lies in its folder: the names of files and the keys in them, which nothing else in the package knows."""

import json
import logging
import os
import shutil
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import asdict, fields, replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from safetensors.torch import load_file, save_file
from torch import Tensor

from nlptransfer import distributed
from nlptransfer.cache import open_entry, seal
from nlptransfer.classifier import as_cell, from_cell
from nlptransfer.data import Labels
from nlptransfer.errors import RunFolderError
from nlptransfer.evaluation import checked_probabilities
from nlptransfer.files import as_written, atomic_file, atomic_folder, read_json, without_leftovers, write_json
from nlptransfer.locks import LOCK, locked
from nlptransfer.results.predictions import Predictions
from nlptransfer.results.summaries import DataSummary, Fit, TransferSummary, from_record, to_record
from nlptransfer.storage import storage_errors

if TYPE_CHECKING:
    from pandas import DataFrame

    from nlptransfer.results.audit import Audit, Section
    from nlptransfer.results.comparison import ComparisonResult
    from nlptransfer.results.ranking import Ranking
    from nlptransfer.results.result import RunResult

log = logging.getLogger("nlptransfer")

EXPERIMENT = "experiment.json"
METRICS = "metrics.json"
PREDICTIONS = "predictions.parquet"
LEARNED = "learned.npy"
MODEL = "model"
REPORT = "report.html"
CHECKPOINTS = "checkpoints"
"""Begins the name of each stage's folder of checkpoints."""
COMPARISON = "comparison.json"
RANKING = "ranking.json"
AUDIT, FINDINGS = "audit.json", "findings.csv"
GAINS = "gains.json"
GAP = "gap.json"
CANDIDATES, TRIALS, PILOTS, CURVE = "candidates", "trials", "pilots", "curve"
VERDICT_RUNS = "verdict"
"""The folder with the runs that a verdict rests on."""
_FINISHED, _RUNNING = "finished", "running"
_STAGE_STATE, _STAGE_FIT = "state.safetensors", "fitted.json"
_SPLITS = ("train", "validation", "test")
_AGAIN = "make it again with overwrite, or name another output_dir"


@contextmanager
def at_work(folder: Path, take_lock: bool = False) -> Iterator[None]:
    """Keep all others out of a folder of runs, see :func:`locked`; who stops the block is told where it goes on."""
    with locked(folder, take_lock):
        try:
            yield
        except KeyboardInterrupt as stop:
            stop.add_note(f"the same command goes on from {_reached(folder)}")
            raise


def _reached(folder: Path) -> str:
    """Say what is finished in a folder of runs; other processes may still write, rename and remove in it."""
    runs, stages, steps = 0, 0, dict[Path, float]()
    # Unlike glob, this passes over what is gone when its turn comes.
    for place, folders, files in os.walk(folder):
        runs += EXPERIMENT in files and read_json(Path(place, EXPERIMENT))["status"] == _FINISHED
        if Path(place).name.startswith(CHECKPOINTS):
            stages += _FINISHED in folders
            for step in (Path(place, name) for name in folders if name.startswith("step_")):
                with suppress(FileNotFoundError):
                    steps[step] = step.stat().st_mtime
    counts = {"run": runs, "stage": stages}
    found = [f"{count} finished {name}{'s' * (count > 1)}" for name, count in counts.items() if count]
    if steps:
        last = max(steps, key=steps.__getitem__)
        found.append(f"step {int(last.name.removeprefix('step_'))} in {last.parent}")
    return " and ".join(found) or "the start"


def claim(folder: Path, question: Mapping[str, Any], overwrite: bool, record: str = EXPERIMENT) -> bool:
    """Take a folder, all together; return whether it has this run, finished; a RunFolderError for anything else."""
    with storage_errors(folder):
        is_finished = distributed.is_main() and _claimed(folder / record, question, overwrite)
    return bool(distributed.from_main(is_finished))


def _claimed(record: Path, question: Mapping[str, Any], overwrite: bool) -> bool:
    folder = record.parent
    if overwrite and record.exists():
        for path in _content(folder):
            shutil.rmtree(path) if path.is_dir() else path.unlink()
    if not record.exists():
        if folder.exists() and (not folder.is_dir() or _content(folder)):
            raise RunFolderError(
                f"{folder}: expected a new folder or a run's, found other files: name another output_dir"
            )
        folder.mkdir(parents=True, exist_ok=True)
        return False
    with as_written(folder, _AGAIN):
        saved = read_json(record)
        known, is_finished = dict(saved["asked"]), saved["status"] == _FINISHED
        reached = _reached(folder)
    if changed := [name for name in {**known, **question} if known.get(name) != question.get(name)]:
        name = changed[0]
        raise RunFolderError(
            f"{folder}: holds a run with {name}={known.get(name)!r}, asked for {name}={question.get(name)!r}"
            + (f" (and {len(changed) - 1} more: {', '.join(changed[1:])})" if len(changed) > 1 else "")
            + ": name another output_dir, or overwrite"
        )
    if is_finished:
        log.info("%s: the same run has finished there before, and is taken as it is", folder)
    else:
        log.info("%s: the same run was begun there before, and goes on from %s", folder, reached)
    return bool(is_finished)


def _content(folder: Path) -> list[Path]:
    return [path for path in without_leftovers(folder).iterdir() if path.name != LOCK]


def begin_run(
    folder: Path, question: Mapping[str, Any], record: str = EXPERIMENT, *, warnings: Sequence[str] = ()
) -> None:
    """Note what is asked for in a folder that was claimed, so that it can be resumed; all processes call this.

    ``warnings`` are those of the data, which :func:`warnings_in` returns.
    """
    noted = {"status": _RUNNING, "asked": question, "data": {"warnings": warnings}}
    distributed.on_main(partial(write_json, folder / record, noted))


def warnings_in(folder: Path, fingerprints: Mapping[str, Any]) -> tuple[str, ...] | None:
    """Return the warnings of data with these fingerprints that a run or a comparison in a folder has noted, if any."""
    for path in (folder / EXPERIMENT, folder / COMPARISON):
        if path.exists():
            with as_written(folder, _AGAIN):
                noted = read_json(path)
                data = noted.get("data", {})
                if noted["asked"].get("fingerprints") == fingerprints and "warnings" in data:
                    return tuple(data["warnings"])
    return None


def is_run(folder: Path) -> bool:
    """Return whether a folder holds a run, finished or not."""
    return (folder / EXPERIMENT).exists()


def remove(folder: Path) -> None:
    shutil.rmtree(folder, ignore_errors=True)


def remove_checkpoints(folder: Path) -> None:
    for checkpoints in folder.glob(f"{CHECKPOINTS}*"):
        remove(checkpoints)


def write_stage(checkpoints: Path, weights: Mapping[str, Tensor], fit: Fit, logits: np.ndarray | None) -> None:
    """Keep what a finished stage has learned until the run is finished; ``logits`` are of held-out validation rows."""
    with atomic_folder(checkpoints / _FINISHED) as new:
        save_file(dict(weights), new / _STAGE_STATE)
        held_out = None if logits is None else logits.tolist()
        write_json(new / _STAGE_FIT, {"fit": to_record(fit), "validation_logits": held_out})
        seal(new)


def read_stage(checkpoints: Path) -> tuple[dict[str, Tensor], Fit, np.ndarray | None] | None:
    """Return what ``write_stage`` kept; None where the stage was not finished, or that is damaged."""
    return open_entry(checkpoints / _FINISHED, "training", _read_stage)


def _read_stage(folder: Path) -> tuple[dict[str, Tensor], Fit, np.ndarray | None]:
    record = read_json(folder / _STAGE_FIT)
    logits = record["validation_logits"]
    held_out = None if logits is None else np.asarray(logits)
    return load_file(folder / _STAGE_STATE), from_record(Fit, record["fit"]), held_out


def write_run(result: "RunResult") -> None:
    """Write the record, the scores and the predictions of a finished run; the record last, as it says so."""
    folder, transfer, verdict = result.folder, result.transfer, result.verdict
    _write_predictions(folder / PREDICTIONS, result.predictions)
    of_transfer: dict[str, Any] = dict(transfer.scores) if transfer is not None else {}
    record = {"status": _FINISHED, "asked": result.question, "data": _data_record(result.data)}
    names = ("command", "repeat", "base", "settings", "calibration", "thresholds", "processes", "machine", "versions")
    record |= {name: getattr(result, name) for name in names}
    if transfer is not None:
        record["transfer"] = _transfer_record(transfer)
    if verdict is not None:
        record["verdict"] = of_transfer["gain"] = to_record(verdict)
    metrics = {**result.scores, **({"transfer": of_transfer} if of_transfer else {}), "cost": to_record(result.cost)}
    if result.baselines:
        metrics["baselines"] = to_record(result.baselines)
    write_json(folder / METRICS, metrics)
    write_json(folder / EXPERIMENT, record | {"training": to_record(result.training)})


def write_learned(folder: Path, hashes: np.ndarray) -> None:
    """Write the hashes of the texts that a run has learned from."""
    with atomic_file(folder / LEARNED) as temporary, temporary.open("wb") as file:
        np.save(file, hashes, allow_pickle=False)


def read_learned(folder: Path) -> np.ndarray | None:
    """Return what :func:`write_learned` wrote of a run, given its folder or that of its model; None where it is not."""
    places = [place for place in (folder / LEARNED, folder.parent / LEARNED) if place.exists()]
    if not places:
        return None
    with as_written(places[0].parent, _AGAIN):
        return np.asarray(np.load(places[0], allow_pickle=False))


def read_run(kind: type["RunResult"], folder: Path) -> "RunResult":
    """Read a finished run, or raise a RunFolderError."""
    with as_written(folder, _AGAIN):
        return _read_run(kind, folder)


def _read_run(kind: type["RunResult"], folder: Path) -> "RunResult":
    record = read_json(folder / EXPERIMENT) if is_run(folder) else None
    if record is None or record["status"] != _FINISHED:
        found = f"no {EXPERIMENT}" if record is None else f"a run that is {record['status']}"
        raise RunFolderError(f"{folder}: expected the folder of a finished run, found {found}")
    report, data = read_json(folder / METRICS), _read_data(record["data"])
    values = {
        "folder": folder,
        "data": data,
        "question": record["asked"],
        "scores": {name: report[name] for name in _SPLITS if name in report},
        "cost": report["cost"],
        "baselines": report.get("baselines", {}),
        "transfer": _read_transfer(record["transfer"], report) if "transfer" in record else None,
        "predictions": _read_predictions(folder / PREDICTIONS, data.labels, record["thresholds"]),
    }
    return from_record(kind, {**record, **values})


def _data_record(data: DataSummary) -> dict[str, Any]:
    labels = data.labels
    return {**to_record(data), "labels": list(labels.names), "multi_label": labels.multi_label}


def _read_data(record: Mapping[str, Any]) -> DataSummary:
    labels = Labels(tuple(record["labels"]), record["multi_label"])
    return from_record(DataSummary, {**record, "labels": labels})


def _transfer_record(transfer: TransferSummary) -> dict[str, Any]:
    source = transfer.source
    record: dict[str, Any] = to_record(replace(transfer, source=None))
    # In the file of scores.
    del record["scores"]
    if source is not None:
        record["source"] = _data_record(source) if isinstance(source, DataSummary) else {"name": source}
    return record


def _read_transfer(record: Mapping[str, Any], report: Mapping[str, Any]) -> TransferSummary:
    scores = {role: of_role for role, of_role in report.get("transfer", {}).items() if role != "gain"}
    source = record.get("source")
    if source is not None:
        source = _read_data(source) if "labels" in source else source["name"]
    return from_record(TransferSummary, {**record, "source": source, "scores": scores})


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
    import pyarrow.compute as pc
    import pyarrow.parquet as pq

    if not path.exists():
        return {}
    table, predictions = pq.read_table(path), {}
    for name in table["split"].unique().to_pylist():
        rows = table.filter(pc.field("split") == name).to_pydict()
        targets, predicted = (labels.encode(rows[column]).astype(np.int64) for column in ("true", "predicted"))
        probabilities = checked_probabilities(rows["probabilities"])
        limits = np.asarray(thresholds or [0.5] * labels.num_labels)
        predictions[name] = Predictions(labels, np.asarray(rows["id"]), targets, predicted, probabilities, limits)
    return predictions


def write_comparison(result: "ComparisonResult") -> None:
    """Write the record of a comparison, finished or not."""
    names = (
        "metric",
        "machine",
        "versions",
        "repeat",
        "spent_seconds",
        "candidates",
        "pairs",
        "curve",
        "rows_to_reach",
    )
    values = asdict(replace(result, made={}))
    record = {
        "status": _FINISHED if result.finished else _RUNNING,
        "asked": result.settings,
        "data": _data_record(result.data),
        **{name: values[name] for name in (*names, "recommended", "best", "recommendation")},
    }
    write_json(result.folder / COMPARISON, record)


def is_comparison(folder: Path) -> bool:
    """Return whether a folder holds a comparison, finished or not."""
    return (folder / COMPARISON).exists()


def read_comparison(kind: type["ComparisonResult"], folder: Path) -> "ComparisonResult":
    with as_written(folder, _AGAIN):
        record = read_json(folder / COMPARISON)
        values = {
            "folder": folder,
            "finished": record["status"] == _FINISHED,
            "settings": record["asked"],
            "data": _read_data(record["data"]),
        }
        return from_record(kind, {**record, **values})


def write_ranking(result: "Ranking") -> None:
    """Write a ranking, and its encoders and its sources as a table each."""
    names = ("metric", "rows", "encoders", "sources", "machine", "versions", "repeat")
    values = asdict(result)
    record = {"status": _FINISHED, "asked": result.settings, "data": _data_record(result.data)}
    write_json(result.folder / RANKING, record | {name: values[name] for name in names})
    for name, table in result.tables.items():
        if table.rows:
            result.to_csv(result.folder / f"{name}.csv", name)


def is_ranking(folder: Path) -> bool:
    """Return whether a folder holds a ranking."""
    return (folder / RANKING).exists()


def read_ranking(kind: type["Ranking"], folder: Path) -> "Ranking":
    if not is_ranking(folder):
        raise RunFolderError(f"{folder}: expected the folder of a ranking, found no {RANKING}")
    with as_written(folder, _AGAIN):
        record = read_json(folder / RANKING)
        values = {"folder": folder, "settings": record["asked"], "data": _read_data(record["data"])}
        return from_record(kind, {**record, **values})


def read_gains(folder: Path) -> list[dict[str, Any]]:
    if not (folder / GAINS).exists():
        raise RunFolderError(f"{folder}: expected the folder of a gain curve, found no {GAINS}")
    with as_written(folder, _AGAIN):
        return list(read_json(folder / GAINS))


def write_audit(result: "Audit") -> None:
    """Write the findings, each frame as a table, and the record; that last, as it says that the audit is finished."""
    import pandas as pd

    from nlptransfer.results.audit import Finding

    columns = [one.name for one in fields(Finding)]
    write_table(result.folder / FINDINGS, pd.DataFrame([*map(asdict, result.findings)], columns=columns))
    for name, frame in result.frames.items():
        write_table(result.folder / f"{name}.csv", frame)
    record = {"status": _FINISHED, "asked": result.settings, "data": _data_record(result.data)}
    record |= {name: getattr(result, name) for name in ("base", "machine", "versions", "repeat")}
    write_json(result.folder / AUDIT, record | {"sections": [*map(_section_record, result.sections.values())]})


def _section_record(section: "Section") -> dict[str, Any]:
    kinds = {name: {column: str(kind) for column, kind in frame.dtypes.items()}
             for name, frame in section.frames.items()}  # fmt: skip
    findings = [asdict(finding) for finding in section.findings]
    return {"name": section.name, "findings": findings, "facts": dict(section.facts), "frames": kinds}


def is_audit(folder: Path) -> bool:
    """Return whether a folder holds an audit, finished or not."""
    return (folder / AUDIT).exists()


def read_audit(kind: type["Audit"], folder: Path) -> "Audit":
    from nlptransfer.results.audit import Finding, Section

    with as_written(folder, _AGAIN):
        record = read_json(folder / AUDIT) if is_audit(folder) else None
        if record is None or record["status"] != _FINISHED:
            found = f"no {AUDIT}" if record is None else "one that is not finished"
            raise RunFolderError(f"{folder}: expected the folder of an audit, found {found}")
        sections = {
            one["name"]: Section(
                one["name"],
                tuple(Finding(**finding) for finding in one["findings"]),
                {name: _read_table(folder / f"{name}.csv", kinds) for name, kinds in one["frames"].items()},
                one["facts"],
            )
            for one in record["sections"]
        }
        values = {"folder": folder, "settings": record["asked"], "data": _read_data(record["data"])}
        return from_record(kind, {**record, **values, "sections": sections})


def write_table(path: Path, frame: "DataFrame") -> None:
    """Write a frame as csv, whose text no spreadsheet takes for a formula."""
    with atomic_file(path) as temporary:
        # Lines that end with both have the ends of lines in texts quoted, whichever they are.
        safe = frame.map(lambda value: as_cell(value) if isinstance(value, str) else value)
        safe.to_csv(temporary, index=False, lineterminator="\r\n")


def _read_table(path: Path, kinds: Mapping[str, str]) -> "DataFrame":
    """Read what :func:`write_table` wrote of columns of these types."""
    import pandas as pd

    texts = [name for name, kind in kinds.items() if kind in ("str", "object", "string")]
    missing = {name: [""] for name in kinds if name not in texts}
    types = {name: "str" if name in texts else kind for name, kind in kinds.items()}
    frame = pd.read_csv(path, dtype=types, keep_default_na=False, na_values=missing)
    return frame.assign(**{name: frame[name].map(from_cell) for name in texts})


def card_results(result: "RunResult") -> dict[str, Any]:
    """Return what a saved classifier's record says of its making and its scores, for the model card."""
    results: dict[str, Any] = {
        "data": result.data.name,
        "rows": {name: rows for name, rows in result.data.rows.items() if name in (*_SPLITS, "calibration")},
        "label_counts": result.data.label_counts,
        "fingerprints": result.data.fingerprints,
        "command": result.command,
        "seed": result.settings["training"]["seed"],
        "training": result.settings["training"],
        "versions": result.versions,
        "cost": to_record(result.cost),
    }
    if (transfer := result.transfer) is not None and (source := transfer.source) is not None:
        name = source.name if isinstance(source, DataSummary) else source
        results["transfer"] = {"name": transfer.name, "source": {"name": name}}
    if "test" in result.scores:
        results["test"] = result.scores["test"]
    if result.baselines:
        results["baselines"] = to_record(result.baselines)
    if result.verdict is not None:
        results["verdict"] = to_record(result.verdict)
    return results


def plain(value: Any) -> Any:
    """Return a value as JSON would give it back."""
    return json.loads(json.dumps(value))
