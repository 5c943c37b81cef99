"""The verb finetune: which runs a command line means, or a curve of gains. It does not know how any of them trains."""

import json
import logging
from collections.abc import Callable, Container, Mapping, Sequence
from itertools import product
from pathlib import Path
from typing import Annotated, Any

from nlptransfer.cli import options as opt
from nlptransfer.cli.first_look import rows_first
from nlptransfer.cli.log import repeat_warnings, say, start_log
from nlptransfer.cli.terminal import show_runs, show_tables
from nlptransfer.errors import SettingError
from nlptransfer.routes import FROZEN_ROUTE, ROUTES, WORDS_ROUTE, default_route

ARGUMENTS = (
    "data", "route", "base", "revision", "source", "unlabeled", "transfer", "verdict", "fallback", "seeds",
    "output_dir", "overwrite", "take_lock", "report", "save_model", "baseline", "further_metrics",
)  # fmt: skip
"""Of the public function, which takes seconds to import; all others are settings."""


def finetune(data_default: Any, variants: Sequence[dict[str, Any]] = ({},), **defaults: Any) -> Callable[..., None]:
    """Make the verb finetune with other defaults, which options on the command line override."""

    @opt.reads(opt.TRAINING_READING)
    def verb(
        data: Annotated[list[str], opt.DATA] = data_default,
        max_train_rows: opt.MaxTrainRows = None,
        route: Annotated[
            str | None,
            opt.option(
                opt.TRAINING,
                "how the model learns: {routes}",
                metavar="NAME",
                default=f"{FROZEN_ROUTE}; {WORDS_ROUTE} where the base is a file of word vectors",
            ),
        ] = None,
        base: opt.Base = None,
        revision: opt.Revision = None,
        num_train_epochs: Annotated[
            int | None,
            opt.option(opt.TRAINING, "passes over the training rows", metavar="N", default="by route and rows"),
        ] = None,
        learning_rate: Annotated[
            float | None, opt.option(opt.TRAINING, "highest learning rate", metavar="X", default="by route")
        ] = None,
        seed: Annotated[
            int | None,
            opt.option(opt.TRAINING, "moves initialization and data order, never a split", metavar="N", default="0"),
        ] = None,
        settings: opt.Set = None,
        source: Annotated[
            list[str] | None,
            opt.option(opt.TRANSFER, "another task to learn from: rows or a classifier", metavar="DATA"),
        ] = None,
        transfer: Annotated[
            list[str] | None,
            opt.option(
                opt.TRANSFER,
                "how: {transfers}; in turn as 'pretrain >> joint'",
                metavar="NAME",
                default="sequential where there is a source",
            ),
        ] = None,
        unlabeled: Annotated[
            str | None, opt.option(opt.TRANSFER, "texts of the target without labels", metavar="FILE")
        ] = None,
        verdict: Annotated[
            bool | None,
            opt.option(
                opt.TRANSFER,
                "measure on test what the source gains",
                "--verdict/--no-verdict",
                default="where features are frozen",
            ),
        ] = None,
        fallback: Annotated[
            bool, opt.option(opt.TRANSFER, "go without a source that does not help", "--fallback")
        ] = False,
        seeds: Annotated[int | None, opt.option(opt.TRANSFER, "seeds of the verdict", metavar="N", default="3")] = None,
        sizes: Annotated[
            str | None,
            opt.option(opt.TRANSFER, "measure the gain with these numbers of target rows", metavar="N,N,..."),
        ] = None,
        output_dir: opt.OutputDir = None,
        overwrite: opt.Overwrite = False,
        take_lock: opt.TakeLock = False,
        no_report: Annotated[bool, opt.option(opt.OUTPUT, "write no report.html", "--no-report")] = False,
        no_baseline: Annotated[
            bool, opt.option(opt.OUTPUT, "score no baselines (majority, tfidf) beside it", "--no-baseline")
        ] = False,
        metric: opt.Metric = None,
        quiet: opt.Quiet = False,
        reading: Any = None,
    ) -> None:
        """Train a classifier on labeled text, score it, and save it."""
        options = {
            "route": route, "base": base, "revision": revision, "seed": seed, "max_train_rows": max_train_rows,
            **reading, "num_train_epochs": num_train_epochs, "learning_rate": learning_rate, "further_metrics": metric,
            "verdict": verdict, "fallback": fallback or None, "seeds": seeds, "sizes": sizes, "unlabeled": unlabeled,
            "transfer": transfer or None, "source": source[0] if source and len(source) == 1 else source or None,
        }  # fmt: skip
        config = opt.config_of(
            options, settings, arguments=("data", "output_dir", "overwrite", "take_lock", "report", "baseline")
        )
        config = _recipe_settings(defaults, config) | config
        curve, transfers = config.pop("sizes", None), config.pop("transfer", [])
        transfers = [transfers] if isinstance(transfers, str) else transfers
        config["take_lock"] = take_lock
        calls = [{"data": rows, **_recipe_settings(each, config), **config} for rows, each in product(data, variants)]
        if curve is None:
            files = {"overwrite": overwrite, "report": not no_report, "baseline": not no_baseline}
            named = {setting for each in variants for setting in each}
            runs = [call | files for call in _named_runs(calls, transfers, named, output_dir)]
            return run_and_show(runs, quiet)
        if overwrite:
            raise SettingError("--overwrite: expected no --sizes with it: name another --output-dir")
        for name, is_set in (("--no-report", no_report), ("--no-baseline", no_baseline)):
            if is_set:
                raise SettingError(f"{name}: expected no --sizes with it, whose runs have none anyway")
        return _curves_and_show(calls, transfers, opt.listed("sizes", curve, int), output_dir, quiet)

    return verb


def _named_runs(
    calls: Sequence[dict[str, Any]], transfers: Sequence[str], named: Container[str], output_dir: Path | None
) -> list[dict[str, Any]]:
    """Give each distinct call, by each transfer if any, a folder, with its values of ``named`` if there are several."""
    runs: dict[str, tuple[str, dict[str, Any]]] = {}
    each_transfer: Sequence[str | None] = transfers or [None]
    for call, transfer in product(calls, each_transfer):
        parts = [Path(call["data"]).name.split(".")[0], *(str(call[name]) for name in call if name in named)]
        if transfer is not None:
            call, parts = call | {"transfer": transfer}, [*parts, transfer]
        # A variant that the command line overrides is the same run once more.
        runs.setdefault(json.dumps(call, default=str, sort_keys=True), ("-".join(parts), call))
    if output_dir is None or len(runs) == 1:
        return [call | {"output_dir": output_dir} for _, call in runs.values()]
    names = [name for name, _ in runs.values()]
    return [
        call | {"output_dir": output_dir / (name if names.count(name) == 1 else f"{name}-{number}")}
        for number, (name, call) in enumerate(runs.values(), start=1)
    ]


def _recipe_settings(recipe: Mapping[str, Any], chosen: Mapping[str, Any]) -> dict[str, Any]:
    """Return a recipe's settings, without those of its route where another route is chosen."""
    from nlptransfer.settings import fields_of

    if not recipe or chosen.get("route") in (None, recipe.get("route")):
        return dict(recipe)
    others = {"route"}.union(*map(fields_of, ROUTES.values())) - fields_of(ROUTES.find(chosen["route"])).keys()
    return {name: value for name, value in recipe.items() if name not in others}


def run_and_show(calls: Sequence[Mapping[str, Any]], quiet: bool = False) -> None:
    """Call ``finetune`` with each of these arguments and print the table of the runs, on the main process."""
    start_log(quiet)
    runs = []
    for call in calls:
        with rows_first(call["data"], call):
            from nlptransfer import distributed
            from nlptransfer.experiments import finetune

            runs.append(finetune(**{"progress": not quiet, **call}))
    if distributed.is_main():
        show_runs(runs)
        repeat_warnings()


def _curves_and_show(
    curves: Sequence[Mapping[str, Any]],
    transfers: Sequence[str],
    sizes: Sequence[int],
    output_dir: Path | None,
    quiet: bool,
) -> None:
    start_log(quiet)
    for curve in curves:
        config = {"source": None, **curve}
        for name in ("fallback", "verdict", "further_metrics", "unlabeled"):
            if config.pop(name, None) is not None:
                raise SettingError(f"{name}: expected no --sizes with it, which are verdicts and keep no model")
        route = config.get("route") or default_route(config.get("base"))
        name = f"{Path(str(config['data'])).name.split('.')[0]}-{route}-gains"
        folder = output_dir / name if output_dir and len(curves) > 1 else output_dir or Path("runs") / name
        with rows_first(config["data"], config):
            from nlptransfer import distributed
            from nlptransfer.experiments import gain_curve
            from nlptransfer.results import GAINS

            # What the many runs have to say would bury the gains.
            logging.getLogger("nlptransfer").setLevel(logging.ERROR if quiet else logging.WARNING)
            gains = gain_curve(**config, sizes=sizes, transfers=transfers or ("sequential",), output_dir=folder)
        if distributed.is_main():
            show_tables(gains)
            say(f"written: {folder / GAINS}")
