"""Strategies of one stage: the target alone, or the source alone."""

from dataclasses import dataclass
from typing import ClassVar

from nlptransfer.routes import Route
from nlptransfer.transfer.base import FROM_SOURCE, ON_TARGET, FromSource, LabelFree, Sides, Stage, Transfer


@dataclass(frozen=True)
class Direct(Transfer):
    """No source: min Lt. All other strategies are compared with it."""

    name: ClassVar[str] = "direct"
    stages: ClassVar[tuple[Stage, ...]] = (ON_TARGET,)


@dataclass(frozen=True)
class Copy(FromSource):
    """theta_t = theta_s: min Ls, scored on the target, of which no row is learned from."""

    name: ClassVar[str] = "copy"
    stages: ClassVar[tuple[Stage, ...]] = (FROM_SOURCE,)

    def check_fits(self, route: Route, sides: Sides) -> None:
        super().check_fits(route, sides)
        self.require_same_labels(sides)


@dataclass(frozen=True)
class Reweight(LabelFree):
    """min sum w_i Ls_i: each source row counts as much as it looks like the target (importance weighting).

    w is the ratio of the densities of the texts (Shimodaira 2000, "Improving predictive inference under covariate
    shift", equation 7); see :func:`importance_weights`.
    """

    name: ClassVar[str] = "reweight"
    stages: ClassVar[tuple[Stage, ...]] = (FROM_SOURCE,)

    target_like: bool = True
