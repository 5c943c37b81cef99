"""Which encoders work, by route: a tiny one of each type that transformers can classify texts with, and flawed ones.

    python tests/benchmarks/encoders.py                        # all, 15 minutes of one core: writes docs/encoders.md
    python tests/benchmarks/encoders.py fnet "heads 0"         # some: written to the terminal alone

``tests/helpers/model_types.py`` makes the types, ``flawed_encoders.py`` the flaws, and ``encoder_outcomes.py`` says
what is right.
"""

import argparse
import logging
import os
import sys
import tempfile
import warnings
from collections.abc import Callable
from importlib.metadata import version
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent.parent))

from transformers.models.auto.modeling_auto import MODEL_FOR_SEQUENCE_CLASSIFICATION_MAPPING_NAMES

from helpers.encoder_outcomes import RIGHT, ROUTES, outcome
from helpers.flawed_encoders import FLAWS
from helpers.folders import ROOT
from helpers.model_types import make_base
from nlptransfer.errors import first_line
from nlptransfer.hub import quiet

PAGE = ROOT / "docs" / "encoders.md"
TYPES = sorted(MODEL_FOR_SEQUENCE_CLASSIFICATION_MAPPING_NAMES)
HEAD = """# Encoders

What comes of an encoder's folder by the routes `probe`, `lora` and `full`, with a tiny encoder of random weights and a
few rows: no word is said of how well a type learns. **right**: it learns, a text has the same prediction alone and in a
batch to 1e-4, and what was saved has the same logits after it is loaded. Else the one line that it ends with
stands here, the folder of a flawed one being called `folder`. Made by
`python tests/benchmarks/encoders.py`, with transformers {transformers} and peft {peft}.

Before anything learns, each encoder is tried on a few rows, and what it asks of them is kept with the tokenizer: that
padding goes to the other side (the log says so); that short texts are padded to some length; or, where padding changes
predictions, that texts of one length are predicted at a time, as with FNet and ConvBERT. With these, plain transformers
gives the same predictions for one text at a time, and others in a batch.
"""
FLAWED = """
## Folders with a flaw

Encoders of the type bert, if no other is named.
"""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("names", nargs="*", help="types and flaws; none: all, and the page is written")
    names = parser.parse_args().names
    warnings.simplefilter("ignore")
    logging.disable(logging.WARNING)
    lines, cannot = {}, {}
    for name in names or [*TYPES, *FLAWS]:
        with tempfile.TemporaryDirectory() as place, quiet():
            os.environ["HF_HOME"] = str(Path(place, "cache"))
            folder = Path(place, name if name in TYPES else "folder")
            try:
                (FLAWS[name] if name in FLAWS else made(name))(folder)
            except Exception as error:  # a type that needs what is not here
                cannot[name] = f"{type(error).__name__}: {first_line(error)}"
                continue
            lines[name] = [outcome(folder, route, Path(place, route)) for route in ROUTES]
        print(f"| {name} | {cells(lines[name])} |", flush=True)
    for name, line in cannot.items():
        print(f"{name}: {line}")
    if not names:
        PAGE.write_text(page(lines, cannot), encoding="utf-8")


def made(kind: str) -> Callable[[Path], object]:
    return lambda folder: make_base(kind, folder)


def cells(outcomes: list[str]) -> str:
    """One cell a route; a line that is the same as the one before is not said again."""
    return " | ".join(
        "same" if text in outcomes[:number] and text != RIGHT else text for number, text in enumerate(outcomes)
    )


def page(lines: dict[str, list[str]], cannot: dict[str, str]) -> str:
    every = [text for outcomes in lines.values() for text in outcomes]
    right = sum(text.startswith(RIGHT) for text in every)
    bad = sum(text.startswith(("TRACEBACK", "WRONG", "SEVERAL")) for text in every)
    parts = [HEAD.format(**{name: version(name) for name in ("transformers", "peft")})]
    refused = len(every) - right - bad
    parts.append(
        f"\n{len(every)} runs: {right} right, {refused} ended with one line, {bad} are wrong or a traceback.\n"
    )
    for names, head in ((TYPES, "\n## Types\n"), (FLAWS, FLAWED)):
        rows = [f"| {name} | {cells(lines[name])} |" for name in names if name in lines]
        parts.append("\n".join([head, f"| folder | {' | '.join(ROUTES)} |", "|---|---|---|---|", *rows, ""]))
    if cannot:
        parts.append(
            "\n".join(
                ["\n## Types that are not built tiny here\n", *(f"- {n}: {why}" for n, why in cannot.items()), ""]
            )
        )
    return "".join(parts)


if __name__ == "__main__":
    main()
