"""Alignment of two domains: strategies whose loss has the distance between the representations of both sides."""

import math
from abc import abstractmethod
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import Annotated, Any, ClassVar

import numpy as np
import torch
from annotated_types import Interval, MinLen
from torch import Tensor, nn
from torch.nn import functional

from nlptransfer import distributed
from nlptransfer.models import last_inputs, name_of, text_vectors
from nlptransfer.routes import ROUTES, Route
from nlptransfer.settings import Count, Positive, check
from nlptransfer.training import (
    SOURCE,
    UNLABELED,
    FittedHead,
    Head,
    HeadTask,
    LabelLoss,
    Objective,
    TrainingSettings,
)
from nlptransfer.transfer.base import Chosen, Learner, Sides, Stage, Variant

KERNELS = (0.25, 0.5, 1.0, 2.0, 4.0)
"""Bandwidths of the kernels of the discrepancy of means, as multiples of the mean squared distance of all rows."""
AXES = 128
"""Principal axes whose covariances are aligned in the closed form."""
CRITIC_WIDTH = 64
"""Hidden units of the domain critic."""
CRITIC_PENALTY = 1.0
"""Weight of the mean squared slope of the domain critic in its loss."""
ALIGN = Stage("align", (SOURCE, UNLABELED))

Discrepancy = Callable[[Tensor, Tensor, tuple[Tensor, Tensor], float], Tensor]
"""(rows, width) of the source, those of the target, weights that sum to 1 on either side, lambda -> lambda * D"""


def correlation_distance(source: Tensor, target: Tensor, weights: tuple[Tensor, Tensor], trade_off: float) -> Tensor:
    """Add |ms - mt|^2 / width of the means to Deep CORAL's |Cs - Ct|^2 / (4 * width^2) (Sun and Saenko 2016, eq. 1)."""
    apart = covariance(source, weights[0]) - covariance(target, weights[1])
    means = weights[0] @ source - weights[1] @ target
    return trade_off * (apart.square().sum() / (4 * source.shape[1] ** 2) + means.square().mean())


def mean_discrepancy(source: Tensor, target: Tensor, weights: tuple[Tensor, Tensor], trade_off: float) -> Tensor:
    """Compute the squared maximum mean discrepancy of Gaussian kernels of several bandwidths (DAN, Long et al. 2015).

    Gretton et al. 2012, "A Kernel Two-Sample Test", equation 5: the biased estimate, which is never below 0.
    """
    rows = torch.cat([source, target])
    # One signed weight a row: the sum over all pairs is what both sides have within, less what they have across.
    signs = torch.cat([weights[0], -weights[1]])
    return trade_off * (signs @ _kernel(rows, signs.abs()) @ signs)


class Adversary(nn.Module):
    """A critic that tells the domains apart, and whose gradient is reversed on its way into the representation.

    DANN (Ganin et al. 2016, equations 9 and 18): ``trade_off`` scales the reversed gradient alone. The critic's slope
    is penalized on the rows of both, without which training often diverges (R1 and R2 of Mescheder et al. 2018, "Which
    Training Methods for GANs do actually Converge?", section 4.1).
    """

    def __init__(self, width: int) -> None:
        super().__init__()
        self.hidden, self.output = nn.Linear(width, CRITIC_WIDTH), nn.Linear(CRITIC_WIDTH, 1)

    def forward(self, source: Tensor, target: Tensor, weights: tuple[Tensor, Tensor], trade_off: float) -> Tensor:
        hidden: Tensor = self.hidden(reverse_gradient(torch.cat([source, target]), trade_off))
        scores: Tensor = self.output(functional.relu(hidden)).squeeze(1)
        domains = torch.cat([torch.zeros_like(weights[0]), torch.ones_like(weights[1])])
        losses = functional.binary_cross_entropy_with_logits(scores, domains, reduction="none")
        # Gradients of the scores with respect to the rows. Which units are active has none: only the critic learns.
        slopes = ((hidden > 0) * self.output.weight) @ self.hidden.weight
        penalized = losses + CRITIC_PENALTY / 2 * slopes.square().sum(dim=1)
        return (penalized * torch.cat(weights)).sum() / 2


@dataclass(frozen=True)
class Alignment(Chosen):
    """min Ls + lambda * D(Ps, Pt) over the last layer's inputs; lambda is chosen without a label of the target."""

    stages: ClassVar[tuple[Stage, ...]] = (ALIGN,)
    has_closed_form: ClassVar[bool] = False
    """whether it can map frozen features before the last layer is fitted"""

    trade_offs: Annotated[tuple[Positive, ...], MinLen(1)] = ()
    """values of lambda to choose from, and 0"""
    warm_up: bool = False
    """whether lambda rises from 0 over the training, as 2 / (1 + exp(-10 p)) - 1"""
    epochs: tuple[Count, ...] = ()
    """passes over the rows to choose from, with each lambda, the first where none adapts; none: num_train_epochs"""

    def check_fits(self, route: Route, sides: Sides) -> None:
        super().check_fits(route, sides)
        self.require(
            self.has_closed_form or not route.fits_head,
            "a representation that learns",
            f"{route.name} with a linear head, on whose frozen features D has no gradient",
            f"take {ROUTES.where(lambda one: one.learns_encoder)}, head_type=mlp, or transfer=coral in closed form",
        )

    def at(self, stage: Stage, route: Route, training: TrainingSettings) -> tuple[Route, TrainingSettings]:
        route, training = super().at(stage, route, training)
        return route, replace(training, num_train_epochs=self.epochs[0]) if len(self.epochs) == 1 else training

    def candidates(self, stage: Stage, route: Route) -> Sequence[Variant]:
        epochs: list[tuple[int, ...]] = [(count,) for count in self.epochs] or [()]
        return [
            Variant(
                route,
                replace(self, trade_offs=(trade_off,), epochs=one),
                {"trade_off": trade_off} | ({"num_train_epochs": one[0]} if one else {}),
            )
            for trade_off in (0.0, *sorted(self.trade_offs))
            for one in epochs
        ]

    def learns_from(self, stage: Stage) -> tuple[str, ...]:
        return stage.roles if any(self.trade_offs) else (SOURCE,)

    def objective(self, stage: Stage, learner: Learner) -> Objective:
        (trade_off,) = self.trade_offs
        if not trade_off:
            return super().objective(stage, learner)
        course = partial(warmed_up, trade_off) if self.warm_up else lambda _: trade_off
        discrepancy = self.discrepancy(learner.last_layer.in_features)
        return Aligned(learner.module, learner.criteria[SOURCE], discrepancy, course, learner.last_layer)

    @abstractmethod
    def discrepancy(self, width: int) -> Discrepancy:
        """Return D for representations of a width."""


@dataclass(frozen=True)
class Coral(Alignment):
    """min Ls + lambda * (|Cs - Ct|^2 / (4 d^2) + |ms - mt|^2 / d) (Deep CORAL, Sun and Saenko 2016, and the means).

    Where the last layer is fitted on frozen features, the source's rows x are mapped before instead:
    x + lambda * (map(x) - x), with :func:`correlation_map`.
    """

    name: ClassVar[str] = "coral"
    has_closed_form: ClassVar[bool] = True

    trade_offs: Annotated[tuple[Positive, ...], MinLen(1)] = (0.5, 1.0)
    shrinkage: Annotated[float, Interval(ge=0, le=1)] = 0.9
    """of the covariances in the closed form, towards a multiple of the identity: 0 for none, 1 for means alone"""

    def check_fits(self, route: Route, sides: Sides) -> None:
        super().check_fits(route, sides)
        if route.fits_head:
            self.require_defaults(("warm_up", "epochs"), "as the last layer is fitted, not trained")
            limit = "at most 1 where the last layer is fitted: there the map is whole"
            check(max(self.trade_offs) <= 1, "trade_offs", self.trade_offs, limit)
        else:
            self.require_defaults(("shrinkage",), "as the last layer is trained, not fitted")

    def fit_head(self, stage: Stage, tasks: Mapping[str, HeadTask], source: Head | None) -> FittedHead:
        (trade_off,) = self.trade_offs
        task = tasks[SOURCE]
        if trade_off:
            mapped = correlation_map(task.train.values, tasks[UNLABELED].train.values, self.shrinkage)
            task = task.mapped(lambda values: values + trade_off * (mapped(values) - values))
        return task.choose_l2()

    def discrepancy(self, width: int) -> Discrepancy:
        return correlation_distance


@dataclass(frozen=True)
class Mmd(Alignment):
    """min Ls + lambda * MMD^2(Ps, Pt) with several Gaussian kernels (DAN, Long et al. 2015, equations 2 and 7)."""

    name: ClassVar[str] = "mmd"

    trade_offs: Annotated[tuple[Positive, ...], MinLen(1)] = (0.3, 1.0)

    def discrepancy(self, width: int) -> Discrepancy:
        return mean_discrepancy


@dataclass(frozen=True)
class Dann(Alignment):
    """min Ls - lambda * domain loss, so that no critic can tell the domains, with lambda warmed up.

    DANN (Ganin et al. 2016, "Domain-Adversarial Training of Neural Networks", equation 9); see :class:`Adversary`.
    """

    name: ClassVar[str] = "dann"

    trade_offs: Annotated[tuple[Positive, ...], MinLen(1)] = (0.05, 0.1)
    warm_up: bool = True

    def discrepancy(self, width: int) -> Discrepancy:
        return Adversary(width)


class Aligned(Objective):
    """Ls + lambda * D(Ps, Pt): the source's labels, and representations that do not tell the domains apart.

    D is over the rows of a pass on all processes, gathered with their gradients; a step of several passes has their
    mean. ``trade_off`` gives lambda for the progress in [0, 1). Labels of the target are never looked at.
    """

    together: ClassVar[bool] = True
    can_be_sharded: ClassVar[bool] = False

    def __init__(
        self,
        model: nn.Module,
        criterion: LabelLoss,
        discrepancy: Discrepancy,
        trade_off: Callable[[float], float],
        last_layer: nn.Linear,
    ) -> None:
        super().__init__(model, criterion)
        self.discrepancy, self.trade_off = discrepancy, trade_off
        self.last_layer = name_of(last_layer, model)
        self.seen: tuple[list[Tensor], tuple[Tensor, Tensor], float] | None = None

    def loss(self, inputs: dict[str, Any], batch: dict[str, Any]) -> Tensor:  # type: ignore[override]
        logits, sides, counts = [], [], []
        for role in (SOURCE, UNLABELED):
            with last_inputs(self.model.get_submodule(self.last_layer)) as seen:
                logits.append(self.logits(inputs[role]))
            vectors = text_vectors(seen[0], inputs[role], self.model).float()
            count = batch[role].weighted(self.row_weights(batch[role].targets, role).float()) / batch[role].total_weight
            # A process with fewer rows than others adds some that count nothing.
            padding = distributed.largest(len(vectors)) - len(vectors)
            sides.append(distributed.gather_with_gradient(functional.pad(vectors, (0, 0, 0, padding))))
            counts.append(distributed.gather_with_gradient(functional.pad(count, (0, padding))))
        weights = counts[0] / counts[0].sum(), counts[1] / counts[1].sum()
        trade_off = self.trade_off(batch[SOURCE].progress)
        apart: Tensor = self.discrepancy(sides[0], sides[1], weights, trade_off)
        self.seen = [side.detach() for side in sides], weights, trade_off
        loss: Tensor = self.criterion(logits[0], batch[SOURCE])
        # All processes have the same D, and their losses are added up; a pass counts as much as its rows do.
        return loss + apart * (counts[0].sum().detach() / distributed.world_size())

    def row_weights(self, targets: Tensor, role: str = SOURCE) -> Tensor:
        return self.criterion.row_weights(targets) if role == SOURCE else torch.ones(len(targets)).to(targets.device)

    def notes(self) -> dict[str, float]:
        """Return D of the last pass's representations, and the norm of its gradient with respect to them."""
        if self.seen is None:
            return {}
        sides, weights, trade_off = self.seen
        with torch.enable_grad():
            sides = [side.requires_grad_() for side in sides]
            apart = self.discrepancy(sides[0], sides[1], weights, trade_off)
            gradients = torch.autograd.grad(apart, sides)
        return {"discrepancy": apart.item(), "discrepancy_gradient": float(torch.cat(gradients).norm())}


def reverse_gradient(rows: Tensor, trade_off: float) -> Tensor:
    """Return the rows as they are, with a gradient of minus ``trade_off`` times what comes back."""
    rows = rows.view_as(rows)
    if rows.requires_grad:
        rows.register_hook(lambda gradient: -trade_off * gradient)
    return rows


def warmed_up(trade_off: float, progress: float) -> float:
    """Scale ``trade_off`` by 2 / (1 + exp(-10 p)) - 1: from 0 to 1 over a training (Ganin et al. 2016, section 5.2)."""
    return trade_off * (2 / (1 + math.exp(-10 * progress)) - 1)


def covariance(rows: Tensor, weights: Tensor) -> Tensor:
    """Return (width, width) of (rows, width), whose weights add up to 1; unbiased where all weigh the same."""
    centered = rows - weights @ rows
    return (centered.t() * weights) @ centered / (1 - weights.square().sum()).clamp(min=1e-6)


def _kernel(rows: Tensor, weights: Tensor) -> Tensor:
    shares = weights / weights.sum()
    # Around their mean, so that little is lost where squares are taken from each other.
    rows = rows - shares @ rows.detach()
    squares = rows.square().sum(dim=1)
    squared = (squares[:, None] + squares - 2 * rows @ rows.t()).clamp(min=0)
    middle = (shares @ squared @ shares).detach().clamp(min=1e-12)
    return torch.stack([torch.exp(-squared / (2 * width * middle)) for width in KERNELS]).mean(dim=0)


def correlation_map(source: np.ndarray, target: np.ndarray, shrinkage: float) -> Callable[[np.ndarray], np.ndarray]:
    """Make the map that gives the source's rows the target's mean and covariance: (x - ms) Cs^(-1/2) Ct^(1/2) + mt.

    CORAL (Sun, Feng and Saenko 2016, "Return of Frustratingly Easy Domain Adaptation", algorithm 1), with the means
    moved too, and the covariances shrunk. With more than ``AXES`` features only principal axes of both are mapped.
    """
    from sklearn.covariance import shrunk_covariance
    from sklearn.utils.extmath import randomized_svd

    center, moved = source.mean(axis=0), target.mean(axis=0)
    sides = [source - center, target - moved]
    basis = np.eye(source.shape[1])
    if len(basis) > AXES:
        _, _, axes = randomized_svd(np.concatenate(sides).astype(np.float32), AXES, random_state=0)
        basis = axes.T.astype(np.float64)
    spreads = [shrunk_covariance(np.atleast_2d(np.cov((side @ basis).T)), shrinkage) for side in sides]
    matrix = _power(spreads[0], -0.5) @ _power(spreads[1], 0.5)

    def mapped(rows: np.ndarray) -> np.ndarray:
        inside = (rows - center) @ basis
        moved_rows: np.ndarray = rows + (inside @ matrix - inside) @ basis.T + (moved - center)
        return moved_rows.astype(rows.dtype)

    return mapped


def _power(matrix: np.ndarray, exponent: float) -> Any:
    """Return a power of a symmetric matrix; directions without spread stay without."""
    values, vectors = np.linalg.eigh(matrix)
    spread = values > 1e-10 * max(float(values.max()), 1e-300)
    return (vectors * np.power(values, exponent, out=np.zeros_like(values), where=spread)) @ vectors.T
