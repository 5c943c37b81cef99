"""Linear heads on frozen features, solved by L-BFGS on the objective that the loop would step on."""

import logging
import math
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass

import numpy as np
import torch
from scipy.optimize import minimize

from nlptransfer.errors import SettingError, TrainingError
from nlptransfer.objectives import Supervised

log = logging.getLogger("nlptransfer")

STRENGTHS = (100.0, 10.0, 1.0, 0.1, 0.01)
"""L2 strengths to choose from, each as a penalty strength / (2 * rows) * |W|^2 on standardised features."""


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
) -> tuple[np.ndarray, np.ndarray]:
    """Minimise the objective + strength / (2 * rows) * |W|^2 over W and b (the bias is free).

    Args:
        features: (rows, width) standardised.
        targets: (rows,) int64, or (rows, labels) float32.
        strength: of the L2 penalty, 0 or more; sklearn's 1 / C where all rows weigh 1.
        start: weight and bias to begin from.

    Returns:
        weight (labels, width) and bias (labels,), float32.

    Raises:
        SettingError: a strength below 0.
        TrainingError: no rows, or features that are not all finite.
    """
    return _Problem(objective, features, targets).solve(strength, start)


def choose_strength(
    objective: Supervised,
    features: np.ndarray,
    targets: np.ndarray,
    score: Callable[[np.ndarray, np.ndarray], float],
    strengths: Sequence[float] = STRENGTHS,
) -> LinearSolution:
    """Solve along the strengths, strongest first, each from the last, and keep the best by ``score``.

    Args:
        score: of a weight and a bias, judged on validation rows; higher is better, and of equals the
            strongest penalty is kept.

    Raises:
        SettingError: no strength at all, or one below 0.
        TrainingError: as ``solve``, or a score that is not a number.
    """
    if not strengths:
        raise SettingError("strengths=(): expected at least one L2 strength, found none")
    problem = _Problem(objective, features, targets)
    best: LinearSolution | None = None
    scores: dict[float, float] = {}
    start = None
    for strength in sorted(strengths, reverse=True):
        start = problem.solve(strength, start)
        scores[strength] = score(*start)
        if not math.isfinite(scores[strength]):
            found = scores[strength]
            raise TrainingError(
                f"expected a finite validation score, found {found}: choose another metric_for_best_model"
            )
        if best is None or scores[strength] > scores[best.strength]:
            best = LinearSolution(*start, strength, scores)
    assert best is not None
    return best


class _Problem:
    """The objective in coordinates where it is about equally curved in every direction.

    Features are turned onto their principal axes, which leaves |W|^2 as it is, and each axis is divided by the
    root of its curvature: L-BFGS then takes some ten steps where correlated features take hundreds. In float64,
    since in float32 the line search gives up before the gradient is small.
    """

    def __init__(self, objective: Supervised, features: np.ndarray, targets: np.ndarray) -> None:
        if not len(features) or not np.isfinite(features).all():
            found = "NaN or infinity" if len(features) else "none"
            raise TrainingError(f"features of shape {features.shape}: expected rows of finite numbers, found {found}")
        self.objective, self.targets = objective, torch.from_numpy(targets)
        self.rows, self.labels = len(features), len(objective.class_weights)
        self.total_weight = objective.row_weights(self.targets).double().sum()
        plain = torch.from_numpy(features).double()
        spread, self.axes = torch.linalg.eigh(plain.t() @ plain / self.rows)
        self.features = plain @ self.axes
        # The curvature of a label's logit where all are equally likely.
        several = objective.multi_label
        steepness = 1 / (4 * self.labels) if several else max(self.labels - 1, 1) / self.labels**2
        self.curvature = steepness * torch.cat([spread.clamp(min=0), torch.ones(1)])

    def solve(
        self, strength: float, start: tuple[np.ndarray, np.ndarray] | None = None
    ) -> tuple[np.ndarray, np.ndarray]:
        if not 0 <= strength < math.inf:
            raise SettingError(f"strength={strength!r}: expected a number from 0")
        penalty = torch.full_like(self.curvature, strength / self.rows)
        penalty[-1] = 0
        scale = (self.curvature + penalty).clamp(min=1e-9).rsqrt()

        def loss(flat: np.ndarray) -> tuple[float, np.ndarray]:
            theta = (torch.from_numpy(flat).view(self.labels, -1) * scale).requires_grad_()
            logits = torch.addmm(theta[:, -1], self.features, theta[:, :-1].t())
            value = self.objective.row_losses(logits, self.targets).sum() / self.total_weight
            value = value + (theta.square() * penalty).sum() / 2
            (gradient,) = torch.autograd.grad(value, theta)
            return value.item(), (gradient * scale).flatten().numpy()

        first = torch.zeros(self.labels, len(scale), dtype=torch.float64)
        if start is not None:
            weight, bias = (torch.from_numpy(part).double() for part in start)
            first = torch.cat([weight @ self.axes, bias[:, None]], dim=1) / scale
        options = {"maxiter": 500, "gtol": 1e-5, "ftol": 1e-12}
        with _threads_for(self.features.numel() * self.labels):
            found = minimize(loss, first.numpy().ravel(), jac=True, method="L-BFGS-B", options=options)
        if not found.success:
            log.info("L2 strength %g: L-BFGS stopped early: %s", strength, found.message)
        theta = torch.from_numpy(found.x).view(self.labels, -1) * scale
        return (theta[:, :-1] @ self.axes.t()).float().numpy(), theta[:, -1].float().numpy()


@contextmanager
def _threads_for(products: int) -> Iterator[None]:
    # On small matrices threads wait for each other longer than they work, above all on a busy machine.
    before = torch.get_num_threads()
    torch.set_num_threads(1 if products < 5e7 else before)
    try:
        yield
    finally:
        torch.set_num_threads(before)
