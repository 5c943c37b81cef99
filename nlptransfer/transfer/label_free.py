"""What strategies without target labels have in common."""

from dataclasses import dataclass
from typing import ClassVar

from nlptransfer.errors import SettingError
from nlptransfer.routes import Route
from nlptransfer.transfer.base import FromSource, Sides, Stage
from nlptransfer.transfer.model_selection import ChooseBy


@dataclass(frozen=True)
class LabelFree(FromSource):
    """What the strategies share that see no label of the target.

    They learn from the source's labels and the target's texts.
    """

    takes_unlabeled: ClassVar[bool] = True
    needs_unlabeled: ClassVar[bool] = True

    @property
    def label_free(self) -> bool:
        return True

    def check_fits(self, route: Route, sides: Sides) -> None:
        super().check_fits(route, sides)
        if not sides.has_rows:
            raise SettingError(
                f"transfer={self.name}: expected rows of a source, found a saved classifier: give its training data"
            )


@dataclass(frozen=True)
class Chosen(LabelFree):
    """What the strategies share that are chosen by :func:`choose`, beside not adapting at all."""

    choose_by: ChooseBy = "information"
    """information, importance_weighted, deep_embedded, entropy or margin: see :func:`choose`"""
    allow_label_shift: bool = False
    """whether the model is adapted too where the labels' proportions seem to be others in the target"""

    def judged_without_labels(self, stage: Stage) -> bool:
        return True
