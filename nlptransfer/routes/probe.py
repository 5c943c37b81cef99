"""The route Probe: a frozen encoder, whose pooled hidden states feed a small classifier."""

import logging
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, ClassVar, Literal, cast

import numpy as np
import torch
from annotated_types import MinLen
from torch import nn
from transformers import PreTrainedModel, PreTrainedTokenizerFast

from nlptransfer import distributed
from nlptransfer.data import Data
from nlptransfer.errors import BaseModelError, SettingError
from nlptransfer.hub import BaseModel, CardSection, base_record, fast_tokenizer, find_base, markdown, recorded_base
from nlptransfer.memo import once
from nlptransfer.models import (
    FeatureRows,
    Rows,
    SharedBase,
    TokenRows,
    WordFeatureRows,
    cached,
    compute,
    encode,
    encode_words,
    load_encoder,
    load_tokenizer,
    pooled_vectors,
    predict_logits,
    text_key,
    through,
    to_float16,
)
from nlptransfer.routes.base import Built, Route, named_local, set_length
from nlptransfer.routes.probe_model import ProbeConfig, ProbeForSequenceClassification
from nlptransfer.routes.word2vec_model import embedding_matrix, make_tokenizer
from nlptransfer.settings import Count, Share, check
from nlptransfer.vectors import vectors_for, vocabulary

log = logging.getLogger("nlptransfer")

WORDS = "words"
"""Folder of the word tokenizer in a saved classifier."""


@dataclass(frozen=True)
class Probe(Route):
    """A frozen encoder and a small classifier on its pooled layers."""

    name: ClassVar[str] = "probe"
    opened_by: ClassVar[str] = "nlptransfer"

    features: Annotated[tuple[Literal["encoder", "word2vec"], ...], MinLen(1)] = ("encoder",)
    """what the classifier sees: the encoder, or with word2vec also the mean of word vectors"""
    layers: Literal["all", "last"] | int | tuple[int, ...] = "all"
    """layers of the encoder that are seen, side by side: all, last, or numbers from 1 (-1 is the last)"""
    pooling: Annotated[tuple[Literal["mean", "max", "cls"], ...], MinLen(1)] = ("mean",)
    """what is taken over the tokens of a text, side by side; cls is the first one"""
    head_type: Literal["linear", "mlp"] = "linear"
    """linear: one layer, fitted; mlp: two hidden layers, trained"""
    mlp_sizes: Annotated[tuple[Count, ...], MinLen(1)] = (128, 64)
    """widths of the hidden layers of mlp"""
    dropout: Share = 0.5
    """share of the hidden layers' outputs dropped in training"""
    max_length: Count | Literal["auto"] = 256
    """tokens, and words, that are read of a text, or at once; auto: as many tokens as 99% of the training texts have
    at most"""
    vectors: str | None = None
    """file or name of the word vectors; None: distilled from the same encoder"""
    max_words: Count = 100_000
    """word vectors that are kept: those of the training texts, then the most frequent"""
    dimensions: Count = 256
    """dimensions of word vectors that are distilled"""
    allow_pickle: bool = False
    """whether gensim's own files, which are pickles and can run code, are opened"""

    def check(self) -> None:
        super().check()
        for name in ("features", "pooling"):
            value = getattr(self, name)
            check(len(set(value)) == len(value), name, value, "each at most once")
        if "encoder" not in self.features:
            raise SettingError(
                f"features={self.features!r}: expected encoder among them; for word vectors alone take route word2vec"
            )
        beside = "features=encoder,word2vec, which sees word vectors"
        check(self.vectors is None or "word2vec" in self.features, "vectors", self.vectors, beside)
        numbers = (self.layers,) if isinstance(self.layers, int) else self.layers
        none_or_zero = not isinstance(numbers, str) and (not numbers or 0 in numbers)
        check(not none_or_zero, "layers", self.layers, "all, last, or numbers from 1 (from -1 for the last)")

    def recorded(self) -> dict[str, Any]:
        return super().recorded() | {"vectors": named_local(self.vectors)}

    def build(self, data: Data, base: str | None, revision: str | None, seed: int, extra: Sequence[str] = ()) -> Built:
        self.check()
        found = find_base(base, revision)
        read = (*data.train.texts, *extra)
        tokenizer = once(
            ("tokenizer", found.path, self.max_length, read),
            lambda: set_length(load_tokenizer(found), self.max_length, read),
        )
        encoder = once(("encoder", found.path), lambda: load_encoder(found))
        record = {"kind": "encoder", **base_record(found)}
        widths = _widths(encoder, found)
        layers = self._layers(len(widths) - 1, found)
        config = ProbeConfig(
            base={name: record[name] for name in ("name", "revision", "sha256")},
            layers=layers,
            pooling=self.pooling,
            encoder_width=sum(widths[number] for number in layers) * len(self.pooling),
            head=self.head_type,
            mlp_sizes=self.mlp_sizes,
            dropout=self.dropout,
            id2label=data.labels.id2label,
            label2id=data.labels.label2id,
            problem_type=data.labels.problem_type,
        )
        words, matrix = None, None
        if "word2vec" in self.features:
            texts = [*data.train.texts, *extra]
            vectors, record["vectors"] = vectors_for(
                texts,
                self.vectors or base,
                None if self.vectors else revision,
                dimensions=self.dimensions,
                allow_pickle=self.allow_pickle,
            )
            names, kept = vocabulary(vectors, texts, self.max_words, unit_length=True)
            length = tokenizer.model_max_length if self.max_length == "auto" else self.max_length
            words, matrix = make_tokenizer(names, length), embedding_matrix(kept)
            config.vocab_size, config.word_dimensions = matrix.shape
        torch.manual_seed(seed)
        model = ProbeForSequenceClassification(config, encoder, words)
        if model.vectors is not None and matrix is not None:
            model.vectors.weight.data.copy_(torch.from_numpy(matrix))
        model.to(distributed.state().device)
        # Not of all texts at once: the rows of a task alone are what the cache has of it.
        parts = [self.rows(model, tokenizer, texts, share=True) for texts in (data.train.texts, extra) if len(texts)]
        features = np.concatenate([np.asarray(cast(FeatureRows, part).features, dtype=np.float32) for part in parts])
        model.body.standardize.fit(features, torch.finfo(torch.float16).eps)
        log.info("%s: %d features of layers %s", found.id, features.shape[1], ", ".join(map(str, layers)))
        return Built(model, tokenizer, record)

    def rows(
        self, model: PreTrainedModel, tokenizer: PreTrainedTokenizerFast, texts: Sequence[str], *, share: bool = False
    ) -> Rows:
        own = _own(model)
        beside = None
        if own.words is not None and own.vectors is not None:
            words = encode_words(texts, own.words, self.long_text)
            beside = pooled_vectors(own.vectors.weight, words, ("mean",)).features
        if share:
            found = self._shared_features(own, tokenizer, texts)
        else:
            tokens = self._tokens(tokenizer, texts)
            if tokens.windows is None:
                return tokens if beside is None else WordFeatureRows(tokens, beside)
            # A text in windows is one row of features: their mean, each window counting alike.
            found = compute(own, lambda inputs: own.encoder_features(**inputs), tokens)
        if beside is not None:
            found = np.concatenate([found, to_float16(torch.from_numpy(beside)).numpy()], axis=1)
        return FeatureRows(found)

    def _tokens(self, tokenizer: PreTrainedTokenizerFast, texts: Sequence[str]) -> TokenRows:
        return encode(texts, tokenizer, tokenizer.model_max_length, self.long_text)

    def _shared_features(
        self, model: ProbeForSequenceClassification, tokenizer: PreTrainedTokenizerFast, texts: Sequence[str]
    ) -> np.ndarray:
        """(texts, encoder_width) float16, or float32 where some are in windows; from the cache or into it."""
        config = model.config
        if not len(texts):
            return np.zeros((0, config.encoder_width), dtype=np.float16)
        key = {
            "kind": "pooled",
            "weights": config.base["sha256"],
            "layers": config.layers,
            "pooling": config.pooling,
            "dtype": str(model.encoder.dtype),
            **text_key(model.encoder.config, tokenizer, texts, self.long_text),
        }

        def computed() -> np.ndarray:
            return through(model, lambda inputs: model.encoder_features(**inputs), self._tokens(tokenizer, texts))

        return cached(key, computed)

    @property
    def is_frozen(self) -> bool:
        return True

    @property
    def fits_head(self) -> bool:
        return self.head_type == "linear"

    def head(self, model: PreTrainedModel) -> nn.Linear:
        return _own(model).classifier

    def layer_vectors(
        self, model: PreTrainedModel, tokenizer: PreTrainedTokenizerFast, texts: Sequence[str], some: np.ndarray
    ) -> list[np.ndarray]:
        config = _own(model).config
        rows = cast(FeatureRows, self.rows(model, tokenizer, texts, share=True))
        own = np.asarray(rows.features[some, : config.encoder_width], dtype=np.float32)
        # Layers of different widths stay side by side.
        return np.split(own, len(config.layers), axis=1) if own.shape[1] % len(config.layers) == 0 else [own]

    def head_inputs(self, model: nn.Module, rows: Rows) -> np.ndarray | None:
        return _own(model).body.outputs(cast(FeatureRows, rows).features) if self.fits_head else None

    def save(self, model: PreTrainedModel, tokenizer: PreTrainedTokenizerFast, folder: Path) -> None:
        """Write what the encoder does not bring: head, word vectors, both tokenizers, and the config that names it."""
        super().save(model, tokenizer, folder)
        if (words := _own(model).words) is not None:
            words.save_pretrained(folder / WORDS)

    def load(
        self, folder: Path, record: Mapping[str, Any], base: str | SharedBase | None
    ) -> tuple[PreTrainedModel, PreTrainedTokenizerFast]:
        encoder = base.encoder(record) if isinstance(base, SharedBase) else load_encoder(recorded_base(record, base))
        words = fast_tokenizer(folder / WORDS) if (folder / WORDS).exists() else None
        return ProbeForSequenceClassification.load(folder, encoder, words), fast_tokenizer(folder)

    def card_section(self, record: Mapping[str, Any], repo_id: str) -> CardSection:
        words = "word2vec" in self.features
        return CardSection(
            f"The encoder stayed as it is. A head (`{self.head_type}`) was "
            f"{'fitted' if self.fits_head else 'trained'} on its hidden states (layers: {markdown(str(self.layers))}; "
            f"pooling: {', '.join(self.pooling)}){', with the mean of word vectors beside them' if words else ''}.",
            relation="adapter",
            has_steps=not self.fits_head,
            holds_words=words,
        )

    def check_export(self) -> None:
        # The head is given the mean of the windows' features; a graph gives logits of each.
        if not self.fits_head and self.long_text == "windows":
            raise SettingError(
                "export: expected a probe with head_type=linear where long_text=windows, found mlp: train it with "
                "head_type=linear, long_text=head_tail or a larger max_length"
            )

    def reopened_logits(self, folder: Path, record: Mapping[str, Any], texts: Sequence[str]) -> np.ndarray:
        model, tokenizer = self.load(folder, record, None)
        model.to(distributed.state().device)
        return predict_logits(model, self.rows(model, tokenizer, texts))

    def needs_base(self, folder: Path) -> bool:
        return True

    def _layers(self, count: int, base: BaseModel) -> list[int]:
        """Return the numbers of the layers that are seen, from below."""
        if self.layers == "all":
            return list(range(1, count + 1))
        asked = (-1,) if self.layers == "last" else self.layers
        numbers = (asked,) if isinstance(asked, int) else asked
        expected = f"numbers from 1 to {count}, or from -{count} to -1, as {base.id} has {count} layers"
        check(all(1 <= abs(int(number)) <= count for number in numbers), "layers", self.layers, expected)
        return sorted({int(number) % (count + 1) for number in numbers})

    def defaults(self, data: Data) -> dict[str, Any]:
        # For mlp; as for word vectors, small data gets more passes and smaller batches.
        rows = len(data.train)
        return {
            "num_train_epochs": 20 if rows < 10_000 else 10,
            "learning_rate": 1e-3,
            "per_device_train_batch_size": 64 if rows >= 2_000 else 32,
        }


def _widths(encoder: PreTrainedModel, base: BaseModel) -> list[int]:
    """Widths of an encoder's hidden states, those of its embeddings first.

    Raises:
        BaseModelError: it gives none, or not one for each token.
    """
    states = None
    if not encoder.config.is_encoder_decoder:
        ids = torch.ones((1, 8), dtype=torch.int64)
        with torch.no_grad():
            output = encoder(input_ids=ids, attention_mask=ids, output_hidden_states=True)
        states = getattr(output, "hidden_states", None)
    if not states or any(state.shape[:2] != (1, 8) for state in states):
        raise BaseModelError(
            f"{base.id}: expected an encoder with hidden states for each token, found none in model type "
            f"{encoder.config.model_type!r}: take another encoder"
        )
    return [state.shape[2] for state in states]


def _own(model: nn.Module) -> ProbeForSequenceClassification:
    assert isinstance(model, ProbeForSequenceClassification)
    return model
