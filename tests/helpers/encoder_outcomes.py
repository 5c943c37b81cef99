"""What comes of an encoder's folder by a route: a whole run on a few rows, its classifier compared with itself."""

import traceback
from pathlib import Path

import numpy as np

from helpers.corpora import WORDS, splits_of
from helpers.runs import finetune
from nlptransfer import Classifier
from nlptransfer.errors import NlpTransferError
from nlptransfer.models import RowLimits, limits_of

ROUTES = ("probe", "lora", "full")
TEXTS = ["word1 word2 word12", "word7", "word8 word3 unheard", " ".join(WORDS * 4), ""]
ALONE = 1e-4
"""How far logits of a text alone may be from those in a batch."""
RIGHT = "right"


def outcome(base: Path, route: str, folder: Path) -> str:
    """The one line that a run ended with; or whether its classifier is right, and what that asks of rows."""
    data = splits_of()
    texts, labels = data["train"]
    data["train"] = [TEXTS[3], TEXTS[2], *texts[2:]], labels
    few = {"num_train_epochs": 1, "per_device_train_batch_size": 16}
    try:
        run = finetune(data, route=route, base=str(base), output_dir=folder, **few)
        classifier = run.classifier
        together = classifier.logits(TEXTS)
        alone = np.concatenate([classifier.logits([text]) for text in TEXTS])
        again = Classifier.load(folder).logits(TEXTS)
    except NlpTransferError as error:
        line = str(error)
        return line if "\n" not in line else f"SEVERAL LINES: {line!r}"
    except Exception as error:
        where = traceback.extract_tb(error.__traceback__)[-1]
        return f"TRACEBACK: {type(error).__name__} in {Path(where.filename).name}, line {where.lineno}"
    if not np.abs(together - alone).max() <= ALONE:
        return f"WRONG: {np.abs(together - alone).max():.1g} apart, alone and in a batch"
    if not np.array_equal(together, again):
        return f"WRONG: {np.abs(together - again).max():.1g} apart, before and after it was saved"
    if (together[0] == together[1]).all():
        return "WRONG: the same for all texts"
    return f"{RIGHT}{_asked(classifier)}"


def _asked(classifier: Classifier) -> str:
    limits = limits_of(classifier.tokenizer)
    asked = [f"padded to {limits.least} tokens"] if limits.least > RowLimits().least else []
    asked += ["one length at a time"] if limits.one_length else []
    asked += ["tokens without embeddings are unknown"] if limits.embeddings is not None else []
    return f": {', '.join(asked)}" if asked else ""
