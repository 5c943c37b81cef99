"""Build and fit classifiers on pooled vectors: the base class of Word2Vec and Probe."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Annotated, Any

import numpy as np
from annotated_types import MinLen
from torch import nn
from transformers import PreTrainedModel

from nlptransfer.data import Data, Labels
from nlptransfer.memo import once
from nlptransfer.models import NGRAMS, FeatureRows, NgramRows, Ngrams, Rows, label_config
from nlptransfer.routes.base import HeadInputs, Route
from nlptransfer.routes.pooled_head import PooledClassifier
from nlptransfer.settings import Count, Share, check
from nlptransfer.vectors import RESERVED, Subwords, WordVectors, vectors_for, vocabulary

NGRAMS_ON_CARD = "n-grams, which are TF-IDF of words and pairs of words (characters where words are not spaced),"


@dataclass(frozen=True)
class PooledRoute(Route):
    """A small classifier on pooled vectors."""

    head_type: str = "linear"
    pooling: tuple[str, ...] = ("mean",)
    mlp_sizes: Annotated[tuple[Count, ...], MinLen(1)] = (128, 64)
    """widths of the hidden layers of mlp"""
    dropout: Share = 0.5
    """share of the head's features dropped in training"""
    max_words: Count = 100_000
    """word vectors that are kept: those of the training texts, then the most frequent"""
    dimensions: Count = 256
    """dimensions of word vectors that are distilled from an encoder"""
    keep_layers: Count | None = None
    """first layers of the encoder that are kept, the others left out; None: all"""
    allow_pickle: bool = False
    """whether gensim's own files, which are pickles and can run code, are opened"""

    @property
    def fits_head(self) -> bool:
        return self.is_frozen and self.head_type == "linear"

    def head(self, model: PreTrainedModel) -> nn.Linear:
        assert isinstance(model, PooledClassifier)
        return model.classifier

    @property
    def sees_ngrams(self) -> bool:
        """Tell whether n-grams stand beside the pooled vectors, at least until they are found to be of no use."""
        return False

    def head_inputs(self, model: nn.Module, rows: Rows) -> HeadInputs | None:
        if not self.fits_head:
            return None
        dense, ngrams = (rows.rows, rows.ngrams) if isinstance(rows, NgramRows) else (rows, None)
        assert isinstance(model, PooledClassifier) and isinstance(dense, FeatureRows)
        return model.last_inputs(dense.features), ngrams

    def ngrams_of(self, texts: Sequence[str], labels: Labels) -> Ngrams | None:
        """Return the n-grams of the running ``texts`` that a model for these labels has; None where it has none."""
        return Ngrams.of(texts, labels.num_labels) if self.sees_ngrams else None

    def with_ngrams(self, model: PooledClassifier, rows: Rows, texts: Sequence[str]) -> Rows:
        """Add the n-grams of texts to their rows, where the model has some."""
        ngrams = model.ngrams
        if ngrams is None:
            return rows
        key = NGRAMS, ngrams.analyzer, ngrams.terms, ngrams.idf.tobytes(), tuple(texts)
        return NgramRows(rows, once(key, lambda: ngrams.features(texts)))

    def finish(self, model: PreTrainedModel) -> Route:
        assert isinstance(model, PooledClassifier)
        model.drop_unused_ngrams()
        return self

    def check(self) -> None:
        super().check()
        expected = "head_type=linear beside ngrams, whose weights are fitted"
        check(self.head_type == "linear" or not self.sees_ngrams, "head_type", self.head_type, expected)

    def head_settings(self, labels: Labels, ngrams: Ngrams | None) -> dict[str, Any]:
        names = {"pooling": self.pooling, "mlp_sizes": self.mlp_sizes, "dropout": self.dropout}
        names["num_ngrams"] = len(ngrams or ())
        return {"head": self.head_type, **names, **label_config(labels)}

    def vectors_for(
        self, texts: Sequence[str], base: str | None, revision: str | None
    ) -> tuple[WordVectors, dict[str, Any]]:
        """Open or distill the word vectors that a base names, and say where they come from."""
        names = ("dimensions", "max_words", "keep_layers", "allow_pickle")
        return vectors_for(texts, base, revision, **{name: getattr(self, name) for name in names})

    def word_vectors(
        self, texts: Sequence[str], base: str | None, revision: str | None, *, unit_length: bool
    ) -> tuple[list[str], np.ndarray, dict[str, Any], Subwords | None]:
        """Return the words to keep, their vectors below the reserved rows, the record of where they come from, and
        what gives other words a vector."""
        vectors, record = self.vectors_for(texts, base, revision)
        words, matrix = vocabulary(vectors, texts, self.max_words, unit_length=unit_length)
        return words, np.pad(matrix, ((RESERVED, 0), (0, 0))), record, vectors.subwords


def default_settings(data: Data, learning_rate: float) -> dict[str, Any]:
    """Return default epochs, learning rate and batch size: small data gets more passes and smaller batches."""
    # Without early stopping: the best epochs come late, when the rate is low, and the validation score varies before.
    rows = len(data.train)
    return {
        "num_train_epochs": 20 if rows < 10_000 else 10,
        "learning_rate": learning_rate,
        "per_device_train_batch_size": 64 if rows >= 2_000 else 32,
    }
