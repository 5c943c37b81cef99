"""The method of adaptation too is chosen without a label of the target."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import ClassVar

from nlptransfer.routes import Route
from nlptransfer.settings import check
from nlptransfer.transfer.alignment import ALIGN, Alignment, Coral, Dann, Mmd
from nlptransfer.transfer.base import Chosen, Sides, Stage, Variant
from nlptransfer.transfer.self_training import SelfTrain

ALIGNMENTS: tuple[type[Alignment], ...] = (Coral, Mmd, Dann)


@dataclass(frozen=True)
class Adapt(Chosen):
    """An alignment and its lambda, or none, then self-training: each step is one of :func:`choose`."""

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

    def candidates(self, stage: Stage, route: Route) -> Sequence[Variant]:
        if stage != ALIGN:
            return SelfTrain().candidates(stage, route)
        source_alone = Coral().candidates(stage, route)[0]
        variants = [replace(source_alone, settings={"method": "none", **source_alone.settings})]
        for kind in (Coral,) if route.fits_head else ALIGNMENTS:
            if kind.name in self.methods:
                _, *aligned = kind().candidates(stage, route)
                variants += [replace(one, settings={"method": kind.name, **one.settings}) for one in aligned]
        return variants
