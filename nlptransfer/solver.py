"""Linear heads on frozen features, solved by L-BFGS on the objective that the loop would step on."""

import logging
import math
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass

import numpy as np
import torch
from scipy.optimize import minimize
from threadpoolctl import threadpool_limits

from nlptransfer.errors import SettingError, TrainingError
from nlptransfer.objectives import Supervised

log = logging.getLogger("nlptransfer")

STRENGTHS = (1000.0, 100.0, 10.0, 1.0, 0.1, 0.01)
"""L2 strengths to choose from, each as a penalty strength / (2 * rows) * |W|^2 on standardised features."""

AXES = 128
"""Principal axes that are looked for."""
LARGE = 2**20
"""Numbers of a feature matrix from which it is multiplied in float32."""
PATIENCE = 2
"""Weaker strengths that may score worse, one after the other, before the weakest are left out."""


@dataclass(frozen=True)
class LinearSolution:
    """A solved linear head on standardised features."""

    weight: np.ndarray
    """(labels, width) float32"""
    bias: np.ndarray
    """(labels,) float32"""
    strength: float
    """the L2 strength that it was solved with"""
    scores: dict[float, float]
    """validation score by strength"""


def solve(
    objective: Supervised,
    features: np.ndarray,
    targets: np.ndarray,
    strength: float,
    start: tuple[np.ndarray, np.ndarray] | None = None,
    *,
    has_bias: bool = True,
) -> tuple[np.ndarray, np.ndarray]:
    """Minimise the objective + strength / (2 * rows) * |W|^2 over W and b (the bias is free).

    Args:
        features: (rows, width) standardised.
        targets: (rows,) int64, or (rows, labels) float32.
        strength: of the L2 penalty, 0 or more; sklearn's 1 / C where all rows weigh 1.
        start: weight and bias to begin from.
        has_bias: whether there is a bias; it stays 0 otherwise.

    Returns:
        weight (labels, width) and bias (labels,), float32.

    Raises:
        SettingError: a strength below 0.
        TrainingError: no rows, or features that are not all finite.
    """
    return _Problem(objective, features, targets, has_bias).solve(strength, start)


def choose_strength(
    objective: Supervised,
    features: np.ndarray,
    targets: np.ndarray,
    score: Callable[[np.ndarray, np.ndarray], float],
    strengths: Sequence[float] = STRENGTHS,
    *,
    has_bias: bool = True,
) -> LinearSolution:
    """Solve along the strengths, strongest first, each from the last, and keep the best by ``score``.

    The weakest are left out where two in a row score worse than the best before them.

    Args:
        score: of a weight and a bias, judged on validation rows; higher is better, and of equals the
            strongest penalty is kept.
        has_bias: whether there is a bias; it stays 0 otherwise.

    Raises:
        SettingError: no strength at all, or one below 0.
        TrainingError: as ``solve``, or a score that is not a number.
    """
    if not strengths:
        raise SettingError("strengths=(): expected at least one L2 strength, found none")
    problem = _Problem(objective, features, targets, has_bias)
    best: LinearSolution | None = None
    scores: dict[float, float] = {}
    start, worse = None, 0
    for strength in sorted(strengths, reverse=True):
        start = problem.solve(strength, start)
        scores[strength] = score(*start)
        if not math.isfinite(scores[strength]):
            found = scores[strength]
            raise TrainingError(
                f"expected a finite validation score, found {found}: choose another metric_for_best_model"
            )
        if best is None or scores[strength] > scores[best.strength]:
            best, worse = LinearSolution(*start, strength, scores), 0
        elif scores[strength] < scores[best.strength]:
            worse += 1
            if worse == PATIENCE:
                break
    assert best is not None
    return best


class _Problem:
    """The objective in coordinates where it is about equally curved in every direction.

    The weights are scaled along the principal axes of the features by the root of the curvature there: L-BFGS then
    takes some ten steps where correlated features take hundreds. Of wide features the first axes are looked for, and
    across them all directions are taken for equally curved, so that nothing costs more than some passes over the
    features. In float64, since in float32 the line search gives up before the gradient is small; large features are
    multiplied in float32, which is faster, and the steps end a little earlier.
    """

    def __init__(self, objective: Supervised, features: np.ndarray, targets: np.ndarray, has_bias: bool = True) -> None:
        if not len(features) or not np.isfinite(features).all():
            found = "NaN or infinity" if len(features) else "none"
            raise TrainingError(f"features of shape {features.shape}: expected rows of finite numbers, found {found}")
        self.objective, self.targets = objective, torch.from_numpy(targets)
        self.rows, self.labels = len(features), len(objective.class_weights)
        self.total_weight = objective.row_weights(self.targets).double().sum()
        self.is_large = features.size > LARGE
        self.features = torch.from_numpy(features).to(torch.float32 if self.is_large else torch.float64)
        self.axes, along, across = _principal_axes(self.features)
        # The curvature of a label's logit where all are equally likely.
        several = objective.multi_label
        self.steepness = 1 / (4 * self.labels) if several else max(self.labels - 1, 1) / self.labels**2
        self.along, self.across = self.steepness * along, self.steepness * across
        self.bias_scale = has_bias / math.sqrt(self.steepness)

    def solve(
        self, strength: float, start: tuple[np.ndarray, np.ndarray] | None = None
    ) -> tuple[np.ndarray, np.ndarray]:
        if not 0 <= strength < math.inf:
            raise SettingError(f"strength={strength!r}: expected a number from 0")
        penalty = strength / self.rows
        along = (self.along + penalty).clamp(min=1e-9).rsqrt()
        across = max(self.across + penalty, 1e-9) ** -0.5

        def scaled(weight: torch.Tensor, power: int) -> torch.Tensor:
            """(labels, width) times the symmetric matrix of the scales, or its inverse."""
            return weight * across**power + (weight @ self.axes * (along**power - across**power)) @ self.axes.t()

        def unpacked(flat: np.ndarray) -> tuple[torch.Tensor, torch.Tensor]:
            theta = torch.from_numpy(flat).view(self.labels, -1)
            return scaled(theta[:, :-1], 1), theta[:, -1] * self.bias_scale

        def loss(flat: np.ndarray) -> tuple[float, np.ndarray]:
            weight, bias = unpacked(flat)
            # By hand but for the losses: autograd would keep copies of what is large.
            logits = (self.features @ weight.to(self.features.dtype).t()).double() + bias
            logits.requires_grad_()
            value = self.objective.row_losses(logits, self.targets).sum() / self.total_weight
            (slope,) = torch.autograd.grad(value, logits)
            gradient = (slope.to(self.features.dtype).t() @ self.features).double() + penalty * weight
            parts = scaled(gradient, 1), slope.sum(dim=0)[:, None] * self.bias_scale
            whole = value.item() + penalty * weight.square().sum().item() / 2
            return whole, torch.cat(parts, dim=1).flatten().numpy()

        first = torch.zeros(self.labels, self.features.shape[1] + 1, dtype=torch.float64)
        if start is not None:
            weight, bias = (torch.from_numpy(part).double() for part in start)
            first = torch.cat([scaled(weight, -1), bias[:, None] * math.sqrt(self.steepness)], dim=1)
        ends = {"gtol": 1e-4, "ftol": 1e-6} if self.is_large else {"gtol": 1e-5, "ftol": 1e-12}
        with _threads_for(self.features.numel() * self.labels):
            found = minimize(loss, first.numpy().ravel(), jac=True, method="L-BFGS-B", options={"maxiter": 500, **ends})
        if not found.success:
            log.info("L2 strength %g: L-BFGS stopped early: %s", strength, found.message)
        weight, bias = unpacked(found.x)
        return weight.float().numpy(), bias.float().numpy()


def _principal_axes(features: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor, float]:
    """The principal axes of standardised features, the spread along them, and the mean spread across them.

    All axes of at most ``AXES`` features; of more the first ones, by subspace iteration (Halko et al. 2011).

    Returns:
        (width, axes) and (axes,) float64, and a number.
    """
    rows, width = features.shape
    if width <= AXES:
        spread, axes = torch.linalg.eigh((features.t() @ features / rows).double())
        return axes, spread.clamp(min=0), 0.0
    draw = torch.Generator().manual_seed(0)
    basis = torch.randn(width, AXES, generator=draw, dtype=features.dtype)
    for _ in range(2):
        basis, _ = torch.linalg.qr(features.t() @ (features @ basis))
    projected = (features @ basis).double()
    spread, turn = torch.linalg.eigh(projected.t() @ projected / rows)
    rest = float(features.square().sum(dtype=torch.float64)) / rows - float(spread.sum())
    # Orthonormal also to the last digits, or scaling back would not undo scaling.
    axes, _ = torch.linalg.qr(basis.double() @ turn)
    return axes, spread.clamp(min=0), max(rest, 0.0) / (width - AXES)


@contextmanager
def _threads_for(products: int) -> Iterator[None]:
    # On small matrices threads wait for each other longer than they work, above all on a busy machine; scipy's own
    # steps are always small.
    before = torch.get_num_threads()
    torch.set_num_threads(1 if products < 5e8 else before)
    try:
        with threadpool_limits(1, user_api="blas"):
            yield
    finally:
        torch.set_num_threads(before)
