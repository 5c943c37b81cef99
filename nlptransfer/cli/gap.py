"""The verb gap: each domain to each other, no label of the target looked at; what is closed of the gap?"""

import logging
import os
from collections.abc import Callable
from inspect import signature
from pathlib import Path
from typing import Annotated, Any

import typer

from nlptransfer.cli.options import Base, Set
from nlptransfer.cli.terminal import show_closed, start_log
from nlptransfer.routes import DEFAULT_ROUTE, FROZEN_ROUTE
from nlptransfer.settings import pairs

CLOSED_FORM, LEARNED = ("coral", "selftrain"), ("coral", "mmd", "dann", "selftrain")
EVERY = {
    (FROZEN_ROUTE, "linear"): (*CLOSED_FORM, "adapt"),
    (FROZEN_ROUTE, "mlp"): LEARNED,
    (DEFAULT_ROUTE, "mlp"): CLOSED_FORM,
}
"""Strategies by route and head: all that --all compares."""
STEPPED = {"per_device_train_batch_size": 128, "num_train_epochs": 10}
"""Of an mlp: as good on validation rows after the last epoch, as far as they tell, as what it would take by itself (a
quarter of the rows of a step, twice the epochs), in a quarter of the time. The best of twice as many epochs scores a
point more, on the rows that pick it."""
MOST_JOBS = 8
"""Each job holds an encoder in memory."""


def gap_verb(default: Any = ...) -> Callable[..., None]:
    """The verb, over these domains where the command line names none."""

    def gap(
        domains: Annotated[list[str], typer.Argument(metavar="DOMAINS", help="folders of labeled rows")] = default,
        route: Annotated[
            list[str] | None,
            typer.Option(help=f"one whose features are computed once, as {DEFAULT_ROUTE} [default: {FROZEN_ROUTE}]"),
        ] = None,
        base: Base = None,
        vectors: Annotated[
            str | None, typer.Option(help=f"word vectors for {DEFAULT_ROUTE}; distilled from the encoder if none")
        ] = None,
        every: Annotated[
            bool,
            typer.Option(
                "--all",
                help=f"{FROZEN_ROUTE} fitted and by an mlp (mmd and dann too), {DEFAULT_ROUTE} by an mlp",
            ),
        ] = False,
        unlabeled: Annotated[
            str | None,
            typer.Option(metavar="NAME", help="file in each folder, in place of training texts"),
        ] = None,
        seeds: Annotated[int, typer.Option(help="of what is trained; what is fitted has none")] = 3,
        jobs: Annotated[int | None, typer.Option(help="runs side by side; by default one a core, at most 8")] = None,
        output_dir: Annotated[Path, typer.Option(help="of the runs")] = Path("runs/gap"),
        settings: Set = None,
    ) -> None:
        """What strategies that see no label of the target close of the gap to one that has learned them."""
        from nlptransfer import distributed
        from nlptransfer.experiments import close_the_gap, side_by_side

        start_log()
        # What the many runs have to say would bury the table.
        logging.getLogger("nlptransfer").setLevel(logging.ERROR)
        own = {*signature(close_the_gap).parameters, "transfer", "head_type", "base"}
        given: dict[str, Any] = pairs(settings, own)
        asked = route or ([FROZEN_ROUTE, DEFAULT_ROUTE] if every else [FROZEN_ROUTE])
        heads = [way for way in EVERY if way[0] in asked] if every else [(name, "linear") for name in asked]
        found = {}
        with side_by_side(jobs or _jobs()) as workers:
            for name, head in heads:
                stepped = STEPPED if head == "mlp" else {}
                own_base = (vectors if name == DEFAULT_ROUTE else None) or base
                found[f"{name} {head}"] = close_the_gap(
                    domains,
                    transfers={transfer: {"transfer": transfer} for transfer in EVERY.get((name, head), CLOSED_FORM)},
                    route=name,
                    unlabeled=unlabeled,
                    seeds=seeds,
                    output_dir=output_dir / f"{name}-{head}",
                    workers=workers,
                    **{**stepped, **given, "head_type": head, **({"base": own_base} if own_base else {})},
                )
        if distributed.is_main():
            show_closed(found)

    return gap


def _jobs() -> int:
    """One for each core; on an accelerator, or where a launcher has started several processes, one."""
    from nlptransfer import distributed

    alone = distributed.world_size() == 1 and distributed.state().device.type == "cpu"
    return min(os.cpu_count() or 1, MOST_JOBS) if alone else 1
