"""Between domains: what strategies without target labels close of the gap between the source alone and an oracle."""

import logging
import os
import signal
import threading
import time
from collections.abc import Iterable, Iterator, Mapping, Sequence
from concurrent.futures import Executor, ProcessPoolExecutor, as_completed
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from functools import partial
from multiprocessing import active_children, get_context
from pathlib import Path
from typing import Any, cast

import numpy as np
import torch
from threadpoolctl import threadpool_limits

from nlptransfer import distributed
from nlptransfer.data import DataSettings, load_data, load_texts
from nlptransfer.errors import DataError
from nlptransfer.evaluation import percentile_interval, resampled_scores, seed_shares
from nlptransfer.experiments.finetuning import finetune
from nlptransfer.files import named_path, write_json
from nlptransfer.hub import base_for
from nlptransfer.memo import shared_work
from nlptransfer.progress import progress_bar, with_progress
from nlptransfer.results import GAP, RunResult, at_work
from nlptransfer.routes import FROZEN_ROUTE, Route
from nlptransfer.settings import Count, check_arguments, fields_of, fill

log = logging.getLogger("nlptransfer")

SOURCE_ONLY, ORACLE = "source only", "oracle"
RESAMPLES = 2000
ORPHAN_SECONDS = 1.0
"""How often a worker looks whether its parent process is still there."""
Pair = tuple[str, str]


@dataclass(frozen=True)
class Closed:
    """What a strategy gains over the source alone, over all pairs of domains."""

    transfer: str
    accuracy: float
    """mean over pairs and seeds"""
    gain: float
    """over the source alone"""
    interval: tuple[float, float]
    """95% interval of the gain, over test rows and seeds"""
    share: float | None
    """of the gap to the oracle that is closed; None without an oracle"""
    share_interval: tuple[float, float] | None
    adapted: int
    """pairs in which adapting was chosen without labels, in the first seed"""
    pairs: dict[str, float]
    """accuracy of each pair, "source > target", mean over seeds"""


@contextmanager
def side_by_side(jobs: Count) -> Iterator[Executor | None]:
    """Open worker processes of one thread each, for :func:`close_the_gap`; None for one job.

    They are spawned: a script that opens them keeps its work under ``if __name__ == "__main__"``.
    """
    check_arguments(side_by_side, jobs=jobs)
    if jobs == 1:
        yield None
        return
    others = {*active_children()}
    with ProcessPoolExecutor(jobs, get_context("spawn"), _begin_work, (os.getpid(),)) as workers:
        with _deaf_to_interrupts():
            workers.submit(os.getpid)  # starts all of them
        try:
            yield workers
        except BaseException:
            workers.shutdown(wait=False, cancel_futures=True)
            for worker in {*active_children()} - others:
                worker.terminate()
            raise


@with_progress
def close_the_gap(
    domains: Sequence[str | Path],
    *,
    pairs: Sequence[Pair] | None = None,
    transfers: Mapping[str, Mapping[str, Any]],
    route: str | Route = FROZEN_ROUTE,
    unlabeled: str | None = None,
    seeds: Count = 3,
    oracle: bool = True,
    output_dir: str | Path,
    workers: Executor | None = None,
    take_lock: bool = False,
    progress: bool = True,
    **settings: Any,
) -> list[Closed]:
    """Compare strategies from source to target with the source alone and an oracle that learned the target's labels.

    The strategies see the source's rows, and texts of the target without labels: those of its training rows, or those
    of a file in its folder. All are scored on the target's test rows, by which nothing was chosen. Fewer than two
    domains are a DataError; the other errors are those of :func:`finetune`.

    Args:
        domains: folders of labeled rows with the same labels.
        pairs: names of source and target; None: each domain to each other.
        transfers: settings of :func:`finetune` by what the table calls them; at least ``transfer``.
        unlabeled: name of a file in the target's folder, whose texts are taken in place of the training rows'.
        seeds: of all runs; one where the last layer is fitted, which no seed moves.
        oracle: whether there is one; without it nobody knows how wide the gap is.
        output_dir: of the runs, and of gap.json. The same call resumes what was interrupted. No models are kept.
        take_lock: as :func:`finetune` has it.
        progress: whether a bar shows how far it is.
        workers: processes that make the runs, as :func:`side_by_side` opens them; None: this one, one after the other.
        **settings: of all runs; ``max_train_rows`` is of the source's rows too.
    """
    folders = {Path(domain).name: Path(domain) for domain in domains}
    if len(folders) < 2:
        raise DataError(f"expected two domains or more, found {', '.join(folders) or 'none'}: give a folder for each")
    check_arguments(close_the_gap, seeds=seeds)
    pairs = list(pairs) if pairs is not None else [(a, b) for a in folders for b in folders if a != b]
    for name in {name for pair in pairs for name in pair} - {*folders}:
        raise DataError(f"pairs: expected names out of {', '.join(folders)}, found {name}")
    # One for all runs: else an oracle might stand on another one than what is compared with it.
    reading = {name: settings[name] for name in fields_of(DataSettings) if name in settings}
    read = partial(load_data, settings=fill({"data": DataSettings}, reading)["data"])
    learned = (read(folder).train.texts for folder in folders.values())
    base = base_for(settings.get("base"), settings.get("revision"), learned)
    settings = {**settings, "base": base, "progress": False}
    call = {"route": route, "save_epochs": False, "take_lock": take_lock, **settings}
    place = named_path(output_dir)
    of_source = {"max_source_rows": settings["max_train_rows"]} if settings.get("max_train_rows") else {}
    variants: dict[str, Mapping[str, Any]] = {SOURCE_ONLY: {"transfer": "copy"}, **transfers}
    plans = {}
    for source, target in pairs:
        for name, options in variants.items():
            folder = place / f"{source}-{target}-{name.replace(' ', '-')}"
            texts = unlabeled if options.get("transfer", "copy") != "copy" else None
            whole = {**call, "source": folders[source], **of_source, **options}
            plans[name, (source, target)] = _Plan(folder, folders[target], texts, whole)
        if oracle:
            plans[ORACLE, (source, target)] = _Plan(place / f"{target}-oracle", folders[target], None, call)
    with at_work(place, take_lock):
        title = " ".join([route if isinstance(route, str) else route.name, str(settings.get("head_type", ""))]).strip()
        runs = _all_runs(plans, seeds, workers, title)
        right = {
            name: [np.array([run.predictions["test"].right for run in runs[name, pair]]) for pair in pairs]
            for name in [*variants, *([ORACLE] if oracle else [])]
        }
        closed = []
        for name, rows in right.items():
            gain, share, interval, share_interval = _interval(
                rows, right[SOURCE_ONLY], right.get(ORACLE), [target for _, target in pairs]
            )
            scores = {" > ".join(pair): float(one.mean()) for pair, one in zip(pairs, rows, strict=True)}
            mean = float(np.mean([*scores.values()]))
            adapted = sum(name in transfers and _has_adapted(runs[name, pair][0]) for pair in pairs)
            closed.append(Closed(name, mean, gain, interval, share, share_interval, adapted, scores))
        if distributed.is_main():
            write_json(place / GAP, [asdict(one) for one in closed])
    return closed


@dataclass(frozen=True)
class _Plan:
    folder: Path
    """of the runs, without the seed"""
    data: Path
    unlabeled: str | None
    """file in the folder of the data, whose texts replace its training rows"""
    call: Mapping[str, Any]

    def run(self, seed: int) -> RunResult:
        data: Any = self.data if self.unlabeled is None else _with_texts_of(self.data, self.unlabeled)
        folder = self.folder.with_name(f"{self.folder.name}-{seed}")
        call = {**self.call, "seed": seed}
        return finetune(data, output_dir=folder, report=False, verdict=False, save_model=False, **call).without_model()

    def runs(self, seeds: int) -> list[RunResult]:
        """Make the runs by seed, or find them; where the loop trained no stage the first one stands for all."""
        first = self.run(0)
        was_trained = any(fit.history is not None for fit in (first.training, *first.stages.values()))
        return [first, *(self.run(seed) if was_trained else first for seed in range(1, seeds))]


def _all_runs(
    plans: Mapping[tuple[str, Pair], _Plan], seeds: int, workers: Executor | None, title: str
) -> dict[tuple[str, Pair], list[RunResult]]:
    # What a pair's runs have in common is made once. Pairs with the same target share its oracle.
    groups: dict[Any, dict[Path, _Plan]] = {}
    for (name, pair), plan in plans.items():
        groups.setdefault((ORACLE, pair[1]) if name == ORACLE else pair, {})[plan.folder] = plan
    made: dict[Path, list[RunResult]] = {}
    done: Iterable[dict[Path, list[RunResult]]]
    if workers is None:
        done = (_together(group, seeds) for group in groups.values())
    else:
        waiting = [workers.submit(_together, group, seeds) for group in groups.values()]
        done = (future.result() for future in as_completed(waiting))
    with progress_bar(title, len(groups), "groups of runs") as bar:
        for runs in done:
            made |= runs
            bar.advance()
            for folder, by_seed in runs.items():
                log.info("%s: %s", folder.name, ", ".join(f"{run.metrics['accuracy']:.4f}" for run in by_seed))
    return {key: made[plan.folder] for key, plan in plans.items()}


def _together(plans: Mapping[Path, _Plan], seeds: int) -> dict[Path, list[RunResult]]:
    with shared_work():
        return {folder: plan.runs(seeds) for folder, plan in plans.items()}


@contextmanager
def _deaf_to_interrupts() -> Iterator[None]:
    """Let processes that are started within a block leave Ctrl-C, which reaches all of a terminal, to this one."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    before = signal.signal(signal.SIGINT, signal.SIG_IGN)
    try:
        yield
    finally:
        signal.signal(signal.SIGINT, before)


def _begin_work(boss: int) -> None:
    """Make this process a silent worker of one thread, which ends with its parent."""
    torch.set_num_threads(1)
    threadpool_limits(1)
    log.setLevel(logging.ERROR)

    def watch() -> None:
        # Two of a kind would write into one folder, where the same call is made again.
        while os.getppid() == boss:
            time.sleep(ORPHAN_SECONDS)
        os._exit(1)

    threading.Thread(target=watch, daemon=True).start()


def _has_adapted(run: RunResult) -> bool:
    chosen = [fit.chosen for fit in run.stages.values() if fit.chosen is not None]
    return any(one.get("trade_off", one.get("adapted", 1)) for one in chosen)


def _with_texts_of(folder: Path, name: str) -> dict[str, Any]:
    """Read the test rows of a folder, and the texts of a file in it as its training rows."""
    from datasets import Dataset

    data = load_data(folder)
    texts = Dataset.from_dict({"text": load_texts(folder / name)})
    return {"train": texts, "test": (data.test.texts, data.labels.decode(data.test.targets))}


def _interval(
    adapted: Sequence[np.ndarray],
    source_only: Sequence[np.ndarray],
    oracle: Sequence[np.ndarray] | None,
    targets: Sequence[str],
) -> tuple[float, float | None, tuple[float, float], tuple[float, float] | None]:
    """Compute mean gain, share of the gap, and their 95% intervals by a bootstrap over seeds and each target's rows."""
    rng, others = np.random.default_rng(0), [adapted, *([oracle] if oracle is not None else [])]
    totals = np.zeros((len(others), RESAMPLES))
    for target in sorted({*targets}):
        places = [place for place, name in enumerate(targets) if name == target]
        # (others, seeds, rows), summed over the pairs.
        apart = np.array([sum(side[place].astype(float) - source_only[place] for place in places) for side in others])
        _, seeds, rows = apart.shape
        drawn = resampled_scores(rng, np.ones(rows), partial(_mean_of_drawn, apart), RESAMPLES)
        totals += np.einsum("is,osi->oi", seed_shares(rng, seeds, RESAMPLES), drawn) / len(targets)
    gains, *gaps = totals
    gain, interval = _mean_apart(adapted, source_only), percentile_interval(gains)
    if oracle is None:
        return gain, None, interval, None
    gap = _mean_apart(oracle, source_only)
    shares = np.divide(gains, gaps[0], out=np.zeros(RESAMPLES), where=np.abs(gaps[0]) > 1e-9)
    return gain, gain / gap if gap else 0.0, interval, percentile_interval(shares)


def _mean_of_drawn(rows: np.ndarray, counts: np.ndarray) -> np.ndarray:
    """Average rows (..., rows) by how often each was drawn, (draws, rows), to (..., draws)."""
    return cast(np.ndarray, rows / rows.shape[-1] @ counts.T)


def _mean_apart(one: Sequence[np.ndarray], other: Sequence[np.ndarray]) -> float:
    return float(np.mean([a.mean() - b.mean() for a, b in zip(one, other, strict=True)]))
