"""Classifier: a trained model with its tokenizer and labels; predict, evaluate, save, load, push.

It does not know how a model is fed, saved and opened: its format does.
"""

import logging
from collections.abc import Callable, Iterable, Iterator, Sequence
from copy import deepcopy
from dataclasses import dataclass, field, replace
from itertools import chain
from pathlib import Path
from typing import Any

import numpy as np
from transformers import PreTrainedModel, PreTrainedTokenizerFast

from nlptransfer.classifier.explain import Explanation, explained
from nlptransfer.classifier.output import check_free, check_output, free_names, open_output
from nlptransfer.classifier.persistence import SavedRecord, local_folder, saved_folder, writable_folder
from nlptransfer.classifier.prediction import PredictedRows, Prediction
from nlptransfer.classifier.push import push_saved
from nlptransfer.classifier.verification import check_equal, check_logits, made_texts, rounding, verified
from nlptransfer.data import (
    DataSettings,
    FileSettings,
    Labels,
    Names,
    Split,
    Table,
    data_settings,
    find_columns,
    in_lines,
    load_split,
    normalize,
    stream_tables,
    texts_of,
)
from nlptransfer.evaluation import confidence, predicted, score_predictions, to_probabilities
from nlptransfer.files import atomic_folder, scratch_folder, temporary_root
from nlptransfer.hub import Pushed, recorded_base
from nlptransfer.models import SharedBase, announce, find_device, predict_logits, set_threads, without_capture
from nlptransfer.progress import no_progress, progress_bar, waiting
from nlptransfer.routes import SavedFormat
from nlptransfer.settings import Count, check, check_arguments, fill
from nlptransfer.storage import storage_errors

log = logging.getLogger("nlptransfer")

CHUNK, CHUNK_NUMBERS = 4096, 2**22
"""Texts, and probabilities of them, that are predicted at a time, so that a stream of any length fits in memory."""


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
    text_columns: tuple[str, ...] = ()
    """columns of the texts in training, which are read where a table has them"""

    def __getstate__(self) -> dict[str, Any]:
        return {**self.__dict__, "model": without_capture(self.model)}

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__dict__.update(state)
        announce(self.model)

    def logits(
        self, texts: Sequence[str], *, share: bool = False, batch_size: Count | None = None, shown: str | None = None
    ) -> np.ndarray:
        """Return logits, (texts, labels) float32; with ``share`` all processes call this, and each works on a part.

        ``shown`` is what the progress calls this, if it shows it.
        """
        options: Any = {"share": share, "batch_size": batch_size, "shown": shown}
        return self._logits_of_normalized(normalize(self.normalization, texts), **options)

    def _logits_of_normalized(
        self, texts: Sequence[str], *, share: bool = False, batch_size: Count | None = None, shown: str | None = None
    ) -> np.ndarray:
        set_threads()
        rows = self.route.rows(self.model, self.tokenizer, texts, share=share)
        return predict_logits(self.model, rows, share=share, batch_size=batch_size, shown=shown)

    def probabilities(self, texts: Sequence[str], batch_size: Count | None = None) -> np.ndarray:
        """Return probabilities, (texts, labels): rows sum to 1, or each is by itself with several labels at once."""
        return to_probabilities(self.logits(texts, batch_size=batch_size), self.labels)

    def predict(
        self,
        texts: Any,
        *,
        text_column: Names = None,
        min_confidence: float = 0.0,
        batch_size: Count | None = None,
        **options: Any,
    ) -> list[Prediction]:
        """Predict in the order of the rows.

        Args:
            texts: a list, an array or a Series of strings, or an iterable that yields them; a file of rows, a DataFrame
                or whatever else ``finetune`` takes; "-" for standard input.
            text_column: column of the texts, or several; None: as in training, else found by name or by content.
            min_confidence: a text with a confidence below it gets no label: the probability of its label, or with
                several labels at once that of the least sure yes or no. One without words gets none either.
            batch_size: the most texts, or windows of long ones, in one pass through the model; None: by their lengths.
            options: of a file: ``separator``, ``encoding``, ..., as in ``load_data``.

        Raises:
            DataError: a single string that is no file, rows that cannot be read, or no text column.
            SettingError: a ``min_confidence`` outside [0, 1], or an unknown option.
            TrainingError: not enough memory for one text.
        """
        options |= {"text_column": text_column, "min_confidence": min_confidence, "batch_size": batch_size}
        with progress_bar("predicting", len(texts) if isinstance(texts, list) else None) as bar:
            found = list[Prediction]()
            for rows in self.batches(texts, **options):
                found += rows
                bar.advance(len(rows.texts))
            return found

    def stream(self, texts: Any, **options: Any) -> Iterator[Prediction]:
        """Predict one text after the other; what is read is a file, or an iterable, at its own pace.

        The options are those of ``predict``, as they are in ``batches`` and ``predict_file``.
        """
        return chain.from_iterable(self.batches(texts, **options))

    def batches(self, texts: Any, **options: Any) -> Iterator[PredictedRows]:
        """Predict as ``stream`` does, with the labels of some thousand texts at a time in columns."""
        return (predicted for _, predicted in self._predicted(texts, **options))

    def predict_file(
        self,
        texts: Any,
        output: str | Path,
        *,
        top_k: int | None = None,
        all_scores: bool = False,
        raw_cells: bool = False,
        advance: Callable[[int], object] | None = None,
        **options: Any,
    ) -> Path:
        """Predict as ``predict`` does, and write all columns of the rows with the labels to a file.

        Its ending says what it is: .csv, .tsv, .jsonl or .parquet. Added are ``label`` and ``score``, or ``labels`` and
        ``scores`` where there may be several; all begin with predicted_ where one of these names is taken. They are
        null, or empty cells, where no label is given.

        Args:
            top_k: the likeliest labels, whatever their thresholds, that are listed in ``labels`` and ``scores``.
            all_scores: whether the probability of each label is added as ``score_LABEL``.
            raw_cells: whether text that a spreadsheet would take for a formula gets no ' before it in csv and tsv.
            advance: called with how many texts were predicted, after some thousand each time; None: a bar shows it.

        Raises:
            DataError: as in ``predict``; an output that is the input, a folder or of another kind, or that cannot hold
                the rows.
            StorageError: it cannot be written; nothing of it is left.
        """
        path, rows = check_output(output, texts), self._predicted(texts, **options)
        hidden = no_progress(advance is not None)
        with open_output(path, raw_cells) as writer, hidden, progress_bar("predicting") as bar:
            advance = advance or bar.advance
            names = dict[str, str]()
            for table, predicted in rows:
                added = predicted.columns(top_k=top_k, all_scores=all_scores)
                names = names or free_names([*added], table, str(path))
                check_free(names.values(), table, str(path))
                writer.write(table, {names[name]: values for name, values in added.items()})
                advance(len(predicted.texts))
            if not names:
                none = self._of_texts([], 0, None)
                writer.write(Table(str(path), {}), none.columns(top_k=top_k, all_scores=all_scores))
        return path

    def _predicted(
        self,
        texts: Any,
        *,
        text_column: Names = None,
        min_confidence: float = 0.0,
        batch_size: Count | None = None,
        **options: Any,
    ) -> Iterator[tuple[Table, PredictedRows]]:
        check(0 <= min_confidence <= 1, "min_confidence", min_confidence, "a probability from 0 to 1")
        check_arguments(Classifier._predicted, batch_size=batch_size)
        named = text_column.split(",") if isinstance(text_column, str) else text_column
        tables = stream_tables(texts, fill({"file": FileSettings}, options)["file"], named or self.text_columns)
        return self._of_tables(tables, text_column, min_confidence, batch_size)

    def _of_tables(
        self, tables: Iterable[Table], text_column: Names, min_confidence: float, batch_size: Count | None
    ) -> Iterator[tuple[Table, PredictedRows]]:
        size = max(1, min(CHUNK, CHUNK_NUMBERS // self.labels.num_labels))
        columns, without_text, where = tuple[str, ...](), 0, ""
        for table in tables:
            if not columns:
                columns = find_columns(table, text_column, known=self.text_columns, needs_label=False).text
            where = table.where
            for start in range(0, max(len(table), 1), size):
                part = table.part(start, start + size)
                # Among objects one by one, some may have no text.
                there = [name for name in columns if part.has(name)]
                texts = texts_of(part, there) if there else [""] * len(part)
                rows = self._of_texts(texts, min_confidence, batch_size)
                without_text += int(rows.without_text.sum())
                yield part, rows
        if without_text:
            log.info("%s: %d rows have no text, and get no label", where, without_text)

    def _of_texts(self, texts: Sequence[str], min_confidence: float, batch_size: Count | None) -> PredictedRows:
        logits = self.logits(texts, batch_size=batch_size, shown="the next texts")
        return self._of_logits(texts, logits, min_confidence)

    def _of_logits(self, texts: Sequence[str], logits: np.ndarray, min_confidence: float) -> PredictedRows:
        probabilities, multi_label = to_probabilities(logits, self.labels), self.labels.multi_label
        if not len(texts):
            return PredictedRows(texts, probabilities, self.labels.encode([]), np.zeros(0, dtype=bool), self.labels)
        targets = predicted(probabilities, self.labels, self.thresholds)
        unsure = confidence(probabilities, targets, multi_label=multi_label) < min_confidence
        return PredictedRows([*map(in_lines, texts)], probabilities, targets, unsure, self.labels)

    def explain(self, texts: Sequence[str], *, label: str | Sequence[str] | None = None) -> list[Explanation]:
        """Say for each text what its words do to its likeliest label, or to another one, of all or of each.

        A text of n words takes n passes through the model, but for a linear head on word vectors, which is a sum.
        A ``label`` that the classifier does not know is a SettingError.
        """
        found, labels = [], [label] * len(texts) if label is None or isinstance(label, str) else label
        with progress_bar("explaining", len(texts)) as bar:
            for text, about in zip(texts, labels, strict=True):
                found.append(explained(self, text, about))
                bar.advance()
        return found

    def evaluate(
        self,
        data: Any,
        *,
        settings: DataSettings | None = None,
        split: str = "test",
        further: Sequence[str] = (),
        batch_size: Count | None = None,
        **options: Any,
    ) -> dict[str, Any]:
        """Return scores with intervals on labeled data: a file, taken whole, or a split of anything that has several.

        ``settings``, or their fields as ``options`` (``text_column``, ``label_column``, ...), say how rows are read,
        and ``further`` other ``evaluate`` metrics; ``batch_size`` is as in ``predict``. Data that cannot be read, or
        with a label that the classifier does not know, are a DataError.
        """
        check_arguments(Classifier.evaluate, batch_size=batch_size)
        read = load_split(data, self.labels, data_settings(settings, options), split, self.text_columns)
        return self.score(read, further, batch_size)

    def score(self, split: Split, further: Sequence[str] = (), batch_size: Count | None = None) -> dict[str, Any]:
        """Return scores with intervals on a split."""
        logits = self.logits(split.texts, batch_size=batch_size, shown="scoring")
        probabilities = to_probabilities(logits, self.labels)
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
        from nlptransfer.classifier.onnx_export import export_onnx

        writable_folder(folder)
        texts = made_texts(self.labels, self.tokenizer)
        with scratch_folder(folder) as place:
            route, model, more = export_onnx(self.route, self.model, self.tokenizer, texts, place, int8=int8)
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
        tolerance = rounding(
            self.model, logits, lambda: np.concatenate([self._logits_of_normalized([text]) for text in texts])
        )
        record = SavedRecord(
            self.route, self.labels, self.thresholds, self.normalization, length, self.text_columns, self.record
        )
        with atomic_folder(folder) as new, waiting("saving the classifier") as bar:
            self.route.save(self.model, self.tokenizer, new)
            bar.say("verifying what was saved")
            compared = verified(self.route, new, self.record.get("base", {}), texts, logits, len(made), tolerance)
            replace(record, verified=compared).write(new)
        return folder

    def push_to_hub(self, repo_id: str, *, merged: bool = False, **options: Any) -> Pushed:
        """Save the classifier in a temporary folder and push it to a model hub, with the options of :func:`push_saved`.

        With ``merged`` an adapter is added to its base first, so that plain transformers opens it.
        """
        with scratch_folder(temporary_root() / "pushed") as place:
            saved = (self.merge() if merged else self).save_pretrained(place / "model")
            return push_saved(saved, repo_id, **options)

    @classmethod
    def load(
        cls,
        source: str | Path,
        base: str | SharedBase | None = None,
        *,
        device: str | None = None,
        revision: str | None = None,
        token: str | None = None,
    ) -> "Classifier":
        """Open the classifier that ``save_pretrained`` wrote, one in a run's folder, or one on the hub.

        It gives the logits that it was saved with.

        Args:
            source: a folder, or a hub id (owner/name).
            base: where the base model lies if it is not found by itself, or one in memory for several classifiers.
            device: that it works on, as cpu, cuda:1 or mps; None: a GPU where there is one.
            revision: of a classifier on the hub: commit, branch or tag.
            token: of a private one, and of a private base; None: the one that this machine is logged in with.

        Raises:
            SettingError: a device that is not here.
            RunFolderError: no classifier is there, a part of it is missing, or it needs a newer nlptransfer.
            HubError: the hub has none of that name, or cannot be reached.
            BaseModelError: the base model cannot be had, or is another one.
            VerificationError: it gives other logits than those it was saved with.
        """
        place = None if device is None else find_device(device)
        with storage_errors(source, "read"):
            folder = saved_folder(local_folder(source, revision, token))
            record = SavedRecord.read(folder)
            record.check_files(folder)
        route, known = record.route, record.further.get("base", {})
        if token is not None and not isinstance(base, SharedBase) and route.needs_base(folder):
            # What the token opens lies in the cache from now on, where the format finds it.
            recorded_base(known, base, token)
        model, tokenizer = route.load(folder, known, base)
        loaded = cls(
            route,
            route.placed(model, place),
            tokenizer,
            record.labels,
            record.thresholds,
            record.further,
            record.normalization,
            record.text_columns,
        )
        if record.verified is not None:
            check_logits(record.verified, loaded._logits_of_normalized(record.verified["texts"]), str(source))
        return loaded
