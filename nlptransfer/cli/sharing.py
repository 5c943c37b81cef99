"""The verbs that ship a saved classifier: push, export, average."""

from functools import partial
from pathlib import Path
from typing import Annotated, Any, Literal

from typer import Argument, Option

from nlptransfer.cli import options as opt
from nlptransfer.cli.first_look import model_first
from nlptransfer.cli.log import say, start_log

shipping_app = opt.Verbs()
Run = Annotated[Path, Argument(metavar="RUN", help="a run's folder, or a saved classifier")]


def _show_written(folder: Path) -> None:
    from nlptransfer.files import size_mb

    say(f"written: {folder} ({size_mb(folder):,.1f} MB)")


@shipping_app.command(
    "push", epilog=opt.examples("push runs/reviews me/reviews --dry-run", "push runs/reviews me/reviews --public")
)
def push_verb(
    run: Run,
    repo_id: Annotated[str, Argument(metavar="OWNER/NAME", help="the repo on the hub; made if it is not there")],
    private: Annotated[bool | None, Option("--private/--public", help="a new repo is private by default")] = None,
    revision: Annotated[str | None, Option(metavar="NAME", help="branch to push to; made if it is not there")] = None,
    create_pr: Annotated[bool, Option("--create-pr", help="open a pull request instead")] = False,
    merged: Annotated[bool, Option("--merged", help="push an adapter as one whole model")] = False,
    dry_run: Annotated[bool, Option("--dry-run", help="show files, sizes and the card; send nothing")] = False,
    license: Annotated[str | None, Option(metavar="ID", help="the hub's id of a license, for the card")] = None,
    language: Annotated[list[str] | None, Option(metavar="CODE", help="code of a language, for the card")] = None,
    dataset: Annotated[list[str] | None, Option(metavar="ID", help="hub id of the data, for the card")] = None,
    example: Annotated[list[str] | None, Option(metavar="TEXT", help="a text that the card may show")] = None,
    base: opt.SavedBase = None,
) -> None:
    """Push a saved classifier with its model card to a model hub, in one commit, private unless told otherwise."""
    start_log()
    model_first(run)

    from nlptransfer.hub import push_token

    push_token(repo_id, revision, None, dry_run)

    from nlptransfer.classifier import Classifier, push_saved

    push = partial(Classifier.load(run, base).push_to_hub, merged=True) if merged else partial(push_saved, run)
    options: dict[str, Any] = {
        "private": private, "revision": revision, "create_pr": create_pr, "dry_run": dry_run, "license": license,
        "language": language or (), "datasets": dataset or (), "examples": example or (),
    }  # fmt: skip
    pushed = push(repo_id, **options)
    for name, size in pushed.files.items():
        say(f"{size:>13,} bytes  {name}")
    if dry_run:
        say(f"\n{pushed.card}\nto send all of this, leave out --dry-run;\nnothing was sent to {pushed.url}")
    else:
        if not create_pr:
            at = f" --revision {revision}" if revision else ""
            say(f"label new texts:  echo 'Write your text here' | nlptransfer predict {repo_id} -{at}")
        say(pushed.pull_request or pushed.url)


@shipping_app.command(
    "export", epilog=opt.examples("export runs/reviews --to onnx --int8", "export runs/lora --to merged")
)
def export_verb(
    run: Run,
    to: Annotated[Literal["onnx", "merged"], Option(help="a graph for onnxruntime; or an adapter made whole")],
    int8: Annotated[bool, Option("--int8", help="onnx: weights in 8 bits, a quarter of the size")] = False,
    output_dir: Annotated[
        Path | None, opt.option(opt.OUTPUT, "the folder to write", metavar="DIR", default="one in RUN")
    ] = None,
    take_lock: opt.TakeLock = False,
    base: opt.SavedBase = None,
) -> None:
    """Write a saved classifier in another form, once it gives what the original gives."""
    start_log()
    model_first(run)

    from nlptransfer.classifier import Classifier
    from nlptransfer.hub import check_links
    from nlptransfer.locks import locked
    from nlptransfer.settings import check

    check(to == "onnx" or not int8, "--int8", int8, "--to onnx beside it")
    check_links(run)
    folder = output_dir or run / (f"{to}-int8" if int8 else to)
    with locked(folder, take_lock, replaced=True):
        classifier = Classifier.load(run, base)
        if to == "onnx":
            classifier.export_onnx(folder, int8=int8)
        else:
            classifier.merge().save_pretrained(folder)
    _show_written(folder)


@shipping_app.command("average", epilog=opt.examples("average runs/one runs/other --output-dir runs/average"))
@opt.reads(opt.ROWS_READING)
def average_verb(
    runs: Annotated[list[Path], Argument(metavar="RUN...", help="adapters of one base: runs, or saved ones")],
    output_dir: Annotated[Path, opt.option(opt.OUTPUT, "the folder to write", metavar="DIR")],
    weights: Annotated[str | None, Option(metavar="W,W,...", help="of each; all alike if none")] = None,
    data: Annotated[
        str | None, Option(metavar="DATA", help="labeled text to score each of them and the average on")
    ] = None,
    split: Annotated[str, Option(metavar="NAME", help="of the data, where there are several")] = "validation",
    take_lock: opt.TakeLock = False,
    base: opt.SavedBase = None,
    reading: Any = None,
) -> None:
    """Make one adapter of several of the same base and labels: their weighted average."""
    start_log()
    for run in runs:
        model_first(run)

    from nlptransfer.classifier import Classifier, average
    from nlptransfer.evaluation import default_metric
    from nlptransfer.locks import locked

    parts = [Classifier.load(run, base) for run in runs]
    averaged = average(parts, opt.listed("weights", weights, float), base)
    if data is not None:
        metric = default_metric(averaged.labels)
        for name, classifier in [*zip(map(str, runs), parts, strict=True), ("average", averaged)]:
            scores = classifier.evaluate(data, split=split, **reading)
            low, high = scores[f"{metric}_interval"]
            say(f"{metric} {scores[metric]:.4f} [{low:.4f}, {high:.4f}]  {name}")
    with locked(output_dir, take_lock, replaced=True):
        averaged.save_pretrained(output_dir)
    _show_written(output_dir)
