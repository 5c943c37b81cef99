"""Between domains: what strategies without target labels close of the gap between the source alone and an oracle."""

import logging
import os
import threading
import time
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import Executor, ProcessPoolExecutor, as_completed
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from functools import partial
from multiprocessing import get_context
from pathlib import Path
from typing import Any, cast

import numpy as np
import torch
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn
from threadpoolctl import threadpool_limits

from nlptransfer import distributed
from nlptransfer.data import load_data, load_texts
from nlptransfer.errors import DataError
from nlptransfer.evaluation import percentile_interval, resampled_scores, seed_shares
from nlptransfer.experiments.finetuning import finetune
from nlptransfer.files import write_json
from nlptransfer.memo import shared_work
from nlptransfer.results import GAP, RunResult
from nlptransfer.routes import FROZEN_ROUTE, Route
from nlptransfer.settings import check

log = logging.getLogger("nlptransfer")

SOURCE_ONLY, ORACLE = "source only", "oracle"
RESAMPLES = 2000
ORPHAN_SECONDS = 1.0
"""How often a worker looks whether the process that it works for is still there."""
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
    share: float | None
    """of the gap between the source alone and the oracle, that is closed; None without an oracle"""
    share_interval: tuple[float, float] | None
    adapted: int
    """pairs in which the choice without labels fell on adapting, in the first seed"""
    pairs: dict[str, float]
    """accuracy of each pair, "source > target", mean over seeds"""


@contextmanager
def side_by_side(jobs: int) -> Iterator[Executor | None]:
    """Worker processes of one thread each, for :func:`close_the_gap`; None for one job, which needs none.

    They are started anew, not forked: a script that opens them keeps its work under ``if __name__ == "__main__"``.
    """
    check(jobs >= 1, "jobs", jobs, "a whole number from 1")
    if jobs == 1:
        yield None
        return
    with ProcessPoolExecutor(jobs, get_context("spawn"), _begin_work, (os.getpid(),)) as workers:
        try:
            yield workers
        except BaseException:
            workers.shutdown(wait=False, cancel_futures=True)
            raise


def close_the_gap(
    domains: Sequence[str | Path],
    *,
    pairs: Sequence[Pair] | None = None,
    transfers: Mapping[str, Mapping[str, Any]],
    route: str | Route = FROZEN_ROUTE,
    unlabeled: str | None = None,
    seeds: int = 3,
    oracle: bool = True,
    output_dir: str | Path,
    workers: Executor | None = None,
    progress: bool = True,
    **settings: Any,
) -> list[Closed]:
    """Each strategy from source to target, beside the source alone and an oracle that has learned the target's labels.

    The strategies see the source's rows, and of the target texts without labels: those of its training rows, or those
    of a file in its folder. All are judged on the target's test rows, which nothing has chosen on.

    Args:
        domains: folders of labeled rows with the same labels.
        pairs: names of source and target; None: each domain to each other.
        transfers: settings of :func:`finetune` by what the table calls them; at least ``transfer``.
        unlabeled: name of a file in the target's folder, whose texts are taken in place of the training rows'.
        seeds: of all runs; one where the last layer is fitted by L-BFGS, which no seed moves.
        oracle: whether there is one; without it nobody knows how wide the gap is.
        output_dir: of the runs, and of gap.json. The same call goes on with what was cut off. No models are kept.
        workers: processes that make the runs, as :func:`side_by_side` opens them; None: this one, one after the other.
        progress: whether a bar is shown.
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
    for name in {name for pair in asked for name in pair} - {*folders}:
        raise DataError(f"pairs: expected names out of {', '.join(folders)}, found {name}")
    call = {"route": route, "save_epochs": False, **settings, "progress": False}
    study = _Study(folders, unlabeled, call, Path(output_dir))
    ways = {SOURCE_ONLY: {"transfer": "copy"}, **transfers}
    plans = {(name, pair): study.plan(name, pair, own) for pair in asked for name, own in ways.items()}
    if oracle:
        plans |= {(ORACLE, pair): study.oracle(pair[1]) for pair in asked}
    called = " ".join([route if isinstance(route, str) else route.name, str(settings.get("head_type", ""))]).strip()
    runs = _all_runs(plans, seeds, workers, called, progress)
    rights = {name: [_right(runs[name, pair]) for pair in asked] for name in [*ways, *([ORACLE] if oracle else [])]}
    plain, best = rights[SOURCE_ONLY], rights.get(ORACLE)
    targets, names = [target for _, target in asked], [f"{source} > {target}" for source, target in asked]
    found = []
    for name, own in rights.items():
        gain, share, interval, share_interval = _interval(own, plain, best, targets)
        scores = [float(one.mean()) for one in own]
        adapted = sum(name in transfers and _has_adapted(runs[name, pair][0]) for pair in asked)
        means = dict(zip(names, scores, strict=True))
        found.append(Closed(name, float(np.mean(scores)), gain, interval, share, share_interval, adapted, means))
    if distributed.is_main():
        write_json(Path(output_dir) / GAP, [asdict(one) for one in found])
    return found


@dataclass(frozen=True)
class _Plan:
    """What is done, over seeds."""

    folder: str
    """of the runs, without the seed"""
    data: Path
    unlabeled: str | None
    """file in the folder of the data, whose texts are taken in place of its training rows"""
    call: Mapping[str, Any]
    """what else finetune() is given"""

    def run(self, seed: int) -> RunResult:
        """Make the run of a seed, or find it."""
        data: Any = self.data if self.unlabeled is None else _with_texts_of(self.data, self.unlabeled)
        own = {**self.call, "seed": seed}
        folder = f"{self.folder}-{seed}"
        made = finetune(data, output_dir=folder, report=False, verdict=False, save_model=False, **own)
        return made.without_model()

    def runs(self, seeds: int) -> list[RunResult]:
        """The runs by seed; where the last layer is fitted by L-BFGS the first one stands for all."""
        first = self.run(0)
        return [first, *(self.run(seed) if _was_trained(first) else first for seed in range(1, seeds))]


@dataclass(frozen=True)
class _Study:
    """How each run is called, and where it goes."""

    folders: Mapping[str, Path]
    unlabeled: str | None
    call: Mapping[str, Any]
    folder: Path

    def plan(self, name: str, pair: Pair, own: Mapping[str, Any]) -> _Plan:
        source, target = pair
        place = self.folder / f"{source}-{target}-{name.replace(' ', '-')}"
        texts = self.unlabeled if own.get("transfer", "copy") != "copy" else None
        return _Plan(str(place), self.folders[target], texts, {**self.call, "source": self.folders[source], **own})

    def oracle(self, target: str) -> _Plan:
        return _Plan(str(self.folder / f"{target}-oracle"), self.folders[target], None, self.call)


def _all_runs(
    plans: Mapping[tuple[str, Pair], _Plan], seeds: int, workers: Executor | None, name: str, progress: bool
) -> dict[tuple[str, Pair], list[RunResult]]:
    """The runs of all plans, by seed."""
    # What a pair's runs have in common is made once. Pairs with the same target share its oracle.
    groups: dict[Any, dict[str, _Plan]] = {}
    for (way, pair), plan in plans.items():
        groups.setdefault((ORACLE, pair[1]) if way == ORACLE else pair, {})[plan.folder] = plan
    found: dict[str, list[RunResult]] = {}
    with _bar(progress) as bar:
        task = bar.add_task(name, total=len(groups))
        for runs in _each([list(group.values()) for group in groups.values()], seeds, workers):
            found |= runs
            for folder, own in runs.items():
                log.info("%s: %s", Path(folder).name, ", ".join(f"{run.metrics['accuracy']:.4f}" for run in own))
            bar.advance(task)
    return {key: found[plan.folder] for key, plan in plans.items()}


def _was_trained(run: RunResult) -> bool:
    """Return whether the loop trained any stage, so that seeds matter."""
    return any(fit.history is not None for fit in (run.training, *run.stages.values()))


def _each(
    groups: Sequence[Sequence[_Plan]], seeds: int, workers: Executor | None
) -> Iterator[dict[str, list[RunResult]]]:
    """The runs of each group, as they are done."""
    if workers is None:
        yield from (_together(group, seeds) for group in groups)
        return
    waiting = [workers.submit(_together, group, seeds) for group in groups]
    yield from (done.result() for done in as_completed(waiting))


def _together(plans: Sequence[_Plan], seeds: int) -> dict[str, list[RunResult]]:
    """The runs of some plans, by their folder."""
    with shared_work():
        return {plan.folder: plan.runs(seeds) for plan in plans}


def _begin_work(boss: int) -> None:
    """Make this process a worker: of one thread, that says nothing of its own and ends with the one it works for."""
    torch.set_num_threads(1)
    threadpool_limits(1)
    log.setLevel(logging.ERROR)

    def watch() -> None:
        # Two of a kind would write into one folder, where the same call is made again.
        while os.getppid() == boss:
            time.sleep(ORPHAN_SECONDS)
        os._exit(1)

    threading.Thread(target=watch, daemon=True).start()


def _bar(shown: bool) -> Progress:
    return Progress(
        TextColumn("{task.description}"),
        BarColumn(bar_width=12),
        MofNCompleteColumn(),
        TextColumn("done"),
        TimeRemainingColumn(),
        console=Console(stderr=True),
        disable=not (shown and distributed.is_main()),
    )


def _has_adapted(run: RunResult) -> bool:
    """Return whether the choice without labels fell on adapting."""
    chosen = [fit.chosen for fit in run.stages.values() if fit.chosen is not None]
    return any(one.get("trade_off", one.get("adapted", 1)) for one in chosen)


def _with_texts_of(folder: Path, name: str) -> dict[str, Any]:
    """The test rows of a folder, and in place of its training rows the texts of a file in it."""
    from datasets import Dataset

    data = load_data(folder)
    texts = Dataset.from_dict({"text": load_texts(folder / name)})
    return {"train": texts, "test": (data.test.texts, data.labels.decode(data.test.targets))}


def _right(runs: Sequence[RunResult]) -> np.ndarray:
    """Return (seeds, test rows) whether each row is right."""
    return np.array([run.predictions["test"].right for run in runs])


def _interval(
    own: Sequence[np.ndarray],
    plain: Sequence[np.ndarray],
    best: Sequence[np.ndarray] | None,
    targets: Sequence[str],
) -> tuple[float, float | None, tuple[float, float], tuple[float, float] | None]:
    """The mean gain, the share of the gap, and their 95% intervals by a bootstrap over seeds and test rows.

    The rows of a target are drawn once for all pairs that end there, as they share them.
    """
    rng, others = np.random.default_rng(0), [own, *([best] if best is not None else [])]
    totals = np.zeros((len(others), RESAMPLES))
    for target in sorted({*targets}):
        places = [place for place, name in enumerate(targets) if name == target]
        # (others, seeds, rows), summed over the pairs.
        apart = np.array([sum(side[place].astype(float) - plain[place] for place in places) for side in others])
        _, seeds, rows = apart.shape
        drawn = resampled_scores(rng, np.ones(rows), partial(_weighted, apart / rows), RESAMPLES)
        totals += np.einsum("is,osi->oi", seed_shares(rng, seeds, RESAMPLES), drawn) / len(targets)
    gains, *gaps = totals
    gain, interval = _mean_apart(own, plain), percentile_interval(gains)
    if best is None:
        return gain, None, interval, None
    gap = _mean_apart(best, plain)
    shares = np.divide(gains, gaps[0], out=np.zeros(RESAMPLES), where=np.abs(gaps[0]) > 1e-9)
    return gain, gain / gap if gap else 0.0, interval, percentile_interval(shares)


def _weighted(rows: np.ndarray, counts: np.ndarray) -> np.ndarray:
    """Sum rows (..., rows) by how often each was drawn, (draws, rows), to (..., draws)."""
    return cast(np.ndarray, rows @ counts.T)


def _mean_apart(one: Sequence[np.ndarray], other: Sequence[np.ndarray]) -> float:
    return float(np.mean([a.mean() - b.mean() for a, b in zip(one, other, strict=True)]))
