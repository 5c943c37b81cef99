"""Build, feed and describe models whose pretrained encoder learns: the base class of Full and Lora."""

import logging
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, ClassVar, Literal

import numpy as np
import torch
from torch import nn
from transformers import PreTrainedModel, PreTrainedTokenizerFast

from nlptransfer.data import Data, Labels, joined_texts
from nlptransfer.hub import (
    BaseModel,
    CardSection,
    base_record,
    find_base,
    pipeline_code,
    unknown_share,
    warn_of_unknown,
)
from nlptransfer.models import (
    TokenRows,
    compute,
    encode,
    last_layer,
    load_model,
    load_tokenizer,
    pool,
    prompt_of,
    trim_vocabulary,
    try_rows,
)
from nlptransfer.routes.base import Built, Route, set_length
from nlptransfer.settings import Count, Share, check

log = logging.getLogger("nlptransfer")

STEPS, STEPS_PER_LABEL = 600, 12
MOST_EPOCHS = 12
SMALL_DATA_ROWS = 8_000
"""Training rows below which a batch is small."""


@dataclass(frozen=True)
class EncoderRoute(Route):
    """A pretrained encoder that learns, with the head that transformers gives it."""

    learns_encoder: ClassVar[bool] = True

    max_length: Count | Literal["auto"] = 256
    """tokens that are read of a text, or at once; auto: as many as 99% of the training texts have at most"""
    prompt: str | None = None
    """what stands before each text, as "query: "; None: what the base was trained with; "": nothing"""
    keep_layers: Count | None = None
    """first layers of the encoder that are kept, the others left out; None: all"""
    dropout: Share | None = None
    """share of the activations dropped in training; None: as the base was trained"""
    attention_dropout: Share | None = 0.0
    """share of the attention weights dropped: with 0 they are computed in one fused step; None: as dropout says"""
    trim_vocabulary: bool = False
    """whether word embeddings of pieces that no training text has are left out, of the tokenizer too: a smaller model;
    in other texts more is unknown, or cut into characters"""
    gradient_checkpointing: bool = False
    """whether activations are computed twice to save memory"""

    def build(self, data: Data, base: str | None, revision: str | None, seed: int, extra: Sequence[str] = ()) -> Built:
        self.check()
        encoder = replace(find_base(base, revision), keep_layers=self.keep_layers)
        texts = joined_texts([data.train.texts, extra])
        tokenizer = set_length(load_tokenizer(encoder, self.prompt), self.max_length, texts)
        model, fresh = self.make_model(encoder, data.labels, tokenizer, seed)
        try_rows(model, tokenizer, encoder.id, lambda inputs: model(**inputs).logits)
        if self.trim_vocabulary:
            tokenizer = trim_vocabulary(model, tokenizer, texts)
            log.info(
                "%s keeps %s pieces of its vocabulary, those of the training texts (trim_vocabulary)",
                encoder.id,
                f"{len(tokenizer):,}",
            )
        self.freeze(model)
        if self.gradient_checkpointing:
            possible = f"a base that can compute its activations twice, which {model.config.model_type!r} cannot"
            check(model.supports_gradient_checkpointing, "gradient_checkpointing", True, possible)
            # transformers before 5.23 has the second name only.
            enable = getattr(model, "activation_checkpointing_enable", None) or model.gradient_checkpointing_enable
            enable({"use_reentrant": False})
        warn_of_unknown(encoder, tokenizer, texts)
        unknown = unknown_share(encode(texts, tokenizer, tokenizer.model_max_length).ids, tokenizer)
        record = {"kind": "encoder", **base_record(encoder), "fresh": fresh, "unknown_share": unknown}
        record |= {"prompt": prompt} if (prompt := prompt_of(tokenizer)) else {}
        return Built(model, tokenizer, record)

    def card_section(self, record: Mapping[str, Any], repo_id: str) -> CardSection:
        kept = " Of the vocabulary the pieces of the training texts are kept." if self.trim_vocabulary else ""
        text, code = self.training_in_words(record) + kept, pipeline_code(record, repo_id)
        return CardSection(text, "transformers", "finetune", loading_code=code)

    def training_in_words(self, record: Mapping[str, Any]) -> str:
        """Describe for a model card how the model learned, in markdown."""
        return "All of the encoder learned, and the head."

    def make_model(
        self, base: BaseModel, labels: Labels, tokenizer: PreTrainedTokenizerFast, seed: int
    ) -> tuple[PreTrainedModel, list[str]]:
        """Return the model to train, with this route's dropout, and the names of its newly initialized modules."""
        dropout: dict[str, Any] = {"dropout": self.dropout, "attention_dropout": self.attention_dropout}
        return load_model(base, labels, tokenizer, seed, **dropout, **self.precision)

    @property
    def precision(self) -> dict[str, Any]:
        """Return the number format of the base, as ``load_model`` takes it."""
        return {}

    def rows(
        self, model: PreTrainedModel, tokenizer: PreTrainedTokenizerFast, texts: Sequence[str], *, share: bool = False
    ) -> TokenRows:
        return self.tokens(tokenizer, texts)

    def head(self, model: PreTrainedModel) -> nn.Linear:
        return last_layer(model)

    def layer_vectors(
        self, model: PreTrainedModel, tokenizer: PreTrainedTokenizerFast, texts: Sequence[str], some: np.ndarray
    ) -> list[np.ndarray]:
        widths: list[int] = []

        def pooled(batch: dict[str, torch.Tensor]) -> torch.Tensor:
            real = batch["attention_mask"].bool()
            states = model(**batch, output_hidden_states=True).hidden_states or ()
            layers = [pool(state.float(), real, ("mean",)) for state in states[1:] if state.shape[:2] == real.shape]
            widths[:] = [layer.shape[1] for layer in layers]
            return torch.cat(layers, dim=1) if layers else real[:, :0].float()

        vectors = compute(model, pooled, self.rows(model, tokenizer, [texts[place] for place in some]), share=True)
        return np.split(vectors, np.cumsum(widths)[:-1], axis=1) if vectors.shape[1] else []


def default_settings(data: Data, learning_rate: float, least_epochs: int) -> dict[str, Any]:
    """Return default epochs, learning rate and batch size: steps enough for the number of labels."""
    rows = max(1, len(data.train))
    batch = 16 if rows < SMALL_DATA_ROWS else 32
    epochs = math.ceil((STEPS + STEPS_PER_LABEL * data.labels.num_labels) * batch / rows)
    # Half the rows, half the rate; but where MOST_EPOCHS are too few, longer steps make up for that.
    longer = batch == 32 or epochs > MOST_EPOCHS
    return {
        "num_train_epochs": min(max(epochs, least_epochs), MOST_EPOCHS),
        "learning_rate": learning_rate if longer else learning_rate / 2,
        "per_device_train_batch_size": batch,
    }
