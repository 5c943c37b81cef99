"""The route Probe: a frozen encoder, whose pooled hidden states feed a small classifier."""

import logging
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Annotated, Any, ClassVar, Literal

import numpy as np
import torch
from annotated_types import MinLen
from transformers import PreTrainedModel, PreTrainedTokenizerFast

from nlptransfer import distributed
from nlptransfer.data import Data
from nlptransfer.errors import BaseModelError, SettingError
from nlptransfer.hub import (
    BaseModel,
    CardSection,
    base_name,
    base_record,
    fast_tokenizer,
    find_base,
    markdown,
    recorded_base,
    warn_of_unknown,
)
from nlptransfer.memo import once
from nlptransfer.models import (
    FeatureRows,
    Rows,
    SharedBase,
    VectorRows,
    compute,
    encode_words,
    load_encoder,
    load_tokenizer,
    pooled_vectors,
    prompt_of,
    text_key,
    through,
    to_float16,
    try_rows,
    trying,
)
from nlptransfer.routes.base import Built, Opened, Route, named_local, set_length
from nlptransfer.routes.pooled import NGRAMS_ON_CARD, PooledRoute, default_settings
from nlptransfer.routes.probe_model import ProbeConfig, ProbeForSequenceClassification
from nlptransfer.routes.word2vec_model import make_tokenizer
from nlptransfer.settings import Count, check

log = logging.getLogger("nlptransfer")


@dataclass(frozen=True)
class Probe(PooledRoute):
    """A frozen encoder and a small classifier on its pooled layers."""

    name: ClassVar[str] = "probe"
    opened_by: ClassVar[str] = "nlptransfer"
    caches_features: ClassVar[bool] = True
    reads_tokens: ClassVar[bool] = False

    features: Literal["auto"] | Annotated[tuple[Literal["encoder", "word2vec", "ngrams"], ...], MinLen(1)] = "auto"
    """what the classifier sees: the encoder; with word2vec also the mean of word vectors; with ngrams also TF-IDF of
    words and their pairs, or of characters; auto: the encoder, and n-grams where held-out rows gain by them"""
    layers: Literal["all", "last"] | int | tuple[int, ...] = "all"
    """layers of the encoder that are seen, side by side: all, last, or numbers from 1 (-1 is the last)"""
    pooling: Annotated[tuple[Literal["mean", "max", "cls"], ...], MinLen(1)] = ("mean",)
    """what is taken over the tokens of a text, side by side; cls is the first one"""
    head_type: Literal["linear", "mlp"] = "linear"
    """linear: one layer, fitted; mlp: two hidden layers, trained"""
    max_length: Count | Literal["auto"] = 256
    """tokens, and words, read of a text, or at once; auto: as many tokens as 99% of the training texts have at most"""
    prompt: str | None = None
    """what stands before each text, as "query: "; None: what the base was trained with; "": nothing"""
    vectors: str | None = None
    """file or name of the word vectors; None: distilled from the same encoder"""

    def check(self) -> None:
        super().check()
        for name in ("features", "pooling"):
            value = getattr(self, name)
            check(value == "auto" or len(set(value)) == len(value), name, value, "each at most once")
        if self.features != "auto" and "encoder" not in self.features:
            raise SettingError(
                f"features={self.features!r}: expected encoder among them; for word vectors alone take route word2vec"
            )
        expected = "features=encoder,word2vec, which sees word vectors"
        check(self.vectors is None or "word2vec" in self.features, "vectors", self.vectors, expected)
        numbers = (self.layers,) if isinstance(self.layers, int) else self.layers
        none_or_zero = not isinstance(numbers, str) and (not numbers or 0 in numbers)
        check(not none_or_zero, "layers", self.layers, "all, last, or numbers from 1 (from -1 for the last)")

    def recorded(self) -> dict[str, Any]:
        return super().recorded() | {"vectors": named_local(self.vectors)}

    def build(self, data: Data, base: str | None, revision: str | None, seed: int, extra: Sequence[str] = ()) -> Built:
        self.check()
        source = replace(find_base(base, revision), keep_layers=self.keep_layers)
        texts = (*data.train.texts, *extra)
        tokenizer = once(
            ("tokenizer", source.path, self.max_length, self.prompt, texts),
            lambda: set_length(load_tokenizer(source, self.prompt), self.max_length, texts),
        )
        warn_of_unknown(source, tokenizer, texts)
        encoder = once(("encoder", source), lambda: load_encoder(source))
        record = {"kind": "encoder", **base_record(source)}
        record |= {"prompt": prompt} if (prompt := prompt_of(tokenizer)) else {}
        widths = _widths(encoder, source)
        layers = self._layers(len(widths) - 1, source)
        words, matrix = None, np.zeros((0, 0), dtype=np.float32)
        if "word2vec" in self.features:
            named = (self.vectors, None) if self.vectors else (base, revision)
            names, matrix, record["vectors"], _ = self.word_vectors(texts, *named, unit_length=True)
            words = make_tokenizer(names, tokenizer.model_max_length if self.max_length == "auto" else self.max_length)
        config = ProbeConfig(
            base={name: record[name] for name in ("name", "revision", "sha256")},
            layers=layers,
            encoder_width=sum(widths[number] for number in layers) * len(self.pooling),
            vocab_size=len(matrix),
            word_dimensions=matrix.shape[1],
            **self.head_settings(data.labels, ngrams := self.ngrams_of(texts, data.labels)),
        )
        torch.manual_seed(seed)
        model = ProbeForSequenceClassification(config, encoder, words)
        model.ngrams = ngrams
        once(
            ("tried", tokenizer),
            lambda: try_rows(model, tokenizer, source.id, lambda inputs: model.pooled_states(**inputs)),
        )
        if model.vectors is not None:
            model.vectors.weight.data.copy_(torch.from_numpy(matrix))
        model.to(distributed.state().device)
        # Not of all texts at once: the rows of a task alone are what the cache has of it.
        parts = [self._features(model, tokenizer, part) for part in (data.train.texts, extra) if len(part)]
        model.body.standardize.fit(*parts, resolution=torch.finfo(torch.float16).eps)
        shown = f"layer {layers[0]}" if len(layers) == 1 else f"layers {', '.join(map(str, layers))}"
        log.info("Each text has become %s numbers, out of %s of the encoder", f"{parts[0].shape[1]:,}", shown)
        return Built(model, tokenizer, record)

    def rows(
        self, model: PreTrainedModel, tokenizer: PreTrainedTokenizerFast, texts: Sequence[str], *, share: bool = False
    ) -> Rows:
        assert isinstance(model, ProbeForSequenceClassification)
        return self.with_ngrams(model, self._dense_rows(model, tokenizer, texts, share=share), texts)

    def _dense_rows(
        self,
        model: ProbeForSequenceClassification,
        tokenizer: PreTrainedTokenizerFast,
        texts: Sequence[str],
        *,
        share: bool,
    ) -> Rows:
        if share:
            return FeatureRows(self._features(model, tokenizer, texts))
        tokens, words = self.tokens(tokenizer, texts), self._word_features(model, texts)
        if tokens.windows is None:
            return tokens if words is None else VectorRows(tokens, "word_features", words)
        # A text in windows is one row of features: their mean, each window counting alike.
        features = compute(model, lambda inputs: model.encoder_features(**inputs), tokens)
        return FeatureRows(_side_by_side(features, words))

    def _word_features(self, model: ProbeForSequenceClassification, texts: Sequence[str]) -> np.ndarray | None:
        if model.words is None or model.vectors is None:
            return None
        words = encode_words(texts, model.words, self.long_text)
        return pooled_vectors(model.vectors.weight, words, ("mean",))

    def _features(
        self, model: ProbeForSequenceClassification, tokenizer: PreTrainedTokenizerFast, texts: Sequence[str]
    ) -> np.ndarray:
        """Return (texts, width) float16, or float32 where some are in windows; the encoder's are cached."""
        config = model.config
        if not len(texts):
            return np.zeros((0, config.encoder_width + config.word_dimensions), dtype=np.float16)
        key = {
            "kind": "pooled",
            "weights": config.base["sha256"],
            "layers": config.layers,
            "pooling": config.pooling,
            "dtype": str(model.encoder.dtype),
            **text_key(model.encoder.config, tokenizer, texts, self.long_text),
        }

        features = through(
            key, model, lambda inputs: model.encoder_features(**inputs), lambda: self.tokens(tokenizer, texts)
        )
        return _side_by_side(features, self._word_features(model, texts))

    @property
    def is_frozen(self) -> bool:
        return True

    @property
    def sees_ngrams(self) -> bool:
        return self.fits_head if self.features == "auto" else "ngrams" in self.features

    @property
    def chooses_ngrams(self) -> bool:
        return self.features == "auto"

    def finish(self, model: PreTrainedModel) -> Route:
        super().finish(model)
        if self.features != "auto":
            return self
        used = getattr(model, "ngrams", None) is not None
        if self.sees_ngrams:
            message = "are used beside the encoder" if used else "are left out, as held-out rows gain nothing by them"
            log.info("Words and word pairs (n-grams) %s", message)
        return replace(self, features=("encoder", "ngrams") if used else ("encoder",))

    def layer_vectors(
        self, model: PreTrainedModel, tokenizer: PreTrainedTokenizerFast, texts: Sequence[str], some: np.ndarray
    ) -> list[np.ndarray]:
        assert isinstance(model, ProbeForSequenceClassification)
        layers = len(model.config.layers)
        features = self._features(model, tokenizer, texts)[some, : model.config.encoder_width].astype(np.float32)
        # Layers of different widths stay side by side.
        return np.split(features, layers, axis=1) if features.shape[1] % layers == 0 else [features]

    def load(self, folder: Path, record: Mapping[str, Any], base: str | SharedBase | None) -> Opened:
        encoder = base.encoder(record) if isinstance(base, SharedBase) else load_encoder(recorded_base(record, base))
        return ProbeForSequenceClassification.load(folder, encoder), fast_tokenizer(folder)

    def card_section(self, record: Mapping[str, Any], repo_id: str) -> CardSection:
        vectors = base_name((record.get("base") or {}).get("vectors") or {})
        others = {"word2vec": f"the mean of word vectors out of {vectors}", "ngrams": NGRAMS_ON_CARD}
        extra = " and ".join(text for name, text in others.items() if name in self.features)
        return CardSection(
            f"The encoder stayed as it is. A head (`{self.head_type}`) was "
            f"{'fitted' if self.fits_head else 'trained'} on its hidden states (layers: {markdown(str(self.layers))}; "
            f"pooling: {', '.join(self.pooling)}){f', with {extra} beside them' if extra else ''}.",
            relation="adapter",
            has_steps=not self.fits_head,
            holds_words=bool(extra),
        )

    def check_export(self) -> None:
        # The head is given the mean of the windows' features; a graph gives logits of each.
        if not self.fits_head and self.long_text == "windows":
            raise SettingError(
                "export: expected a probe with head_type=linear where long_text=windows, found mlp: train it with "
                "head_type=linear, long_text=head_tail or a larger max_length"
            )

    def needs_base(self, folder: Path) -> bool:
        return True

    def _layers(self, count: int, base: BaseModel) -> list[int]:
        if self.layers == "all":
            return list(range(1, count + 1))
        setting = -1 if self.layers == "last" else self.layers
        numbers = (setting,) if isinstance(setting, int) else setting
        expected = f"numbers from 1 to {count}, or from -{count} to -1, as {base.id} has {count} layers"
        check(all(1 <= abs(number) <= count for number in numbers), "layers", self.layers, expected)
        return sorted({number % (count + 1) for number in numbers})

    def defaults(self, data: Data) -> dict[str, Any]:
        return default_settings(data, 1e-3)


def _widths(encoder: PreTrainedModel, base: BaseModel) -> list[int]:
    """Return the widths of an encoder's hidden states, those of its embeddings first."""
    ids = torch.ones((1, 8), dtype=torch.int64)
    with torch.no_grad(), trying(base.id, "rows of 8 tokens"):
        output = encoder(input_ids=ids, attention_mask=ids, output_hidden_states=True)
    states = getattr(output, "hidden_states", None)
    if not states or any(state.shape[:2] != (1, 8) for state in states):
        raise BaseModelError(
            f"{base.id}: expected an encoder with hidden states for each token, found none in model type "
            f"{encoder.config.model_type!r}: take another encoder"
        )
    return [state.shape[2] for state in states]


def _side_by_side(features: np.ndarray, words: np.ndarray | None) -> np.ndarray:
    if words is None:
        return features
    return np.concatenate([features, to_float16(torch.from_numpy(words)).numpy()], axis=1)
