"""Results of runs that nobody trained, with probabilities that lean towards the targets."""

import shlex
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from nlptransfer.data.dataset import Split
from nlptransfer.data.labels import Labels
from nlptransfer.evaluation import score_predictions
from nlptransfer.results import Cost, DataSummary, Fit, Predictions, RunResult, Verdict

ONE_LABEL = Labels(("bad", "good", "mixed"))
SEVERAL = Labels(("bug", "billing", "praise"), multi_label=True)
VERDICT = Verdict(
    direct=0.75, with_source=0.81, gain=0.06, interval=(0.01, 0.11), verdict="helps", metric="accuracy", seeds=3,
    rows=60, validation={"copy": 0.8, "direct": 0.7}, fallback=False, taken="copy",
)  # fmt: skip


def rows_of(labels: Labels, n: int) -> tuple[np.ndarray, np.ndarray]:
    """Targets, and probabilities that lean towards them."""
    rng, k = np.random.default_rng(0), labels.num_labels
    if labels.multi_label:
        targets = rng.integers(0, 2, (n, k))
        return targets, 1 / (1 + np.exp(-rng.normal(0, 2, (n, k)) - 2 * targets + 1))
    targets = rng.integers(0, k, n)
    raised = np.exp(rng.normal(0, 1, (n, k)) + 2 * np.eye(k)[targets])
    return targets, raised / raised.sum(axis=1, keepdims=True)


def result_of(
    folder: Path,
    labels: Labels = ONE_LABEL,
    n: int = 60,
    data: str = "remarks",
    split: str = "test",
    truncated: dict[str, float] | None = None,
    **given: Any,
) -> RunResult:
    """A finished run with ``n`` rows of one split, as finetune() makes it; ``given`` are other fields."""
    targets, p = rows_of(labels, n)
    p = p.astype(np.float32).astype(np.float64)
    prints = {name: {"rows": rows, "hash": name * 8} for name, rows in (("train", 90), ("calibration", 0), (split, n))}
    history = [{"epoch": i, "loss": 1 / i, "score": 0.9 - 0.1 * (i - 2) ** 2} for i in (1, 2, 3)]
    result = RunResult(
        folder=folder,
        data=DataSummary(data, labels, prints, {name: 30 for name in labels.names}, truncated or {}),
        settings={"route": {"name": "full", "freeze_layers": 2}, "training": {"learning_rate": 5e-5, "seed": 7}},
        question={"seed": 7},
        command=f"nlptransfer finetune {data}",
        repeat=shlex.join(["nlptransfer", "finetune", f"rows/{data}.csv", "--set", "text_column=review"]),
        base={"kind": "encoder", "name": "acme/tiny"},
        scores={split: {"rows": n, **score_predictions(targets, p, labels, resamples=10)}},
        cost=Cost(12.5, 100.0, 1234, 5678, 800.0, size_mb=0.5),
        training=Fit(12.5, 90, best_epoch=3, history=history),
        processes=1,
        machine={"processor": "a test's", "cores": 2},
        versions={"torch": "2.13.0"},
        calibration={"rows": 20, "temperature": 1.5},
        predictions={split: Predictions.of(Split([""] * n, targets), p, labels, None)},
    )
    return replace(result, **given)


def write_run(folder: Path, *given: Any, **named: Any) -> Path:
    """The folder of such a run."""
    result_of(folder, *given, **named).save()
    return folder
