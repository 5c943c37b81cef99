"""The method too is chosen without a label of the target."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

from nlptransfer.routes import Route
from nlptransfer.settings import check
from nlptransfer.training import (
    FittedHead,
    Head,
    HeadTask,
    Objective,
)
from nlptransfer.transfer.alignment import ALIGN, Alignment, Coral, Dann, Mmd
from nlptransfer.transfer.base import Learner, Sides, Stage, Transfer
from nlptransfer.transfer.label_free import Chosen
from nlptransfer.transfer.self_training import SelfTrain

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

    def fit_head(self, stage: Stage, tasks: Mapping[str, HeadTask], source: Head | None) -> FittedHead:
        return self.alignment.fit_head(stage, tasks, source)


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
        fits = not route.fits_head or {*self.methods} & {Coral.name, SelfTrain.name}
        check(bool(fits), "methods", self.methods, "coral or selftrain where the last layer is fitted")

    def candidates(self, stage: Stage, route: Route) -> Sequence[Transfer | None]:
        if stage != ALIGN:
            return [None, SelfTrain()]
        kinds = (Coral,) if route.fits_head else ALIGNMENTS
        aligned = [
            kind(trade_offs=(value,)) for kind in kinds if kind.name in self.methods for value in kind.trade_offs
        ]
        return [Method(one) for one in (Coral(trade_offs=(0.0,)), *aligned)]
