"""A strategy: source, then target, with a loss of its own that holds the model near to what the source has made it."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import ClassVar

from torch import Tensor, nn

from nlptransfer.settings import NonNegative
from nlptransfer.training import TARGET, BatchTargets, LabelLoss, Objective
from nlptransfer.transfer import FROM_SOURCE, ON_TARGET, FromSource, Learner, Stage


class TetheredLoss(Objective):
    """The task's loss + tether * mean |theta - theta_s|."""

    def __init__(self, model: nn.Module, criterion: LabelLoss, tether: float, start: Mapping[str, Tensor]) -> None:
        super().__init__(model, criterion)
        self.tether, self.start = tether, {name: value.detach().clone() for name, value in start.items()}

    def loss(self, inputs: dict[str, Tensor], batch: BatchTargets) -> Tensor:
        apart = [(value - self.start[name]).abs().mean() for name, value in self.model.named_parameters()]
        return super().loss(inputs, batch) + self.criterion.share(batch) * self.tether * sum(apart)


@dataclass(frozen=True)
class Tethered(FromSource):
    """min Ls, then min Lt + tether * mean |theta - theta_s|."""

    name: ClassVar[str] = "tethered"
    stages: ClassVar[tuple[Stage, ...]] = (FROM_SOURCE, ON_TARGET)

    tether: NonNegative = 0.1
    """weight of the distance"""

    def objective(self, stage: Stage, learner: Learner) -> Objective:
        if stage is FROM_SOURCE:
            return super().objective(stage, learner)
        return TetheredLoss(learner.module, learner.criteria[TARGET], self.tether, learner.carried_over)
