"""The verb gap: each domain to each other, no label of the target looked at; what is closed of the gap?"""

import logging
from collections.abc import Callable
from pathlib import Path
from typing import Annotated, Any

import typer

from nlptransfer.settings import pairs
from nlptransfer.terminal import Base, show_closed, start_log

QUICK = {name: {"transfer": name} for name in ("coral", "selftrain")}
"""Strategies that are solved on frozen features."""
STEPPED = {name: {"transfer": name} for name in ("coral", "mmd", "dann", "selftrain")}
"""Strategies through a head with layers of its own."""


def gap_verb(default: Any = ...) -> Callable[..., None]:
    """The verb, over these domains where the command line names none."""

    def gap(
        domains: Annotated[list[str], typer.Argument(metavar="DOMAINS", help="folders of labelled rows")] = default,
        route: Annotated[str, typer.Option(help="probe or word2vec, whose features are computed once")] = "probe",
        base: Base = None,
        every: Annotated[bool, typer.Option("--all", help="mmd and dann too, by an mlp")] = False,
        unlabelled: Annotated[
            str | None,
            typer.Option(metavar="NAME", help="file in each folder, in place of training texts"),
        ] = None,
        seeds: Annotated[int, typer.Option(help="of what is trained; what is solved has none")] = 3,
        output_dir: Annotated[Path, typer.Option(help="of the runs")] = Path("runs/gap"),
        settings: Annotated[list[str] | None, typer.Option("--set", metavar="KEY=VALUE", help="any setting")] = None,
    ) -> None:
        """What strategies that see no label of the target close of the gap to one that has learnt them."""
        from nlptransfer import processes
        from nlptransfer.domains import close_the_gap

        start_log()
        # What the many runs have to say would bury the table.
        logging.getLogger("nlptransfer").setLevel(logging.ERROR)
        given: dict[str, Any] = pairs(settings) | ({"base": base} if base else {})
        found = {}
        for head, transfers in {"linear": QUICK, **({"mlp": STEPPED} if every else {})}.items():
            found[f"{route} {head}"] = close_the_gap(
                domains,
                transfers=transfers,
                route=route,
                unlabelled=unlabelled,
                seeds=seeds,
                output_dir=output_dir / head,
                **{**given, "head_type": head},
            )
        if processes.is_main():
            show_closed(found)

    return gap
