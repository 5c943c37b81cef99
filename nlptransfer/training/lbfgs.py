"""Fit a linear head on frozen features: the minimum of the loss with an L2 penalty, by L-BFGS.
It knows one L2 strength, not how that is chosen."""

import logging
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from functools import cache, reduce

import numpy as np
import torch
from scipy import sparse
from scipy.optimize import minimize
from threadpoolctl import ThreadpoolController

from nlptransfer import mapped
from nlptransfer.errors import TrainingError
from nlptransfer.models import fast_products
from nlptransfer.training.losses import LabelLoss

log = logging.getLogger("nlptransfer")

NUM_AXES = 128
"""Most principal axes that are scaled each by itself."""
AXES_ROWS = 2**18
"""Rows that principal axes are found of, and up to twice as many."""
LEAST_CURVATURE = 1e-3
"""Least curvature assumed for a label, so that one without rows does not get endless steps."""
RARE_ROWS, RARE_L2 = 20, 0.3
"""With several labels a row, a label with fewer rows than the first has this share of the penalty: under the whole of
it, its logits hardly rise. Chosen on four draws of a long-tailed set that are not those of the benchmark."""
MANY_PRODUCTS = 3e7
"""Multiplications in a product of matrices from which several threads share it."""
HISTORY = 2**26
"""Numbers in the history of steps, two a weight and step, each of 8 bytes: of many n-grams and labels it is shorter."""
FTOL = 1e-7
"""Share by which a step must lower the objective, or it is the last one."""
Head = tuple[np.ndarray, np.ndarray]
"""A weight (labels, width + n-grams) and a bias (labels,), float32."""


@dataclass(frozen=True)
class Features:
    """Rows of features for a linear head, with their targets."""

    values: np.ndarray
    """(rows, width) float32, standardized"""
    targets: np.ndarray
    """(rows,) int64, or (rows, labels) float32"""
    weights: np.ndarray | None = None
    """(rows,) from 0, weight of each row besides that of its class; None: all 1"""
    ngrams: sparse.csr_array | None = None
    """(rows, n-grams) float32, further features, which are mostly 0; None: there are none"""

    def __len__(self) -> int:
        return len(self.values)

    def __add__(self, other: "Features") -> "Features":
        weights, ngrams = None, None
        if self.weights is not None or other.weights is not None:
            weights = np.concatenate([self.row_weights(), other.row_weights()])
        if self.ngrams is not None and other.ngrams is not None:
            ngrams = sparse.vstack([self.ngrams, other.ngrams], format="csr")
        values, targets = mapped.concatenated([self.values, other.values]), [self.targets, other.targets]
        return Features(values, np.concatenate(targets), weights, ngrams)

    def __getitem__(self, rows: np.ndarray | slice) -> "Features":
        weights, ngrams = (None if part is None else part[rows] for part in (self.weights, self.ngrams))
        return Features(self.values[rows], self.targets[rows], weights, ngrams)

    @property
    def width(self) -> int:
        """Count the features besides n-grams."""
        return int(self.values.shape[1])

    def logits(self, head: "Head") -> np.ndarray:
        """Return (rows, labels) float32."""
        (weight, bias), width = head, self.width
        logits: np.ndarray = self.values @ weight[:, :width].T + bias
        return logits if self.ngrams is None else logits + self.ngrams @ weight[:, width:].T

    def masked(self, columns: np.ndarray) -> "Features":
        """Return some features alone, (width + n-grams,) bool; the others are 0."""
        values, ngrams = self.values * columns[: self.width], self.ngrams
        if ngrams is not None:
            ngrams = sparse.csr_array(ngrams * columns[self.width :].astype(np.float32))
            ngrams.eliminate_zeros()
        return replace(self, values=values, ngrams=ngrams)

    def row_weights(self) -> np.ndarray:
        return np.ones(len(self)) if self.weights is None else self.weights.astype(np.float64)


@dataclass(frozen=True)
class Axes:
    """Principal axes of features."""

    directions: torch.Tensor
    """(width, axes) float32, orthonormal"""
    variances: torch.Tensor
    """(axes,) float64, mean square of the features along each"""
    rest: float
    """mean square of the features along a direction across all of them"""


def principal_axes(rows: Features) -> Axes:
    """Find the first principal axes by randomized subspace iteration (Halko et al. 2011, algorithm 4.4).

    Of more than memory holds, some that are evenly spread tell as much.
    """
    if rows.values.nbytes > mapped.MEMORY:
        some = rows[:: len(rows) // AXES_ROWS or 1]
        rows = replace(some, values=np.ascontiguousarray(some.values))
        mapped.release(some.values)
    count, width = rows.values.shape
    values, total = torch.from_numpy(rows.values), rows.row_weights().sum()
    if rows.weights is not None:
        values = values * torch.from_numpy(rows.weights).sqrt()[:, None].float()
    with _threads_for(values.numel() * NUM_AXES), torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        _, roots, directions = torch.svd_lowrank(values, min(NUM_AXES, count, width), niter=1)
    variances = roots.double().square() / total
    rest = torch.linalg.vector_norm(values, dtype=torch.float64).square() / total - variances.sum()
    return Axes(directions, variances, max(rest.item(), 0.0) / max(width - len(variances), 1))


def fit(
    criterion: LabelLoss,
    rows: Features,
    l2: float,
    *,
    start: Head | None = None,
    towards: Head | None = None,
    has_bias: bool = True,
    axes: Axes | None = None,
    ftol: float = FTOL,
) -> Head:
    """Minimize the loss + l2 / (2 * rows) * |W|^2 over W and b; the bias is free.

    With weights the loss is sum(weights * row_losses) / sum(weights * class_weights), where only proportions matter,
    and the penalty counts the rows that weigh more than 0.

    With ``towards``, a source's head (Ws, bs), the penalty is l2 / (2 * rows) * (|W - Ws|^2 + |b - bs|^2): L2-SP
    (Li et al. 2018, "Explicit Inductive Bias for Transfer Learning with Convolutional Networks", equation 2). It holds
    the bias too, so that ever greater strengths end at the source's head itself.

    Else, with several labels a row, rare ones have a share of the penalty, ``RARE_L2``.

    Args:
        l2: 0 or more; sklearn's 1 / C where all rows weigh 1.
        start: None: ``towards``, or zeros.
        has_bias: without, the bias stays 0, whatever that of ``towards``.
        axes: of these rows, or of nearly the same.
        ftol: steps end where the last one lowered the objective by a smaller share than this.

    Raises:
        TrainingError: no rows, or features that are not all finite.
    """
    if not len(rows) or not all(np.isfinite(block).all() for block in mapped.blocks(rows.values)):
        found = "NaN or infinity" if len(rows) else "none"
        raise TrainingError(f"features of shape {rows.values.shape}: expected rows of finite numbers, found {found}")
    if rows.weights is not None and not rows.weights.all():
        rows = rows[rows.weights > 0]
    problem = _Problem(criterion, rows, l2, towards, has_bias, axes or principal_axes(rows))
    with _threads_for(rows.values.size * len(criterion.class_weights)):
        return problem.minimize(start, ftol)


class _Problem:
    """The loss as a function of steps away from a start, in coordinates where it curves about alike everywhere.

    L-BFGS takes hundreds of steps on correlated features, and some ten where they are scaled along their principal
    axes by the root of the curvature. That of logistic regression is at most p(1 - p) times the variance of a feature,
    p being a label's share of the rows. Steps are float64: in float32 the line search gives up too early.
    """

    def __init__(
        self, criterion: LabelLoss, rows: Features, l2: float, towards: Head | None, has_bias: bool, axes: Axes
    ) -> None:
        self.criterion, self.has_bias = criterion, has_bias
        self.values, self.targets = rows.values, torch.from_numpy(rows.targets)
        weights = torch.from_numpy(rows.row_weights())
        counts = weights * criterion.row_weights(self.targets).double()
        self.weights = weights / counts.sum()
        self.width, self.ngrams = rows.width, rows.ngrams
        self.strength, self.bias_l2 = l2, l2 / len(rows) if towards is not None else 0.0
        labels, width = len(criterion.class_weights), self.width + (0 if rows.ngrams is None else rows.ngrams.shape[1])
        weight, bias = towards or (np.zeros((labels, width)), np.zeros(labels))
        self.center = torch.from_numpy(np.column_stack([weight, bias * has_bias])).double()

        truth = self.targets.double() if criterion.multi_label else torch.eye(labels).double()[self.targets]
        shares = counts @ truth / counts.sum()
        curvature = (shares * (1 - shares)).clamp(min=LEAST_CURVATURE)[:, None]
        self.l2 = torch.full((labels, 1), l2 / len(rows)).double()
        if criterion.multi_label:
            curvature /= labels
            if towards is None:
                self.l2[(truth.sum(dim=0) < RARE_ROWS).numpy()] *= RARE_L2
        self.directions = axes.directions.double()
        self.along = (curvature * axes.variances + self.l2).rsqrt()
        self.across = (curvature * axes.rest + self.l2).clamp(min=1e-9).rsqrt()
        self.bias_scale = has_bias * (curvature + self.bias_l2).rsqrt()
        if rows.ngrams is not None:
            self.by_ngram = rows.ngrams.T.tocsr()
            squares = torch.from_numpy(rows.ngrams.multiply(rows.ngrams).T @ (counts / counts.sum()).numpy())
            self.each = (curvature * squares + self.l2).clamp(min=1e-9).rsqrt()

    def minimize(self, start: Head | None, ftol: float) -> Head:
        first = torch.zeros_like(self.center)
        if start is not None:
            first = torch.from_numpy(np.column_stack([start[0], start[1] * self.has_bias])).double() - self.center

        def step(flat: np.ndarray) -> torch.Tensor:
            taken = first + self._scaled(torch.from_numpy(flat).view_as(first))
            # What is the same for all labels changes no probability, and the penalty wants it 0.
            return taken if self.criterion.multi_label else taken - taken.mean(dim=0)

        def loss(flat: np.ndarray) -> tuple[float, np.ndarray]:
            value, gradient = self._loss(step(flat))
            return value, self._scaled(gradient).flatten().numpy()

        found = minimize(
            loss,
            np.zeros(first.numel()),
            jac=True,
            method="L-BFGS-B",
            options={
                "maxiter": 500,
                "maxcor": int(np.clip(HISTORY // first.numel(), 5, 20)),
                "gtol": 1e-5,
                "ftol": ftol,
            },
        )
        if not found.success:
            log.debug("L2 strength %g: L-BFGS stopped early: %s", self.strength, found.message)
        head = (self.center + step(found.x)).float().numpy()
        return head[:, :-1], head[:, -1]

    def _blocks(self) -> Iterator[torch.Tensor]:
        return map(torch.from_numpy, mapped.blocks(self.values))

    def _scaled(self, head: torch.Tensor) -> torch.Tensor:
        """Multiply each label's weights, (labels, width + 1) with the bias, by the symmetric matrix of its scales."""
        weight, ngrams, bias = head[:, : self.width], head[:, self.width : -1], head[:, -1:]
        along = ((weight @ self.directions) * (self.along - self.across)) @ self.directions.t()
        scaled = [weight * self.across + along, bias * self.bias_scale]
        if self.ngrams is not None:
            scaled.insert(1, ngrams * self.each)
        return torch.cat(scaled, dim=1)

    def _loss(self, step: torch.Tensor) -> tuple[float, torch.Tensor]:
        """Return the loss with its penalty at ``center + step``, and its gradient."""
        head = (self.center + step).float()
        # By hand but for the losses: autograd would keep copies of the features.
        weight = head[:, : self.width].t()
        logits = torch.cat([block @ weight for block in self._blocks()]).add_(head[:, -1])
        if self.ngrams is not None:
            logits += torch.from_numpy(self.ngrams @ head[:, self.width : -1].t().contiguous().numpy())
        logits.requires_grad_()
        value = self.criterion.row_losses(logits, self.targets).double() @ self.weights
        (slope,) = torch.autograd.grad(value, logits)
        slopes = slope.split([len(block) for block in self._blocks()])
        of_weight = (part.t() @ block for part, block in zip(slopes, self._blocks(), strict=True))
        parts = [reduce(torch.add, of_weight), slope.sum(dim=0)[:, None]]
        if self.ngrams is not None:
            parts.insert(1, torch.from_numpy(self.by_ngram @ slope.numpy()).t())
        gradient = torch.cat(parts, dim=1).double()
        pull = step * self.l2
        pull[:, -1] = step[:, -1] * self.bias_l2
        return value.item() + (pull * step).sum().item() / 2, gradient + pull


# Looking for the libraries takes longer than a small problem.
_libraries = cache(ThreadpoolController)


@contextmanager
def _threads_for(products: float) -> Iterator[None]:
    # On small matrices threads wait for each other longer than they work; scipy's own steps are always small.
    before = torch.get_num_threads()
    torch.set_num_threads(1 if products < MANY_PRODUCTS else before)
    try:
        with _libraries().limit(limits=1, user_api="blas"), fast_products():
            yield
    finally:
        torch.set_num_threads(before)
