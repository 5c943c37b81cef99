"""The strategies for a target without labels: domains aligned, source rows weighed, the model's own labels."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import Annotated, Any, ClassVar

from annotated_types import Interval, MinLen

from nlptransfer.errors import SettingError
from nlptransfer.routes import Route
from nlptransfer.settings import Count, Positive, check
from nlptransfer.training import SOURCE, UNLABELED, Head, HeadTask, Objective, Solved, TrainingSettings
from nlptransfer.transfer.alignment import (
    Adversary,
    Aligned,
    Correlation,
    Discrepancy,
    MeanDiscrepancy,
    correlation_map,
    warmed_up,
)
from nlptransfer.transfer.base import FROM_SOURCE, Learner, Sides, Stage, Transfer
from nlptransfer.transfer.label_free import Chosen, LabelFree
from nlptransfer.transfer.self_training import SelfTrain

ALIGN = Stage("align", (SOURCE, UNLABELED))


@dataclass(frozen=True)
class Reweight(LabelFree):
    """min sum w_i Ls_i: each source row counts as much as it looks like the target (importance weighting).

    w is the ratio of the densities of the texts, from a classifier that tells the domains apart: Shimodaira 2000,
    "Improving predictive inference under covariate shift", equation 7; see :func:`domain_odds`.
    Under the other strategies ``target_like`` does the same.
    """

    name: ClassVar[str] = "reweight"
    stages: ClassVar[tuple[Stage, ...]] = (FROM_SOURCE,)

    target_like: bool = True


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
        if route.is_solved:
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

    Where the last layer is solved on frozen features, the source's rows are mapped instead, before it is solved (CORAL,
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
        stepped = not route.is_solved
        for name, used in (("warm_up", stepped), ("epochs", stepped), ("shrinkage", not stepped)):
            value, unset = getattr(self, name), type(self).__dataclass_fields__[name].default
            head = "a last layer that is solved" if name == "shrinkage" else "a last layer that is stepped"
            check(used or value == unset, name, value, f"{unset}, as it is of {head}")
        if route.is_solved:
            inside = all(value <= 1 for value in self.trade_offs)
            check(
                inside,
                "trade_offs",
                self.trade_offs,
                "at most 1 where the last layer is solved: there the map is whole",
            )

    def solve(self, stage: Stage, tasks: Mapping[str, HeadTask], source: Head | None) -> Solved:
        (trade_off,) = self.trade_offs
        task = tasks[SOURCE]
        if trade_off:
            mapped = correlation_map(task.train.values, tasks[UNLABELED].train.values, self.shrinkage)
            task = task.mapped(lambda values: values + trade_off * (mapped(values) - values))
        return task.choose()


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


ALIGNMENTS: tuple[type[Alignment], ...] = (Coral, Mmd, Dann)


@dataclass(frozen=True)
class Method(Transfer):
    """An alignment at one lambda, as one of several methods."""

    name: ClassVar[str] = "method"
    stages: ClassVar[tuple[Stage, ...]] = (ALIGN,)

    alignment: Alignment

    @property
    def chosen(self) -> dict[str, Any]:
        own = self.alignment.chosen
        return {"method": self.alignment.name if own["trade_off"] else "none"} | own

    def learns_from(self, stage: Stage) -> tuple[str, ...]:
        return self.alignment.learns_from(stage)

    def objective(self, stage: Stage, learner: Learner) -> Objective:
        return self.alignment.objective(stage, learner)

    def solve(self, stage: Stage, tasks: Mapping[str, HeadTask], source: Head | None) -> Solved:
        return self.alignment.solve(stage, tasks, source)


@dataclass(frozen=True)
class Adapt(Chosen):
    """The method too is chosen without a label of the target: an alignment and its lambda, or none, then self-training.

    The source alone is trained, and beside it each alignment that the route takes, at each of its trade-offs; on the
    one that is kept come the rounds of self-training. Every step is one of :func:`choose`.
    """

    name: ClassVar[str] = "adapt"

    methods: tuple[str, ...] = (*(kind.name for kind in ALIGNMENTS), SelfTrain.name)
    """of coral, mmd, dann and selftrain, each with its own defaults; what the route does not take is left out"""

    @property
    def stages(self) -> tuple[Stage, ...]:  # type: ignore[override]
        return (ALIGN, *(SelfTrain().stages[1:] if SelfTrain.name in self.methods else ()))

    def check(self) -> None:
        super().check()
        known = type(self).methods
        fits = len(self.methods) > 0 and {*self.methods} <= {*known}
        check(fits, "methods", self.methods, f"some of {', '.join(known)}")

    def check_fits(self, route: Route, sides: Sides) -> None:
        super().check_fits(route, sides)
        fits = not route.is_solved or {*self.methods} & {Coral.name, SelfTrain.name}
        check(bool(fits), "methods", self.methods, "coral or selftrain where the last layer is solved")

    def candidates(self, stage: Stage, route: Route) -> Sequence[Transfer | None]:
        if stage != ALIGN:
            return [None, SelfTrain()]
        kinds = (Coral,) if route.is_solved else ALIGNMENTS
        aligned = [
            kind(trade_offs=(value,)) for kind in kinds if kind.name in self.methods for value in kind.trade_offs
        ]
        return [Method(one) for one in (Coral(trade_offs=(0.0,)), *aligned)]
