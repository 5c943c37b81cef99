"""The rows that an audit looks at: their features, and probabilities of heads that have not seen them."""

import logging
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import TYPE_CHECKING, Any

import numpy as np

from nlptransfer.data import Data, folded
from nlptransfer.errors import BaseModelError
from nlptransfer.evaluation import to_probabilities
from nlptransfer.experiments.ranking import AUTO, best_base, frozen_route
from nlptransfer.experiments.sampling import places_of_some, some_rows
from nlptransfer.experiments.task import Task
from nlptransfer.hub import base_for, find_base
from nlptransfer.models import FeatureRows, Ngrams
from nlptransfer.routes import Built, Route
from nlptransfer.training import FTOL, ROUGH, Features, FittedHead, Head, HeadTask, TrainingSettings, are_few

if TYPE_CHECKING:
    import pandas as pd

log = logging.getLogger("nlptransfer")

FOLDS = 5
HEAD_ROWS = 20_000
"""Most training rows that heads are fitted on; of more, an equal share of each label."""
BUILT_ON = 32
"""Training rows on which an encoder is tried."""
BLOCK = 8192
"""Rows that are in memory as float32 at a time."""
COMPONENTS = 128
"""Dimensions to which TF-IDF is reduced (latent semantic analysis, Deerwester et al. 1990)."""


@dataclass(frozen=True, eq=False)
class AuditRows:
    """The rows of a data set, and what several questions ask of them, computed once; all processes call it together."""

    data: Data
    others: Mapping[str, Mapping[str, Sequence[Any]]]
    """by split, the columns of its rows besides text and label"""
    base: str | None
    """the encoder's name; None: TF-IDF stands in for one"""
    revision: str | None = None
    route: Route = field(default_factory=lambda: frozen_route({}))
    """whose features are looked at"""

    @classmethod
    def of(
        cls,
        data: Data,
        base: str | None = None,
        revision: str | None = None,
        *,
        others: Mapping[str, Mapping[str, Sequence[Any]]] | None = None,
        route: Route | None = None,
    ) -> "AuditRows":
        """Take the encoder that ``finetune`` takes, or TF-IDF where none is named and none at hand."""
        name = best_base(data, revision) if base == AUTO else base_for(base, revision, [data.train.texts])
        try:
            name = name or find_base(None, revision).id
        except BaseModelError as error:
            log.warning("There is no encoder here, so TF-IDF takes its place, which sees words alone: %s", error)
        return cls(data, others or {}, name, revision, route or frozen_route({}))

    def features(self, split: str) -> np.ndarray:
        """Return (rows, width) float16 features: all layers side by side, memory-mapped from the frozen route's cache.

        Without an encoder they are reduced TF-IDF; where texts are read in windows they are float32.
        """
        if split not in self._features:
            self._features[split] = self._made(self.data.splits[split].texts)
        return self._features[split]

    @cached_property
    def out_of_fold(self) -> np.ndarray:
        """Probabilities of the training rows, (rows, labels) float32, of heads that have seen no row with their text.

        Folds hold equal folded texts together. A label whose text is the only one of its kind is unknown to the head.
        """
        return self._held_out(self._heads)

    @cached_property
    def reweighted(self) -> np.ndarray:
        """Probabilities as :attr:`out_of_fold`, of heads to which rows count less whose label seems wrong by that.

        They are nearer to the true labels where given ones are wrong, and know a little of each row by the weights of
        its neighbors. A row weighs the probability of its label over that of the likeliest, as if of rows like it so
        many had their label by right (importance reweighting, Liu and Tao 2016). With several labels, which a row may
        have by right and others not, all rows count alike.
        """
        targets, p = self.data.train.targets, self.out_of_fold
        if targets.ndim == 2:
            return p
        weights = p[np.arange(len(p)), targets] / p.max(axis=1)
        return self._held_out(self._task.heads_of(self._parts, weights[self._sample], self._heads))

    @cached_property
    def _heads(self) -> list[Head]:
        """The head of each fold, fitted on the other ones."""
        return self._task.heads_of(self._parts)

    @property
    def _parts(self) -> list[np.ndarray]:
        """Which of the rows that heads are fitted on are outside of each fold."""
        return [self.folds[self._sample] != fold for fold in range(self.folds.max() + 1)]

    def _held_out(self, heads: Sequence[Head]) -> np.ndarray:
        logits = np.empty((len(self.folds), self.data.labels.num_labels), np.float32)
        for rows, values in self._blocks("train"):
            for fold, head in enumerate(heads):
                places = np.flatnonzero(self.folds[rows] == fold)
                logits[rows.start + places] = _logits(values[places], head)
        return to_probabilities(logits, self.data.labels)

    def probabilities(self, split: str, head: Head | None = None) -> np.ndarray:
        """Return (rows, labels) float32 of a head; None: the one that is fitted on training rows of all folds."""
        logits = [np.zeros((0, self.data.labels.num_labels), np.float32)]
        logits += [_logits(values, head or self.head.head) for _, values in self._blocks(split)]
        return to_probabilities(np.concatenate(logits), self.data.labels)

    @property
    def longest_read(self) -> int | None:
        """Tokens of a text that the encoder reads; None where there is none."""
        return None if self.base is None else int(self._built.tokenizer.model_max_length)

    def truncated(self, split: str) -> float:
        """Return the share of the texts of a split that the encoder does not read whole."""
        texts = self.data.splits[split].texts
        return 0.0 if self.base is None else self.route.truncated(self._built.tokenizer, texts) / len(texts)

    def frame(self, split: str, indices: np.ndarray) -> "pd.DataFrame":
        """Return the rows of a split at these places: their number in the source, text and label."""
        import pandas as pd

        rows = self.data.splits[split].take(indices)
        numbers = np.asarray(indices) + 1 if rows.numbers is None else rows.numbers
        labels = self.labels_of(rows.targets)
        return pd.DataFrame({"split": split, "row": numbers, "text": rows.texts, "label": labels})

    def labels_of(self, targets: np.ndarray) -> list[str]:
        """Write the labels of rows, several joined by commas."""
        return [one if isinstance(one, str) else ", ".join(one) for one in self.data.labels.decode(targets)]

    @cached_property
    def texts(self) -> np.ndarray:
        """The number of each training row's folded text, (rows,), in the order of their first rows."""
        numbers = dict[str, int]()
        every = (numbers.setdefault(folded(text), len(numbers)) for text in self.data.train.texts)
        return np.fromiter(every, np.int64, len(self.data.train))

    @cached_property
    def folds(self) -> np.ndarray:
        """The fold of each training row, (rows,): folded texts are dealt out by turns, label by label."""
        _, first = np.unique(self.texts, return_index=True)
        labels = self.data.train.targets[first]
        if labels.ndim == 2:
            # The rarest of each.
            labels = np.where(labels > 0, labels.sum(axis=0), np.inf).argmin(axis=1)
        order = np.lexsort((np.random.default_rng(0).permutation(len(first)), labels))
        dealt = np.empty(len(first), np.int64)
        dealt[order] = np.arange(len(first)) % FOLDS
        found: np.ndarray = dealt[self.texts]
        return found

    @cached_property
    def distinct_texts(self) -> np.ndarray:
        """How many folded texts have each label, (labels,)."""
        targets, count = self.data.train.targets, self.data.labels.num_labels
        row, label = np.nonzero(targets) if targets.ndim == 2 else (np.arange(len(targets)), targets)
        return np.bincount(np.unique(self.texts[row] * count + label) % count, minlength=count)

    @cached_property
    def head(self) -> FittedHead:
        """The head of the training rows of all folds, and its L2 strength: the one that held-out rows choose."""
        rows, task = self._fitted_on
        out = self.folds[self._sample] == 0
        return HeadTask(task.criterion, rows[~out], rows[out], task.score, ftol=self._ftol).choose_l2()

    def fitted(self, kept: np.ndarray) -> Head:
        """Fit a head as :attr:`head` is on the training rows that are kept, (rows,) bool."""
        return self._task.heads_of([kept[self._sample]])[0]

    @cached_property
    def _task(self) -> HeadTask:
        """The task of heads with that strength."""
        rows, task = self._fitted_on
        return HeadTask(task.criterion, rows, rows[:0], task.score, l2=self.head.record["l2"], ftol=self._ftol)

    @property
    def _ftol(self) -> float:
        return FTOL if are_few(len(self._sample), 0) else ROUGH

    @cached_property
    def _sample(self) -> np.ndarray:
        """The places of the training rows that heads are fitted on."""
        places = places_of_some(self.data.train, HEAD_ROWS)
        if len(places) < len(self.data.train):
            log.info(
                "The classifiers that check labels learn from %d of the %d training rows, which are enough",
                len(places),
                len(self.data.train),
            )
        return places

    @cached_property
    def _fitted_on(self) -> tuple[Features, Task]:
        none, train = self.data.train.take([]), self.data.train.take(self._sample)
        data = replace(self.data, train=train, validation=none, calibration=none, test=none)
        task = Task.of(data, TrainingSettings())
        return Features(self._standardized("train", self._sample), train.targets, task.weights), task

    def _blocks(self, split: str) -> Iterator[tuple[slice, np.ndarray]]:
        """Yield standardized features, block by block, each with the rows that it is of."""
        rows = len(self.features(split))
        for start in range(0, rows, BLOCK):
            block = slice(start, min(start + BLOCK, rows))
            yield block, self._standardized(split, block)

    def _standardized(self, split: str, rows: slice | np.ndarray) -> np.ndarray:
        mean, spread = self._scale
        values: np.ndarray = (self.features(split)[rows] - mean) / spread
        return values

    @cached_property
    def _scale(self) -> tuple[np.ndarray, np.ndarray]:
        values = self.features("train")[self._sample].astype(np.float32)
        mean, spread = values.mean(axis=0), values.std(axis=0)
        if self.base is None:
            # Dimensions of words come by how much they say; alike, the last would count as much as the first.
            spread = np.full_like(spread, np.sqrt((spread**2).mean()))
        # What float16 rounds is no spread.
        return mean, np.where(spread > np.finfo(np.float16).eps * np.abs(mean), spread, 1).astype(np.float32)

    @cached_property
    def _features(self) -> dict[str, np.ndarray]:
        """Those that were asked for, by split."""
        return {}

    def _made(self, texts: Sequence[str]) -> np.ndarray:
        if self.base is None:
            return self._reduced(texts)
        rows = self.route.rows(self._built.model, self._built.tokenizer, texts, share=True)
        assert isinstance(rows, FeatureRows)
        return rows.features

    @cached_property
    def _built(self) -> Built:
        few = replace(self.data, train=some_rows(self.data.train, BUILT_ON))
        return self.route.build(few, self.base, self.revision, 0)

    def _reduced(self, texts: Sequence[str]) -> np.ndarray:
        ngrams, components = self._components
        parts = [np.zeros((0, components.shape[1]), np.float16)]
        for start in range(0, len(texts), BLOCK):
            parts.append((ngrams.features(texts[start : start + BLOCK]) @ components).astype(np.float16))
        return np.concatenate(parts)

    @cached_property
    def _components(self) -> tuple[Ngrams, np.ndarray]:
        """The n-grams of the training rows that heads are fitted on, and (n-grams, dimensions)."""
        from sklearn.decomposition import TruncatedSVD

        texts = self.data.train.take(self._sample).texts
        ngrams = Ngrams.of(texts, self.data.labels.num_labels)
        dimensions = min(COMPONENTS, len(ngrams) - 1, len(texts) - 1)
        if dimensions < 1:
            return ngrams, np.ones((len(ngrams), 1), np.float32)
        svd = TruncatedSVD(dimensions, random_state=0, n_iter=2).fit(ngrams.features(texts))
        return ngrams, svd.components_.T


def _logits(values: np.ndarray, head: Head) -> np.ndarray:
    weight, bias = head
    return values @ weight.T + bias
