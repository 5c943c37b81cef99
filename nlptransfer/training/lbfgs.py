"""Linear heads on frozen features, solved by L-BFGS on the objective that the loop would step on."""

import itertools
import logging
import math
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cache
from typing import cast

import numpy as np
import torch
from scipy.optimize import OptimizeResult, minimize
from threadpoolctl import ThreadpoolController

from nlptransfer.errors import SettingError, TrainingError
from nlptransfer.models import fast_products
from nlptransfer.training.losses import LabelLoss

log = logging.getLogger("nlptransfer")

STRENGTHS = (1000.0, 100.0, 10.0, 1.0, 0.1, 0.01)
"""L2 strengths to choose from, each as a penalty strength / (2 * rows) * |W|^2 on standardized features."""
TOWARDS_STRENGTHS = (1e5, 1e4, 1000.0, 100.0, 10.0, 1.0, 0.1)
"""L2 strengths to choose from where the penalty holds a head at that of a source: from a copy of it to hardly held."""
AXES = 256
"""Principal axes that are looked for."""
FLATTEST = 1e-3
"""Least curvature that is taken to be along an axis, beside that where all labels are equally likely."""
REMEMBERED = 20
"""Steps out of which L-BFGS makes its picture of the curvature."""
LARGE = 2**20
"""Numbers of a feature matrix from which it is multiplied in float32."""
SHARED_OUT = 3e7
"""Multiplications of a product from which several threads do it."""
PATIENCE = 2
"""Weaker strengths that may score worse, one after the other, before the weakest are left out."""
ROUGH = 1e-5
"""What the objective of large features must fall by in a step, as a share of it, while losses alone are compared."""
SETTLED = 10
"""Steps after which a weaker strength may be given up, as its validation loss has come near to where it will stay."""
FAR_WORSE = 1.03
"""Times the best validation loss from which a weaker strength is given up."""
STOPPED = 99
"""scipy's status where a callback has ended the minimization."""
FEWEST = 4
"""Rows from which there is cross-validation."""
Head = tuple[np.ndarray, np.ndarray]
"""A weight (labels, width) and a bias (labels,)."""
Rows = tuple[np.ndarray, np.ndarray, np.ndarray | None]
"""Features (rows, width), their targets, and their weights (rows,); None: all 1."""
Score = Callable[[np.ndarray, np.ndarray], float]


@dataclass(frozen=True)
class LinearSolution:
    """A solved linear head on standardized features."""

    weight: np.ndarray
    """(labels, width) float32"""
    bias: np.ndarray
    """(labels,) float32"""
    strength: float
    """the L2 strength that it was solved with"""
    scores: dict[float, float]
    """validation score by strength"""
    held_out: np.ndarray | None = None
    """(rows, labels) float32 out-of-fold logits at the chosen strength, where it was chosen by cross-validation"""
    axes: torch.Tensor | None = None
    """(width, axes) principal axes of the features: they serve for nearly the same rows too"""


def solve(
    objective: LabelLoss,
    features: np.ndarray,
    targets: np.ndarray,
    strength: float,
    start: Head | LinearSolution | None = None,
    *,
    has_bias: bool = True,
    weights: np.ndarray | None = None,
    towards: Head | None = None,
) -> Head:
    """Minimize the objective + strength / (2 * rows) * |W|^2 over W and b (the bias is free).

    With ``weights`` the objective is sum(weights * row_losses) / sum(weights * row_weights), where only proportions
    matter: alpha / ns on source rows and beta / nt on target rows, ns and nt being the sums of their class weights,
    give (alpha * Ls + beta * Lt) / (alpha + beta). ``rows`` in the penalty are those that weigh more than 0.

    With ``towards``, a source's head (Ws, bs), the penalty is strength / (2 * rows) * (|W - Ws|^2 + |b - bs|^2): L2-SP
    (Li et al. 2018, "Explicit Inductive Bias for Transfer Learning with Convolutional Networks", equation 2). It holds
    the bias too, so that ever greater strengths end at the source's head itself.

    Args:
        features: (rows, width) standardized.
        targets: (rows,) int64, or (rows, labels) float32.
        strength: of the L2 penalty, 0 or more; sklearn's 1 / C where all rows weigh 1.
        start: weight and bias to begin from, or a solution for some of these rows; None: ``towards``, or zeros.
        has_bias: whether there is a bias; it stays 0 otherwise, whatever that of ``towards``.
        weights: (rows,) from 0, how much each row counts besides its class weight; None: all 1.
        towards: weight (labels, width) and bias (labels,) that the penalty pulls to; None: zeros, and a free bias.

    Returns:
        weight (labels, width) and bias (labels,), float32.

    Raises:
        SettingError: a strength below 0; weights below 0, all 0, not finite or not one a row; a ``towards`` that is
            not finite, or not of these labels and features.
        TrainingError: no rows, or features that are not all finite.
    """
    axes = None
    if isinstance(start, LinearSolution):
        axes, start = start.axes, (start.weight, start.bias)
    return _Problem(objective, (features, targets, weights), towards, has_bias, axes).solve(strength, start)


def choose_strength(
    objective: LabelLoss,
    features: np.ndarray,
    targets: np.ndarray,
    score: Score,
    strengths: Sequence[float] = STRENGTHS,
    *,
    by_loss: bool = False,
    has_bias: bool = True,
    weights: np.ndarray | None = None,
    towards: Head | None = None,
) -> LinearSolution:
    """Solve along the strengths, strongest first, each from the last, and keep the best by ``score``.

    The weakest are left out where two in a row score worse than the best before them.

    Args:
        score: of a weight and a bias, judged on validation rows; higher is better, and of equals the
            strongest penalty is kept.
        strengths: to choose from; with ``towards`` better ``TOWARDS_STRENGTHS``.
        by_loss: whether ``score`` is minus a loss. Where a score wavers along the strengths, a loss has one valley: the
            first that is worse ends the choice, and one that is far worse is given up on its way, its score being that
            of where it was. And a loss is nearly that of the minimum some way before it: large features are not solved
            to the end, and the solution is one to go on from.
        has_bias, weights, towards: as ``solve`` takes them.

    Raises:
        SettingError: no strength at all, or as ``solve``.
        TrainingError: as ``solve``, or a score that is not a number.
    """
    problem = _Problem(objective, (features, targets, weights), towards, has_bias)
    best: LinearSolution | None = None
    scores: dict[float, float] = {}
    start, worse = None, 0

    def is_hopeless(weight: np.ndarray, bias: np.ndarray) -> bool:
        return best is not None and score(weight, bias) < FAR_WORSE * scores[best.strength]

    for strength in _strongest_first(strengths):
        start = problem.solve(strength, start, rough=by_loss, is_hopeless=is_hopeless if by_loss else None)
        scores[strength] = _finite(score(*start))
        if best is None or scores[strength] > scores[best.strength]:
            best, worse = LinearSolution(*start, strength, scores, axes=problem.axes), 0
        elif scores[strength] < scores[best.strength]:
            worse += 1
            if by_loss or worse == PATIENCE:
                break
    assert best is not None
    return best


def cross_validated(
    objective: LabelLoss,
    features: np.ndarray,
    targets: np.ndarray,
    score: Score,
    strengths: Sequence[float] = STRENGTHS,
    *,
    has_bias: bool = True,
    weights: np.ndarray | None = None,
    towards: Head | None = None,
    beside: tuple[np.ndarray, np.ndarray, np.ndarray] | None = None,
    folds: int = 5,
    seed: int = 0,
) -> LinearSolution:
    """Choose the strength by cross-validation, and solve with it on all rows: for rows too few to set some aside.

    N target rows below 100: choices are made by cross-validation inside them. Every strength is solved in every fold
    and scored once, on the logits that the rows got while held out. Folds are stratified, at most as many as the
    rarest label has rows; where it has one, or rows have several labels, they are not, and may train without a label.

    Args:
        score: of targets and logits (rows, labels); higher is better, and of equals the strongest penalty is kept.
        strengths: to choose from; with ``towards`` better ``TOWARDS_STRENGTHS``.
        has_bias, weights, towards: as ``solve`` takes them; ``towards`` must not have seen these targets.
        beside: features, targets and weights of rows that are always trained on and never scored: the source's in
            joint training. Against them the rows left in a fold weigh as much as all rows do.
        folds: 2 or more.
        seed: of the folds.

    Returns:
        the solution on all rows, with ``held_out`` logits.

    Raises:
        SettingError: as ``choose_strength``, fewer than 2 folds, or a ``beside`` of other shapes.
        TrainingError: as ``choose_strength``, or fewer than 4 rows.
    """
    strengths, parts = _strongest_first(strengths), _folds(targets, folds, seed)
    own = _checked(np.ones(len(targets)) if weights is None else weights, len(targets))
    always = (features[:0], targets[:0], own[:0]) if beside is None else beside
    shapes = [(len(always[0]), *part.shape[1:]) for part in (features, targets, own)]
    _check_parts("beside", always, shapes, "give rows of the same features and labels, and a weight for each")
    counts = own * objective.row_weights(torch.from_numpy(targets)).double().numpy()

    def problem(kept: np.ndarray | slice) -> _Problem:
        grown = own[kept] * (counts.sum() / (counts[kept].sum() or 1.0))
        pairs = zip((features[kept], targets[kept], grown), always, strict=True)
        values, truth, weights = map(np.concatenate, pairs)
        return _Problem(objective, (values, truth, weights), towards, has_bias)

    logits = {strength: np.empty((len(targets), len(objective.class_weights)), np.float32) for strength in strengths}
    with _threads_for((len(features) + len(always[0])) * features.shape[1] * len(objective.class_weights)):
        for kept, out in parts:
            fold, start = problem(kept), None
            for strength in strengths:
                start = fold.solve(strength, start)
                logits[strength][out] = features[out] @ start[0].T + start[1]
        scores = {strength: _finite(score(targets, logits[strength])) for strength in strengths}
        best = max(strengths, key=scores.__getitem__)  # of equals the first
        return LinearSolution(*problem(slice(None)).solve(best), best, scores, logits[best])


class _Problem:
    """The objective in coordinates where it is about equally curved in every direction.

    The weights of each label are scaled along the principal axes of the features by the root of the curvature that
    they have there at the start: L-BFGS then takes some ten steps where correlated features take hundreds, and rare
    labels as many as frequent ones. Of wide features the first axes are looked for, and across them all directions
    are taken for equally curved, so that nothing costs more than some passes over the features. In float64, since in
    float32 the line search gives up before the gradient is small; large features are multiplied in float32, which is
    faster, and the steps end a little earlier. What is stepped over is the distance from the head where the penalty
    is 0.
    """

    def __init__(
        self,
        objective: LabelLoss,
        rows: Rows,
        towards: Head | None,
        has_bias: bool,
        axes: torch.Tensor | None = None,
    ) -> None:
        features, targets, weights = rows
        if not len(features) or not np.isfinite(features).all():
            found = "NaN or infinity" if len(features) else "none"
            raise TrainingError(f"features of shape {features.shape}: expected rows of finite numbers, found {found}")
        if weights is not None:
            features, targets, weights = _that_count(features, targets, _checked(weights, len(features)))
        self.objective, self.targets = objective, torch.from_numpy(targets)
        self.weights = None if weights is None else torch.from_numpy(weights)
        self.rows, self.labels = len(features), len(objective.class_weights)
        row_weights = self._weighted(objective.row_weights(self.targets).double())
        self.total_weight = row_weights.sum()
        self.shares = (row_weights / self.total_weight)[:, None]
        self.is_large = features.size > LARGE
        self.features = torch.from_numpy(features).to(torch.float32 if self.is_large else torch.float64)
        with _threads_for(self.features.numel() * AXES):
            if axes is None:
                axes = _principal_axes(self._weighted(self.features, root=True))
            self.axes = axes.to(self.features.dtype)  # given ones may be of fewer rows, and so of another precision
            # Squares of each row's parts: along the axes, and the mean of those across them.
            self.along = (self.features @ self.axes).square_()
            rest = torch.linalg.vector_norm(self.features, dim=1).square() - self.along.sum(dim=1)
        self.across = (rest.clamp(min=0) / max(features.shape[1] - self.axes.shape[1], 1))[:, None]
        self.has_bias, self.holds_bias = has_bias, towards is not None
        shapes = [(self.labels, features.shape[1]), (self.labels,)]
        towards = towards or (np.zeros(shapes[0]), np.zeros(shapes[1]))
        _check_parts("towards", towards, shapes, "give a head of the same labels on the same features")
        self.center = torch.from_numpy(towards[0]).double(), torch.from_numpy(towards[1]).double() * has_bias

    def _weighted(self, rows: torch.Tensor, root: bool = False) -> torch.Tensor:
        if self.weights is None:
            return rows
        weights = self.weights.sqrt() if root else self.weights
        return (rows.t() * weights.to(rows.dtype)).t()

    def solve(
        self,
        strength: float,
        start: Head | None = None,
        *,
        rough: bool = False,
        is_hopeless: Callable[[np.ndarray, np.ndarray], bool] | None = None,
    ) -> Head:
        if not 0 <= strength < math.inf:
            raise SettingError(f"strength={strength!r}: expected a number from 0")
        penalty = strength / self.rows
        bias_penalty = penalty * self.holds_bias
        center, bias_center = self.center
        weight, bias = self.center if start is None else (torch.from_numpy(part).double() for part in start)
        along, across, bias_scale = self._scales(weight, bias, penalty, bias_penalty)
        # From the center: beside a great strength no digit of them is lost.
        first, bias_first = weight - center, (bias - bias_center) * self.has_bias

        def scaled(weight: torch.Tensor) -> torch.Tensor:
            """(labels, width) times each label's symmetric matrix of the scales."""
            parts = (weight.to(self.axes.dtype) @ self.axes).double() * (along - across)
            return weight * across + (parts.to(self.axes.dtype) @ self.axes.t()).double()

        def steps(flat: np.ndarray) -> tuple[torch.Tensor, torch.Tensor]:
            theta = torch.from_numpy(flat).view(self.labels, -1)
            step, bias_step = first + scaled(theta[:, :-1]), bias_first + theta[:, -1] * bias_scale
            if not self.objective.multi_label:
                # What is the same for all labels changes no probability, and the penalty wants it 0.
                step, bias_step = step - step.mean(dim=0), bias_step - bias_step.mean()
            return step, bias_step

        def loss(flat: np.ndarray) -> tuple[float, np.ndarray]:
            step, bias_step = steps(flat)
            # By hand but for the losses: autograd would keep copies of what is large.
            whole, bias_whole = (part.to(self.features.dtype) for part in (center + step, bias_center + bias_step))
            logits = (self.features @ whole.t()).add_(bias_whole).requires_grad_()
            losses = self._weighted(self.objective.row_losses(logits, self.targets).double())
            value = losses.sum() / self.total_weight
            (slope,) = torch.autograd.grad(value, logits)
            gradient = (slope.t() @ self.features).double() + penalty * step
            bias_gradient = slope.sum(dim=0, dtype=torch.float64) + bias_penalty * bias_step
            parts = scaled(gradient), (bias_gradient * bias_scale)[:, None]
            held = penalty * step.square().sum().item() + bias_penalty * bias_step.square().sum().item()
            return value.item() + held / 2, torch.cat(parts, dim=1).flatten().numpy()

        def head(flat: np.ndarray) -> Head:
            step, bias_step = steps(flat)
            return (center + step).float().numpy(), (bias_center + bias_step).float().numpy()

        taken = itertools.count(1)

        def look(intermediate_result: OptimizeResult) -> None:
            if is_hopeless is not None and next(taken) >= SETTLED and is_hopeless(*head(intermediate_result.x)):
                raise StopIteration

        begin = np.zeros(self.labels * (self.features.shape[1] + 1))
        ends = {"gtol": 1e-4, "ftol": ROUGH if rough else 1e-6} if self.is_large else {"gtol": 1e-5, "ftol": 1e-12}
        options = {"maxiter": 500, "maxcor": REMEMBERED, **ends}
        with _threads_for(self.features.numel() * self.labels):
            found = minimize(loss, begin, jac=True, method="L-BFGS-B", callback=look, options=options)
        if not found.success and found.status != STOPPED:
            log.info("L2 strength %g: L-BFGS stopped early: %s", strength, found.message)
        return head(found.x)

    def _scales(
        self, weight: torch.Tensor, bias: torch.Tensor, penalty: float, bias_penalty: float
    ) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
        """1 over the root of the curvature at a head, of each label's weights along the axes, (labels, axes), and
        across them, (labels, 1), and of its bias, (labels,)."""
        logits = (self.features @ weight.to(self.features.dtype).t()).double() + bias
        several = self.objective.multi_label
        chances = logits.sigmoid() if several else logits.softmax(dim=1)
        spread = chances * (1 - chances) / (self.labels if several else 1)
        if several:
            spread *= torch.where(self.targets > 0, self.objective.class_weights.double(), 1.0)
        # A head that is sure of all rows would have none; nowhere is it more than 1 / 4.
        spread = (spread.clamp(min=FLATTEST / self.labels) * self.shares).to(self.features.dtype).t()
        along, across = ((spread @ part).double() + penalty for part in (self.along, self.across))
        biases = spread.double().sum(dim=1) + bias_penalty
        return along.clamp(min=1e-9).rsqrt(), across.clamp(min=1e-9).rsqrt(), self.has_bias * biases.rsqrt()


def _check_parts(name: str, parts: Sequence[np.ndarray], shapes: Sequence[tuple[int, ...]], advice: str) -> None:
    found = [part.shape for part in parts]
    if found != shapes:
        raise SettingError(f"{name} of shapes {found}: expected {shapes}; {advice}")
    if not all(np.isfinite(part).all() for part in parts):
        raise SettingError(f"{name}: expected finite numbers, found NaN or infinity; {advice}")


def _checked(weights: np.ndarray, rows: int) -> np.ndarray:
    advice = "give each row a number from 0"
    _check_parts("weights", [weights], [(rows,)], advice)
    if (weights < 0).any():
        raise SettingError(f"weights: expected none below 0, found {weights.min()}; {advice}")
    return weights.astype(np.float64)


def _that_count(features: np.ndarray, targets: np.ndarray, weights: np.ndarray) -> Rows:
    """The rows that weigh more than 0, with weights of mean 1; None where all are alike."""
    if not weights.any():
        raise SettingError("weights: expected some above 0, found all 0; raise those of the rows to learn from")
    if not weights.all():
        counts = weights > 0
        features, targets, weights = features[counts], targets[counts], weights[counts]
    return features, targets, None if (weights == weights[0]).all() else weights / weights.mean()


def _folds(targets: np.ndarray, folds: int, seed: int) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    """Numbers of the rows that are kept and held out, fold by fold."""
    from sklearn.model_selection import KFold, StratifiedKFold

    if folds < 2:
        raise SettingError(f"folds={folds!r}: expected 2 or more")
    rows = len(targets)
    if rows < FEWEST:
        raise TrainingError(f"expected {FEWEST} rows or more to cross-validate, found {rows}; add labeled rows")
    rarest = 1 if targets.ndim == 2 else int(np.unique(targets, return_counts=True)[1].min())
    kind = StratifiedKFold if rarest > 1 else KFold
    return cast(
        Iterator[tuple[np.ndarray, np.ndarray]],
        kind(min(folds, rarest if rarest > 1 else rows), shuffle=True, random_state=seed).split(targets, targets),
    )


def _strongest_first(strengths: Sequence[float]) -> list[float]:
    if not strengths:
        raise SettingError("strengths=(): expected at least one L2 strength, found none")
    return sorted(strengths, reverse=True)


def _finite(score: float) -> float:
    if not math.isfinite(score):
        raise TrainingError(f"expected a finite validation score, found {score}: choose another metric_for_best_model")
    return score


def _principal_axes(features: torch.Tensor) -> torch.Tensor:
    """(width, axes), orthonormal: the principal axes of standardized features.

    All axes of at most ``AXES`` features; of more the first ones, by subspace iteration (Halko et al. 2011).
    """
    rows, width = features.shape
    if width <= AXES:
        return cast(torch.Tensor, torch.linalg.eigh((features.t() @ features / rows).double())[1].to(features.dtype))
    draw = torch.Generator().manual_seed(0)
    basis = torch.randn(width, AXES, generator=draw, dtype=features.dtype)
    for _ in range(2):
        basis, _ = torch.linalg.qr(features.t() @ (features @ basis))
    projected = features @ basis
    return cast(
        torch.Tensor, basis @ torch.linalg.eigh((projected.t() @ projected / rows).double())[1].to(features.dtype)
    )


@cache
def _libraries() -> ThreadpoolController:
    # Looking for them takes longer than a small problem.
    return ThreadpoolController()


@contextmanager
def _threads_for(products: int) -> Iterator[None]:
    # On small matrices threads wait for each other longer than they work, above all on a busy machine; scipy's own
    # steps are always small.
    before = torch.get_num_threads()
    torch.set_num_threads(1 if products < SHARED_OUT else before)
    try:
        with _libraries().limit(limits=1, user_api="blas"), fast_products():
            yield
    finally:
        torch.set_num_threads(before)
