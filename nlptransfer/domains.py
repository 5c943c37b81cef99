"""Between domains: what strategies without target labels close of the gap between the source alone and an oracle."""

import logging
import shutil
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np

from nlptransfer import processes
from nlptransfer.data import load_data
from nlptransfer.errors import DataError
from nlptransfer.experiment import Experiment, finetune
from nlptransfer.files import write_json
from nlptransfer.labels import Labels
from nlptransfer.route import Route
from nlptransfer.run import predictions_on_test
from nlptransfer.settings import check
from nlptransfer.unlabelled import load_texts

log = logging.getLogger("nlptransfer")

SOURCE_ONLY, ORACLE = "source only", "oracle"
RESAMPLES = 2000

Pair = tuple[str, str]


@dataclass(frozen=True)
class Closed:
    """What one strategy gains over the source alone, over all pairs of domains."""

    transfer: str
    accuracy: float
    """mean over pairs and seeds"""
    gain: float
    """over the source alone"""
    interval: tuple[float, float]
    """95% interval of the gain, over test rows and seeds"""
    share: float
    """of the gap between the source alone and the oracle, that is closed"""
    share_interval: tuple[float, float]
    adapted: int
    """pairs in which the choice without labels fell on adapting, in the first seed"""
    pairs: dict[str, float]
    """accuracy of each pair, "source > target", mean over seeds"""


def close_the_gap(
    domains: Sequence[str | Path],
    *,
    pairs: Sequence[Pair] | None = None,
    transfers: Mapping[str, Mapping[str, Any]],
    route: str | Route = "probe",
    unlabelled: str | None = None,
    seeds: int = 3,
    output_dir: str | Path,
    **settings: Any,
) -> list[Closed]:
    """Each strategy from source to target, beside the source alone and an oracle that has learnt the target's labels.

    The strategies see the source's rows, and of the target texts without labels: those of its training rows, or those
    of a file in its folder. All are judged on the target's test rows, which nothing has chosen on.

    Args:
        domains: folders of labelled rows with the same labels.
        pairs: names of source and target; None: each domain to each other.
        transfers: settings of :func:`finetune` by what the table calls them; at least ``transfer``.
        unlabelled: name of a file in the target's folder, whose texts are taken in place of the training rows'.
        seeds: of all runs; one where the last layer is solved, which no seed moves.
        output_dir: of the runs, and of gap.json. Of the runs no models are kept.
        **settings: of all runs.

    Raises:
        DataError: fewer than two domains.
        SettingError, and others: as :func:`finetune`.
    """
    folders = {Path(domain).name: Path(domain) for domain in domains}
    if len(folders) < 2:
        raise DataError(f"expected two domains or more, found {', '.join(folders) or 'none'}: give a folder for each")
    check(seeds >= 1, "seeds", seeds, "a whole number from 1")
    asked = list(pairs) if pairs is not None else [(a, b) for a in folders for b in folders if a != b]
    study = _Study(folders, route, unlabelled, seeds, Path(output_dir), settings)
    rights = {name: [study.rights(name, pair, own) for pair in asked] for name, own in transfers.items()}
    plain = [study.rights(SOURCE_ONLY, pair, {"transfer": "copy"}) for pair in asked]
    best = [study.oracle(target) for _, target in asked]
    targets = [target for _, target in asked]
    names = [f"{source} > {target}" for source, target in asked]
    found = []
    for name, own in {SOURCE_ONLY: plain, **rights, ORACLE: best}.items():
        gain, share, interval, share_interval = _interval(own, plain, best, targets)
        scores = [float(one.mean()) for one in own]
        adapted = sum(study.adapted.get((name, pair), False) for pair in asked)
        means = dict(zip(names, scores, strict=True))
        found.append(Closed(name, float(np.mean(scores)), gain, interval, share, share_interval, adapted, means))
    if processes.is_main():
        write_json(Path(output_dir) / "gap.json", [asdict(one) for one in found])
    return found


class _Study:
    """The runs, each made once."""

    def __init__(
        self,
        folders: Mapping[str, Path],
        route: str | Route,
        unlabelled: str | None,
        seeds: int,
        folder: Path,
        settings: Mapping[str, Any],
    ) -> None:
        self.folders, self.route, self.unlabelled = folders, route, unlabelled
        self.seeds, self.folder, self.settings = seeds, folder, settings
        self.adapted: dict[tuple[str, Pair], bool] = {}
        self.oracles: dict[str, np.ndarray] = {}

    def rights(self, name: str, pair: Pair, own: Mapping[str, Any]) -> np.ndarray:
        """(seeds, test rows) whether each row was right."""
        source, target = pair
        given = {"source": self.folders[source], **own}
        runs = self._runs(f"{source}-{target}-{name.replace(' ', '-')}", target, given)
        stages = runs[0].record["transfer"]["stages"].values()
        chosen = [stage["chosen"] for stage in stages if "chosen" in stage]
        self.adapted[name, pair] = any(one.get("strength", one.get("adapted", 1)) for one in chosen)
        return _right(runs)

    def oracle(self, target: str) -> np.ndarray:
        if target not in self.oracles:
            self.oracles[target] = _right(self._runs(f"{target}-oracle", target, {}))
        return self.oracles[target]

    def _runs(self, name: str, target: str, given: Mapping[str, Any]) -> list[Experiment]:
        data: Any = self.folders[target]
        if self.unlabelled is not None and given.get("transfer", "copy") != "copy":
            data = _with_texts_of(data, self.unlabelled)
        runs: list[Experiment] = []
        for seed in range(self.seeds):
            folder = self.folder / f"{name}-{seed}"
            call = {"route": self.route, "progress": False, **self.settings, **given, "seed": seed}
            runs.append(finetune(data, output_dir=folder, report=False, verdict=False, **call))
            if processes.is_main():
                shutil.rmtree(folder / "model", ignore_errors=True)
            processes.wait()
            log.info("%s, seed %d: %.4f", name, seed, runs[-1].metrics["accuracy"])
            if runs[0].record["training"].get("solved"):
                # No seed moves what is solved on the same rows.
                return runs * self.seeds
        return runs


def _with_texts_of(folder: Path, name: str) -> dict[str, Any]:
    """The test rows of a folder, and in place of its training rows the texts of a file in it."""
    from datasets import Dataset

    data = load_data(folder)
    texts = Dataset.from_dict({"text": load_texts(folder / name)})
    return {"train": texts, "test": (data.test.texts, data.labels.decode(data.test.targets))}


def _right(runs: Sequence[Experiment]) -> np.ndarray:
    rows = []
    for run in runs:
        labels = Labels(tuple(run.record["data"]["labels"]), False)
        found, truth = (predictions_on_test(run.folder, labels, column) for column in ("predicted", "true"))
        rows.append(found == truth)
    return np.array(rows)


def _interval(
    own: Sequence[np.ndarray], plain: Sequence[np.ndarray], best: Sequence[np.ndarray], targets: Sequence[str]
) -> tuple[float, float, tuple[float, float], tuple[float, float]]:
    """The mean gain, the share of the gap, and their 95% intervals by a bootstrap over seeds and test rows.

    The rows of a target are drawn once for all pairs that end there, as they share them.
    """
    draw = np.random.default_rng(0)
    gains, gaps = np.zeros(RESAMPLES), np.zeros(RESAMPLES)
    for target in sorted({*targets}):
        places = [place for place, name in enumerate(targets) if name == target]
        seeds, rows = plain[places[0]].shape
        counts = draw.multinomial(rows, np.full(rows, 1 / rows), size=RESAMPLES) / rows
        drawn = draw.multinomial(seeds, np.full(seeds, 1 / seeds), size=RESAMPLES) / seeds
        for place in places:
            gain = own[place].astype(float) - plain[place]
            gap = best[place].astype(float) - plain[place]
            gains += np.einsum("is,sr,ir->i", drawn, gain, counts) / len(targets)
            gaps += np.einsum("is,sr,ir->i", drawn, gap, counts) / len(targets)
    gain = float(np.mean([a.mean() - b.mean() for a, b in zip(own, plain, strict=True)]))
    gap = float(np.mean([a.mean() - b.mean() for a, b in zip(best, plain, strict=True)]))
    shares = np.divide(gains, gaps, out=np.zeros(RESAMPLES), where=np.abs(gaps) > 1e-9)
    low, high = np.quantile(gains, [0.025, 0.975]).tolist()
    share_low, share_high = np.quantile(shares, [0.025, 0.975]).tolist()
    return gain, gain / gap if gap else 0.0, (low, high), (share_low, share_high)
