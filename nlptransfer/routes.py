"""The routes and the table of them: how a model is built for the data, fed with text, saved and loaded.

A route is one class here and one entry in ``ROUTES``; the command line and the saved record read the table.
"""

import logging
from abc import ABC, abstractmethod
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar, Literal

import numpy as np
import torch
from torch import nn
from transformers import AutoModelForSequenceClassification, AutoTokenizer, PreTrainedModel, PreTrainedTokenizerFast
from transformers.utils import logging as hf_logging

from nlptransfer import processes, word2vec
from nlptransfer.batching import FeatureRows, Rows, encode
from nlptransfer.data import Data
from nlptransfer.encoders import find_base, is_encoder
from nlptransfer.errors import RunFolderError, SettingError, nearest
from nlptransfer.features import pooled_vectors
from nlptransfer.segmentation import build_tokenizer, is_unspaced, surface_words
from nlptransfer.settings import check, convert, fields_of
from nlptransfer.vector_making import distil_for_texts
from nlptransfer.vectors import WordVectors, open_vectors

log = logging.getLogger("nlptransfer")


@dataclass(frozen=True)
class Built:
    """A model that is ready to be trained."""

    model: PreTrainedModel
    tokenizer: PreTrainedTokenizerFast
    record: dict[str, Any]
    """where its knowledge comes from, for the saved record; no path of this machine"""
    defaults: dict[str, Any]
    """training settings that suit this route and data, where the user asks for none"""


@dataclass(frozen=True)
class Route(ABC):
    """How a pretrained model becomes a classifier; its fields are the route's settings."""

    name: ClassVar[str]

    @abstractmethod
    def build(self, data: Data, base: str | None, revision: str | None, seed: int) -> Built:
        """A fresh model for the data's labels; only training texts are looked at."""

    @abstractmethod
    def rows(self, model: PreTrainedModel, tokenizer: PreTrainedTokenizerFast, texts: Sequence[str]) -> Rows:
        """What the model takes of these texts, the same in training and in prediction."""

    @abstractmethod
    def head(self, model: PreTrainedModel) -> nn.Linear:
        """The last layer, whose outputs are the logits."""

    def head_inputs(self, model: PreTrainedModel, rows: Rows) -> np.ndarray | None:
        """(rows, width) float32 inputs of the last layer if it alone learns and is solved, not stepped; else None."""
        return None

    def save(self, model: PreTrainedModel, tokenizer: PreTrainedTokenizerFast, folder: Path) -> None:
        """Write model and tokenizer as plain transformers reads them."""
        with _no_bars():
            model.save_pretrained(folder)
            tokenizer.save_pretrained(folder)

    def load(self, folder: Path) -> tuple[PreTrainedModel, PreTrainedTokenizerFast]:
        """The model and tokenizer that were saved in a folder.

        Raises:
            RunFolderError: weights are missing, which transformers would fill with random numbers.
        """
        with _no_bars():
            model, found = AutoModelForSequenceClassification.from_pretrained(
                folder, use_safetensors=True, output_loading_info=True
            )
        if missing := sorted(found["missing_keys"]):
            raise RunFolderError(f"{folder}: expected every weight of the model, found no {', '.join(missing)}")
        tokenizer = AutoTokenizer.from_pretrained(folder)
        assert isinstance(tokenizer, PreTrainedTokenizerFast)
        return model.eval(), tokenizer

    @abstractmethod
    def check(self) -> None:
        """Raise a SettingError for a value that makes no sense."""


@dataclass(frozen=True)
class Word2Vec(Route):
    """Frozen word vectors and a small classifier."""

    name: ClassVar[str] = "word2vec"

    head_type: Literal["cnn", "mlp", "linear"] = "cnn"
    """cnn: convolutions over the words (Kim 2014); mlp: two hidden layers on pooled vectors; linear: one, solved"""
    pooling: tuple[Literal["mean", "max"], ...] = ("mean",)
    """what mlp and linear take over the words, side by side"""
    mlp_sizes: tuple[int, ...] = (128, 64)
    """widths of the hidden layers of mlp"""
    kernel_sizes: tuple[int, ...] = (1, 2, 3, 4)
    """words that the filters of cnn span"""
    num_filters: int = 100
    """filters of each span"""
    dropout: float = 0.5
    """share of the features dropped in training"""
    train_vectors: bool = False
    """whether the vectors learn too"""
    unit_length: bool = True
    """whether each vector is scaled to length 1"""
    max_words: int = 100_000
    """words that are kept: those of the training texts, then the most frequent"""
    max_length: int = 512
    """words that are read of a text"""
    dimensions: int = 256
    """dimensions of vectors that are distilled from an encoder"""
    allow_pickle: bool = False
    """whether gensim's own files, which are pickles and can run code, are opened"""

    def check(self) -> None:
        for name, hint in fields_of(type(self)).items():
            convert(name, getattr(self, name), hint)
        for name in ("num_filters", "max_words", "max_length", "dimensions"):
            check(getattr(self, name) >= 1, name, getattr(self, name), "a whole number from 1")
        check(0 <= self.dropout < 1, "dropout", self.dropout, "a share in [0, 1)")
        for name in ("kernel_sizes", "mlp_sizes", "pooling"):
            value = getattr(self, name)
            positive = all(isinstance(size, str) or size >= 1 for size in value)
            check(len(value) > 0 and positive, name, value, "at least one, each from 1")

    def build(self, data: Data, base: str | None, revision: str | None, seed: int) -> Built:
        self.check()
        vectors, record = self._vectors(data.train.texts, base, revision)
        words, matrix = self._vocabulary(vectors, data.train.texts)
        config = word2vec.Word2VecConfig(
            vocab_size=len(matrix),
            hidden_size=matrix.shape[1],
            head=self.head_type,
            pooling=self.pooling,
            mlp_sizes=self.mlp_sizes,
            kernel_sizes=self.kernel_sizes,
            num_filters=self.num_filters,
            dropout=self.dropout,
            train_vectors=self.train_vectors,
            id2label=data.labels.id2label,
            label2id=data.labels.label2id,
            problem_type=data.labels.problem_type,
        )
        torch.manual_seed(seed)
        model = word2vec.Word2VecForSequenceClassification(config)
        model.vectors.weight.data.copy_(torch.from_numpy(matrix))
        tokenizer = word2vec.make_tokenizer(words, self.max_length)
        train = encode(data.train.texts, tokenizer, self.max_length)
        record |= {"words": len(words), "dimensions": matrix.shape[1]}
        record["unknown_share"] = word2vec.unknown_share(train.ids)
        log.info(
            "%d words of %d dimensions; %.1f%% of the training words have no vector",
            len(words),
            matrix.shape[1],
            100 * record["unknown_share"],
        )
        if isinstance(model.body, word2vec.PooledBody):
            pooled = pooled_vectors(model.vectors.weight, train, self.pooling)
            model.body.standardize.fit(pooled.features)
        return Built(model, tokenizer, record, self._defaults(len(data.train)))

    def rows(self, model: PreTrainedModel, tokenizer: PreTrainedTokenizerFast, texts: Sequence[str]) -> Rows:
        tokens = encode(texts, tokenizer, self.max_length)
        if self.head_type == "cnn" or self.train_vectors:
            return tokens
        return pooled_vectors(_own(model).vectors.weight, tokens, self.pooling)

    def head(self, model: PreTrainedModel) -> nn.Linear:
        return _own(model).classifier

    def head_inputs(self, model: PreTrainedModel, rows: Rows) -> np.ndarray | None:
        if self.head_type != "linear" or not isinstance(rows, FeatureRows):
            return None
        with torch.inference_mode():
            return _own(model).body(torch.from_numpy(rows.features)).numpy()

    def _vectors(
        self, texts: Sequence[str], base: str | None, revision: str | None
    ) -> tuple[WordVectors, dict[str, Any]]:
        """Vectors of a file, or distilled from an encoder for the words of these texts."""
        with processes.main_first():
            if base is not None and not is_encoder(base):
                check(revision is None, "revision", revision, "none, as a file of word vectors has no revisions")
                vectors = open_vectors(base, allow_pickle=self.allow_pickle)
                return vectors, {"kind": "vectors", "name": vectors.source}
            encoder = find_base(base, revision)
            vectors = distil_for_texts(texts, encoder, dimensions=self.dimensions)
            return vectors, {"kind": "distilled", "name": encoder.id, "revision": encoder.revision}

    def _vocabulary(self, vectors: WordVectors, texts: Sequence[str]) -> tuple[list[str], np.ndarray]:
        """The words to keep, most frequent first, and their (words + 2, dimensions) matrix."""
        places = np.arange(min(len(vectors), self.max_words))
        if len(vectors) > self.max_words:
            sample = vectors.words(0, 20_000)
            # Unspaced text is cut by all the words; spaced text by habits that a sample shows.
            habit = build_tokenizer(vectors.words() if is_unspaced(sample) else sample)
            found = vectors.rows(sorted({word for words in surface_words(habit, texts) for word in words}))
            found = np.sort(found[found >= 0])[: self.max_words]
            places = np.union1d(found, np.setdiff1d(places, found)[: self.max_words - len(found)])
        matrix = np.zeros((len(places) + word2vec.RESERVED, vectors.dimensions), dtype=np.float32)
        matrix[word2vec.RESERVED :] = vectors.matrix[places]
        if self.unit_length:
            norms = np.linalg.norm(matrix, axis=1, keepdims=True)
            matrix /= np.where(norms > 0, norms, 1)
        return vectors.words_at(places), matrix

    def _defaults(self, rows: int) -> dict[str, Any]:
        # Small data gets more passes and smaller batches, so that it has steps enough. No early stopping: the best
        # epochs come late, when the rate is low, and the validation score goes up and down before.
        return {
            "num_train_epochs": 20 if rows < 10_000 else 10,
            "learning_rate": 4e-3 if self.head_type == "cnn" else 3e-3,
            "per_device_train_batch_size": 64 if rows >= 2_000 else 32,
        }


@contextmanager
def _no_bars() -> Iterator[None]:
    # transformers shows a bar even for a single small file.
    shown = hf_logging.is_progress_bar_enabled()
    hf_logging.disable_progress_bar()
    try:
        yield
    finally:
        if shown:
            hf_logging.enable_progress_bar()


def _own(model: PreTrainedModel) -> word2vec.Word2VecForSequenceClassification:
    assert isinstance(model, word2vec.Word2VecForSequenceClassification)
    return model


ROUTES: dict[str, type[Route]] = {route.name: route for route in (Word2Vec,)}
"""The routes by name."""


def route_class(name: str) -> type[Route]:
    """The route of that name.

    Raises:
        SettingError: no such route.
    """
    if name not in ROUTES:
        raise SettingError(f"unknown route {name!r}: {nearest(name, ROUTES)}")
    return ROUTES[name]
