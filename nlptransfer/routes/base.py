"""What a route is: how a model is built for the data, fed and trained; and a saved format: how it is saved and opened.
Knows no route by name, nor where data comes from."""

import logging
from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, ClassVar, Literal, cast

import numpy as np
import torch
from scipy import sparse
from torch import Tensor, nn
from transformers import AutoModelForSequenceClassification, PreTrainedModel, PreTrainedTokenizerFast

from nlptransfer import distributed
from nlptransfer.data import Data, Labels
from nlptransfer.errors import RunFolderError, SettingError
from nlptransfer.files import content_stamp, is_there, named_path
from nlptransfer.hub import CardSection, fast_tokenizer, from_pretrained, quiet
from nlptransfer.models import (
    LongText,
    RowLimits,
    Rows,
    SharedBase,
    TokenRows,
    as_read,
    encode,
    limits_of,
    predict_logits,
    token_counts,
)
from nlptransfer.settings import Settings
from nlptransfer.training import ParameterGroup, learned_state

log = logging.getLogger("nlptransfer")

PERCENT_READ_WHOLE = 99
"""Percentile of the training texts' lengths that max_length="auto" stands for, where the model reads as much."""
Opened = tuple[PreTrainedModel, PreTrainedTokenizerFast]
HeadInputs = tuple[np.ndarray, sparse.csr_array | None]
"""(rows, width) float32, and (rows, n-grams) float32 where there are n-grams"""


@dataclass(frozen=True)
class Built:
    """A model that is ready to be trained."""

    model: PreTrainedModel
    tokenizer: PreTrainedTokenizerFast
    record: dict[str, Any]
    """where its knowledge comes from, for the saved record; no path of this machine"""
    seconds: float = 0.0
    """that building it took"""


@dataclass(frozen=True)
class SavedFormat(Settings, ABC):
    """How a classifier is saved, opened and described; its fields are the settings that are saved with it."""

    name: ClassVar[str]
    opened_by: ClassVar[str] = "transformers"
    """what opens a saved folder besides nlptransfer"""
    reads_tokens: ClassVar[bool] = True
    """whether a saved model is called with the output of its tokenizer"""

    long_text: LongText = field(default="truncate", kw_only=True)
    """what is read of a text of more than max_length tokens: truncate: the first ones; head_tail: a quarter from the
    beginning and the rest from the end; windows: all, in windows that overlap by a quarter, pooled into one prediction
    and counting as one text in the loss"""

    @abstractmethod
    def rows(
        self, model: PreTrainedModel, tokenizer: PreTrainedTokenizerFast, texts: Sequence[str], *, share: bool = False
    ) -> Rows:
        """Return the model's inputs; with ``share`` all processes call this, and what is frozen is cached."""

    def tokens(self, tokenizer: PreTrainedTokenizerFast, texts: Sequence[str]) -> TokenRows:
        """Tokenize texts up to the tokenizer's ``model_max_length``, long ones as ``long_text`` says."""
        return encode(texts, tokenizer, tokenizer.model_max_length, self.long_text)

    def truncated(self, tokenizer: PreTrainedTokenizerFast, texts: Sequence[str]) -> int:
        """Count the texts that are not read whole."""
        if self.long_text == "windows":
            return 0
        return int((token_counts(texts, tokenizer) > tokenizer.model_max_length).sum())

    def contributions(
        self, model: PreTrainedModel, tokenizer: PreTrainedTokenizerFast, text: str
    ) -> tuple[list[tuple[int, int]], np.ndarray] | None:
        """Return the (start, end) of each word that is read of a text, and what it adds to the logits, (words, labels).

        They add up to the logits, but for a constant; None where logits are no sums over words.
        """
        return None

    def save(self, model: PreTrainedModel, tokenizer: PreTrainedTokenizerFast, folder: Path) -> None:
        """Write model and tokenizer as plain transformers reads them."""
        with quiet():
            model.save_pretrained(folder)
            tokenizer.save_pretrained(folder)

    def load(self, folder: Path, record: Mapping[str, Any], base: str | SharedBase | None) -> Opened:
        """Open the model and tokenizer that were saved in a folder.

        ``record`` is ``Built.record`` of the model; ``base`` the folder or hub id of the base, or one in memory, for
        formats without it; None: found by the record. Missing weights, which transformers would fill with random
        numbers, are a RunFolderError.
        """
        model, info = from_pretrained(
            AutoModelForSequenceClassification,
            folder,
            use_safetensors=True,
            output_loading_info=True,
            **self.options(folder),
        )
        if missing := sorted(info["missing_keys"]):
            raise RunFolderError(f"{folder}: expected every weight of the model, found no {', '.join(missing)}")
        return model.eval(), fast_tokenizer(folder)

    def placed(self, model: PreTrainedModel, device: torch.device | None) -> PreTrainedModel:
        """Return a model on a device; None: the one that this process works on."""
        return cast(Any, model).to(device or distributed.state().device)  # type: ignore[no-any-return]

    def options(self, folder: Path) -> dict[str, Any]:
        """Return what the model's ``from_pretrained`` takes besides the folder."""
        return {}

    def reopened_logits(self, folder: Path, record: Mapping[str, Any], texts: Sequence[str]) -> np.ndarray:
        """Return (texts, labels) float32 logits of a saved folder that is opened as its model card says."""
        model, tokenizer = self.open_as_others(folder, record)
        model = model.eval().to(distributed.state().device)
        if not self.reads_tokens or self.long_text != "truncate" or limits_of(tokenizer) != RowLimits():
            return predict_logits(model, self.rows(model, tokenizer, texts))
        # No line of this project: the tokenizer's own padding, one batch.
        written = [as_read(text, tokenizer) for text in texts]
        tokens = tokenizer(written, padding=True, truncation=True, return_tensors="pt").to(model.device)
        with torch.inference_mode():
            return cast(np.ndarray, model(**tokens).logits.float().cpu().numpy())

    def open_as_others(self, folder: Path, record: Mapping[str, Any]) -> Opened:
        """Open a saved folder as its model card says."""
        return self.load(folder, record, None)

    def needs_base(self, folder: Path) -> bool:
        """Tell whether a saved folder holds no copy of the base model."""
        return False

    def merged(self, model: PreTrainedModel) -> "tuple[SavedFormat, PreTrainedModel]":
        """Return a copy of a model with its adapter added to the weights of the base, and its format."""
        raise SettingError(f"merge: expected an adapter, found a whole model (route {self.name})")

    def averaged(
        self,
        models: Sequence[PreTrainedModel],
        shares: Sequence[float],
        labels: Labels,
        tokenizer: PreTrainedTokenizerFast,
        record: Mapping[str, Any],
        base: str | None,
    ) -> "tuple[SavedFormat, PreTrainedModel]":
        """Return one model with adapters averaged by shares of 1, and its format; ``record``, ``base``: see load."""
        raise SettingError(f"classifier 1: expected an adapter, found a whole model (route {self.name})")

    def saves_merged(self, model: PreTrainedModel) -> bool:
        """Tell whether a model has an adapter that must be merged before it is saved."""
        return False

    def check_export(self) -> None:
        """Raise a SettingError where an ONNX graph of the model would not give what the model gives."""

    def recorded(self) -> dict[str, Any]:
        """Return the settings as they are saved, without paths of this machine."""
        return asdict(self)

    def card_section(self, record: Mapping[str, Any], repo_id: str) -> CardSection:
        """Describe a saved classifier for its card, out of its nlptransfer.json and its name on the hub or folder."""
        return CardSection(f"It learned by the route `{self.name}`.")


@dataclass(frozen=True)
class Route(SavedFormat):
    """How a pretrained model becomes a classifier: how it is built, fed and trained."""

    per_stage: ClassVar[tuple[str, ...]] = ()
    """settings of how the model learns, which the stages of a transfer may have differently"""
    varied: ClassVar[tuple[str, ...]] = ()
    """settings in which ``variants`` differ"""
    learns_encoder: ClassVar[bool] = False
    """whether a pretrained encoder learns, or an adapter of it"""
    is_adapter: ClassVar[bool] = False
    """whether the weights of the base stay as they are, and others are added to them"""
    caches_features: ClassVar[bool] = False
    """whether features of all texts of a split are cached together, so that those of some cost no less"""
    has_vectors: ClassVar[bool] = False
    """whether it is built on word vectors, which may be trained further first"""

    @abstractmethod
    def build(self, data: Data, base: str | None, revision: str | None, seed: int, extra: Sequence[str] = ()) -> Built:
        """Return a newly initialized model for the data's labels and training texts, and ``extra`` texts to read."""

    @abstractmethod
    def defaults(self, data: Data) -> dict[str, Any]:
        """Return default epochs, learning rate and batch size for the data."""

    @property
    def is_frozen(self) -> bool:
        """Tell whether a small classifier alone learns, on features that are computed once."""
        return False

    @property
    def fits_head(self) -> bool:
        """Tell whether the last layer alone learns, and is fitted."""
        return False

    @abstractmethod
    def head(self, model: PreTrainedModel) -> nn.Linear:
        """Return the last layer, whose outputs are the logits."""

    def learning(
        self, model: PreTrainedModel, tokenizer: PreTrainedTokenizerFast, *splits: Sequence[str]
    ) -> tuple[nn.Module, list[Rows]]:
        """Return what the loop trains, the model or its part above what is frozen, and the inputs of each split."""
        return model, [self.rows(model, tokenizer, texts, share=True) for texts in splits]

    def variants(self, model: PreTrainedModel) -> Sequence["Route"]:
        """Return the routes of which the best on validation is kept."""
        return [self]

    def freeze(self, model: PreTrainedModel) -> None:
        """Set for each parameter whether it learns by these settings."""

    def state(self, model: PreTrainedModel) -> dict[str, Tensor]:
        """Return the tensors that this route may change in a model, by name, without copying them."""
        return learned_state(model)

    def layer_vectors(
        self, model: PreTrainedModel, tokenizer: PreTrainedTokenizerFast, texts: Sequence[str], some: np.ndarray
    ) -> list[np.ndarray]:
        """Return the mean tokens of the texts at places ``some``, (len(some), width) float32 by layer.

        All processes call this together; frozen features are cached of all texts.
        """
        return []

    def parameter_groups(self, model: PreTrainedModel) -> dict[str, ParameterGroup]:
        """Return how fast parameters learn, by name; all others learn at the learning rate."""
        return {}

    def head_inputs(self, model: nn.Module, rows: Rows) -> HeadInputs | None:
        """Return the inputs of the last layer where it is fitted, not trained; else None."""
        return None

    @property
    def chooses_ngrams(self) -> bool:
        """Tell whether n-grams are left out where held-out rows do not gain by them."""
        return False

    def finish(self, model: PreTrainedModel) -> "Route":
        """Drop from a model that has learned what it does not use; return the route with what was chosen."""
        return self

    def continued_vectors(self, texts: Sequence[str], base: str | None, revision: str | None, **training: Any) -> str:
        """Train a base's word vectors further by epochs, learning_rate and seed, in all processes; return a folder."""
        raise SettingError(f"route={self.name}: expected a route with word vectors, found none to train further")


def set_length(
    tokenizer: PreTrainedTokenizerFast, max_length: int | Literal["auto"], texts: Sequence[str]
) -> PreTrainedTokenizerFast:
    """Limit the tokens that are read of a text, special ones included; "auto": see ``PERCENT_READ_WHOLE``."""
    if max_length == "auto":
        counts = token_counts(texts, tokenizer)
        # At least one token besides the special ones, also where no text has any.
        least = tokenizer.backend_tokenizer.num_special_tokens_to_add(False) + 1
        max_length = max(least, int(np.percentile(counts, PERCENT_READ_WHOLE, method="higher")))
        log.info(
            "Of each text %d tokens are read, which is all of nearly every one (max_length=auto)",
            min(max_length, tokenizer.model_max_length),
        )
    tokenizer.model_max_length = min(max_length, tokenizer.model_max_length)
    return tokenizer


def named_local(source: str | None) -> str | None:
    """Name a local file or folder by its name and content, and anything else as it is."""
    if source is None or not is_there(source):
        return source
    local = named_path(source)
    return f"{local.name} ({content_stamp(local)[:16]})"
