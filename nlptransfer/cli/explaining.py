"""The verb explain: what the words of a text do to its label. It does not know how that is computed."""

import json
from dataclasses import asdict
from typing import Annotated

from typer import Argument, Option

from nlptransfer.cli import options as opt
from nlptransfer.cli.first_look import model_first
from nlptransfer.cli.log import say, start_log
from nlptransfer.cli.terminal import show_explanation


def explain_verb(
    model_dir: opt.ModelDir,
    texts: Annotated[list[str], Argument(metavar="TEXT...", help="texts, each in quotes")],
    label: Annotated[
        str | None, Option(metavar="NAME", help="the label to explain", show_default="the likeliest")
    ] = None,
    as_json: Annotated[bool, Option("--json", help="one JSON object a text, with all words")] = False,
    device: opt.Device = None,
    base: opt.SavedBase = None,
    revision: opt.SavedRevision = None,
) -> None:
    """Say what the words of texts do to their label: the strongest first, in log-odds."""
    start_log()
    model_first(model_dir)

    from nlptransfer.classifier import Classifier

    for explanation in Classifier.load(model_dir, base, device=device, revision=revision).explain(texts, label=label):
        if as_json:
            say(json.dumps(asdict(explanation), ensure_ascii=False))
        else:
            show_explanation(explanation)
