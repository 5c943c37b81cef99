"""How the loop learns: its settings, the optimizer, and the course and pace of the learning rate."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from importlib.util import find_spec
from typing import Literal

import torch
from torch import Tensor

from nlptransfer.errors import SettingError, TrainingError, nearest
from nlptransfer.settings import Count, NonNegative, Positive, Settings, Share

TRACKERS = {"tensorboard": ("tensorboard", "tensorboardX"), "wandb": ("wandb",), "trackio": ("trackio",)}
"""Trackers, and the packages any one of which each needs."""


@dataclass(frozen=True)
class TrainingSettings(Settings):
    """How the loop learns. None means: what the route finds good."""

    num_train_epochs: Count | None = None
    """passes over the training rows"""
    learning_rate: Positive | None = None
    """highest rate, reached at the end of the warm-up"""
    per_device_train_batch_size: Count | None = None
    """rows of one forward pass on one process"""
    gradient_accumulation_steps: Count = 1
    """forward passes before each step of the optimizer"""
    optimizer: Literal["adamw", "adam", "sgd", "rmsprop", "adafactor"] = "adamw"
    """adamw and adafactor decay weights apart from the gradient; the others add weight_decay to it (L2)"""
    weight_decay: NonNegative = 0.01
    """L2 strength; biases and norms are spared"""
    l1: NonNegative = 0.0
    """L1 strength, added to the gradient after clipping; biases and norms are spared"""
    lr_scheduler_type: Literal["linear", "cosine", "constant"] = "linear"
    """course of the learning rate after the warm-up"""
    warmup_ratio: Share = 0.06
    """share of all steps in which the rate rises from 0"""
    max_grad_norm: Positive | None = 1.0
    """the gradient's norm is cut to this; None: not cut"""
    label_smoothing: Share = 0.0
    """share of each label spread over all labels, in [0, 1)"""
    class_weights: str | dict[str, float] | None = None
    """"balanced", or weights by label name"""
    early_stopping_patience: Count | None = None
    """epochs without a better validation score before training stops; of no effect without validation rows"""
    metric_for_best_model: str | None = None
    """validation score that picks the epoch, of near equals the last: accuracy, or f1_micro with several labels; the
    L2 strength of a fitted head goes by it where it is named, else by the loss"""
    mixed_precision: Literal["no", "bf16", "fp16"] = "no"
    """number format of the forward pass"""
    seed: int = 0
    """moves initialization and data order together, never a split"""
    init_seed: int | None = None
    """seed of initialization and dropout alone; None: seed"""
    data_seed: int | None = None
    """seed of the data order alone; None: seed"""
    save_steps: Count = 500
    """optimizer steps between checkpoints"""
    save_epochs: bool = True
    """whether one is also written after every epoch: not worth it where a training takes seconds"""
    keep_checkpoints: bool = False
    """whether checkpoints stay after success"""
    report_to: tuple[str, ...] = ()
    """trackers: tensorboard, wandb, trackio"""
    progress: bool = True
    """whether the progress is shown"""

    def check(self) -> None:
        super().check()
        for tracker in self.report_to:
            if tracker not in TRACKERS:
                raise SettingError(f"report_to: unknown tracker {tracker!r}: {nearest(tracker, TRACKERS)}")
            if not any(find_spec(package) for package in TRACKERS[tracker]):
                raise SettingError(f"report_to: {tracker} is not installed: pip install {TRACKERS[tracker][0]}")

    def flat(self) -> dict[str, int | float | str | bool]:
        """As trackers take them: plain values only."""
        return {
            name: one if isinstance(one, (int, float, str, bool)) else str(one) for name, one in asdict(self).items()
        }


@dataclass(frozen=True)
class ParameterGroup:
    """How fast one parameter learns beside the others."""

    rate: float = 1.0
    """share of the learning rate"""
    start: float = 0.0
    """share of the training after which it begins to learn, in [0, 1)"""


def rate_share(settings: TrainingSettings, step: int, steps: int) -> float:
    """The learning rate of step 0, 1, ... of ``steps``, as a share of the highest."""
    warmup = round(settings.warmup_ratio * steps)
    if step < warmup:
        return step / warmup
    done = (step - warmup) / max(1, steps - warmup)
    return {"constant": 1.0, "linear": 1 - done, "cosine": (1 + math.cos(math.pi * done)) / 2}[
        settings.lr_scheduler_type
    ]


def has_settled(settings: TrainingSettings, scores: Sequence[float], rows: int) -> bool:
    """Whether the last epoch, its rate come to its end, scores within a standard error of the best.

    Few validation rows would else often choose weights that have not settled (the one-standard-error rule, Breiman et
    al. 1984, "Classification and Regression Trees", section 3.4.3). Scores outside [0, 1] have no standard error.

    Args:
        scores: of the epochs so far.
        rows: validation rows, by which they were scored.
    """
    ended = len(scores) == settings.num_train_epochs and settings.lr_scheduler_type != "constant"
    best = max(scores)
    return ended and scores[-1] >= best - math.sqrt(max(best * (1 - best), 0.0) / rows)


def make_optimizer(
    objective: torch.nn.Module, settings: TrainingSettings, parameter_groups: Mapping[str, ParameterGroup] | None = None
) -> torch.optim.Optimizer:
    """The optimizer over what requires a gradient; weight decay on matrices alone.

    Args:
        parameter_groups: by the parameter's name in the objective's model.

    Raises:
        TrainingError: nothing requires a gradient.
    """
    learning = [
        (name.removeprefix("model."), value) for name, value in objective.named_parameters() if value.requires_grad
    ]
    if not learning:
        raise TrainingError("expected parameters that learn, found all of them frozen: unfreeze some")
    alike: dict[tuple[ParameterGroup, bool], list[Tensor]] = {}
    for name, value in learning:
        alike.setdefault(((parameter_groups or {}).get(name, ParameterGroup()), decays(value)), []).append(value)
    groups = [
        # Plain numbers: a checkpoint keeps the groups, and is read without running code.
        {"params": parameters, "weight_decay": settings.weight_decay if decays else 0.0, **asdict(group)}
        for (group, decays), parameters in alike.items()
    ]
    rate = settings.learning_rate or 0.0
    if settings.optimizer == "adamw":
        return torch.optim.AdamW(groups, lr=rate, fused=True)
    if settings.optimizer == "adam":
        return torch.optim.Adam(groups, lr=rate, fused=True)
    if settings.optimizer == "sgd":
        # Fused, it knows no weights in shards.
        return torch.optim.SGD(groups, lr=rate, momentum=0.9)
    if settings.optimizer == "rmsprop":
        return torch.optim.RMSprop(groups, lr=rate)
    return torch.optim.Adafactor(groups, lr=rate)


def decays(parameter: Tensor) -> bool:
    """Whether weight decay and L1 act on it: on matrices, not on biases and norms."""
    return parameter.ndim > 1
