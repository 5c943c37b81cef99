"""Settings of the loop, the optimizer, and the course of the learning rate."""

import math
from collections import defaultdict
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from importlib.util import find_spec
from typing import TYPE_CHECKING, Any, Literal

from nlptransfer.errors import SettingError, TrainingError, nearest
from nlptransfer.settings import Count, NonNegative, Positive, Seed, Settings, Share

if TYPE_CHECKING:
    import torch

TRACKERS = {
    "tensorboard": ("tensorboard", "tensorboard", "tensorboardX"),
    "mlflow": ("nlptransfer[mlflow]", "mlflow"),
    "wandb": ("wandb", "wandb"),
    "trackio": ("trackio", "trackio"),
}
"""Trackers: what is installed for each, and the packages any one of which it needs."""
_OPTIMIZERS: dict[str, tuple[str, dict[str, Any]]] = {
    "adamw": ("AdamW", {"fused": True}),
    "adam": ("Adam", {"fused": True}),
    "sgd": ("SGD", {"momentum": 0.9}),  # fused, it knows no weights in shards
    "rmsprop": ("RMSprop", {}),
    "adafactor": ("Adafactor", {}),
}
"""Classes of torch.optim by name, as settings are checked before torch is imported."""

RATES: dict[str, Callable[[float], float]] = {
    "adafactor": lambda rate: 20 * rate,
    "sgd": lambda rate: 5 * math.sqrt(rate),
}
"""By optimizer its default learning rate, where that is not AdamW's. Adafactor moves weights by the rate times their
root mean square, some .05 (Shazeer & Stern 2018, section 8). SGD moves them by the rate times a gradient whose whole
norm is cut to 1. Both were checked on validation rows."""


@dataclass(frozen=True)
class TrainingSettings(Settings):
    """How the loop learns. None means: what the route finds good."""

    num_train_epochs: Count | None = None
    """passes over the training rows"""
    max_steps: Count | None = None
    """steps of the optimizer after which training ends, also within an epoch; None: after all epochs"""
    learning_rate: Positive | None = None
    """highest rate, reached at the end of the warm-up; None: what the route finds good with this optimizer"""
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
    seed: Seed = 0
    """moves initialization and data order together, never a split"""
    init_seed: Seed | None = None
    """seed of initialization and dropout alone; None: seed"""
    data_seed: Seed | None = None
    """seed of the data order alone; None: seed"""
    save_steps: Count = 500
    """optimizer steps between checkpoints"""
    save_epochs: bool = True
    """whether one is also written after every epoch: not worth it where a training takes seconds"""
    keep_checkpoints: bool = False
    """whether checkpoints stay after success"""
    report_to: tuple[str, ...] = ()
    """trackers that losses and scores are sent to: tensorboard, mlflow, wandb, trackio"""
    progress: bool = True
    """whether the progress is shown"""

    def check(self) -> None:
        super().check()
        for tracker in self.report_to:
            if tracker not in TRACKERS:
                raise SettingError(f"report_to: unknown tracker {tracker!r}: {nearest(tracker, TRACKERS)}")
            install, *packages = TRACKERS[tracker]
            if not any(map(find_spec, packages)):
                raise SettingError(f"report_to: {tracker} is not installed: pip install '{install}'")

    @property
    def initialization_seed(self) -> int:
        """The seed of initialization and dropout."""
        return self.seed if self.init_seed is None else self.init_seed

    @property
    def order_seed(self) -> int:
        """The seed of the data order."""
        return self.seed if self.data_seed is None else self.data_seed

    def with_defaults(self, defaults: Mapping[str, Any]) -> "TrainingSettings":
        """Return the settings with these in place of None; a learning rate is AdamW's, and becomes the optimizer's."""
        filled = {name: value for name, value in defaults.items() if getattr(self, name) is None}
        if "learning_rate" in filled:
            filled["learning_rate"] = RATES.get(self.optimizer, float)(filled["learning_rate"])
        return replace(self, **filled)

    def flat(self) -> dict[str, int | float | str | bool]:
        """Return the settings as trackers take them: plain values only."""
        settings = asdict(self).items()
        return {name: one if isinstance(one, (int, float, str, bool)) else str(one) for name, one in settings}


@dataclass(frozen=True)
class ParameterGroup:
    """How fast a parameter learns."""

    rate: float = 1.0
    """share of the learning rate"""
    start: float = 0.0
    """share of the training after which it begins to learn, in [0, 1)"""


def rate_share(settings: TrainingSettings, step: int, steps: int) -> float:
    """Return the learning rate of step 0, 1, ... of ``steps``, as a share of the highest."""
    warmup = round(settings.warmup_ratio * steps)
    if step < warmup:
        return step / warmup
    done = (step - warmup) / max(1, steps - warmup)
    shares = {"constant": 1.0, "linear": 1 - done, "cosine": (1 + math.cos(math.pi * done)) / 2}
    return shares[settings.lr_scheduler_type]


def has_settled(settings: TrainingSettings, scores: Sequence[float], rows: int) -> bool:
    """Tell whether the last epoch of the schedule scores, on ``rows`` rows, within a standard error of the best.

    Few validation rows would else often choose weights that have not settled (the one-standard-error rule, Breiman et
    al. 1984, "Classification and Regression Trees", section 3.4.3). Scores outside [0, 1] have no standard error.
    """
    ended = len(scores) == settings.num_train_epochs and settings.lr_scheduler_type != "constant"
    best = max(scores)
    return ended and scores[-1] >= best - math.sqrt(max(best * (1 - best), 0.0) / rows)


def finite_score(score: float) -> float:
    """Return a validation score, or raise a TrainingError where it is no number to choose by."""
    if not math.isfinite(score):
        raise TrainingError(f"expected a finite validation score, found {score}: choose another metric_for_best_model")
    return score


def make_optimizer(
    objective: "torch.nn.Module",
    settings: TrainingSettings,
    parameter_groups: Mapping[str, ParameterGroup] | None = None,
) -> "torch.optim.Optimizer":
    """Return the optimizer over what requires a gradient; groups go by a parameter's name in the objective's model."""
    import torch

    alike: defaultdict[tuple[ParameterGroup, bool], list[torch.Tensor]] = defaultdict(list)
    for name, value in objective.named_parameters():
        if value.requires_grad:
            group = (parameter_groups or {}).get(name.removeprefix("model."), ParameterGroup())
            alike[group, decays(value)].append(value)
    if not alike:
        raise TrainingError("expected parameters that learn, found all of them frozen: unfreeze some")
    groups = [
        # Plain numbers: a checkpoint keeps the groups, and is read without running code.
        {"params": parameters, "weight_decay": settings.weight_decay if decays else 0.0, **asdict(group)}
        for (group, decays), parameters in alike.items()
    ]
    name, options = _OPTIMIZERS[settings.optimizer]
    optimizer: torch.optim.Optimizer = getattr(torch.optim, name)(groups, lr=settings.learning_rate or 0.0, **options)
    return optimizer


def decays(parameter: "torch.Tensor") -> bool:
    """Tell whether weight decay and L1 act on a parameter: on matrices, not on biases and norms."""
    return parameter.ndim > 1
