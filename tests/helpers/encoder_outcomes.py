"""What comes of an encoder's folder by a route: built, trained on a few rows, saved, opened, compared with itself."""

import traceback
from dataclasses import replace
from pathlib import Path

import numpy as np
import torch

from helpers.classifiers import classifier_of, data_of
from helpers.corpora import WORDS, texts_of
from helpers.training import train_rows
from nlptransfer import Classifier, Full, Lora, Probe
from nlptransfer.data import Data
from nlptransfer.errors import NlpTransferError
from nlptransfer.models import RowLimits, limits_of
from nlptransfer.routes import Route

ROUTES: dict[str, Route] = {"probe": Probe(features=("encoder",)), "lora": Lora(), "full": Full()}
TEXTS = ["word1 word2 word12", "word7", "word8 word3 unheard", " ".join(WORDS * 4), ""]
ALONE = 1e-4
"""How far predictions of a text alone may be from those in a batch."""
RIGHT = "right"


def outcome(base: Path, route: str, folder: Path) -> str:
    """The one line that it ended with; or whether the classifier is right, and what that asks of rows."""
    try:
        classifier = trained(base, ROUTES[route], folder)
        apart = largest_difference(classifier)
        together = classifier.logits(TEXTS)
        again = Classifier.load(classifier.save_pretrained(folder / "saved", TEXTS)).logits(TEXTS)
    except NlpTransferError as error:
        line = str(error)
        return line if "\n" not in line else f"SEVERAL LINES: {line!r}"
    except Exception as error:
        where = traceback.extract_tb(error.__traceback__)[-1]
        return f"TRACEBACK: {type(error).__name__} in {Path(where.filename).name}, line {where.lineno}"
    if not apart <= ALONE:
        return f"WRONG: {apart:.1g} apart, alone and in a batch"
    if not np.array_equal(together, again):
        return f"WRONG: {np.abs(together - again).max():.1g} apart, before and after it was saved"
    if (together[0] == together[1]).all():
        return "WRONG: the same for all texts"
    return f"{RIGHT}{_asked(classifier)}"


def trained(base: Path, route: Route, folder: Path) -> Classifier:
    """A classifier that has learned from a few rows, or of a frozen encoder with a head of noise."""
    data = _data()
    built = route.build(data, str(base), None, 0)
    if route.is_frozen:
        torch.manual_seed(0)
        torch.nn.init.normal_(route.head(built.model).weight, std=0.1)
    else:
        module, (rows,) = route.learning(built.model, built.tokenizer, data.train.texts)
        few = {"num_train_epochs": 1, "per_device_train_batch_size": 8, "learning_rate": 1e-3}
        train_rows(module, rows, data.train.targets, folder, **few)
    return classifier_of(route, built)


def largest_difference(classifier: Classifier) -> float:
    """How far probabilities of texts alone are from those in a batch."""
    alone = np.concatenate([classifier.probabilities([text]) for text in TEXTS])
    return float(np.abs(classifier.probabilities(TEXTS) - alone).max())


def _data() -> Data:
    texts, _ = texts_of(22, 0)
    return replace(data_of([*texts, *TEXTS[2:4]]), name="few")


def _asked(classifier: Classifier) -> str:
    limits = limits_of(classifier.tokenizer)
    asked = [f"padded to {limits.least} tokens"] if limits.least > RowLimits().least else []
    asked += ["one length at a time"] if limits.one_length else []
    asked += ["tokens without embeddings are unknown"] if limits.embeddings is not None else []
    return f": {', '.join(asked)}" if asked else ""
