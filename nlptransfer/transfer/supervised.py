"""The strategies from a source with labels to a target with labels."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import ClassVar, Literal

import numpy as np

from nlptransfer.errors import SettingError
from nlptransfer.models import Examples, TaughtRows
from nlptransfer.routes import Route
from nlptransfer.settings import NonNegative, check
from nlptransfer.training import SOURCE, TARGET, Head, HeadTask, Objective, Solved, share_weights
from nlptransfer.transfer.base import FROM_SOURCE, ON_TARGET, FromSource, Learner, Sides, Stage, Transfer
from nlptransfer.transfer.losses import JointLoss, RelationalLoss, TowardsSourceLoss

KEPT_SHARES = (1.0, 0.5, 0.25, 0.1, 0.05)
"""Shares of the features that Select tries."""


@dataclass(frozen=True)
class Direct(Transfer):
    """No source: min Lt. What all other strategies are measured beside."""

    name: ClassVar[str] = "direct"
    stages: ClassVar[tuple[Stage, ...]] = (ON_TARGET,)


@dataclass(frozen=True)
class Copy(FromSource):
    """theta_t = theta_s: min Ls, judged on the target; no row of the target's is learned from."""

    name: ClassVar[str] = "copy"
    stages: ClassVar[tuple[Stage, ...]] = (FROM_SOURCE,)

    def check_fits(self, route: Route, sides: Sides) -> None:
        super().check_fits(route, sides)
        if not sides.agree:
            raise SettingError(
                f"transfer=copy: expected the same labels on both sides, found {listed(sides.source_labels)} in the "
                f"source and {listed(sides.target_labels)} in the target: give label_mapping, as in "
                '{"pos": "positive"}, or take sequential'
            )


@dataclass(frozen=True)
class Sequential(FromSource):
    """theta_s = argmin Ls, then min Lt from theta_s on; the last layer is carried over where the labels agree.

    The loop begins at theta_s, and may be held to it by strength / 2 * |theta - theta_s|^2 (L2-SP, Li et al. 2018). A
    last layer that is solved forgets where it began: min Lt + strength / (2n) * |theta - theta_s|^2, with the strength
    that scores best on validation.
    """

    name: ClassVar[str] = "sequential"
    stages: ClassVar[tuple[Stage, ...]] = (FROM_SOURCE, ON_TARGET)

    l2_sp: NonNegative = 0.0
    """strength of the pull back to what the source has taught"""

    def check_fits(self, route: Route, sides: Sides) -> None:
        super().check_fits(route, sides)
        if route.is_solved:
            same_labels(self, sides)
            check(self.l2_sp == 0, "l2_sp", self.l2_sp, "0 where the last layer is solved: there validation chooses it")

    def objective(self, stage: Stage, learner: Learner) -> Objective:
        if stage is FROM_SOURCE or not self.l2_sp:
            return super().objective(stage, learner)
        return TowardsSourceLoss(learner.module, learner.criteria[TARGET], self.l2_sp, learner.taught)

    def solve(self, stage: Stage, tasks: Mapping[str, HeadTask], source: Head | None) -> Solved:
        return tasks[stage.roles[0]].choose(towards=source if stage is ON_TARGET else None)


@dataclass(frozen=True)
class Joint(FromSource):
    """min alpha * Ls + beta * Lt: a batch of either in each step (Caruana 1997).

    The last layer is shared where the labels agree; else each task has one, and the target's is saved.
    """

    name: ClassVar[str] = "joint"
    stages: ClassVar[tuple[Stage, ...]] = (Stage("joint", (TARGET, SOURCE)),)

    alpha: NonNegative = 1.0
    """weight of the source's loss"""
    beta: NonNegative = 1.0
    """weight of the target's loss"""
    weighting: Literal["fixed", "scheduled", "size"] = "fixed"
    """fixed; scheduled: alpha falls to 0 over the training; size: times each side's share of the rows"""

    def check(self) -> None:
        super().check()
        check(self.alpha + self.beta > 0, "alpha + beta", 0, "more than 0")

    def check_fits(self, route: Route, sides: Sides) -> None:
        super().check_fits(route, sides)
        if not sides.has_rows:
            raise SettingError("transfer=joint: expected rows of a source, found a saved classifier: take sequential")
        if route.is_solved:
            same_labels(self, sides)
            check(
                self.weighting != "scheduled", "weighting", self.weighting, "fixed or size: a solved layer has no steps"
            )

    def shares(self, rows: Mapping[str, int], progress: float) -> tuple[float, float]:
        """alpha and beta at a point of the training."""
        if self.weighting == "scheduled":
            return self.alpha * (1 - progress), self.beta
        if self.weighting == "size":
            total = rows[SOURCE] + rows[TARGET]
            return self.alpha * rows[SOURCE] / total, self.beta * rows[TARGET] / total
        return self.alpha, self.beta

    def objective(self, stage: Stage, learner: Learner) -> Objective:
        rows = {role: len(examples.rows) for role, examples in learner.examples.items()}
        return JointLoss(
            learner.module,
            learner.criteria[TARGET],
            learner.criteria[SOURCE],
            partial(self.shares, rows),
            learner.source_head,
            learner.last_layer if learner.source_head is not None else None,
        )

    def solve(self, stage: Stage, tasks: Mapping[str, HeadTask], source: Head | None) -> Solved:
        rows = {role: len(task.train) for role, task in tasks.items()}
        alpha, beta = self.shares(rows, 0.0)
        others = tasks[SOURCE].train
        beside = replace(others, weights=share_weights(tasks[SOURCE].criterion, others, alpha))
        return tasks[TARGET].choose(beside=beside, share=beta)


@dataclass(frozen=True)
class SelectFeatures(FromSource):
    """The features of a frozen route that count on the source are those that the target may use.

    A feature counts what the norm of its weights in the source's solved last layer says, features being standardized;
    what share of them is kept is chosen on the target's validation (Guyon et al. 2002, in one elimination).
    """

    name: ClassVar[str] = "select_features"
    stages: ClassVar[tuple[Stage, ...]] = (FROM_SOURCE, ON_TARGET)

    def check_fits(self, route: Route, sides: Sides) -> None:
        super().check_fits(route, sides)
        if not route.is_solved:
            raise SettingError(
                f"transfer=select: expected a route with a solved last layer on frozen features, found {route.name}: "
                "take probe, or word2vec with head_type=linear"
            )

    def solve(self, stage: Stage, tasks: Mapping[str, HeadTask], source: Head | None) -> Solved:
        task = tasks[stage.roles[0]]
        if stage is FROM_SOURCE or source is None:
            return task.choose()
        order = np.argsort(-np.linalg.norm(source[0], axis=0), kind="stable")
        found: dict[float, Solved] = {}
        for share in KEPT_SHARES:
            columns = np.zeros(len(order), dtype=bool)
            columns[order[: max(1, round(share * len(order)))]] = True
            solved = task.only(columns).choose()
            # What rounding has left there must not be multiplied by features in prediction.
            found[share] = replace(solved, head=(solved.head[0] * columns, solved.head[1]))
        # Of equals the one with the most features.
        best = max(found, key=lambda share: (found[share].score, share))
        scores = {f"{share:g}": solved.score for share, solved in found.items()}
        return replace(found[best], record={**found[best].record, "kept_features": best, "scores_by_share": scores})


@dataclass(frozen=True)
class Relational(FromSource):
    """theta_s = argmin Ls, then min Lt + distance * L_D + angle * L_A from theta_s on (RKD, Park et al. 2019).

    L_D and L_A keep the distances and angles between the target's rows as the source's model saw them.
    """

    name: ClassVar[str] = "relational"
    stages: ClassVar[tuple[Stage, ...]] = (FROM_SOURCE, ON_TARGET)

    distance_weight: NonNegative = 1.0
    """weight of the pairwise distances"""
    angle_weight: NonNegative = 2.0
    """weight of the angles of three rows"""

    def check_fits(self, route: Route, sides: Sides) -> None:
        super().check_fits(route, sides)
        if route.is_solved:
            raise SettingError(
                f"transfer=relate: expected a route that learns a representation, found {route.name} with a solved "
                "last layer: take full, lora or head_type=mlp"
            )

    def objective(self, stage: Stage, learner: Learner) -> Objective:
        if stage is FROM_SOURCE:
            return super().objective(stage, learner)
        weights = self.distance_weight, self.angle_weight
        return RelationalLoss(learner.module, learner.criteria[TARGET], *weights, learner.last_layer)

    def examples(self, stage: Stage, learner: Learner) -> Mapping[str, Examples]:
        if stage is FROM_SOURCE:
            return learner.examples
        # The source's model is frozen: what it makes of the rows is computed once.
        own = learner.examples[TARGET]
        return {TARGET: replace(own, rows=TaughtRows(own.rows, learner.represent(own.rows)))}


def same_labels(transfer: Transfer, sides: Sides) -> None:
    """Raise a SettingError where a solved layer cannot be handed on."""
    if not sides.agree:
        raise SettingError(
            f"transfer={transfer.name}: a solved last layer on frozen features can only be handed on where the labels "
            f"agree, found {listed(sides.source_labels)} in the source and {listed(sides.target_labels)} in the "
            "target: give label_mapping, take transfer=select, or a route that learns more: head_type=mlp, lora, full"
        )


def listed(names: Sequence[str]) -> str:
    return ", ".join(names[:20]) + (f" and {len(names) - 20} more" if len(names) > 20 else "")
