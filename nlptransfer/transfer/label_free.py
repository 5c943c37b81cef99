"""What strategies without target labels have in common, and the one that weighs source rows."""

from dataclasses import dataclass
from typing import ClassVar

from nlptransfer.routes import Route
from nlptransfer.transfer.base import FROM_SOURCE, FromSource, Sides, Stage
from nlptransfer.transfer.model_selection import ChooseBy


@dataclass(frozen=True)
class LabelFree(FromSource):
    """Settings of all strategies that learn from the source's labels and the target's texts, without their labels."""

    takes_unlabeled: ClassVar[bool] = True
    needs_unlabeled: ClassVar[bool] = True

    @property
    def label_free(self) -> bool:
        return True

    def check_fits(self, route: Route, sides: Sides) -> None:
        super().check_fits(route, sides)
        self.require_rows(sides, "give its training data")


@dataclass(frozen=True)
class Chosen(LabelFree):
    """Settings of the strategies whose candidates, not adapting at all among them, are compared by :func:`choose`."""

    is_chosen: ClassVar[bool] = True

    choose_by: ChooseBy = "information"
    """information, importance_weighted, deep_embedded, entropy or margin: see :func:`choose`"""
    allow_label_shift: bool = False
    """whether the model is adapted too where the labels' proportions seem to be others in the target"""


@dataclass(frozen=True)
class Reweight(LabelFree):
    """min sum w_i Ls_i: each source row counts as much as it looks like the target (importance weighting).

    w is the ratio of the densities of the texts (Shimodaira 2000, "Improving predictive inference under covariate
    shift", equation 7); see :func:`importance_weights`. Under the other strategies ``target_like`` does the same.
    """

    name: ClassVar[str] = "reweight"
    stages: ClassVar[tuple[Stage, ...]] = (FROM_SOURCE,)

    target_like: bool = True
