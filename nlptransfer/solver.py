"""Linear heads on frozen features, solved by L-BFGS on the objective that the loop would step on."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from scipy.optimize import minimize

from nlptransfer.objectives import Supervised

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
    iterations: int = 500,
) -> tuple[np.ndarray, np.ndarray]:
    """Minimise the objective + strength / (2 * rows) * |W|^2 over W and b (the bias is free).

    Args:
        features: (rows, width) standardised.
        targets: (rows,) int64, or (rows, labels) float32.
        strength: of the L2 penalty; sklearn's 1 / C.
        start: weight and bias to begin from.

    Returns:
        weight (labels, width) and bias (labels,), float32.
    """
    x, y = torch.from_numpy(features), torch.from_numpy(targets)
    labels, width = len(objective.class_weights), features.shape[1]
    row_weights = objective.row_weights(y)
    share = row_weights / row_weights.sum()

    def loss(flat: np.ndarray) -> tuple[float, np.ndarray]:
        theta = torch.from_numpy(flat.astype(np.float32)).view(labels, width + 1).requires_grad_()
        logits = torch.addmm(theta[:, -1], x, theta[:, :-1].t())
        value = (objective.row_losses(logits, y) * share).sum() + strength / (2 * len(x)) * theta[:, :-1].square().sum()
        (gradient,) = torch.autograd.grad(value, theta)
        return value.item(), gradient.flatten().numpy().astype(np.float64)

    first = np.zeros((labels, width + 1)) if start is None else np.column_stack(start)
    found = minimize(loss, first.ravel(), jac=True, method="L-BFGS-B", options={"maxiter": iterations, "gtol": 1e-5})
    theta = found.x.astype(np.float32).reshape(labels, width + 1)
    return theta[:, :-1], theta[:, -1]


def choose_strength(
    objective: Supervised,
    features: np.ndarray,
    targets: np.ndarray,
    score: Callable[[np.ndarray, np.ndarray], float],
    strengths: Sequence[float] = STRENGTHS,
) -> LinearSolution:
    """Solve along the strengths, strongest first, each from the last, and keep the best by ``score``.

    Args:
        score: of a weight and a bias, judged on validation rows; higher is better.
    """
    best: LinearSolution | None = None
    scores: dict[float, float] = {}
    start = None
    for strength in sorted(strengths, reverse=True):
        start = solve(objective, features, targets, strength, start)
        scores[strength] = score(*start)
        if best is None or scores[strength] > scores[best.strength]:
            best = LinearSolution(*start, strength, scores)
    if best is None:
        raise ValueError("expected at least one strength, found none")
    return best
