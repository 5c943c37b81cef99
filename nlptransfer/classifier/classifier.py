"""Classifier: a trained model with its tokenizer and labels; predict, evaluate, save, load, push."""

import tempfile
from collections.abc import Iterable, Iterator, Sequence
from copy import deepcopy
from dataclasses import dataclass, replace
from itertools import islice
from pathlib import Path
from typing import Any, get_args

import numpy as np
from peft import PeftModel
from transformers import PreTrainedModel, PreTrainedTokenizerFast

from nlptransfer import distributed
from nlptransfer.classifier.onnx_export import export_onnx
from nlptransfer.classifier.persistence import RECORD, check_known, local_folder, ours, route_of, saved_folder
from nlptransfer.classifier.push import push_saved
from nlptransfer.classifier.verification import check_equal, check_logits, made_texts, verified
from nlptransfer.data import NORMALIZATIONS, DataSettings, Labels, Split, load_split, normalize, read_texts
from nlptransfer.errors import DataError
from nlptransfer.evaluation import confidence, predicted, score_predictions, to_probabilities
from nlptransfer.files import atomic_folder, read_json, write_json
from nlptransfer.hub import Pushed, recorded_base
from nlptransfer.models import LongText, SharedBase, predict_logits
from nlptransfer.routes import SavedFormat
from nlptransfer.settings import check

CHUNK = 4096
"""Texts that are tokenized and predicted at a time, so that a stream of any length fits in memory."""


@dataclass(frozen=True)
class Prediction:
    """What a classifier says of one text."""

    text: str
    labels: tuple[str, ...]
    """the label; with several labels at once, all that reach their threshold, perhaps none; none where it abstained"""
    scores: tuple[float, ...]
    """the probability of each of ``labels``"""
    probabilities: dict[str, float]
    """the probability of every label"""
    multi_label: bool = False
    """whether a text may have several labels at once, or none"""
    abstained: bool = False
    """whether the classifier is less sure than was asked for, and gives no label"""

    @property
    def label(self) -> str:
        """The one label.

        Raises:
            DataError: there is none, or several; look at ``labels``.
        """
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
    record: dict[str, Any] | None = None
    """where the model's knowledge comes from and how it was calibrated, saved with it"""
    normalization: str = "none"
    """the form that texts are brought into before the tokenizer sees them, as they were in training"""

    def logits(self, texts: Sequence[str], *, share: bool = False) -> np.ndarray:
        """(texts, labels) float32.

        Args:
            share: whether all processes call this together, in a run: each works on a part, and what is frozen is
                kept in the feature cache.
        """
        rows = self.route.rows(self.model, self.tokenizer, normalize(self.normalization, texts), share=share)
        return predict_logits(self.model, rows, share=share)

    def probabilities(self, texts: Sequence[str]) -> np.ndarray:
        """(texts, labels), rows summing to 1, or each label by itself with several labels at once."""
        return to_probabilities(self.logits(texts), self.labels)

    def predict(
        self, texts: str | Path | Iterable[str], *, text_column: str | None = None, min_confidence: float = 0.0
    ) -> list[Prediction]:
        """Predictions in the order of the texts.

        Args:
            texts: a list of texts, or the path of a file of them.
            text_column: where the file has several columns.
            min_confidence: a text that the classifier is less sure of gets no label: the probability of its label is
                lower, or with several labels at once that of the least sure yes or no. What a run's report has under
                "Leaving out the unsure" says what this costs and gains.

        Raises:
            DataError: a single string that is no file, or a file that cannot be read.
            SettingError: a ``min_confidence`` outside [0, 1].
        """
        return list(self.stream(texts, text_column=text_column, min_confidence=min_confidence))

    def stream(
        self, texts: str | Path | Iterable[str], *, text_column: str | None = None, min_confidence: float = 0.0
    ) -> Iterator[Prediction]:
        """As ``predict``, one after the other; "-" reads standard input."""
        check(0 <= min_confidence <= 1, "min_confidence", min_confidence, "a probability from 0 to 1")
        return self._streamed(iter(read_texts(texts, text_column)), min_confidence)

    def _streamed(self, texts: Iterator[str], min_confidence: float) -> Iterator[Prediction]:
        while chunk := list(islice(texts, CHUNK)):
            yield from self._predictions(chunk, min_confidence)

    def evaluate(
        self, data: Any, *, settings: DataSettings | None = None, split: str = "test", further: Sequence[str] = ()
    ) -> dict[str, Any]:
        """Scores with intervals on labeled data.

        Args:
            data: a file, taken whole, or anything with splits.
            settings: names of the columns.
            split: which split, where there are several.
            further: names of other ``evaluate`` metrics.

        Raises:
            DataError: the data cannot be read, or has a label that the classifier has not.
        """
        return self.score(load_split(data, self.labels, settings, split), further)

    def score(self, split: Split, further: Sequence[str] = ()) -> dict[str, Any]:
        """Scores with intervals on a split."""
        found = self.probabilities(split.texts)
        return score_predictions(split.targets, found, self.labels, thresholds=self.thresholds, metrics=further)

    def merge(self) -> "Classifier":
        """The same classifier as one whole model, its adapter added to the weights of the base.

        Raises:
            SettingError: it has no adapter.
            VerificationError: the merged model gives other logits.
        """
        whole: dict[str, Any] = {"merge": True} if hasattr(self.route, "merge") else {}
        merged = replace(self.route, **whole)
        found = replace(self, route=merged, model=self.route.merged(self.model))
        # In float32, as the merged one is.
        live = replace(self, model=deepcopy(self.model).float())
        texts = made_texts(self.labels, self.tokenizer)
        check_equal(live.logits(texts), found.logits(texts), "after merging the adapter")
        return found

    def export_onnx(self, folder: str | Path, *, int8: bool = False) -> "Classifier":
        """Write the classifier as ONNX, which onnxruntime runs; ``Classifier.load`` takes the folder or its graph.

        Args:
            int8: whether weights are kept in 8 bits: a quarter of the size, and scores that may differ a little.

        Returns:
            The classifier in this form: it predicts, and cannot learn.

        Raises:
            SettingError: the packages of the extra ``onnx`` are missing, or it was exported before.
            BaseModelError: the architecture cannot be exported.
            VerificationError: the graph gives other logits.
            RunFolderError: the folder holds something that is not a saved classifier.
        """
        ours(folder)
        texts = made_texts(self.labels, self.tokenizer)
        with tempfile.TemporaryDirectory() as place:
            found = export_onnx(self.route, self.model, self.tokenizer, texts, Path(place), int8=int8)
            learned = {"route": self.route.name, "settings": self.route.recorded()}
            record = {**(self.record or {}), **found.record, "learned": learned}
            exported = replace(self, route=found.route, model=found.model, record=record)
            return Classifier.load(exported.save_pretrained(folder))

    def save_pretrained(self, folder: str | Path, examples: Sequence[str] = ()) -> Path:
        """Write weights (safetensors), tokenizer, config and nlptransfer.json; all or nothing, and proved.

        What was written is opened again, by the classes that its model card names and under another seed, and must
        give the logits of the live model.

        Args:
            examples: texts on which that is tried beside some that are made of label names; none of them is saved.

        Raises:
            RunFolderError: the folder holds something that is not a saved classifier.
            VerificationError: it gives other logits; the folder is then as it was.
        """
        folder = ours(folder)
        if getattr(self.route, "merge", False) and isinstance(self.model, PeftModel):
            return self.merge().save_pretrained(folder, examples)
        made = made_texts(self.labels, self.tokenizer)
        texts = [*made, *normalize(self.normalization, examples)]
        with atomic_folder(folder) as new:
            self.route.save(self.model, self.tokenizer, new)
            record = self._record()
            rows = self.route.rows(self.model, self.tokenizer, texts)
            record["verified"] = verified(
                self.route, new, record, texts, predict_logits(self.model, rows), made=len(made)
            )
            write_json(new / RECORD, record)
        return folder

    def push_to_hub(self, repo_id: str, *, merged: bool = False, **options: Any) -> Pushed:
        """Save the classifier for a moment and push it to a model hub, as :func:`push_saved` does.

        Args:
            repo_id: owner/name.
            merged: whether an adapter is added to its base first, so that plain transformers opens it.
            **options: of ``push_saved``: private, revision, create_pr, token, license, language, ...
        """
        with tempfile.TemporaryDirectory() as place:
            saved = (self.merge() if merged else self).save_pretrained(Path(place) / "model")
            return push_saved(saved, repo_id, **options)

    def _record(self) -> dict[str, Any]:
        """nlptransfer.json: all that the weights and config do not say."""
        return {
            "route": self.route.name,
            "settings": self.route.recorded(),
            "labels": list(self.labels.names),
            "multi_label": self.labels.multi_label,
            "thresholds": None if self.thresholds is None else list(self.thresholds),
            "normalization": self.normalization,
            "max_length": self.tokenizer.model_max_length,
            "long_texts": self.route.long_text,
            **(self.record or {}),
        }

    @classmethod
    def load(
        cls,
        source: str | Path,
        base: str | SharedBase | None = None,
        *,
        revision: str | None = None,
        token: str | None = None,
    ) -> "Classifier":
        """The classifier that ``save_pretrained`` wrote, one in a run's folder, or one on the hub.

        It is on a GPU where there is one, and gives the logits that it was saved with.

        Args:
            source: a folder, or a hub id (owner/name).
            base: the base model, where the classifier was saved without a copy of it: its folder or hub id where it
                is not found by itself, or one that is in memory for several classifiers.
            revision: of a classifier on the hub: commit, branch or tag.
            token: of a private one, and of a private base; None: the one that this machine is logged in with.

        Raises:
            RunFolderError: no classifier is there, a part of it is missing, or it needs a newer nlptransfer.
            HubError: the hub has none of that name, or cannot be reached.
            BaseModelError: the base model cannot be had, or is another one.
            VerificationError: it gives other logits than those it was saved with.
        """
        folder = saved_folder(local_folder(source, revision, token))
        record = read_json(folder / RECORD)
        check_known("way with long texts", record.pop("long_texts", "truncate"), get_args(LongText), folder)
        route = route_of(record)
        del record["route"], record["settings"]
        labels = Labels(tuple(record.pop("labels")), record.pop("multi_label"))
        thresholds = record.pop("thresholds")
        thresholds = None if thresholds is None else tuple(thresholds)
        normalization = check_known("normalization", record.pop("normalization", "none"), NORMALIZATIONS, folder)
        record.pop("max_length", None)
        told = record.pop("verified", None)
        if token is not None and not isinstance(base, SharedBase) and route.needs_base(folder):
            # What the token opens lies in the cache from now on, where the route finds it.
            recorded_base(record["base"], base, token)
        model, tokenizer = route.load(folder, record.get("base", {}), base)
        model = model.to(distributed.state().device)
        if told is not None:
            check_logits(told, predict_logits(model, route.rows(model, tokenizer, told["texts"])), str(source))
        return cls(route, model, tokenizer, labels, thresholds, record, normalization)

    def _predictions(self, texts: Sequence[str], min_confidence: float) -> Iterator[Prediction]:
        probabilities, several = self.probabilities(texts), self.labels.multi_label
        given = predicted(probabilities, self.labels, self.thresholds)
        unsure = confidence(probabilities, given, multi_label=several) < min_confidence
        names = self.labels.decode(given)
        for text, row, found, abstained in zip(texts, probabilities.tolist(), names, unsure.tolist(), strict=True):
            chosen = () if abstained else tuple(found) if several else (str(found),)
            by_name = dict(zip(self.labels.names, row, strict=True))
            yield Prediction(text, chosen, tuple(by_name[name] for name in chosen), by_name, several, abstained)
