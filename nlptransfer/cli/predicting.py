"""The verb predict: of one file, or of many files with a folder of outputs."""

import os
from pathlib import Path
from typing import Annotated, Any

from typer import Argument, Exit, Option

from nlptransfer.cli import options as opt
from nlptransfer.cli.first_look import texts_first
from nlptransfer.cli.log import say, start_log
from nlptransfer.cli.terminal import show_parts
from nlptransfer.errors import SettingError, abridged


def _parts(*names: str, **options: Any) -> Any:
    return Option(*names, rich_help_panel="Many files", **options)


@opt.reads(opt.TEXTS_READING)
def predict_verb(
    model_dir: opt.ModelDir,
    texts: Annotated[
        list[str],
        Argument(metavar="IN...", help="file of texts, or - for standard input; with --output-dir files and folders"),
    ],
    output: Annotated[
        Path | None,
        Option(
            metavar="FILE", help="file of all rows and their labels: .csv, .tsv, .jsonl, .parquet; else the terminal"
        ),
    ] = None,
    top_k: Annotated[int | None, Option(metavar="N", help="list the N likeliest labels with their scores")] = None,
    all_scores: Annotated[bool, Option("--all-scores", help="add the probability of every label")] = False,
    raw_cells: Annotated[bool, Option("--raw-cells", help="csv, tsv: text may begin as a formula does")] = False,
    min_confidence: Annotated[float, Option(metavar="P", help="give null below this confidence")] = 0.0,
    batch_size: opt.BatchSize = None,
    device: opt.Device = None,
    base: opt.SavedBase = None,
    revision: opt.SavedRevision = None,
    output_dir: Annotated[
        Path | None, _parts(metavar="DIR", help="folder of a file for each input; goes on where it was left")
    ] = None,
    format: Annotated[
        str | None, _parts(metavar="parquet|csv|tsv|jsonl", help="kind of these files", show_default="parquet")
    ] = None,
    shard: Annotated[str | None, _parts(metavar="I/N", help="a share of the inputs alone: 0/16 to 15/16")] = None,
    processes: Annotated[
        int | None, _parts(metavar="N", help="processes that work on this machine", show_default="1")
    ] = None,
    claim_minutes: Annotated[
        float | None, _parts(metavar="M", help="then the part of a silent worker is taken over", show_default="10")
    ] = None,
    status: Annotated[bool, _parts("--status", help="list what is left, and do nothing")] = False,
    reading: Any = None,
) -> None:
    """Label texts in their order: one JSON object a line, a file with all columns, or a folder of such files."""
    start_log()
    options = {"top_k": top_k, "all_scores": all_scores, "raw_cells": raw_cells, **reading}
    options |= {"min_confidence": min_confidence, "batch_size": batch_size}
    opened = {"base": base, "device": device, "revision": revision}
    many = {"format": format, "shard": shard, "processes": processes, "claim_minutes": claim_minutes}
    many = {name: value for name, value in (many | {"status": status or None}).items() if value is not None}
    if output_dir is not None:
        if output is not None or "-" in texts:
            found = "standard input" if output is None else "--output"
            raise SettingError(
                f"--output-dir: expected files and folders, each file to a file there, found {found} too"
            )
        _predict_many(model_dir, texts, output_dir, options | opened, many)
    elif many:
        raise SettingError(f"--{next(iter(many)).replace('_', '-')}: expected --output-dir DIR with it, found none")
    elif len(texts) > 1:
        raise SettingError(
            f"expected one file, found {len(texts)}: --output-dir DIR takes several, each to a file there"
        )
    else:
        if output is not None:
            from nlptransfer.classifier import check_output

            check_output(output, texts[0])
        texts_first(model_dir, texts[0], reading)
        _predict_one(model_dir, texts[0], output, opened, options)


def _predict_one(model: str, texts: str, output: Path | None, opened: dict[str, Any], options: dict[str, Any]) -> None:
    from nlptransfer.classifier import Classifier

    classifier = Classifier.load(model, **opened)
    if output is not None:
        classifier.predict_file(texts, output, **options)
        return
    of_files = {"top_k", "all_scores", "raw_cells"}
    labels = {name: options[name] for name in ("top_k", "all_scores")}
    for batch in classifier.batches(texts, **{name: options[name] for name in options.keys() - of_files}):
        for line in batch.lines(**labels):
            say(line)


def _predict_many(
    model: str, inputs: list[str], output_dir: Path, options: dict[str, Any], many: dict[str, Any]
) -> None:
    from nlptransfer.classifier import part_states, predict_parts

    if "shard" in many:
        many["shard"] = opt.listed("shard", many["shard"].replace("/", ","), int)
    if many.pop("status", False):
        plan = {name: value for name, value in many.items() if name in ("format", "shard")}
        show_parts(part_states(model, inputs, output_dir, **options, **plan))
        return
    states = predict_parts(model, inputs, output_dir, **options, **many)
    if failed := [str(state.part.source) for state in states if state.status == "failed"]:
        if os.environ.get("RANK", "0") == "0":
            say(f"error: {len(failed)} of {len(states)} parts have failed: {abridged(failed, 5)}", err=True)
        raise Exit(3)
