"""Classifiers on tiny base models: built, changed, and opened by plain libraries."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from peft import PeftModel
from transformers import AutoConfig, AutoModelForSequenceClassification, AutoTokenizer

from helpers.corpora import WORDS, texts_of
from nlptransfer import Classifier
from nlptransfer.data.dataset import Data, Split
from nlptransfer.data.labels import Labels
from nlptransfer.files import read_json, write_json
from nlptransfer.hub.base_models import BaseModel
from nlptransfer.routes.base import Built, Route

LABELS = Labels(("bad", "good"))
SEVERAL = Labels(("bad", "good"), multi_label=True)
FIVE = ("awful", "bad", "fair", "good", "great")
TEXTS = ["word1 word2 word12", "word7", "word8 word3 unheard", " ".join(WORDS * 2), ""]
# One step on all rows, of a size that is known.
ONE_STEP = {
    "optimizer": "sgd", "learning_rate": 0.1, "num_train_epochs": 1, "per_device_train_batch_size": 60,
    "lr_scheduler_type": "constant", "warmup_ratio": 0.0, "max_grad_norm": None, "weight_decay": 0.0,
}  # fmt: skip


def data_of(texts: list[str] | None = None) -> Data:
    texts, names = (texts, [LABELS.names[row % 2] for row in range(len(texts))]) if texts else texts_of(60, 0)
    none = Split([], LABELS.encode([]))
    return Data("toy", LABELS, Split(texts, LABELS.encode(names)), none, none, none)


def write_vectors(path: Path, dimensions: int = 8) -> Path:
    """A file of drawn vectors of the words that tiny encoders know too."""
    draw = np.random.default_rng(0)
    rows = [f"{word} {' '.join(f'{value:.3f}' for value in draw.normal(size=dimensions))}" for word in WORDS]
    path.write_text("\n".join([f"{len(rows)} {dimensions}", *rows, ""]))
    return path


class Closed:
    """A split that nobody may look at."""

    def __getattribute__(self, name: str) -> Any:
        raise AssertionError(f"a split other than train was looked at: {name}")


def train_only(texts: Sequence[str], targets: np.ndarray, multi_label: bool = False) -> Data:
    """Data of which nothing but the training split may be looked at."""
    closed: Any = Closed()
    return Data("toy", Labels(("bad", "good"), multi_label), Split(list(texts), targets), closed, closed, closed)


def build(route: Route, base: BaseModel | Path, texts: list[str] | None = None) -> Built:
    return route.build(data_of(texts), str(base.path if isinstance(base, BaseModel) else base), None, 0)


def classifier_of(route: Route, built: Built, labels: Labels = LABELS) -> Classifier:
    return Classifier(route, built.model.eval(), built.tokenizer, labels, record={"base": built.record})


def without_hashes(folder: Path, **record: Any) -> Path:
    """Let nlptransfer.json say nothing of the files, as before it did, and something else of the rest."""
    path = folder / "nlptransfer.json"
    content = {name: value for name, value in read_json(path).items() if name not in ("files", "sha256")}
    write_json(path, content | record)
    return folder


def changed(route: Route, base: BaseModel | Path, labels: Labels) -> Classifier:
    """A classifier that has learned noise: every parameter that learns is another one than at the start."""
    targets = labels.encode([[name] for name in labels.names] if labels.multi_label else labels.names)
    data = Data("toy", labels, Split(TEXTS[: labels.num_labels], targets), *[Split([], targets[:0])] * 3)
    built = route.build(data, str(base.path if isinstance(base, BaseModel) else base), None, seed=1)
    torch.manual_seed(2)
    with torch.no_grad():
        for parameter in built.model.parameters():
            if parameter.requires_grad:
                parameter.add_(torch.randn_like(parameter), alpha=0.3)
    return classifier_of(route, built, labels)


def weights_of(model: Any) -> dict[str, torch.Tensor]:
    return {name: value.detach().clone() for name, value in model.named_parameters()}


def plain_model(folder: Path, base: BaseModel | None = None, seed: int = 99) -> Any:
    """The classifier in the lines that a user of plain transformers and peft would write."""
    torch.manual_seed(seed)
    if not (folder / "adapter_config.json").exists():
        return AutoModelForSequenceClassification.from_pretrained(folder).eval()
    assert base is not None
    config = AutoConfig.from_pretrained(folder)
    model = AutoModelForSequenceClassification.from_pretrained(base.path, config=config)
    return PeftModel.from_pretrained(model, folder).eval()


def plain_logits(model: Any, folder: Path, texts: list[str] = TEXTS) -> np.ndarray:
    tokens = AutoTokenizer.from_pretrained(folder)(texts, padding=True, truncation=True, return_tensors="pt")
    with torch.no_grad():
        return model(**tokens).logits.numpy()
