"""Source and target in every step, and the loss of both."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from functools import partial
from typing import ClassVar, Literal

from torch import Tensor, nn

from nlptransfer.models import name_of, standing_in
from nlptransfer.routes import Route
from nlptransfer.settings import NonNegative, check
from nlptransfer.training import (
    SOURCE,
    TARGET,
    BatchTargets,
    FittedHead,
    Head,
    HeadTask,
    LabelLoss,
    Objective,
    share_weights,
)
from nlptransfer.transfer.base import FromSource, Learner, Sides, Stage


@dataclass(frozen=True)
class Joint(FromSource):
    """min alpha * Ls + beta * Lt: a batch of either in each step (Caruana 1997).

    The last layer is shared where the labels agree; else each task has its own, and the target's is saved.
    """

    name: ClassVar[str] = "joint"
    stages: ClassVar[tuple[Stage, ...]] = (Stage("joint", (TARGET, SOURCE)),)

    alpha: NonNegative = 1.0
    """weight of the source's loss"""
    beta: NonNegative = 1.0
    """weight of the target's loss"""
    weighting: Literal["fixed", "scheduled", "size"] = "fixed"
    """fixed; scheduled: alpha falls to 0 over the training; size: times each side's share of the rows"""

    def check(self) -> None:
        super().check()
        check(self.alpha + self.beta > 0, "alpha + beta", 0, "more than 0")

    def check_fits(self, route: Route, sides: Sides) -> None:
        super().check_fits(route, sides)
        self.require_rows(sides, "take sequential")
        if route.fits_head:
            self.require_same_labels(sides)
            fits = self.weighting != "scheduled"
            check(fits, "weighting", self.weighting, "fixed or size: a fitted layer has no steps")

    def shares(self, rows: Mapping[str, int], progress: float) -> tuple[float, float]:
        """alpha and beta at a point of the training."""
        if self.weighting == "scheduled":
            return self.alpha * (1 - progress), self.beta
        if self.weighting == "size":
            total = rows[SOURCE] + rows[TARGET]
            return self.alpha * rows[SOURCE] / total, self.beta * rows[TARGET] / total
        return self.alpha, self.beta

    def objective(self, stage: Stage, learner: Learner) -> Objective:
        rows = {role: len(examples.rows) for role, examples in learner.examples.items()}
        losses = learner.criteria[TARGET], learner.criteria[SOURCE]
        heads = learner.source_head, learner.last_layer
        return JointLoss(learner.module, *losses, partial(self.shares, rows), *heads)

    def fit_head(self, stage: Stage, tasks: Mapping[str, HeadTask], source: Head | None) -> FittedHead:
        alpha, beta = self.shares({role: len(task.train) for role, task in tasks.items()}, 0.0)
        others = tasks[SOURCE].train
        extra = replace(others, weights=share_weights(tasks[SOURCE].criterion, others, alpha))
        return tasks[TARGET].choose_l2(extra=extra, share=beta)


class JointLoss(Objective):
    """alpha * Ls + beta * Lt: both tasks in every step, whatever their weights (Caruana 1997).

    ``weights`` gives (alpha, beta) for the progress in [0, 1). ``source`` is the loss of the rows whose role is
    ``other``; their ``source_head``, if labels differ, stands in for ``last_layer``.
    """

    def __init__(
        self,
        model: nn.Module,
        criterion: LabelLoss,
        source: LabelLoss,
        weights: Callable[[float], tuple[float, float]],
        source_head: nn.Linear | None = None,
        last_layer: nn.Linear | None = None,
        other: str = SOURCE,
    ) -> None:
        super().__init__(model, criterion)
        self.source, self.weights, self.source_head, self.other = source, weights, source_head, other
        self.last_layer = name_of(last_layer, model) if source_head is not None and last_layer is not None else None

    def loss(self, inputs: dict[str, Tensor], batch: BatchTargets) -> Tensor:
        alpha, beta = self.weights(batch.progress)
        if batch.role != self.other:
            return beta * super().loss(inputs, batch) + self._idle(self.source_head)
        last_layer = None if self.last_layer is None else self.model.get_submodule(self.last_layer)
        with standing_in(last_layer, self.source_head):
            loss: Tensor = self.source(self.logits(inputs), batch)
        return alpha * loss + self._idle(last_layer)

    def row_weights(self, targets: Tensor, role: str = TARGET) -> Tensor:
        return (self.source if role == self.other else self.criterion).row_weights(targets)

    def _idle(self, head: nn.Module | None) -> Tensor | float:
        # Several processes wait for the gradient of every parameter in every pass, also of the other task's head.
        learning = head.parameters() if self.source_head is not None and head is not None else ()
        return sum((0 * value.sum() for value in learning), start=0.0)
