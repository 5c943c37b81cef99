"""Source, then target, and the loss that keeps the relations between rows as the source's model saw them (RKD)."""

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import ClassVar

from torch import Tensor, nn
from torch.nn import functional

from nlptransfer.models import Examples, VectorRows, last_inputs, name_of, text_vectors
from nlptransfer.routes import ROUTES, Route
from nlptransfer.settings import NonNegative
from nlptransfer.training import TARGET, BatchTargets, LabelLoss, Objective
from nlptransfer.transfer.base import FROM_SOURCE, ON_TARGET, FromSource, Learner, Sides, Stage


@dataclass(frozen=True)
class Relational(FromSource):
    """theta_s = argmin Ls, then min Lt + distance * L_D + angle * L_A from theta_s on (see RelationalLoss)."""

    name: ClassVar[str] = "relational"
    stages: ClassVar[tuple[Stage, ...]] = (FROM_SOURCE, ON_TARGET)

    distance_weight: NonNegative = 1.0
    """weight of the pairwise distances"""
    angle_weight: NonNegative = 2.0
    """weight of the angles of three rows"""

    def check_fits(self, route: Route, sides: Sides) -> None:
        super().check_fits(route, sides)
        found = f"{route.name} with a fitted last layer"
        instead = f"take {ROUTES.where(lambda one: not one.fits_head)}, or head_type=mlp"
        self.require(not route.fits_head, "a route that learns a representation", found, instead)

    def objective(self, stage: Stage, learner: Learner) -> Objective:
        if stage is FROM_SOURCE:
            return super().objective(stage, learner)
        weights = self.distance_weight, self.angle_weight
        return RelationalLoss(learner.module, learner.criteria[TARGET], *weights, learner.last_layer)

    def examples(self, stage: Stage, learner: Learner) -> Mapping[str, Examples]:
        if stage is FROM_SOURCE:
            return learner.examples
        # The source's model is the teacher, and frozen: its representations are computed once.
        target = learner.examples[TARGET]
        return {TARGET: replace(target, rows=VectorRows(target.rows, "teacher", learner.represent(target.rows)))}


class RelationalLoss(Objective):
    """The task's loss + the losses of distances and angles between rows against those of the source's model.

    RKD (Park, Kim, Lu and Cho 2019, "Relational Knowledge Distillation", equations 4 to 9), over the rows of one
    forward pass and the last layer's inputs. Those of the source's model are in the inputs as ``teacher``.
    """

    def __init__(
        self, model: nn.Module, criterion: LabelLoss, distance: float, angle: float, last_layer: nn.Linear
    ) -> None:
        super().__init__(model, criterion)
        self.distance, self.angle = distance, angle
        self.last_layer = name_of(last_layer, model)

    def loss(self, inputs: dict[str, Tensor], batch: BatchTargets) -> Tensor:
        teacher = inputs["teacher"]
        inputs = {name: value for name, value in inputs.items() if name != "teacher"}
        with last_inputs(self.model.get_submodule(self.last_layer)) as seen:
            loss = super().loss(inputs, batch)
        learned = text_vectors(seen[0], inputs, self.model).float()
        lost = self.distance * distance_loss(learned, teacher) + self.angle * angle_loss(learned, teacher)
        return loss + self.criterion.share(batch) * lost


def distance_loss(learned: Tensor, teacher: Tensor) -> Tensor:
    """Huber loss between the pairwise distances of (rows, width) and (rows, other width), each over their mean."""
    if len(learned) < 2:
        return learned.sum() * 0
    return functional.huber_loss(_distances(learned), _distances(teacher))


def angle_loss(learned: Tensor, teacher: Tensor) -> Tensor:
    """Huber loss between the cosines of the angles that each three rows make."""
    if len(learned) < 3:
        return learned.sum() * 0
    return functional.huber_loss(_cosines(learned), _cosines(teacher))


def _distances(vectors: Tensor) -> Tensor:
    pairs = functional.pdist(vectors)
    return pairs / pairs.mean().clamp(min=1e-12)


def _cosines(vectors: Tensor) -> Tensor:
    """(rows, rows, rows), of the angle at the first row between the two others."""
    sides = functional.normalize(vectors[None] - vectors[:, None], dim=2)
    return sides @ sides.transpose(1, 2)
