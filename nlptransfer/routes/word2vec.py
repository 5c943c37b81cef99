"""The route Word2Vec: frozen word vectors and a small classifier."""

import logging
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Annotated, Any, ClassVar, Literal

import numpy as np
import torch
from annotated_types import MinLen
from transformers import PreTrainedModel, PreTrainedTokenizerFast

from nlptransfer import distributed
from nlptransfer.data import Data
from nlptransfer.hub import CardSection, base_name, pipeline_code
from nlptransfer.memo import once
from nlptransfer.models import FeatureRows, Rows, TokenRows, encode_words, pooled_vectors
from nlptransfer.routes.base import Built, set_length, unknown_share
from nlptransfer.routes.pooled import PooledRoute, default_settings
from nlptransfer.routes.pooled_head import PooledBody
from nlptransfer.routes.word2vec_model import Word2VecConfig, Word2VecForSequenceClassification, make_tokenizer
from nlptransfer.settings import Count
from nlptransfer.vectors import continued_vectors, vectors_for

log = logging.getLogger("nlptransfer")

VECTORS = "vectors.weight"
"""The parameter with the word vectors."""


@dataclass(frozen=True)
class Word2Vec(PooledRoute):
    """Frozen word vectors and a small classifier."""

    name: ClassVar[str] = "word2vec"
    opened_by: ClassVar[str] = "transformers after import nlptransfer.word2vec"
    has_vectors: ClassVar[bool] = True

    head_type: Literal["cnn", "mlp", "linear"] = "cnn"
    """cnn: convolutions over the words (Kim 2014); mlp: two hidden layers on pooled vectors; linear: one, fitted"""
    pooling: Annotated[tuple[Literal["mean", "max"], ...], MinLen(1)] = ("mean",)
    """what mlp and linear take over the words, side by side"""
    kernel_sizes: Annotated[tuple[Count, ...], MinLen(1)] = (1, 2, 3, 4)
    """words that the filters of cnn span"""
    num_filters: Count = 100
    """filters of each span"""
    train_vectors: bool = False
    """whether the vectors learn too"""
    unit_length: bool = True
    """whether each vector is scaled to length 1"""
    max_length: Count | Literal["auto"] = 512
    """words that are read of a text, or at once; auto: as many as 99% of the training texts have at most"""

    def build(self, data: Data, base: str | None, revision: str | None, seed: int, extra: Sequence[str] = ()) -> Built:
        self.check()
        texts = (*data.train.texts, *extra)
        key = "words", str(self), base, revision, texts
        matrix, tokenizer, record, tokens = once(key, lambda: self._words(texts, base, revision))
        config = Word2VecConfig(
            vocab_size=len(matrix),
            hidden_size=matrix.shape[1],
            kernel_sizes=self.kernel_sizes,
            num_filters=self.num_filters,
            train_vectors=self.train_vectors,
            **self.head_settings(data.labels),
        )
        torch.manual_seed(seed)
        model = Word2VecForSequenceClassification(config)
        model.vectors.weight.data.copy_(torch.from_numpy(matrix))
        if isinstance(model.body, PooledBody):
            model.body.standardize.fit(pooled_vectors(model.vectors.weight, tokens, self.pooling))
        return Built(model, tokenizer, dict(record))

    def _words(
        self, texts: Sequence[str], base: str | None, revision: str | None
    ) -> tuple[np.ndarray, PreTrainedTokenizerFast, dict[str, Any], TokenRows]:
        """Return the vectors, their tokenizer, the record of where they come from, and the tokens of the texts."""
        words, matrix, record = self.word_vectors(texts, base, revision, unit_length=self.unit_length)
        tokenizer = set_length(make_tokenizer(words), self.max_length, texts)
        tokens = self.tokens(tokenizer, texts)
        unknown = unknown_share(tokens.ids, tokenizer)
        record = {**record, "words": len(words), "dimensions": matrix.shape[1], "unknown_share": unknown}
        message = "%d words of %d dimensions; %.1f%% of the training words have no vector"
        log.info(message, len(words), matrix.shape[1], 100 * unknown)
        return matrix, tokenizer, record, tokens

    def rows(
        self, model: PreTrainedModel, tokenizer: PreTrainedTokenizerFast, texts: Sequence[str], *, share: bool = False
    ) -> Rows:
        tokens = self.tokens(tokenizer, texts)
        if not self.is_frozen:
            return tokens
        return FeatureRows(pooled_vectors(model.get_parameter(VECTORS), tokens, self.pooling))

    def tokens(self, tokenizer: PreTrainedTokenizerFast, texts: Sequence[str]) -> TokenRows:
        return encode_words(texts, tokenizer, self.long_text) if self.is_frozen else super().tokens(tokenizer, texts)

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

    def layer_vectors(
        self, model: PreTrainedModel, tokenizer: PreTrainedTokenizerFast, texts: Sequence[str], some: np.ndarray
    ) -> list[np.ndarray]:
        tokens = encode_words([texts[place] for place in some], tokenizer, self.long_text)
        return [pooled_vectors(model.get_parameter(VECTORS), tokens, ("mean",))]

    def defaults(self, data: Data) -> dict[str, Any]:
        return default_settings(data, 4e-3 if self.head_type == "cnn" else 3e-3)
