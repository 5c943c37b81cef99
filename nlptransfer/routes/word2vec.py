"""The route Word2Vec: frozen word vectors and a small classifier."""

import logging
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Annotated, Any, ClassVar, Literal, cast

import numpy as np
import torch
from annotated_types import MinLen
from torch import nn
from transformers import PreTrainedModel, PreTrainedTokenizerFast

from nlptransfer import distributed
from nlptransfer.data import Data
from nlptransfer.hub import CardSection, base_name, pipeline_code
from nlptransfer.memo import once
from nlptransfer.models import FeatureRows, Rows, TokenRows, encode, encode_words, pooled_vectors
from nlptransfer.routes.base import Built, Route, set_length
from nlptransfer.routes.pooled_head import PooledBody
from nlptransfer.routes.word2vec_model import (
    Word2VecConfig,
    Word2VecForSequenceClassification,
    embedding_matrix,
    make_tokenizer,
    unknown_share,
)
from nlptransfer.settings import Count, Share
from nlptransfer.vectors import continued_vectors, vectors_for, vocabulary

log = logging.getLogger("nlptransfer")


@dataclass(frozen=True)
class Word2Vec(Route):
    """Frozen word vectors and a small classifier."""

    name: ClassVar[str] = "word2vec"
    opened_by: ClassVar[str] = "transformers after import nlptransfer.word2vec"
    has_vectors: ClassVar[bool] = True

    head_type: Literal["cnn", "mlp", "linear"] = "cnn"
    """cnn: convolutions over the words (Kim 2014); mlp: two hidden layers on pooled vectors; linear: one, fitted"""
    pooling: Annotated[tuple[Literal["mean", "max"], ...], MinLen(1)] = ("mean",)
    """what mlp and linear take over the words, side by side"""
    mlp_sizes: Annotated[tuple[Count, ...], MinLen(1)] = (128, 64)
    """widths of the hidden layers of mlp"""
    kernel_sizes: Annotated[tuple[Count, ...], MinLen(1)] = (1, 2, 3, 4)
    """words that the filters of cnn span"""
    num_filters: Count = 100
    """filters of each span"""
    dropout: Share = 0.5
    """share of the features dropped in training"""
    train_vectors: bool = False
    """whether the vectors learn too"""
    unit_length: bool = True
    """whether each vector is scaled to length 1"""
    max_words: Count = 100_000
    """words that are kept: those of the training texts, then the most frequent"""
    max_length: Count | Literal["auto"] = 512
    """words that are read of a text, or at once; auto: as many as 99% of the training texts have at most"""
    dimensions: Count = 256
    """dimensions of vectors that are distilled from an encoder"""
    allow_pickle: bool = False
    """whether gensim's own files, which are pickles and can run code, are opened"""

    def build(self, data: Data, base: str | None, revision: str | None, seed: int, extra: Sequence[str] = ()) -> Built:
        self.check()
        texts = (*data.train.texts, *extra)
        key = "words", str(self), base, revision, texts
        matrix, tokenizer, record, train = once(key, lambda: self._words(texts, base, revision))
        config = Word2VecConfig(
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
        model = Word2VecForSequenceClassification(config)
        model.vectors.weight.data.copy_(torch.from_numpy(matrix))
        if isinstance(model.body, PooledBody):
            pooled = pooled_vectors(model.vectors.weight, train, self.pooling)
            model.body.standardize.fit(pooled.features)
        return Built(model, tokenizer, dict(record))

    def _words(
        self, texts: Sequence[str], base: str | None, revision: str | None
    ) -> tuple[np.ndarray, PreTrainedTokenizerFast, dict[str, Any], TokenRows]:
        """Return the vectors, the tokenizer, the record of where they come from, and the tokens of the texts."""
        vectors, record = vectors_for(texts, base, revision, dimensions=self.dimensions, allow_pickle=self.allow_pickle)
        words, kept = vocabulary(vectors, texts, self.max_words, unit_length=self.unit_length)
        matrix = embedding_matrix(kept)
        tokenizer = set_length(make_tokenizer(words), self.max_length, texts)
        train = self._tokens(tokenizer, texts)
        record |= {"words": len(words), "dimensions": matrix.shape[1]}
        record["unknown_share"] = unknown_share(train.ids)
        log.info(
            "%d words of %d dimensions; %.1f%% of the training words have no vector",
            len(words),
            matrix.shape[1],
            100 * record["unknown_share"],
        )
        return matrix, tokenizer, record, train

    def rows(
        self, model: PreTrainedModel, tokenizer: PreTrainedTokenizerFast, texts: Sequence[str], *, share: bool = False
    ) -> Rows:
        tokens = self._tokens(tokenizer, texts)
        if not self.is_frozen:
            return tokens
        return pooled_vectors(_own(model).vectors.weight, tokens, self.pooling)

    def _tokens(self, tokenizer: PreTrainedTokenizerFast, texts: Sequence[str]) -> TokenRows:
        if self.is_frozen:
            return encode_words(texts, tokenizer, self.long_text)
        return encode(texts, tokenizer, tokenizer.model_max_length, self.long_text)

    def card_section(self, record: Mapping[str, Any], repo_id: str) -> CardSection:
        base = record.get("base") or {}
        size = f": {base['words']:,} words of {base['dimensions']} dimensions" if base.get("words") else ""
        source = "distilled from" if base.get("kind") == "distilled" else "those of"
        return CardSection(
            f"The word vectors are {source} {base_name(base)}{size}. They "
            f"{'learned too' if self.train_vectors else 'stayed as they are'}; on them a head (`{self.head_type}`) was "
            f"{'fitted' if self.fits_head else 'trained'}.",
            relation="adapter",
            loading_code=pipeline_code(record, repo_id, "\nimport nlptransfer.word2vec  # registers the model type\n"),
            loading_needs="In transformers, with nlptransfer installed",
            has_steps=not self.fits_head,
            unit="words",
            unknown="words without a vector",
            holds_words=True,
        )

    def continued_vectors(self, texts: Sequence[str], base: str | None, revision: str | None, **training: Any) -> str:
        vectors, _ = vectors_for(texts, base, revision, dimensions=self.dimensions, allow_pickle=self.allow_pickle)
        with distributed.main_first():
            return str(continued_vectors(vectors, texts, max_words=self.max_words, **training).folder)

    @property
    def is_frozen(self) -> bool:
        return self.head_type != "cnn" and not self.train_vectors

    @property
    def fits_head(self) -> bool:
        return self.head_type == "linear" and not self.train_vectors

    def head(self, model: PreTrainedModel) -> nn.Linear:
        return _own(model).classifier

    def layer_vectors(
        self, model: PreTrainedModel, tokenizer: PreTrainedTokenizerFast, texts: Sequence[str], some: np.ndarray
    ) -> list[np.ndarray]:
        tokens = encode_words([texts[place] for place in some], tokenizer, self.long_text)
        return [pooled_vectors(_own(model).vectors.weight, tokens, ("mean",)).features]

    def head_inputs(self, model: nn.Module, rows: Rows) -> np.ndarray | None:
        if not self.fits_head:
            return None
        assert isinstance(rows, FeatureRows)
        return cast(PooledBody, _own(model).body).outputs(rows.features)

    def defaults(self, data: Data) -> dict[str, Any]:
        # Small data gets more passes and smaller batches, so that it has steps enough. No early stopping: the best
        # epochs come late, when the rate is low, and the validation score goes up and down before.
        rows = len(data.train)
        return {
            "num_train_epochs": 20 if rows < 10_000 else 10,
            "learning_rate": 4e-3 if self.head_type == "cnn" else 3e-3,
            "per_device_train_batch_size": 64 if rows >= 2_000 else 32,
        }


def _own(model: nn.Module) -> Word2VecForSequenceClassification:
    assert isinstance(model, Word2VecForSequenceClassification)
    return model
