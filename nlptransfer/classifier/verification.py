"""Verify that a saved classifier gives what the live one gives: when it is saved, loaded and pushed."""

from collections.abc import Callable, Mapping, Sequence
from itertools import cycle, islice
from pathlib import Path
from random import Random
from secrets import randbits
from typing import Any

import numpy as np
import torch
from transformers import PreTrainedModel, PreTrainedTokenizerFast

from nlptransfer.data import Labels
from nlptransfer.errors import VerificationError
from nlptransfer.models import limits_of
from nlptransfer.routes import SavedFormat

TOLERANCE = 1e-4
"""Largest difference of logits of a saved model from the live one's: the rounding of float32."""
ELSEWHERE = 1e-2
"""The same on another machine, which may multiply in another order."""
ROUNDINGS = 4
"""Times that logits may differ as much as those of a live model with fewer bits do from batch to batch."""
MADE_TEXTS, TOKENS = 4, 12


def made_texts(labels: Labels, tokenizer: PreTrainedTokenizerFast) -> list[str]:
    """Make a few texts out of label names and tokens of the vocabulary: none of them is a user's.

    Each ends with two of its tokens as one word, which the vocabulary seldom has.
    """
    draw, ids, texts = Random(0), range(limits_of(tokenizer).embeddings or len(tokenizer)), []
    for name in islice(cycle(labels.names), MADE_TEXTS):
        tokens = draw.choices(ids, k=TOKENS)
        text, word = (str(tokenizer.decode(some, skip_special_tokens=True)) for some in (tokens, tokens[:2]))
        texts.append(f"{name} {text} {word.replace(' ', '')}")
    return texts


def rounding(model: PreTrainedModel, together: np.ndarray, one_by_one: Callable[[], np.ndarray]) -> float:
    """Return how far logits of a saved model may be from the live one's, by the precision of its parameters.

    With fewer than 32 bits the live model has other logits (texts, labels) in another batch: those are measured.
    """
    if all(parameter.dtype == torch.float32 for parameter in model.parameters()):
        return TOLERANCE
    return max(TOLERANCE, ROUNDINGS * largest_difference(together, one_by_one()))


def verified(
    route: SavedFormat,
    folder: Path,
    base: Mapping[str, Any],
    texts: Sequence[str],
    live: np.ndarray,
    made: int,
    tolerance: float,
) -> dict[str, Any]:
    """Open a folder that was just saved as its card says, compare it with the live logits, and return the record.

    It holds the first ``made`` texts, which are no user's, their logits, the largest difference and the one that is
    allowed, and what opened it.
    """
    logits = reopened_logits(route, folder, base, texts)
    difference = check_equal(live, logits, f"after saving it and opening it again with {route.opened_by}", tolerance)
    return {
        "opened_by": route.opened_by,
        "max_difference": difference,
        "tolerance": tolerance,
        "texts": list(texts[:made]),
        "logits": [[round(float(value), 6) for value in row] for row in live[:made]],
    }


def reopened_logits(route: SavedFormat, folder: Path, base: Mapping[str, Any], texts: Sequence[str]) -> np.ndarray:
    """Return (texts, labels) logits of a saved folder that is opened as its card says, under another seed."""
    with torch.random.fork_rng(devices=[]):
        # What was never saved is drawn anew, and shows.
        torch.manual_seed(randbits(32))
        return route.reopened_logits(folder, base, texts)


def check_equal(live: np.ndarray, other: np.ndarray, when: str, tolerance: float = TOLERANCE) -> float:
    """Return the largest difference of logits, and raise a VerificationError if it exceeds ``tolerance``."""
    difference = largest_difference(live, other)
    if not difference <= tolerance:
        raise VerificationError(
            f"expected logits as the live model has them (to {tolerance:.2g}), found a difference of {difference:.3g} "
            f"{when}: nothing was written. Please report it with the name of the base"
        )
    return difference


def check_logits(verified: Mapping[str, Any], logits: np.ndarray, where: str) -> None:
    """Raise a VerificationError where logits differ from a record's by more than another machine's rounding."""
    saved = np.array(verified["logits"], dtype=np.float64)
    # What an older nlptransfer has saved says nothing of a tolerance.
    tolerance = max(ELSEWHERE * max(1.0, float(np.abs(saved).max(initial=0))), verified.get("tolerance", 0.0))
    difference = largest_difference(saved, logits)
    if not difference <= tolerance:
        raise VerificationError(
            f"{where}: expected the logits that it was saved with (to {tolerance:.2g}), found a difference of "
            f"{difference:.3g}: its files were changed or mixed, or its base is another one: fetch it again, or save "
            "it again where it works"
        )


def largest_difference(one: np.ndarray, other: np.ndarray) -> float:
    """Return the largest difference of numbers; infinite where the shapes differ or one is not finite."""
    if one.shape != other.shape or not (np.isfinite(one).all() and np.isfinite(other).all()):
        return float("inf")
    return float(np.abs(one.astype(np.float64) - other).max(initial=0))
