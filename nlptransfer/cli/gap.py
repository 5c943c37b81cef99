"""The verb gap: what strategies that see no label of the target close of the gap between domains."""

import logging
from collections.abc import Callable
from inspect import signature
from pathlib import Path
from typing import Annotated, Any

from typer import Argument

from nlptransfer.cli import options as opt
from nlptransfer.cli.first_look import rows_first
from nlptransfer.cli.log import start_log
from nlptransfer.cli.terminal import show_closed
from nlptransfer.routes import FROZEN_ROUTE, WORDS_ROUTE

CLOSED_FORM = ("coral", "selftrain")
EVERY = {
    (FROZEN_ROUTE, "linear"): (*CLOSED_FORM, "adapt"),
    (FROZEN_ROUTE, "mlp"): ("coral", "mmd", "dann", "selftrain"),
    (WORDS_ROUTE, "mlp"): CLOSED_FORM,
}
"""Strategies by route and head: all that --all compares."""
TRAINED = {"per_device_train_batch_size": 128, "num_train_epochs": 10}
"""Settings of an mlp: as good on validation rows after the last epoch as its defaults, in a quarter of the time."""
MOST_JOBS = 8
"""Each job holds an encoder in memory."""


def gap_verb(default: Any = ...) -> Callable[..., None]:
    """Make the verb gap, with domains that it takes by default."""

    def gap(
        domains: Annotated[list[str], Argument(metavar="DOMAINS", help="folders of labeled rows")] = default,
        route: Annotated[
            list[str] | None,
            opt.option(opt.TRAINING, f"{FROZEN_ROUTE} or {WORDS_ROUTE}", metavar="NAME", default=FROZEN_ROUTE),
        ] = None,
        base: opt.Base = None,
        vectors: Annotated[
            str | None,
            opt.option(opt.TRAINING, "word vectors", metavar="FILE", default="distilled from the encoder"),
        ] = None,
        every: Annotated[
            bool, opt.option(opt.TRANSFER, f"all strategies, by an mlp and {WORDS_ROUTE} too", "--all")
        ] = False,
        unlabeled: Annotated[
            str | None, opt.option(opt.TRANSFER, "file in each folder in place of train", metavar="NAME")
        ] = None,
        seeds: opt.Seeds = 3,
        jobs: Annotated[
            int | None,
            opt.option(opt.TRAINING, "runs side by side", metavar="N", default="one a core, at most 8"),
        ] = None,
        output_dir: Annotated[Path, opt.option(opt.OUTPUT, "folder of the runs", metavar="DIR")] = Path("runs/gap"),
        take_lock: opt.TakeLock = False,
        settings: opt.Set = None,
    ) -> None:
        """What strategies that see no label of the target close of the gap to one that has learned them."""
        start_log()
        with rows_first(domains, opt.config_of({}, settings, ())):
            from nlptransfer import distributed
            from nlptransfer.experiments import close_the_gap, side_by_side

            # What the many runs have to say would bury the table.
            logging.getLogger("nlptransfer").setLevel(logging.ERROR)
            arguments = {*signature(close_the_gap).parameters, "transfer", "head_type", "base"}
            routes = route or ([FROZEN_ROUTE, WORDS_ROUTE] if every else [FROZEN_ROUTE])
            heads = [each for each in EVERY if each[0] in routes] if every else [(name, "linear") for name in routes]
            closed = {}
            with side_by_side(jobs or _jobs()) as workers:
                for name, head in heads:
                    learned_from = (vectors if name == WORDS_ROUTE else None) or base
                    config = opt.config_of({"head_type": head, "base": learned_from}, settings, arguments)
                    transfers = EVERY.get((name, head), CLOSED_FORM)
                    closed[f"{name} {head}"] = close_the_gap(
                        domains,
                        transfers={transfer: {"transfer": transfer} for transfer in transfers},
                        route=name,
                        unlabeled=unlabeled,
                        seeds=seeds,
                        output_dir=output_dir / f"{name}-{head}",
                        workers=workers,
                        take_lock=take_lock,
                        **{**(TRAINED if head == "mlp" else {}), **config},
                    )
        if distributed.is_main():
            show_closed(closed)

    return gap


def _jobs() -> int:
    """Return one for each core; on an accelerator, or where a launcher has started several processes, one."""
    from nlptransfer import distributed
    from nlptransfer.models import usable_cores

    alone = distributed.world_size() == 1 and distributed.state().device.type == "cpu"
    return min(usable_cores(), MOST_JOBS) if alone else 1
