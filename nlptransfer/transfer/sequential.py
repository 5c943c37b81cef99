"""Source, then target, and the loss that holds the model to what it has learned from the source."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor, nn

from nlptransfer.routes import Route
from nlptransfer.settings import NonNegative, check
from nlptransfer.training import TARGET, BatchTargets, FittedHead, Head, HeadTask, LabelLoss, Objective
from nlptransfer.transfer.base import FROM_SOURCE, ON_TARGET, FromSource, Learner, Sides, Stage


@dataclass(frozen=True)
class Sequential(FromSource):
    """theta_s = argmin Ls, then min Lt from theta_s on; the last layer is carried over where the labels agree.

    Training may be held to theta_s by L2-SP; a last layer that is fitted forgets where it began, so there it is
    min Lt + l2 / (2n) * |theta - theta_s|^2, with the l2 that scores best on validation.
    """

    name: ClassVar[str] = "sequential"
    stages: ClassVar[tuple[Stage, ...]] = (FROM_SOURCE, ON_TARGET)

    l2_sp: NonNegative = 0.0
    """strength of the pull back to what was learned from the source"""

    def check_fits(self, route: Route, sides: Sides) -> None:
        super().check_fits(route, sides)
        if route.fits_head:
            self.require_same_labels(sides)
            check(self.l2_sp == 0, "l2_sp", self.l2_sp, "0 where the last layer is fitted: there validation chooses it")

    def objective(self, stage: Stage, learner: Learner) -> Objective:
        if stage is FROM_SOURCE or not self.l2_sp:
            return super().objective(stage, learner)
        return TowardsSourceLoss(learner.module, learner.criteria[TARGET], self.l2_sp, learner.carried_over)

    def fit_head(self, stage: Stage, tasks: Mapping[str, HeadTask], source: Head | None) -> FittedHead:
        return tasks[stage.roles[0]].choose_l2(towards=source if stage is ON_TARGET else None)


class TowardsSourceLoss(Objective):
    """L2-SP: the task's loss + l2_sp / 2 * |theta - theta_s|^2, theta_s being ``start``; what it does not name is free.

    Li, Grandvalet and Davoine 2018, "Explicit Inductive Bias for Transfer Learning with Convolutional Networks",
    equation 2.
    """

    can_be_sharded: ClassVar[bool] = False
    needs_all_embeddings: ClassVar[bool] = True

    def __init__(self, model: nn.Module, criterion: LabelLoss, l2_sp: float, start: Mapping[str, Tensor]) -> None:
        super().__init__(model, criterion)
        self.l2_sp = l2_sp
        self.start = {name: value.detach().clone() for name, value in start.items()}

    def loss(self, inputs: dict[str, Tensor], batch: BatchTargets) -> Tensor:
        loss = super().loss(inputs, batch)
        squares = [
            (value - self.start[name]).square().sum()
            for name, value in self.model.named_parameters()
            if name in self.start and value.requires_grad
        ]
        return loss + self.criterion.share(batch) * self.l2_sp / 2 * torch.stack(squares).sum()
