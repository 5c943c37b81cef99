"""Features of a frozen route, selected by what counts on the source."""

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import ClassVar

import numpy as np

from nlptransfer.routes import ROUTES, Route
from nlptransfer.training import FittedHead, Head, HeadTask
from nlptransfer.transfer.base import FROM_SOURCE, ON_TARGET, FromSource, Sides, Stage

KEPT_SHARES = (1.0, 0.5, 0.25, 0.1, 0.05)
"""Shares of the features that are tried."""


@dataclass(frozen=True)
class SelectFeatures(FromSource):
    """Let the target use only those features of a frozen route that count on the source.

    A standardized feature counts as much as the norm of its weights in the source's last layer, and an n-gram that
    times its root mean square on the target. The share of them that is kept is chosen on the target's validation
    (Guyon et al. 2002, in one elimination).
    """

    name: ClassVar[str] = "select_features"
    stages: ClassVar[tuple[Stage, ...]] = (FROM_SOURCE, ON_TARGET)

    def check_fits(self, route: Route, sides: Sides) -> None:
        super().check_fits(route, sides)
        instead = f"take {ROUTES.where(lambda one: one.fits_head)}, or head_type=linear"
        self.require(route.fits_head, "a route with a fitted last layer on frozen features", route.name, instead)

    def fit_head(self, stage: Stage, tasks: Mapping[str, HeadTask], source: Head | None) -> FittedHead:
        task = tasks[stage.roles[0]]
        if stage is FROM_SOURCE or source is None:
            return task.choose_l2()
        counts, ngrams = np.linalg.norm(source[0], axis=0), task.train.ngrams
        if ngrams is not None:
            counts[task.train.values.shape[1] :] *= np.sqrt(ngrams.multiply(ngrams).mean(axis=0))
        order = np.argsort(-counts, kind="stable")
        by_share: dict[float, FittedHead] = {}
        for share in KEPT_SHARES:
            columns = np.zeros(len(order), dtype=bool)
            columns[order[: max(1, round(share * len(order)))]] = True
            fitted = task.masked(columns).choose_l2()
            # What rounding has left there must not be multiplied by features in prediction.
            by_share[share] = replace(fitted, head=(fitted.head[0] * columns, fitted.head[1]))
        # The first of equals, which has the most features.
        best = max(by_share, key=lambda share: by_share[share].score)
        scores = {f"{share:g}": fitted.score for share, fitted in by_share.items()}
        record = {**by_share[best].record, "kept_features": best, "scores_by_share": scores}
        return replace(by_share[best], record=record)
