"""Strategies of one stage: the target alone, or the source alone."""

from dataclasses import dataclass
from typing import ClassVar

from nlptransfer.errors import SettingError
from nlptransfer.routes import Route
from nlptransfer.transfer.base import FROM_SOURCE, ON_TARGET, FromSource, Sides, Stage, Transfer, listed


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
