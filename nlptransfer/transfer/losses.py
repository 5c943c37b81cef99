"""The losses of a transfer: of two tasks jointly, towards a source, and of relations between rows."""

from collections.abc import Callable, Mapping
from typing import ClassVar

import torch
from torch import Tensor, nn
from torch.nn import functional

from nlptransfer.models import last_inputs, name_of, standing_in, text_vectors
from nlptransfer.training import SOURCE, TARGET, Judged, LabelLoss, Objective


class JointLoss(Objective):
    """alpha * Ls + beta * Lt: both tasks in every step, whatever their weights (Caruana 1997).

    Args:
        criterion: the loss of the target's rows.
        source: the loss of the source's rows, of the same model.
        weights: progress in [0, 1) -> (alpha, beta).
        source_head: stands in for the model's last layer where the source's labels are others; None: shared.
        last_layer: the model's last layer, where there is a ``source_head``.
        other: the role of the rows that ``source`` is of.
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
        self.last_layer = None if last_layer is None else name_of(last_layer, model)

    def forward(self, inputs: dict[str, Tensor], judged: Judged | None = None) -> Tensor:
        if judged is None:
            return super().forward(inputs)
        alpha, beta = self.weights(judged.progress)
        if judged.role != self.other:
            return beta * super().forward(inputs, judged) + self._idle(self.source_head)
        last_layer = None if self.last_layer is None else self.model.get_submodule(self.last_layer)
        with standing_in(last_layer, self.source_head):
            logits = self.model(**inputs).logits.float()
        return alpha * self.source(logits, judged) + self._idle(last_layer)

    def row_weights(self, targets: Tensor, role: str = TARGET) -> Tensor:
        return (self.source if role == self.other else self.criterion).row_weights(targets)

    def _idle(self, head: nn.Module | None) -> Tensor | float:
        # Several processes wait for the gradient of every parameter in every pass, also of the other task's head.
        learning = head.parameters() if self.source_head is not None and head is not None else ()
        return sum((0 * value.sum() for value in learning), start=0.0)


class TowardsSourceLoss(Objective):
    """L2-SP: the task's loss + strength / 2 * |theta - theta_s|^2 over what the source has taught.

    Li, Grandvalet and Davoine 2018, "Explicit Inductive Bias for Transfer Learning with Convolutional Networks",
    equation 2.

    Args:
        strength: 0 or more.
        start: theta_s, by the name of the parameter in the model; what is not named is free.
    """

    can_be_sharded: ClassVar[bool] = False

    def __init__(self, model: nn.Module, criterion: LabelLoss, strength: float, start: Mapping[str, Tensor]) -> None:
        super().__init__(model, criterion)
        self.strength = strength
        self.start = {name: value.detach().clone() for name, value in start.items()}

    def forward(self, inputs: dict[str, Tensor], judged: Judged | None = None) -> Tensor:
        found = super().forward(inputs, judged)
        if judged is None:
            return found
        held = [
            (value - self.start[name]).square().sum()
            for name, value in self.model.named_parameters()
            if name in self.start and value.requires_grad
        ]
        return found + self.criterion.share(judged) * self.strength / 2 * torch.stack(held).sum()


class RelationalLoss(Objective):
    """The task's loss + what is lost of the distances and angles between rows as the source's model saw them.

    RKD (Park, Kim, Lu and Cho 2019, "Relational Knowledge Distillation", equations 4 to 9), over the rows of one
    forward pass: Huber losses between pairwise distances, each over their mean, and between the cosines of the
    angles of all triplets. The inputs carry what the source's model made of the rows as ``taught``, (rows, width).

    Args:
        distance: weight of the distances.
        angle: weight of the angles.
        last_layer: the model's last layer; what it takes is the representation.
    """

    def __init__(
        self, model: nn.Module, criterion: LabelLoss, distance: float, angle: float, last_layer: nn.Linear
    ) -> None:
        super().__init__(model, criterion)
        self.distance, self.angle = distance, angle
        self.last_layer = name_of(last_layer, model)

    def forward(self, inputs: dict[str, Tensor], judged: Judged | None = None) -> Tensor:
        if judged is None:
            return super().forward(inputs)
        taught = inputs["taught"]
        inputs = {name: value for name, value in inputs.items() if name != "taught"}
        with last_inputs(self.model.get_submodule(self.last_layer)) as seen:
            loss = super().forward(inputs, judged)
        learned = text_vectors(seen[0], inputs, self.model).float()
        lost = self.distance * distance_loss(learned, taught) + self.angle * angle_loss(learned, taught)
        return loss + self.criterion.share(judged) * lost


def distance_loss(learned: Tensor, taught: Tensor) -> Tensor:
    """Huber loss between the pairwise distances of (rows, width) and (rows, other width), each over their mean."""
    if len(learned) < 2:
        return learned.sum() * 0
    return functional.huber_loss(_distances(learned), _distances(taught))


def angle_loss(learned: Tensor, taught: Tensor) -> Tensor:
    """Huber loss between the cosines of the angles that each three rows make."""
    if len(learned) < 3:
        return learned.sum() * 0
    return functional.huber_loss(_cosines(learned), _cosines(taught))


def _distances(vectors: Tensor) -> Tensor:
    pairs = functional.pdist(vectors)
    return pairs / pairs.mean().clamp(min=1e-12)


def _cosines(vectors: Tensor) -> Tensor:
    """(rows, rows, rows): of the angle at the first row between the two others."""
    sides = functional.normalize(vectors[None] - vectors[:, None], dim=2)
    return sides @ sides.transpose(1, 2)
