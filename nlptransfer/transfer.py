"""The strategies: how knowledge reaches the target. Each is a list of stages, and a stage is data and an objective."""

from abc import ABC
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import Any, ClassVar, Literal

import numpy as np
from torch import Tensor, nn

from nlptransfer.batching import Rows, TaughtRows
from nlptransfer.errors import SettingError, nearest
from nlptransfer.objectives import SOURCE, TARGET, LabelLoss, Objective, Relational, TowardsSource
from nlptransfer.objectives import Joint as JointLoss
from nlptransfer.optimization import TrainingSettings
from nlptransfer.route import Route
from nlptransfer.settings import check, convert, fields_of
from nlptransfer.solver import Head
from nlptransfer.solving import HeadTask, Solved, share_weights
from nlptransfer.training import Examples

KEPT_SHARES = (1.0, 0.5, 0.25, 0.1, 0.05)
"""Shares of the features that Select tries."""


@dataclass(frozen=True)
class Stage:
    """One training, of rows of one role or of both."""

    name: str
    """of its checkpoints and in the record"""
    roles: tuple[str, ...]
    """the first one is judged, on its validation rows"""


FROM_SOURCE, ON_TARGET = Stage("source", (SOURCE,)), Stage("target", (TARGET,))


@dataclass(frozen=True)
class Learner:
    """A model at the beginning of a stage, and what an objective is made of."""

    module: nn.Module
    """what the loop trains"""
    last_layer: nn.Linear
    """of the module"""
    criteria: Mapping[str, LabelLoss]
    """by role"""
    examples: Mapping[str, Examples]
    """training rows by role"""
    taught: Mapping[str, Tensor]
    """parameters that bring something from the stage before, by name; not copies"""
    represent: Callable[[Rows], np.ndarray]
    """rows -> (rows, width): what the last layer takes of them, as the model is now"""
    source_head: nn.Linear | None = None
    """for the source's labels, where they are others than the target's"""


@dataclass(frozen=True)
class Sides:
    """What a strategy has to fit."""

    source_labels: tuple[str, ...]
    target_labels: tuple[str, ...]
    agree: bool
    """whether both have the same labels, by name"""
    has_rows: bool
    """whether the source is data; else a classifier that was saved"""


@dataclass(frozen=True)
class Transfer(ABC):
    """How knowledge reaches the target; its fields are the strategy's settings."""

    name: ClassVar[str]
    stages: ClassVar[tuple[Stage, ...]]

    def check(self) -> None:
        """Raise a SettingError for a value that makes no sense."""
        for name, hint in fields_of(type(self)).items():
            convert(name, getattr(self, name), hint)

    def check_fits(self, route: Route, sides: Sides) -> None:
        """Raise a SettingError where the strategy makes no sense for a route, or for these labels."""
        return None

    def at(self, stage: Stage, route: Route, training: TrainingSettings) -> tuple[Route, TrainingSettings]:
        """The settings of a stage."""
        return route, training

    def objective(self, stage: Stage, learner: Learner) -> Objective:
        """What the loop minimises in a stage."""
        return Objective(learner.module, learner.criteria[stage.roles[0]])

    def examples(self, stage: Stage, learner: Learner) -> Mapping[str, Examples]:
        """The rows that the loop takes in a stage, by role."""
        return learner.examples

    def solve(self, stage: Stage, tasks: Mapping[str, HeadTask], source: Head | None) -> Solved:
        """A stage of a route whose last layer is solved.

        Args:
            tasks: by role.
            source: what the stage before has solved.
        """
        return tasks[stage.roles[0]].choose()


@dataclass(frozen=True)
class Direct(Transfer):
    """No source: min Lt. What all other strategies are measured beside."""

    name: ClassVar[str] = "direct"
    stages: ClassVar[tuple[Stage, ...]] = (ON_TARGET,)


@dataclass(frozen=True)
class FromSource(Transfer):
    """What the strategies with a source share."""

    label_mapping: dict[str, str] | None = None
    """the target's name of a label of the source, where they differ: {"pos": "positive"}"""
    temperature: float = 1.0
    """of several sources, source i counts n_i^(1/temperature): 1 as many rows as it has; large: all alike
    (Arivazhagan et al. 2019)"""
    target_like: bool = False
    """whether each source row counts as much as it looks like the target: by the odds of a domain classifier"""
    max_source_rows: int | None = None
    """most labelled rows of each source, its validation rows counted"""
    source_text_column: str | None = None
    """column of the source's texts; found by its name if None"""
    source_label_column: str | None = None
    """column of the source's labels; found by its name if None"""
    source_settings: dict[str, Any] | None = None
    """settings of the training, and of how the route learns, in the stage on the source alone"""
    target_settings: dict[str, Any] | None = None
    """the same in the stage on the target"""

    def check(self) -> None:
        super().check()
        check(self.temperature >= 1, "temperature", self.temperature, "1 or more")
        rows = self.max_source_rows
        check(rows is None or rows >= 1, "max_source_rows", rows, "a whole number from 1")

    def check_fits(self, route: Route, sides: Sides) -> None:
        names = {stage.name for stage in self.stages}
        for name in ("source", "target"):
            given = getattr(self, f"{name}_settings")
            check(not given or name in names, f"{name}_settings", given, f"none, as {self.name} has no such stage")
        for name in ("temperature", "target_like", "max_source_rows"):
            value, unset = getattr(self, name), type(self).__dataclass_fields__[name].default
            check(sides.has_rows or value == unset, name, value, "rows of a source, found a saved classifier")

    def at(self, stage: Stage, route: Route, training: TrainingSettings) -> tuple[Route, TrainingSettings]:
        given = {"source": self.source_settings, "target": self.target_settings}.get(stage.name) or {}
        of_route: dict[str, Any] = {}
        of_training: dict[str, Any] = {}
        hints = fields_of(TrainingSettings) | {name: fields_of(type(route))[name] for name in route.per_stage}
        for name, value in given.items():
            if name not in hints:
                raise SettingError(f"{stage.name}_settings: {name!r} cannot differ by stage: {nearest(name, hints)}")
            (of_route if name in route.per_stage else of_training)[name] = convert(name, value, hints[name])
        route, training = replace(route, **of_route), replace(training, **of_training)
        route.check()
        training.check()
        return route, training


@dataclass(frozen=True)
class Copy(FromSource):
    """theta_t = theta_s: min Ls, judged on the target; no row of the target's is learnt from."""

    name: ClassVar[str] = "copy"
    stages: ClassVar[tuple[Stage, ...]] = (FROM_SOURCE,)

    def check_fits(self, route: Route, sides: Sides) -> None:
        super().check_fits(route, sides)
        if not sides.agree:
            raise SettingError(
                f"transfer=copy: expected the same labels on both sides, found {_listed(sides.source_labels)} in the "
                f"source and {_listed(sides.target_labels)} in the target: give label_mapping, as in "
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

    l2_sp: float = 0.0
    """strength of the pull back to what the source has taught"""

    def check(self) -> None:
        super().check()
        check(self.l2_sp >= 0, "l2_sp", self.l2_sp, "0 or more")

    def check_fits(self, route: Route, sides: Sides) -> None:
        super().check_fits(route, sides)
        if route.is_solved:
            _same_labels(self, sides)
            check(self.l2_sp == 0, "l2_sp", self.l2_sp, "0 where the last layer is solved: there validation chooses it")

    def objective(self, stage: Stage, learner: Learner) -> Objective:
        if stage is FROM_SOURCE or not self.l2_sp:
            return super().objective(stage, learner)
        return TowardsSource(learner.module, learner.criteria[TARGET], self.l2_sp, learner.taught)

    def solve(self, stage: Stage, tasks: Mapping[str, HeadTask], source: Head | None) -> Solved:
        return tasks[stage.roles[0]].choose(towards=source if stage is ON_TARGET else None)


@dataclass(frozen=True)
class Joint(FromSource):
    """min alpha * Ls + beta * Lt: a batch of either in each step (Caruana 1997).

    The last layer is shared where the labels agree; else each task has one, and the target's is saved.
    """

    name: ClassVar[str] = "joint"
    stages: ClassVar[tuple[Stage, ...]] = (Stage("joint", (TARGET, SOURCE)),)

    alpha: float = 1.0
    """weight of the source's loss"""
    beta: float = 1.0
    """weight of the target's loss"""
    weighting: Literal["fixed", "scheduled", "size"] = "fixed"
    """fixed; scheduled: alpha falls to 0 over the training; size: times each side's share of the rows"""

    def check(self) -> None:
        super().check()
        for name in ("alpha", "beta"):
            check(getattr(self, name) >= 0, name, getattr(self, name), "0 or more")
        check(self.alpha + self.beta > 0, "alpha + beta", 0, "more than 0")

    def check_fits(self, route: Route, sides: Sides) -> None:
        super().check_fits(route, sides)
        if not sides.has_rows:
            raise SettingError("transfer=joint: expected rows of a source, found a saved classifier: take sequential")
        if route.is_solved:
            _same_labels(self, sides)
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
class Select(FromSource):
    """The features of a frozen route that count on the source are those that the target may use.

    A feature counts what the norm of its weights in the source's solved last layer says, features being standardised;
    what share of them is kept is chosen on the target's validation (Guyon et al. 2002, in one elimination).
    """

    name: ClassVar[str] = "select"
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
class Relate(FromSource):
    """theta_s = argmin Ls, then min Lt + distance * L_D + angle * L_A from theta_s on (RKD, Park et al. 2019).

    L_D and L_A keep the distances and angles between the target's rows as the source's model saw them.
    """

    name: ClassVar[str] = "relate"
    stages: ClassVar[tuple[Stage, ...]] = (FROM_SOURCE, ON_TARGET)

    distance_weight: float = 1.0
    """weight of the pairwise distances"""
    angle_weight: float = 2.0
    """weight of the angles of three rows"""

    def check(self) -> None:
        super().check()
        for name in ("distance_weight", "angle_weight"):
            check(getattr(self, name) >= 0, name, getattr(self, name), "0 or more")

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
        return Relational(learner.module, learner.criteria[TARGET], *weights, learner.last_layer)

    def examples(self, stage: Stage, learner: Learner) -> Mapping[str, Examples]:
        if stage is FROM_SOURCE:
            return learner.examples
        # The source's model is frozen: what it makes of the rows is computed once.
        own = learner.examples[TARGET]
        return {TARGET: replace(own, rows=TaughtRows(own.rows, learner.represent(own.rows)))}


TRANSFERS: dict[str, type[Transfer]] = {kind.name: kind for kind in (Direct, Copy, Sequential, Joint, Select, Relate)}
"""The strategies, by name."""


def transfer_class(name: str) -> type[Transfer]:
    """The strategy of a name.

    Raises:
        SettingError: there is none; the nearest is named.
    """
    if name not in TRANSFERS:
        raise SettingError(f"unknown transfer {name!r}: {nearest(name, TRANSFERS)}")
    return TRANSFERS[name]


def _same_labels(transfer: Transfer, sides: Sides) -> None:
    if not sides.agree:
        raise SettingError(
            f"transfer={transfer.name}: a solved last layer on frozen features can only be handed on where the labels "
            f"agree, found {_listed(sides.source_labels)} in the source and {_listed(sides.target_labels)} in the "
            "target: give label_mapping, take transfer=select, or a route that learns more: head_type=mlp, lora, full"
        )


def _listed(names: Sequence[str]) -> str:
    return ", ".join(names[:20]) + (f" and {len(names) - 20} more" if len(names) > 20 else "")
