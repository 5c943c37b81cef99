"""Alignment of two domains: strategies whose loss has how far apart the representations of both sides are."""

import math
from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import Annotated, Any, ClassVar, cast

import numpy as np
import torch
from annotated_types import Interval, MinLen
from sklearn.utils.extmath import randomized_svd
from torch import Tensor, nn
from torch.nn import functional

from nlptransfer import distributed
from nlptransfer.errors import SettingError
from nlptransfer.models import last_inputs, name_of, text_vectors
from nlptransfer.routes import Route
from nlptransfer.settings import Count, Positive, check
from nlptransfer.training import (
    SOURCE,
    UNLABELED,
    BatchTargets,
    FittedHead,
    Head,
    HeadTask,
    LabelLoss,
    Objective,
    TrainingSettings,
)
from nlptransfer.transfer.base import (
    Learner,
    Sides,
    Stage,
    Transfer,
)
from nlptransfer.transfer.label_free import Chosen, LabelFree

KERNELS = (0.25, 0.5, 1.0, 2.0, 4.0)
"""Bandwidths of the kernels of the discrepancy of means, as multiples of the mean squared distance."""


AXES = 128
"""Principal axes whose covariances are aligned in the closed form."""


CRITIC_WIDTH = 64
"""Hidden units of the domain critic."""


CRITIC_PENALTY = 1.0
"""Weight of the mean squared slope of the domain critic in its loss."""


ALIGN = Stage("align", (SOURCE, UNLABELED))


class Discrepancy(nn.Module, ABC):
    """How far apart the representations of two domains are."""

    @abstractmethod
    def forward(self, source: Tensor, target: Tensor, weights: tuple[Tensor, Tensor], trade_off: float) -> Tensor:
        """``trade_off`` * D.

        Args:
            source: (rows, width)
            target: (other rows, width)
            weights: (rows,) and (other rows,): what each row counts, adding up to 1 on either side.
        """


class Correlation(Discrepancy):
    """|Cs - Ct|^2 / (4 * width^2) of the covariances, and |ms - mt|^2 / width of the means.

    The first is Deep CORAL's (Sun and Saenko 2016, equation 1), which says nothing of the means; they are aligned too,
    as in the closed form.
    """

    def forward(self, source: Tensor, target: Tensor, weights: tuple[Tensor, Tensor], trade_off: float) -> Tensor:
        apart = covariance(source, weights[0]) - covariance(target, weights[1])
        means = weights[0] @ source - weights[1] @ target
        return trade_off * (apart.square().sum() / (4 * source.shape[1] ** 2) + means.square().mean())


class MeanDiscrepancy(Discrepancy):
    """The squared maximum mean discrepancy of a sum of Gaussian kernels.

    Gretton et al. 2012, "A Kernel Two-Sample Test", equation 5 (the biased estimate, which is never below 0), with
    the kernels of Long et al. 2015 (DAN): their bandwidths are multiples of the mean squared distance of all rows.
    """

    def forward(self, source: Tensor, target: Tensor, weights: tuple[Tensor, Tensor], trade_off: float) -> Tensor:
        rows = torch.cat([source, target])
        # One signed weight a row: the sum over all pairs is what both sides have within, less what they have across.
        signs = torch.cat([weights[0], -weights[1]])
        return trade_off * (signs @ _kernel(rows, signs.abs()) @ signs)


class Adversary(Discrepancy):
    """A critic that tells the domains apart, through whose reversed gradient the representation learns not to let it.

    DANN (Ganin et al. 2016, "Domain-Adversarial Training of Neural Networks", equations 9 and 18): the critic
    minimizes its cross-entropy at full rate, and ``trade_off`` acts on the gradient that is turned round. The critic's
    own slope is held down on the rows of both, without which the two chase each other and often end where nothing is
    learned (R1 and R2 of Mescheder et al. 2018, "Which Training Methods for GANs do actually Converge?", section 4.1).

    Args:
        width: of the representation.
    """

    def __init__(self, width: int) -> None:
        super().__init__()
        self.hidden, self.output = nn.Linear(width, CRITIC_WIDTH), nn.Linear(CRITIC_WIDTH, 1)

    def forward(self, source: Tensor, target: Tensor, weights: tuple[Tensor, Tensor], trade_off: float) -> Tensor:
        seen = self.hidden(reverse_gradient(torch.cat([source, target]), trade_off))
        domains = torch.cat([torch.zeros_like(weights[0]), torch.ones_like(weights[1])])
        found = self.output(functional.relu(seen)).squeeze(1)
        losses = functional.binary_cross_entropy_with_logits(found, domains, reduction="none")
        # The gradient of ``found`` with respect to the rows; which units are awake has none, so only the critic learns.
        slopes = ((seen > 0) * self.output.weight) @ self.hidden.weight
        held = losses + CRITIC_PENALTY / 2 * slopes.square().sum(dim=1)
        return cast(Tensor, (held * torch.cat(weights)).sum() / 2)


@dataclass(frozen=True)
class Alignment(Chosen):
    """min Ls + lambda * D(Ps, Pt) over what the last layer takes; lambda is chosen without a label of the target."""

    stages: ClassVar[tuple[Stage, ...]] = (ALIGN,)
    discrepancy: ClassVar[type[Discrepancy]]

    trade_offs: Annotated[tuple[Positive, ...], MinLen(1)] = ()
    """values of lambda to choose from, beside 0"""
    warm_up: bool = False
    """whether lambda rises from 0 over the training, as 2 / (1 + exp(-10 p)) - 1"""
    epochs: tuple[Count, ...] = ()
    """passes over the rows to choose from, each with each lambda, the first one where nothing is to be adapted; none:
    what num_train_epochs says"""

    def check_fits(self, route: Route, sides: Sides) -> None:
        super().check_fits(route, sides)
        if route.fits_head:
            raise SettingError(
                f"transfer={self.name}: expected a representation that learns, found {route.name} with a linear head, "
                "on whose frozen features D has no gradient: take head_type=mlp, lora or full, or transfer=coral, "
                "which has a closed form there"
            )

    def at(self, stage: Stage, route: Route, training: TrainingSettings) -> tuple[Route, TrainingSettings]:
        route, training = super().at(stage, route, training)
        return route, replace(training, num_train_epochs=self.epochs[0]) if len(self.epochs) == 1 else training

    def candidates(self, stage: Stage, route: Route) -> Sequence[Transfer | None]:
        trade_offs = (0.0, *sorted(self.trade_offs))
        if not self.epochs:
            return [replace(self, trade_offs=(value,)) for value in trade_offs]
        return [replace(self, trade_offs=(value,), epochs=(count,)) for value in trade_offs for count in self.epochs]

    def learns_from(self, stage: Stage) -> tuple[str, ...]:
        # Where D counts nothing, it is what the source alone gives.
        return stage.roles if any(self.trade_offs) else (SOURCE,)

    @property
    def chosen(self) -> dict[str, Any]:
        if len(self.trade_offs) != 1:
            return {}
        return {"trade_off": self.trade_offs[0]} | ({"num_train_epochs": self.epochs[0]} if self.epochs else {})

    def objective(self, stage: Stage, learner: Learner) -> Objective:
        (trade_off,) = self.trade_offs
        if not trade_off:
            return super().objective(stage, learner)
        course = partial(warmed_up, trade_off) if self.warm_up else lambda _: trade_off
        discrepancy = self.made(learner.last_layer.in_features)
        return Aligned(learner.module, learner.criteria[SOURCE], discrepancy, course, learner.last_layer)

    def made(self, width: int) -> Discrepancy:
        """D, for representations of a width."""
        return self.discrepancy()


@dataclass(frozen=True)
class Coral(Alignment):
    """min Ls + lambda * (|Cs - Ct|^2 / (4 d^2) + |ms - mt|^2 / d) (Deep CORAL, Sun and Saenko 2016, and the means).

    Where the last layer is fitted on frozen features, the source's rows are mapped instead, before it is fitted (CORAL,
    Sun et al. 2016, algorithm 1): x + lambda * (xA - x), with A = Cs^(-1/2) Ct^(1/2), and their mean moves to the
    target's; see :func:`correlation_map`.
    """

    name: ClassVar[str] = "coral"
    discrepancy: ClassVar[type[Discrepancy]] = Correlation

    trade_offs: Annotated[tuple[Positive, ...], MinLen(1)] = (0.5, 1.0)
    shrinkage: Annotated[float, Interval(ge=0, le=1)] = 0.9
    """of the covariances in the closed form, towards a multiple of the identity: 0 for none, 1 for means alone"""

    def check_fits(self, route: Route, sides: Sides) -> None:
        # Not that of Alignment: there is a closed form.
        LabelFree.check_fits(self, route, sides)
        stepped = not route.fits_head
        for name, used in (("warm_up", stepped), ("epochs", stepped), ("shrinkage", not stepped)):
            value, unset = getattr(self, name), type(self).__dataclass_fields__[name].default
            head = "a last layer that is fitted" if name == "shrinkage" else "a last layer that is trained"
            check(used or value == unset, name, value, f"{unset}, as it is of {head}")
        if route.fits_head:
            inside = all(value <= 1 for value in self.trade_offs)
            check(
                inside,
                "trade_offs",
                self.trade_offs,
                "at most 1 where the last layer is fitted: there the map is whole",
            )

    def fit_head(self, stage: Stage, tasks: Mapping[str, HeadTask], source: Head | None) -> FittedHead:
        (trade_off,) = self.trade_offs
        task = tasks[SOURCE]
        if trade_off:
            mapped = correlation_map(task.train.values, tasks[UNLABELED].train.values, self.shrinkage)
            task = task.mapped(lambda values: values + trade_off * (mapped(values) - values))
        return task.choose_l2()


@dataclass(frozen=True)
class Mmd(Alignment):
    """min Ls + lambda * MMD^2(Ps, Pt) with several Gaussian kernels (DAN, Long et al. 2015, equations 2 and 7)."""

    name: ClassVar[str] = "mmd"
    discrepancy: ClassVar[type[Discrepancy]] = MeanDiscrepancy

    trade_offs: Annotated[tuple[Positive, ...], MinLen(1)] = (0.3, 1.0)


@dataclass(frozen=True)
class Dann(Alignment):
    """min Ls over the model and max lambda * domain loss, so that no critic can tell the domains.

    DANN (Ganin et al. 2016, "Domain-Adversarial Training of Neural Networks", equation 9): the critic's
    gradient is turned round on its way into the model, and lambda is warmed up.
    """

    name: ClassVar[str] = "dann"
    discrepancy: ClassVar[type[Discrepancy]] = Adversary

    trade_offs: Annotated[tuple[Positive, ...], MinLen(1)] = (0.05, 0.1)
    warm_up: bool = True

    def made(self, width: int) -> Discrepancy:
        return Adversary(width)


class Aligned(Objective):
    """Ls + lambda * D(Ps, Pt): the source's labels, and representations that do not tell the domains apart.

    A pass takes rows of both sides. D is over the rows of the pass on all processes: their representations are
    gathered with their gradients, so that several processes minimize what one process would on the same rows, and the
    critic, which is a part of this module, is kept in step as all weights are. Where a step has several passes, D is
    the mean of theirs. The labels of the target are not given, and never looked at.

    Args:
        criterion: the loss of the source's rows.
        discrepancy: D.
        trade_off: progress in [0, 1) -> lambda.
        last_layer: the model's last layer; what it takes is the representation.
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

    def forward(self, inputs: dict[str, Any], batch: dict[str, Any] | None = None) -> Tensor:  # type: ignore[override]
        if batch is None:
            return super().forward(inputs)
        sides, weights, shares = [], [], []
        loss = torch.zeros((), device=self.criterion.class_weights.device)
        for role in (SOURCE, UNLABELED):
            with last_inputs(self.model.get_submodule(self.last_layer)) as seen:
                if role == SOURCE:
                    loss = super().forward(inputs[role], batch[role])
                else:
                    self.model(**inputs[role])
            rows = text_vectors(seen[0], inputs[role], self.model).float()
            gathered, counts = _of_all_processes(rows, self._counts(batch[role]))
            sides.append(gathered)
            shares.append(counts.sum())
            weights.append(counts / counts.sum())
        trade_off = self.trade_off(batch[SOURCE].progress)
        apart = self.discrepancy(sides[0], sides[1], (weights[0], weights[1]), trade_off)
        self.seen = [side.detach() for side in sides], (weights[0], weights[1]), trade_off
        # All processes have the same D, and their losses are added up; a pass counts as much as its rows do.
        return cast(Tensor, loss + apart * (shares[0].detach() / distributed.world_size()))

    def row_weights(self, targets: Tensor, role: str = SOURCE) -> Tensor:
        return self.criterion.row_weights(targets) if role == SOURCE else torch.ones(len(targets)).to(targets.device)

    def notes(self) -> dict[str, float]:
        """D of the representations that the last pass saw, and the norm of its gradient with respect to them."""
        if self.seen is None:
            return {}
        sides, weights, trade_off = self.seen
        with torch.enable_grad():
            sides = [side.requires_grad_() for side in sides]
            apart = self.discrepancy(sides[0], sides[1], weights, trade_off)
            found = torch.autograd.grad(apart, sides)
        return {"discrepancy": apart.item(), "discrepancy_gradient": float(torch.cat(found).norm())}

    def _counts(self, batch: BatchTargets) -> Tensor:
        """(rows,) what each row counts of the step."""
        rows = self.row_weights(batch.targets, batch.role).float()
        return (rows if batch.weights is None else rows * batch.weights) / batch.total_weight


class _Reversed(torch.autograd.Function):
    @staticmethod
    def forward(context: torch.autograd.function.FunctionCtx, rows: Tensor, trade_off: float) -> Tensor:
        context.trade_off = trade_off  # type: ignore[attr-defined]
        return rows.view_as(rows)

    @staticmethod
    def backward(context: torch.autograd.function.FunctionCtx, *gradients: Tensor) -> tuple[Tensor, None]:
        return -context.trade_off * gradients[0], None  # type: ignore[attr-defined]


def reverse_gradient(rows: Tensor, trade_off: float) -> Tensor:
    """The rows themselves, whose gradient is minus ``trade_off`` times what comes back."""
    return cast(Tensor, _Reversed.apply(rows, trade_off))  # type: ignore[no-untyped-call]


def warmed_up(trade_off: float, progress: float) -> float:
    """``trade_off`` * (2 / (1 + exp(-10 p)) - 1): from 0 to full over a training (Ganin et al. 2016, section 5.2.2)."""
    return trade_off * (2 / (1 + math.exp(-10 * progress)) - 1)


def covariance(rows: Tensor, weights: Tensor) -> Tensor:
    """(width, width) of (rows, width), whose weights add up to 1; without bias where all weigh the same."""
    centered = rows - weights @ rows
    return (centered.t() * weights) @ centered / (1 - weights.square().sum()).clamp(min=1e-6)


def _kernel(rows: Tensor, weights: Tensor) -> Tensor:
    """(rows, rows): the mean of Gaussian kernels of several bandwidths."""
    shares = weights / weights.sum()
    # Around their mean, so that little is lost where squares are taken from each other.
    rows = rows - shares @ rows.detach()
    squares = rows.square().sum(dim=1)
    squared = (squares[:, None] + squares - 2 * rows @ rows.t()).clamp(min=0)
    middle = (shares @ squared @ shares).detach().clamp(min=1e-12)
    return torch.stack([torch.exp(-squared / (2 * width * middle)) for width in KERNELS]).mean(dim=0)


def _of_all_processes(rows: Tensor, counts: Tensor) -> tuple[Tensor, Tensor]:
    """The rows of all processes and what each counts, with gradients; where one has fewer, rows that count nothing."""
    if distributed.world_size() == 1:
        return rows, counts
    most = distributed.largest(len(rows))
    padding = most - len(rows)
    rows = functional.pad(rows, (0, 0, 0, padding))
    return distributed.gather_with_gradient(rows), distributed.gather_with_gradient(
        functional.pad(counts, (0, padding))
    )


def correlation_map(source: np.ndarray, target: np.ndarray, shrinkage: float) -> Callable[[np.ndarray], np.ndarray]:
    """The map that gives the source's rows the target's mean and covariance: (x - ms) Cs^(-1/2) Ct^(1/2) + mt.

    CORAL (Sun, Feng and Saenko 2016, "Return of Frustratingly Easy Domain Adaptation", algorithm 1), with the means
    moved too. Of more than ``AXES`` features the covariances of the first principal axes of both sides are mapped, and
    what is across them is only moved.

    Args:
        source: (rows, width)
        target: (other rows, width)
        shrinkage: of both covariances, towards the multiple of the identity that has their trace.
    """
    center, moved = source.mean(axis=0), target.mean(axis=0)
    sides = [source - center, target - moved]
    width = source.shape[1]
    if width > AXES:
        _, _, axes = randomized_svd(np.concatenate(sides).astype(np.float32), AXES, random_state=0)
        basis = axes.T.astype(np.float64)
    else:
        basis = np.eye(width)
    covariances = []
    for side in sides:
        found = np.atleast_2d(np.cov((side @ basis).T))
        round_ = np.trace(found) / len(found) * np.eye(len(found))
        covariances.append((1 - shrinkage) * found + shrinkage * round_)
    matrix = _power(covariances[0], -0.5) @ _power(covariances[1], 0.5)

    def mapped(rows: np.ndarray) -> np.ndarray:
        inside = (rows - center) @ basis
        return cast(np.ndarray, (rows + (inside @ matrix - inside) @ basis.T + (moved - center)).astype(rows.dtype))

    return mapped


def _power(matrix: np.ndarray, exponent: float) -> np.ndarray:
    """A power of a symmetric matrix; directions without spread stay without."""
    values, vectors = np.linalg.eigh(matrix)
    kept = values > 1e-10 * max(float(values.max()), 1e-300)
    raised = np.where(kept, np.abs(np.where(kept, values, 1.0)) ** exponent, 0.0)
    return cast(np.ndarray, (vectors * raised) @ vectors.T)
