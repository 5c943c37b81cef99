"""What a gain curve found: gains of strategies by labeled rows of the target. It knows no file names."""

from pathlib import Path
from typing import Any

from nlptransfer.evaluation import metric_name
from nlptransfer.results import records
from nlptransfer.results.figures import Point, learning_curve
from nlptransfer.results.tables import OF_CHANGE, Table, Tables, flat

_GAINS = {
    ">labeled rows": ["{size:,}"],
    "transfer": ["{transfer}"],
    ">{metric} without the source": ["{direct:.3f}"],
    ">with it": ["{with_source:.3f}"],
    ">gain (95%)": ["{gain:+.3f}", OF_CHANGE],
    ">seeds": ["{seeds}"],
    "verdict": ["{verdict}"],
}


class GainCurve(Tables, list[dict[str, Any]]):
    """A row for each size and strategy: size, transfer, and what :class:`Gain` has: the table gains."""

    @property
    def tables(self) -> dict[str, Table]:
        metric = metric_name(self[0]["metric"])
        curves: dict[str, list[Point]] = {}
        for row in sorted(self, key=lambda row: row["size"]):
            curves.setdefault(row["transfer"], []).append(Point(row["size"], row["gain"], row["interval"]))
        return {
            "gains": Table(
                [*map(flat, self)], _GAINS, metric, plot=learning_curve(curves, f"gain in {metric}", zero=True)
            )
        }

    @classmethod
    def load(cls, folder: str | Path) -> "GainCurve":
        """Read a gain curve from its folder; a RunFolderError where there is none."""
        return cls(records.read_gains(Path(folder)))
