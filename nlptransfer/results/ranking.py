"""What a ranking found before any training: encoders, how many of their layers, and sources. It knows no file names."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from nlptransfer.evaluation import metric_name
from nlptransfer.results import records
from nlptransfer.results.figures import Point, score_against_cost
from nlptransfer.results.summaries import DataSummary
from nlptransfer.results.tables import INTERVAL, OF_CHANGE, Table, Tables, flat

_ENCODERS = {
    "encoder": ["{base}"],
    ">layers": ["{layers}"],
    ">{metric} (95%)": ["{score:.3f}", INTERVAL],
    ">loss": ["{loss:.3f}"],
    ">above the least loss (95%)": ["{behind:+.3f} [{behind_low:+.3f}, {behind_high:+.3f}]"],
    ">LogME": ["{logme:.3f}"],
    ">H-score": ["{h_score:.3f}"],
    ">texts/s": ["{texts_per_second:,.0f}"],
    ">size (MB)": ["{size_mb:,.0f}"],
}
_SOURCES = {
    "source": ["{source}"],
    ">rows": ["{rows:,}"],
    ">gain in {metric} (95%)": ["{gain:+.3f}", OF_CHANGE],
    ">distance of domains, 0 to 2": ["{distance:.2f}"],
}


@dataclass(frozen=True)
class EncoderRank:
    """How well an encoder's frozen features tell the labels apart, and what it costs."""

    base: str
    """as it was named"""
    keep_layers: int | None
    """layers that are kept, the first ones; None: all"""
    layers: int
    """as many as are used"""
    score: float
    """of a linear head on all layers side by side, cross-validated on training rows"""
    interval: tuple[float, float]
    """95%, over rows"""
    loss: float
    """cross-entropy on the same rows, in nats; with several labels a row the mean over them"""
    behind: float
    """this one's loss less the least"""
    behind_interval: tuple[float, float]
    """95%, paired by rows"""
    logme: float
    """of the mean over layers"""
    h_score: float
    texts_per_second: float
    """32 at a time; of some layers that share of the time of all"""
    size_mb: float
    """of the weights in float32"""
    unknown_share: float
    """of the pieces of the texts that its tokenizer does not know"""

    @property
    def name(self) -> str:
        return f"{self.layers} layers of {self.base}" if self.keep_layers else self.base


@dataclass(frozen=True)
class SourceRank:
    """What a source is expected to give."""

    source: str
    rows: int
    """of the source that were looked at"""
    gain: float
    """in score on the target's rows, cross-validated, by a head that is pulled to that of the source"""
    interval: tuple[float, float]
    """95%, paired by rows"""
    distance: float
    """between the domains, from 0 (alike) to 2: the proxy A-distance"""
    same_labels: bool
    """whether it has the target's labels; else its labels' logits stand beside the features"""


def fastest_level(encoders: Sequence[EncoderRank]) -> EncoderRank:
    """Return the fastest encoder whose paired interval does not leave its loss above the least."""
    return max((one for one in encoders if one.behind_interval[0] <= 0), key=lambda one: one.texts_per_second)


@dataclass(frozen=True, eq=False, repr=False)
class Ranking(Tables):
    """Encoders in the order of their losses, and sources in that of their gains: the tables encoders and sources."""

    folder: Path
    data: DataSummary
    settings: Mapping[str, Any]
    metric: str
    rows: int
    """training rows that were looked at"""
    encoders: tuple[EncoderRank, ...]
    sources: tuple[SourceRank, ...]
    machine: Mapping[str, Any]
    versions: Mapping[str, str]
    repeat: str = ""
    """the command that asks for it; empty where data were passed that are no file"""

    @property
    def chosen(self) -> EncoderRank:
        """The fastest encoder whose loss is level with the least."""
        return fastest_level(self.encoders)

    @property
    def chosen_source(self) -> SourceRank | None:
        """The source of the highest gain; None where none was looked at, or none gains anything."""
        best = max(self.sources, key=lambda one: one.gain, default=None)
        return best if best is not None and best.gain > 0 else None

    @property
    def sentence(self) -> str:
        """Name the choice, with the figures."""
        best, chosen = self.encoders[0], self.chosen
        score = f"{self.metric} {chosen.score:.3f} [{chosen.interval[0]:.3f}, {chosen.interval[1]:.3f}]"
        if chosen is best:
            said = f"Take {chosen.name}: it has the least loss, no faster one is level with it, and {score}"
        else:
            low, high = chosen.behind_interval
            said = (
                f"Take {chosen.name}, the fastest whose loss is level with the least: {score}; loss "
                f"{chosen.behind:+.3f} [{low:+.3f}, {high:+.3f}] beside {best.name}, at "
                f"{chosen.texts_per_second:,.0f} texts/s in place of {best.texts_per_second:,.0f}"
            )
        if not self.sources:
            return f"{said}."
        source = self.chosen_source
        if source is None:
            return f"{said}. No source gains anything."
        low, high = source.interval
        return f"{said}. Of the sources {source.source} gains most, {source.gain:+.3f} [{low:+.3f}, {high:+.3f}]."

    @property
    def tables(self) -> dict[str, Table]:
        metric = metric_name(self.metric)
        names = [f"{one.layers} of {one.base.rpartition('/')[2]}" for one in self.encoders]
        points = [Point(1000 / one.texts_per_second, one.score, one.interval) for one in self.encoders]
        chosen = self.encoders.index(self.chosen)
        cost = score_against_cost(
            dict(zip(names, points, strict=True)), names[chosen], metric, "seconds for 1,000 texts"
        )
        return {
            "encoders": Table([*map(flat, self.encoders)], _ENCODERS, metric, chosen, cost),
            "sources": Table([*map(flat, self.sources)], _SOURCES, metric),
        }

    @classmethod
    def load(cls, folder: str | Path) -> "Ranking":
        """Read a ranking from its folder; a RunFolderError where there is none."""
        return records.read_ranking(cls, Path(folder))

    def save(self) -> None:
        """Write ranking.json, encoders.csv, and sources.csv where there are any."""
        records.write_ranking(self)
