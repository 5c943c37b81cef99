"""The trainings of test_processes.py, which one process runs and several run side by side, on the same batches.

python -m helpers.side_by_side FOLDER ENCODER CORPUS VECTORS
"""

import json
import os
import sys
from contextlib import nullcontext
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from accelerate.state import AcceleratorState, PartialState
from accelerate.utils import DistributedType
from safetensors.torch import save_file
from torch import nn
from transformers import BertConfig, BertForMaskedLM

from helpers.corpora import FILM_WORDS, write_rows
from helpers.runs import finetune
from helpers.training import rows
from nlptransfer import Classifier, Full, Joint, Lora, Probe, Relational, Sequential, distributed, predict_parts
from nlptransfer.cli import app
from nlptransfer.data.labels import Labels
from nlptransfer.experiments import environment
from nlptransfer.experiments.task import Task
from nlptransfer.models.arrays import cached
from nlptransfer.models.inference import predict_logits
from nlptransfer.models.rows import Examples, FeatureRows, SomeRows
from nlptransfer.models.tokens import TokenRows
from nlptransfer.training import loop
from nlptransfer.training.loop import train
from nlptransfer.training.losses import SOURCE, UNLABELED, LabelLoss, Objective, class_weights
from nlptransfer.training.optimizer import TrainingSettings
from nlptransfer.transfer.alignment import Adversary, Aligned, correlation_distance, mean_discrepancy
from nlptransfer.transfer.pretraining import LanguageLoss, Masking, _lowered

CNN = {"head_type": "cnn", "dropout": 0.0, "num_train_epochs": 12, "save_steps": 5}
"""Settings of a run on word vectors."""
ROUTES = {
    "full": Full(dropout=0.0),
    "upper layers": Full(dropout=0.0, freeze_layers=1, layer_decay=0.8, max_length=8, long_text="windows"),
    "lora": Lora(dropout=0.0),
    "probe mlp": Probe(head_type="mlp", dropout=0.0, mlp_sizes=(8,), max_length=8, long_text="windows"),
    "probe linear": Probe(),
}
TRANSFERS = {
    "joint": (Full(dropout=0.0), Joint(alpha=0.7, weighting="scheduled")),
    "relational": (Full(dropout=0.0), Relational()),
    "held to the source": (Full(dropout=0.0), Sequential(l2_sp=0.1)),
    "fitted joint": (Probe(features=("encoder", "ngrams")), Joint()),
}
DISTANCES = {"correlation": correlation_distance, "means": mean_discrepancy, "adversary": Adversary}
"""Between domains, by name."""
FITTED = ("probe linear", "fitted joint")
"""Of both, those without a training loop."""
NOT_SHARDED = ("held to the source", "relational", "fitted joint")
"""Of both, those that are not run with weights in shards."""
BEGUN_ANEW = "full"
"""The one that begins anew where its validation score is no better than one label for all rows."""


class Tiny(nn.Module):
    """Two layers; a crowded one runs out of memory on the second process."""

    def __init__(self, crowded: bool) -> None:
        super().__init__()
        self.crowded = crowded
        torch.manual_seed(5)
        self.body, self.head = nn.Linear(6, 8), nn.Linear(8, 3)
        self.seen: list[float] = []

    def forward(self, features: torch.Tensor) -> SimpleNamespace:
        if not self.training:
            self.seen += features[:, 0].tolist()
        elif self.crowded and distributed.rank() == 1 and len(features) > 1:
            raise torch.OutOfMemoryError("out of memory")
        return SimpleNamespace(logits=self.head(torch.relu(self.body(features))))


def share_of(rows: int) -> int:
    """The rows that each process takes at once, of so many that all take."""
    return rows // distributed.world_size()


def train_tiny(kind: str, folder: Path) -> None:
    """37 rows; what is predicted and reported goes to a file of each process."""
    labels = Labels(("a", "b", "c"), kind == "several")
    learn, batch = rows(37, 37, labels), rows(11, 11, labels)
    model = Tiny(kind == "crowded")
    objective = Objective(model, LabelLoss(labels, class_weights("balanced", labels, learn.targets), 0.1))
    settings = TrainingSettings(
        num_train_epochs=4, learning_rate=0.01, per_device_train_batch_size=share_of(4), save_steps=2,
        gradient_accumulation_steps=3, progress=kind == "one", report_to=("tensorboard",), l1=0.001,
    )  # fmt: skip
    report = train(
        objective, learn, batch, score=lambda logits: float(logits.std()), settings=settings,
        checkpoints=folder / "checkpoints",
    )  # fmt: skip
    model.seen.clear()
    shared = predict_logits(model, batch.rows, share=True)
    part = len(model.seen)
    assert np.array_equal(shared, predict_logits(model, batch.rows))
    record = [part, report.rows_per_pass, report.step, [entry["loss"] for entry in report.history], shared.tolist()]
    (folder / f"rank_{distributed.rank()}.json").write_text(json.dumps(record))
    if distributed.is_main():
        save_file(model.state_dict(), folder / "final.safetensors")
    assert distributed.from_main(distributed.rank()) == 0
    distributed.barrier()


def align_tiny(kind: str, folder: Path) -> None:
    """37 labeled rows and 29 of another domain: neither they nor their passes divide by two."""
    labels = Labels(("a", "b", "c"), False)
    learn, others = rows(37, 37, labels), rows(29, 29, labels)
    unseen = Examples(FeatureRows(2 * others.rows.features + 1), np.full(29, -1))
    model = Tiny(crowded=False)
    torch.manual_seed(1)
    distance = Adversary(8) if kind == "adversary" else DISTANCES[kind]
    objective = Aligned(model, LabelLoss(labels), distance, lambda progress: 0.5 * progress, model.head)
    settings = TrainingSettings(
        num_train_epochs=3, learning_rate=0.2, per_device_train_batch_size=share_of(4), optimizer="sgd",
        gradient_accumulation_steps=2, progress=False,
    )  # fmt: skip
    none = Examples(FeatureRows(learn.rows.features[:0]), learn.targets[:0])
    report = train(
        objective, learn, none, score=lambda logits: 0.0, settings=settings, checkpoints=folder / "checkpoints",
        extra=unseen, roles=(SOURCE, UNLABELED),
    )  # fmt: skip
    record = [entry["discrepancy"] for entry in report.history]
    (folder / f"rank_{distributed.rank()}.json").write_text(json.dumps(record))
    # The critic is a part of it.
    save_file(objective.state_dict(), folder / f"rank_{distributed.rank()}.safetensors")
    distributed.barrier()


def learn_language(folder: Path) -> None:
    """A tiny encoder learns masked tokens; 45 rows, in passes that do not divide by two."""
    torch.manual_seed(5)
    draw = np.random.default_rng(1)
    sizes = {"hidden_size": 8, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 8}
    config = BertConfig(vocab_size=20, hidden_dropout_prob=0.0, attention_probs_dropout_prob=0.0, **sizes)
    offsets = np.concatenate([[0], np.cumsum(draw.integers(3, 9, size=56))])
    rows = TokenRows((3 + np.arange(offsets[-1]) % 17).astype(np.int32), offsets)
    masking = Masking(1, np.arange(20) > 2, 0.3, 0)
    every = Examples(rows, np.zeros(56, np.int64), masking.counts(rows).astype(np.float32))
    learn, held_out = (
        Examples(SomeRows(rows, some), every.targets[some], every.weights[some])
        for some in np.split(np.arange(56), [45])
    )
    settings = TrainingSettings(
        num_train_epochs=3, learning_rate=0.5, per_device_train_batch_size=share_of(4), save_steps=4,
        gradient_accumulation_steps=3, progress=False, optimizer="sgd",
    )  # fmt: skip
    model = BertForMaskedLM(config)
    found = _lowered(LanguageLoss(model, masking), learn, held_out, settings, folder / "checkpoints", {})
    if distributed.is_main():
        (folder / "language.json").write_text(json.dumps([found["language"], found["history"]]))
        save_file(dict(model.bert.state_dict()), folder / "final.safetensors")
    distributed.barrier()


def compute_features(folder: Path) -> None:
    """Twice what each process keeps in a cache of its own, and twice what all keep in one; how often, to a file."""
    calls = []

    def make() -> np.ndarray:
        calls.append(1)
        distributed.barrier()
        return np.ones((2, 2), dtype=np.float16)

    for cache in (f"machine_{distributed.rank()}", "one") * 2:
        with pytest.MonkeyPatch.context() as patch:
            patch.setenv("HF_HOME", str(folder / cache))
            assert cached({"of": cache[:3]}, make).sum() == 4
    (folder / f"computed_{distributed.rank()}.txt").write_text(f"{len(calls)}")


def predict_in_parts(model: Path, corpus: str, folder: Path) -> None:
    """Note which files each process predicts; none goes on before all have begun with one."""
    real, done = Classifier.predict_file, list[str]()

    def noted(classifier: Classifier, source: Path, output: Path, **options: Any) -> Path:
        if not done:
            distributed.barrier()
        done.append(source.name)
        return real(classifier, source, output, **options)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Classifier, "predict_file", noted)
        states = predict_parts(model, corpus, folder)
    assert {state.status for state in states} == {"done"}
    (folder / f"by_{distributed.rank()}.txt").write_text(" ".join(done))


def texts_of(rows: int, draw: np.random.Generator) -> list[str]:
    return sorted({" ".join(draw.choice(FILM_WORDS, size=draw.integers(2, 12))) for _ in range(rows)})


def calls(base: str) -> dict[str, dict[str, Any]]:
    """What finetune is given, by name: 58 rows to learn from, in 3 passes a step, the last of an epoch not full."""
    draw = np.random.default_rng(0)
    texts = texts_of(80, draw)
    labels = ["good" if {"good", "gem"} & {*text.split()} else "bad" if "bad" in text else "neither" for text in texts]
    sources = texts_of(110, draw)
    theirs = ["good" if "gem" in text else "bad" if "dull" in text or "bad" in text else "neither" for text in sources]
    common = {
        "data": (texts, labels), "base": base, "class_weights": "balanced",
        "per_device_train_batch_size": share_of(8), "gradient_accumulation_steps": 3, "num_train_epochs": 3,
    }  # fmt: skip
    found = {name: common | {"route": ROUTES[name], "learning_rate": 1e-3} for name in ROUTES}
    for name, (route, transfer) in TRANSFERS.items():
        names = [f"very {label}" for label in theirs] if name == "joint" else theirs
        # Adam makes whole steps of what rounding has left of a gradient where the pull to the source is all there is.
        found[name] = common | {
            "route": route, "source": (sources, names), "transfer": transfer, "verdict": False,
            "optimizer": "sgd", "learning_rate": 0.05,
        }  # fmt: skip
    return found


def compare_routes(encoder: str, folder: Path) -> None:
    """nlptransfer compare: timed, and trained in steps over two seeds."""
    rows = folder.with_suffix(".jsonl")
    if distributed.is_main():
        write_rows(rows, calls(encoder)["full"]["data"])
    distributed.barrier()
    words = ["compare", str(rows), "--routes", "majority,word2vec", "--bases", encoder, "--seeds", "2"]
    words += ["--output-dir", str(folder), "--max-minutes", "30", "--quiet"]
    settings = {"head_type": "mlp", "mlp_sizes": 8, "dropout": 0, "num_train_epochs": 3, "test_size": 0.3}
    settings["per_device_train_batch_size"] = share_of(8)
    app.app([*words, *(f"--set={name}={value}" for name, value in settings.items())], standalone_mode=False)


def finetune_once(name: str, call: dict[str, Any], folder: Path) -> None:
    with pytest.MonkeyPatch.context() as patch:
        if name == BEGUN_ANEW:
            patch.setattr(Task, "beats_one_label", lambda task, targets, logits: False)
        else:
            patch.setattr(Task, "majority_score", lambda task: None)
        finetune(**call, output_dir=folder / name)


def finetune_cut_off(name: str, call: dict[str, Any], folder: Path) -> None:
    """Stop after the second checkpoint, and go on from there."""
    save, saved = loop._Loop._save, []

    def stopping(loop: loop._Loop) -> None:
        save(loop)
        saved.append(loop)
        if len(saved) == 2:
            raise KeyboardInterrupt

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(loop._Loop, "_save", stopping)
        with nullcontext() if name in FITTED else pytest.raises(KeyboardInterrupt):
            finetune_once(name, call, folder)
    finetune_once(name, call, folder)


def shard_weights(patch: pytest.MonkeyPatch) -> None:
    """As ``accelerate launch --use_fsdp --fsdp_version 2 --fsdp_auto_wrap_policy TRANSFORMER_BASED_WRAP``."""
    for name, value in {
        "ACCELERATE_USE_FSDP": "true", "FSDP_VERSION": "2", "FSDP_CPU_RAM_EFFICIENT_LOADING": "true",
        "FSDP_AUTO_WRAP_POLICY": "TRANSFORMER_BASED_WRAP",
    }.items():  # fmt: skip
        patch.setenv(name, value)
    # Accelerate shards weights over accelerators alone, torch over processors too.
    made = AcceleratorState.__init__

    def sharded(self: AcceleratorState, *values: Any, fsdp_plugin: Any = None, **options: Any) -> None:
        made(self, *values, **options)
        if fsdp_plugin is not None:
            self.fsdp_plugin = fsdp_plugin
            self.distributed_type = PartialState._shared_state["distributed_type"] = DistributedType.FSDP

    patch.setattr(AcceleratorState, "__init__", sharded)
    AcceleratorState._reset_state()


def main(folder: Path, encoder: str, corpus: str, vectors: str) -> None:
    several = distributed.world_size() > 1
    with pytest.MonkeyPatch.context() as patch:
        # No run here is asked how fast it is.
        patch.setattr(environment, "SPEED_SECONDS", 0.0)
        with patch.context() as gpus:
            # As where there are GPUs.
            gpus.setattr(loop, "_rehearses", lambda accelerator: several)
            for kind in ("one", "several", "crowded"):
                train_tiny(kind, folder / kind)
        for kind in DISTANCES:
            align_tiny(kind, folder / kind)
        learn_language(folder / "language")
        finetune(corpus, base=vectors, output_dir=folder / "cnn", per_device_train_batch_size=share_of(16), **CNN)
        predict_in_parts(folder / "cnn", corpus, folder / "parts")
        for name, call in calls(encoder).items():
            finetune_once(name, call, folder)
        compare_routes(encoder, folder / "comparison")
        if several:
            compute_features(folder / "features")
            # Features that were computed above are not to be found.
            patch.setenv("HF_HOME", f"{os.environ['HF_HOME']}_sharded")
            shard_weights(patch)
            learn_language(folder / "sharded" / "language")
            for name, call in calls(encoder).items():
                if name not in NOT_SHARDED:
                    finetune_cut_off(name, call, folder / "sharded")


if __name__ == "__main__":
    main(Path(sys.argv[1]), *sys.argv[2:])
