"""Classifier: a trained model with its tokenizer and labels; predict, evaluate, save, load, push.

It does not know how a model is fed, saved and opened: its format does.
"""

import tempfile
from collections.abc import Iterable, Iterator, Sequence
from copy import deepcopy
from dataclasses import dataclass, field, replace
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
from transformers import PreTrainedModel, PreTrainedTokenizerFast

from nlptransfer import distributed
from nlptransfer.classifier.onnx_export import export_onnx
from nlptransfer.classifier.persistence import SavedRecord, local_folder, saved_folder, writable_folder
from nlptransfer.classifier.push import push_saved
from nlptransfer.classifier.verification import check_equal, check_logits, made_texts, verified
from nlptransfer.data import DataSettings, Labels, Split, load_split, normalize, read_texts
from nlptransfer.errors import DataError
from nlptransfer.evaluation import confidence, predicted, score_predictions, to_probabilities
from nlptransfer.files import atomic_folder
from nlptransfer.hub import Pushed, recorded_base
from nlptransfer.models import SharedBase, predict_logits
from nlptransfer.routes import SavedFormat
from nlptransfer.settings import check

CHUNK = 4096
"""Texts that are tokenized and predicted at a time, so that a stream of any length fits in memory."""


@dataclass(frozen=True)
class Prediction:
    """The labels of one text."""

    text: str
    labels: tuple[str, ...]
    """the label; with several labels at once, all that reach their threshold; none where it abstained"""
    scores: tuple[float, ...]
    """the probability of each of ``labels``"""
    probabilities: dict[str, float]
    """the probability of every label"""
    multi_label: bool = False
    """whether a text may have several labels at once, or none"""
    abstained: bool = False
    """whether the confidence is below ``min_confidence``, and no label is given"""

    @property
    def label(self) -> str:
        """The one label; raises a DataError where there is none, or several: look at ``labels``."""
        if self.abstained:
            raise DataError("expected a label, found that the classifier abstains from this text: look at .abstained")
        if len(self.labels) != 1:
            raise DataError(f"expected one label, found {len(self.labels)}: look at .labels")
        return self.labels[0]

    @property
    def score(self) -> float:
        """The probability of the one label."""
        return self.probabilities[self.label]


@dataclass(frozen=True)
class Classifier:
    """A model that has learned to label texts."""

    route: SavedFormat
    model: PreTrainedModel
    tokenizer: PreTrainedTokenizerFast
    labels: Labels
    thresholds: tuple[float, ...] | None = None
    """with several labels at once: the probability from which each is given; None: 0.5"""
    record: dict[str, Any] = field(default_factory=dict)
    """what is saved with it: ``base``, ``calibration``, ``results``, ..."""
    normalization: str = "none"
    """the form that texts are brought into before the tokenizer sees them, as they were in training"""

    def logits(self, texts: Sequence[str], *, share: bool = False) -> np.ndarray:
        """Return logits, (texts, labels) float32; with ``share`` all processes call this, and each works on a part."""
        return self._logits_of_normalized(normalize(self.normalization, texts), share=share)

    def _logits_of_normalized(self, texts: Sequence[str], *, share: bool = False) -> np.ndarray:
        rows = self.route.rows(self.model, self.tokenizer, texts, share=share)
        return predict_logits(self.model, rows, share=share)

    def probabilities(self, texts: Sequence[str]) -> np.ndarray:
        """Return probabilities, (texts, labels): rows sum to 1, or each is by itself with several labels at once."""
        return to_probabilities(self.logits(texts), self.labels)

    def predict(
        self, texts: str | Path | Iterable[str], *, text_column: str | None = None, min_confidence: float = 0.0
    ) -> list[Prediction]:
        """Predict in the order of the texts, or of those in a file.

        ``text_column`` is for files with several columns. A text whose confidence is below ``min_confidence`` gets no
        label; it is the probability of its label, or with several labels at once that of the least sure yes or no. A
        single string that is no file, or a file that cannot be read, is a DataError; a ``min_confidence`` outside [0,
        1] a SettingError.
        """
        return list(self.stream(texts, text_column=text_column, min_confidence=min_confidence))

    def stream(
        self, texts: str | Path | Iterable[str], *, text_column: str | None = None, min_confidence: float = 0.0
    ) -> Iterator[Prediction]:
        """Predict as ``predict`` does, one after the other; "-" reads standard input."""
        check(0 <= min_confidence <= 1, "min_confidence", min_confidence, "a probability from 0 to 1")
        return self._predictions(iter(read_texts(texts, text_column)), min_confidence)

    def _predictions(self, texts: Iterator[str], min_confidence: float) -> Iterator[Prediction]:
        multi_label = self.labels.multi_label
        while chunk := list(islice(texts, CHUNK)):
            probabilities = self.probabilities(chunk)
            targets = predicted(probabilities, self.labels, self.thresholds)
            unsure = confidence(probabilities, targets, multi_label=multi_label) < min_confidence
            rows = zip(chunk, probabilities.tolist(), self.labels.decode(targets), unsure.tolist(), strict=True)
            for text, row, names, abstained in rows:
                labels = () if abstained else tuple(names) if multi_label else (str(names),)
                by_name = dict(zip(self.labels.names, row, strict=True))
                yield Prediction(text, labels, tuple(map(by_name.__getitem__, labels)), by_name, multi_label, abstained)

    def evaluate(
        self, data: Any, *, settings: DataSettings | None = None, split: str = "test", further: Sequence[str] = ()
    ) -> dict[str, Any]:
        """Return scores with intervals on labeled data: a file, taken whole, or a split of anything that has several.

        ``settings`` name the columns, and ``further`` other ``evaluate`` metrics. Data that cannot be read, or with a
        label that the classifier does not know, are a DataError.
        """
        return self.score(load_split(data, self.labels, settings, split), further)

    def score(self, split: Split, further: Sequence[str] = ()) -> dict[str, Any]:
        """Return scores with intervals on a split."""
        probabilities = self.probabilities(split.texts)
        return score_predictions(split.targets, probabilities, self.labels, thresholds=self.thresholds, metrics=further)

    def merge(self) -> "Classifier":
        """Return the same classifier as one whole model, its adapter added to the weights of the base.

        One without an adapter is a SettingError, and other logits of the merged model a VerificationError.
        """
        route, model = self.route.merged(self.model)
        merged = replace(self, route=route, model=model)
        # In float32, as the merged one is.
        live = replace(self, model=deepcopy(self.model).float())
        texts = made_texts(self.labels, self.tokenizer)
        check_equal(live.logits(texts), merged.logits(texts), "after merging the adapter")
        return merged

    def export_onnx(self, folder: str | Path, *, int8: bool = False) -> "Classifier":
        """Write the classifier as ONNX, and return it in this form; ``Classifier.load`` takes the folder or its graph.

        With ``int8`` weights are kept in 8 bits: a quarter of the size, and scores that may differ a little.

        Raises:
            SettingError: the packages of the extra ``onnx`` are missing, or it was exported before.
            BaseModelError: the architecture cannot be exported.
            VerificationError: the graph gives other logits.
            RunFolderError: the folder holds something that is not a saved classifier.
        """
        writable_folder(folder)
        texts = made_texts(self.labels, self.tokenizer)
        with tempfile.TemporaryDirectory() as place:
            route, model, more = export_onnx(self.route, self.model, self.tokenizer, texts, Path(place), int8=int8)
            more["learned"] = {"route": self.route.name, "settings": self.route.recorded()}
            exported = replace(self, route=route, model=model, record={**self.record, **more})
            return Classifier.load(exported.save_pretrained(folder))

    def save_pretrained(self, folder: str | Path, examples: Sequence[str] = ()) -> Path:
        """Write weights (safetensors), tokenizer, config and nlptransfer.json; all or nothing.

        What was written is opened again, by the classes that its model card names and under another seed, and must give
        the logits of the live model on made texts, which are saved, and on ``examples``, which are not: others are a
        VerificationError, and the folder is then as it was. A folder of anything else is a RunFolderError.
        """
        folder = writable_folder(folder)
        if self.route.saves_merged(self.model):
            return self.merge().save_pretrained(folder, examples)
        made = made_texts(self.labels, self.tokenizer)
        texts = [*made, *normalize(self.normalization, examples)]
        logits, length = self._logits_of_normalized(texts), self.tokenizer.model_max_length
        record = SavedRecord(self.route, self.labels, self.thresholds, self.normalization, length, self.record)
        with atomic_folder(folder) as new:
            self.route.save(self.model, self.tokenizer, new)
            compared = verified(self.route, new, self.record.get("base", {}), texts, logits, made=len(made))
            replace(record, verified=compared).write(new)
        return folder

    def push_to_hub(self, repo_id: str, *, merged: bool = False, **options: Any) -> Pushed:
        """Save the classifier in a temporary folder and push it to a model hub, with the options of :func:`push_saved`.

        With ``merged`` an adapter is added to its base first, so that plain transformers opens it.
        """
        with tempfile.TemporaryDirectory() as place:
            saved = (self.merge() if merged else self).save_pretrained(Path(place) / "model")
            return push_saved(saved, repo_id, **options)

    @classmethod
    def load(
        cls,
        source: str | Path,
        base: str | SharedBase | None = None,
        *,
        revision: str | None = None,
        token: str | None = None,
    ) -> "Classifier":
        """Open the classifier that ``save_pretrained`` wrote, one in a run's folder, or one on the hub.

        It is on a GPU where there is one, and gives the logits that it was saved with.

        Args:
            source: a folder, or a hub id (owner/name).
            base: where the base model lies if it is not found by itself, or one in memory for several classifiers.
            revision: of a classifier on the hub: commit, branch or tag.
            token: of a private one, and of a private base; None: the one that this machine is logged in with.

        Raises:
            RunFolderError: no classifier is there, a part of it is missing, or it needs a newer nlptransfer.
            HubError: the hub has none of that name, or cannot be reached.
            BaseModelError: the base model cannot be had, or is another one.
            VerificationError: it gives other logits than those it was saved with.
        """
        folder = saved_folder(local_folder(source, revision, token))
        record = SavedRecord.read(folder)
        route, known = record.route, record.further.get("base", {})
        if token is not None and not isinstance(base, SharedBase) and route.needs_base(folder):
            # What the token opens lies in the cache from now on, where the format finds it.
            recorded_base(known, base, token)
        model, tokenizer = route.load(folder, known, base)
        model = model.to(distributed.state().device)
        loaded = cls(route, model, tokenizer, record.labels, record.thresholds, record.further, record.normalization)
        if record.verified is not None:
            check_logits(record.verified, loaded._logits_of_normalized(record.verified["texts"]), str(source))
        return loaded
