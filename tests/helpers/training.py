"""Small models in the training loop."""

from types import SimpleNamespace

import numpy as np
import torch
from torch import nn

from nlptransfer.data.labels import Labels
from nlptransfer.models.rows import Examples, FeatureRows, SomeRows
from nlptransfer.training.loop import train
from nlptransfer.training.losses import LabelLoss, Objective
from nlptransfer.training.optimizer import ParameterGroup, TrainingSettings

LABELS = Labels(("a", "b", "c"))
SEVERAL = Labels(("a", "b", "c"), multi_label=True)
BASE = TrainingSettings(num_train_epochs=3, learning_rate=0.01, per_device_train_batch_size=8, progress=False)
PACES = {
    "hidden.0.weight": ParameterGroup(0.5),
    "hidden.0.bias": ParameterGroup(0.25, 0.25),
    "head.weight": ParameterGroup(1.0, 0.5),
}


class Tiny(nn.Module):
    """A frozen layer, a hidden one with dropout, and a head; counts its training passes."""

    def __init__(self, dropout=0.0, stop_at=None):
        super().__init__()
        torch.manual_seed(5)
        self.frozen = nn.Linear(6, 6).requires_grad_(False)
        self.hidden = nn.Sequential(nn.Linear(6, 8), nn.BatchNorm1d(8, affine=False) if dropout else nn.Identity())
        self.dropout, self.head = nn.Dropout(dropout), nn.Linear(8, 3)
        self.passes, self.stop_at = 0, stop_at

    def forward(self, features):
        self.passes += self.training
        if self.passes == self.stop_at:
            raise KeyboardInterrupt
        return SimpleNamespace(logits=self.head(self.dropout(torch.relu(self.hidden(self.frozen(features))))))


class Crowded(Tiny):
    """From a training pass on, or in validation, memory for a few rows only; notes how many rows each pass had."""

    def __init__(self, fits=0, since=1, error=None, in_training=True, **settings):
        super().__init__(**settings)
        self.fits, self.since, self.in_training, self.sizes = fits, since, in_training, []
        self.error = error or torch.OutOfMemoryError("out of memory")

    def forward(self, features):
        found = super().forward(features)
        if self.training == self.in_training:
            self.sizes.append(len(features))
            if self.fits < len(features) and self.since <= self.passes:
                raise self.error
        return found


def rows(count, seed=0, labels=LABELS):
    draw = np.random.default_rng(seed)
    features = draw.normal(size=(count, 6)).astype(np.float32)
    scores = features[:, :3] + 0.3 * draw.normal(size=(count, 3))
    targets = (scores > 0).astype(np.float32) if labels.multi_label else scores.argmax(axis=1)
    return Examples(FeatureRows(features), targets)


def accuracy(validation):
    return lambda logits: float((logits.argmax(axis=1) == validation.targets).mean())


def fit(
    folder, settings=BASE, model=None, examples=None, validation=None, score=None, labels=LABELS, weights=None,
    parameter_groups=None,
):  # fmt: skip
    model = model or Tiny()
    validation = validation or rows(20, seed=1)
    report = train(
        Objective(model, LabelLoss(labels, weights, settings.label_smoothing)), examples or rows(37), validation,
        score=score or accuracy(validation), metric="accuracy", settings=settings,
        checkpoints=folder / "checkpoints", parameter_groups=parameter_groups,
    )  # fmt: skip
    return model, report


def train_rows(
    model, rows, targets, folder, *, criterion=None, weights=None, score=None, parameter_groups=None, **settings
):
    """Train a model on rows, which are its validation rows too where there is a score."""
    learn = Examples(rows, targets, weights)
    none = Examples(SomeRows(rows, np.arange(0)), targets[:0])
    return train(
        Objective(model, criterion or LabelLoss(Labels(("bad", "good")))), learn, learn if score else none,
        score=score or (lambda logits: 0.0), settings=TrainingSettings(**{"progress": False} | settings),
        checkpoints=folder / "checkpoints", parameter_groups=parameter_groups,
    )  # fmt: skip


def same(one, other):
    return all(torch.equal(a, b) for a, b in zip(one.state_dict().values(), other.state_dict().values(), strict=True))
