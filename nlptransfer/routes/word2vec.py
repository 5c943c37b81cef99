"""The route Word2Vec: frozen word vectors and a small classifier."""

import logging
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, ClassVar, Literal

import numpy as np
import torch
from annotated_types import MinLen
from transformers import PreTrainedModel, PreTrainedTokenizerFast

from nlptransfer import distributed
from nlptransfer.data import Data, hashable, joined_texts
from nlptransfer.hub import CardSection, base_name, pipeline_code, unknown_share
from nlptransfer.memo import once
from nlptransfer.models import (
    FeatureRows,
    NewWordRows,
    Ngrams,
    Rows,
    TokenRows,
    encode,
    encode_words,
    pooled_vectors,
)
from nlptransfer.routes.base import Built, set_length
from nlptransfer.routes.pooled import NGRAMS_ON_CARD, PooledRoute, default_settings
from nlptransfer.routes.pooled_head import PooledBody
from nlptransfer.routes.word2vec_model import Word2VecConfig, Word2VecForSequenceClassification, make_tokenizer
from nlptransfer.settings import Count, check
from nlptransfer.vectors import RESERVED, UNKNOWN_ID, Subwords, continued_vectors, of_unit_length

log = logging.getLogger("nlptransfer")

_SUBWORDS = (
    " A word without a vector gets the mean of those of its character n-grams, which are among the files "
    "(`subwords.npy`): nlptransfer alone opens it, neither plain transformers nor ONNX."
)


@dataclass(frozen=True)
class Word2Vec(PooledRoute):
    """Frozen word vectors and a small classifier."""

    name: ClassVar[str] = "word2vec"
    has_vectors: ClassVar[bool] = True

    features: Annotated[tuple[Literal["word2vec", "ngrams"], ...], MinLen(1)] = ("word2vec",)
    """what the classifier sees: word vectors; with ngrams also TF-IDF of words and their pairs, or of characters"""
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
    keep_subwords: bool = False
    """whether n-grams of a fastText .bin are saved too, for words unknown in prediction; opened by nlptransfer alone"""
    unit_length: bool = True
    """whether each vector is scaled to length 1"""
    max_length: Count | Literal["auto"] = 512
    """words that are read of a text, or at once; auto: as many as 99% of the training texts have at most"""

    def check(self) -> None:
        super().check()
        is_right = "word2vec" in self.features and len({*self.features}) == len(self.features)
        check(is_right, "features", self.features, "word2vec among them, and each at most once")
        expected = "False beside ngrams, whose weights are fitted"
        check(not (self.train_vectors and self.sees_ngrams), "train_vectors", self.train_vectors, expected)

    def build(self, data: Data, base: str | None, revision: str | None, seed: int, extra: Sequence[str] = ()) -> Built:
        self.check()
        texts = joined_texts([data.train.texts, extra])
        key = "words", str(self), base, revision, hashable(texts)
        matrix, tokenizer, record, tokens, subwords = once(key, lambda: self._words(texts, base, revision))
        config = Word2VecConfig(
            vocab_size=len(matrix),
            hidden_size=matrix.shape[1],
            kernel_sizes=self.kernel_sizes,
            num_filters=self.num_filters,
            train_vectors=self.train_vectors,
            keep_subwords=self.keep_subwords,
            **self.head_settings(data.labels, ngrams := self.ngrams_of(texts, data.labels)),
        )
        torch.manual_seed(seed)
        model = Word2VecForSequenceClassification(config)
        model.vectors.weight.data.copy_(torch.from_numpy(matrix))
        model.subwords, model.ngrams = subwords if self.keep_subwords else None, ngrams
        if isinstance(model.body, PooledBody):
            model.body.standardize.fit(pooled_vectors(model.vectors.weight, tokens, self.pooling))
        return Built(model, tokenizer, dict(record))

    def _words(
        self, texts: Sequence[str], base: str | None, revision: str | None
    ) -> tuple[np.ndarray, PreTrainedTokenizerFast, dict[str, Any], TokenRows, Subwords | None]:
        """Return the vectors, their tokenizer, the record of where they come from, the tokens of the texts, and what
        gives other words a vector."""
        words, matrix, record, subwords = self.word_vectors(texts, base, revision, unit_length=self.unit_length)
        expected = "a base with n-grams: a fastText .bin, as it is published or trained with maxn above 0"
        check(subwords is not None or not self.keep_subwords, "keep_subwords", self.keep_subwords, expected)
        tokenizer = set_length(make_tokenizer(words), self.max_length, texts)
        tokens = self.tokens(tokenizer, texts)
        unknown = unknown_share(tokens.ids, tokenizer)
        record = {**record, "words": len(words), "dimensions": matrix.shape[1], "unknown_share": unknown}
        message = "%s words have a vector of %d numbers; of the words in the training texts %.1f%% have none"
        log.info(message, f"{len(words):,}", matrix.shape[1], 100 * unknown)
        return matrix, tokenizer, record, tokens, subwords

    def rows(
        self, model: PreTrainedModel, tokenizer: PreTrainedTokenizerFast, texts: Sequence[str], *, share: bool = False
    ) -> Rows:
        assert isinstance(model, Word2VecForSequenceClassification)
        return self.with_ngrams(model, self._dense_rows(model, tokenizer, texts), texts)

    def _dense_rows(
        self, model: Word2VecForSequenceClassification, tokenizer: PreTrainedTokenizerFast, texts: Sequence[str]
    ) -> Rows:
        table, subwords, new = model.vectors.weight.detach(), model.subwords, dict[str, int]()

        def unknown(word: str) -> int:
            # With n-grams it gets an id behind those of the vocabulary.
            has_vector = word in new or (subwords is not None and subwords.knows(word))
            return new.setdefault(word, len(table) + len(new)) if has_vector else UNKNOWN_ID

        tokens = self.tokens(tokenizer, texts, None if subwords is None else unknown)
        if subwords is not None and new:
            vectors = subwords.vectors([*new])
            vectors = of_unit_length(vectors) if self.unit_length else vectors
            if not self.is_frozen:
                return NewWordRows(tokens, len(table), vectors)
            table = torch.cat([table.cpu(), torch.from_numpy(vectors)])
        return FeatureRows(pooled_vectors(table.cpu(), tokens, self.pooling)) if self.is_frozen else tokens

    def tokens(
        self,
        tokenizer: PreTrainedTokenizerFast,
        texts: Sequence[str],
        unknown: Callable[[str], int] | None = None,
    ) -> TokenRows:
        # What is pooled is one row of any length, in place of windows.
        is_whole = self.is_frozen and self.long_text == "windows"
        return encode(texts, tokenizer, None if is_whole else tokenizer.model_max_length, self.long_text, unknown)

    def contributions(
        self, model: PreTrainedModel, tokenizer: PreTrainedTokenizerFast, text: str
    ) -> tuple[list[tuple[int, int]], np.ndarray] | None:
        assert isinstance(model, Word2VecForSequenceClassification)
        is_sum = self.head_type == "linear" and self.pooling == ("mean",) and self.long_text != "head_tail"
        if not is_sum or model.ngrams is not None or model.subwords is not None:
            return None
        shown = tokenizer.backend_tokenizer.encode(text)
        count = None if self.long_text == "windows" else tokenizer.model_max_length
        known = [place for place, token in enumerate(shown.ids[:count]) if token >= RESERVED]
        with torch.inference_mode():
            vectors = model.vectors(torch.tensor([shown.ids[place] for place in known], device=model.device).long())
            each = model.body(vectors) @ model.classifier.weight.T / max(1, len(known))
        return [shown.offsets[place] for place in known], each.cpu().numpy()

    def save(self, model: PreTrainedModel, tokenizer: PreTrainedTokenizerFast, folder: Path) -> None:
        super().save(model, tokenizer, folder)
        assert isinstance(model, Word2VecForSequenceClassification)
        if model.subwords is not None:
            model.subwords.save(folder)

    def options(self, folder: Path) -> dict[str, Any]:
        return {
            **({"subwords": Subwords.open(folder)} if self.keep_subwords else {}),
            **({"ngrams": Ngrams.open(folder)} if self.sees_ngrams else {}),
        }

    @property
    def sees_ngrams(self) -> bool:
        return "ngrams" in self.features

    @property
    def opened_by(self) -> str:  # type: ignore[override]
        return "transformers after import nlptransfer.word2vec" if self.reads_tokens else "nlptransfer"

    @property
    def reads_tokens(self) -> bool:  # type: ignore[override]
        return not (self.keep_subwords or self.sees_ngrams)

    def check_export(self) -> None:
        expected = "False for an export to ONNX, which has no vectors for words it does not know"
        check(not self.keep_subwords, "keep_subwords", self.keep_subwords, expected)

    def card_section(self, record: Mapping[str, Any], repo_id: str) -> CardSection:
        base = record.get("base") or {}
        size = f": {base['words']:,} words of {base['dimensions']} dimensions" if base.get("words") else ""
        source = "distilled from" if base.get("kind") == "distilled" else "those of"
        return CardSection(
            f"The word vectors are {source} {base_name(base)}{size}. They "
            f"{'learned too' if self.train_vectors else 'stayed as they are'}; on them "
            f"{f'and {NGRAMS_ON_CARD} ' if self.sees_ngrams else ''}a head (`{self.head_type}`) was "
            f"{'fitted' if self.fits_head else 'trained'}.{_SUBWORDS if self.keep_subwords else ''}",
            relation="adapter",
            loading_code=""
            if not self.reads_tokens
            else pipeline_code(record, repo_id, "\nimport nlptransfer.word2vec  # registers the model type\n"),
            loading_needs="In transformers, with nlptransfer installed",
            has_steps=not self.fits_head,
            unit="words",
            unknown="words without a vector",
            holds_words=True,
        )

    def continued_vectors(self, texts: Sequence[str], base: str | None, revision: str | None, **training: Any) -> str:
        vectors, _ = self.vectors_for(texts, base, revision)
        with distributed.main_first():
            return str(continued_vectors(vectors, texts, max_words=self.max_words, **training).folder)

    @property
    def is_frozen(self) -> bool:
        return self.head_type != "cnn" and not self.train_vectors

    def layer_vectors(
        self, model: PreTrainedModel, tokenizer: PreTrainedTokenizerFast, texts: Sequence[str], some: np.ndarray
    ) -> list[np.ndarray]:
        tokens = encode_words([texts[place] for place in some], tokenizer, self.long_text)
        return [pooled_vectors(model.get_parameter("vectors.weight"), tokens, ("mean",))]

    def defaults(self, data: Data) -> dict[str, Any]:
        return default_settings(data, 4e-3 if self.head_type == "cnn" else 3e-3)
