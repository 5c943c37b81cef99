"""What a route is: how a model is built for the data, fed with text, taught, saved and loaded."""

import logging
from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, ClassVar, Literal

import numpy as np
import torch
from torch import Tensor, nn
from transformers import AutoModelForSequenceClassification, PreTrainedModel, PreTrainedTokenizerFast

from nlptransfer import distributed
from nlptransfer.data import Data
from nlptransfer.errors import RunFolderError, SettingError
from nlptransfer.files import content_stamp
from nlptransfer.hub import fast_tokenizer, from_pretrained, quiet
from nlptransfer.models import LongText, Rows, SharedBase, predict_logits, token_counts
from nlptransfer.settings import Settings
from nlptransfer.training import Pace, learned_state

log = logging.getLogger("nlptransfer")

SHARE_READ_WHOLE = 99
"""Of 100 training texts so many are read to their end with max_length="auto", where the model can."""


@dataclass(frozen=True)
class Built:
    """A model that is ready to be trained."""

    model: PreTrainedModel
    tokenizer: PreTrainedTokenizerFast
    record: dict[str, Any]
    """where its knowledge comes from, for the saved record; no path of this machine"""


@dataclass(frozen=True)
class Route(Settings, ABC):
    """How a pretrained model becomes a classifier; its fields are the route's settings."""

    name: ClassVar[str]
    per_stage: ClassVar[tuple[str, ...]] = ()
    """settings of how the model learns, which a stage of a transfer may have otherwise than the one before"""
    varied: ClassVar[tuple[str, ...]] = ()
    """settings in which ``variants`` differ"""
    opened_by: ClassVar[str] = "transformers"
    """what else than nlptransfer opens a saved folder"""

    long_text: LongText = field(default="truncate", kw_only=True)
    """what is read of a text of more than max_length tokens: truncate: the first ones; head_tail: a quarter from the
    beginning and the rest from the end; windows: all, in windows that overlap by a quarter, pooled into one prediction
    and counting as one text in the loss"""

    @abstractmethod
    def build(self, data: Data, base: str | None, revision: str | None, seed: int, beside: Sequence[str] = ()) -> Built:
        """A fresh model for the data's labels; only training texts are looked at.

        Args:
            beside: training texts of another task, that the model is to read too.
        """

    @abstractmethod
    def defaults(self, data: Data) -> dict[str, Any]:
        """Epochs, learning rate and batch size that suit the data, where the user asks for none."""

    @property
    def is_frozen(self) -> bool:
        """Whether a small classifier alone learns, on features that are computed once."""
        return False

    @property
    def is_solved(self) -> bool:
        """Whether the last layer alone learns, and is solved."""
        return False

    @abstractmethod
    def rows(
        self, model: PreTrainedModel, tokenizer: PreTrainedTokenizerFast, texts: Sequence[str], *, share: bool = False
    ) -> Rows:
        """What the model takes of these texts.

        Args:
            share: whether all processes call this together, in a run: what is frozen is then computed once, each
                process doing a part, and kept in the feature cache.
        """

    @abstractmethod
    def head(self, model: PreTrainedModel) -> nn.Linear:
        """The last layer, whose outputs are the logits."""

    def cut(self, tokenizer: PreTrainedTokenizerFast, texts: Sequence[str]) -> int:
        """How many of the texts have tokens that are not read."""
        if self.long_text == "windows":
            return 0
        return int((token_counts(texts, tokenizer) > tokenizer.model_max_length).sum())

    def learning(
        self, model: PreTrainedModel, tokenizer: PreTrainedTokenizerFast, *splits: Sequence[str]
    ) -> tuple[nn.Module, list[Rows]]:
        """The module that the loop trains, and what it takes of the texts of each split.

        By default the model itself; a module that shares the model's parameters where the frozen part is left out.
        """
        return model, [self.rows(model, tokenizer, texts, share=True) for texts in splits]

    def variants(self, model: PreTrainedModel) -> Sequence["Route"]:
        """The routes of which the best on validation is kept; one where there is nothing to choose."""
        return [self]

    def freeze(self, model: PreTrainedModel) -> None:
        """Say of each parameter whether it learns, as the settings of this stage have it."""
        return None

    def state(self, model: PreTrainedModel) -> dict[str, Tensor]:
        """What this route may change in a model, by name: not a copy."""
        return learned_state(model)

    def layer_vectors(
        self, model: PreTrainedModel, tokenizer: PreTrainedTokenizerFast, texts: Sequence[str], some: np.ndarray
    ) -> list[np.ndarray]:
        """What each layer makes of some of the texts: (len(some), width) float32 each, the mean over tokens.

        All processes call this together. Empty where the route has nothing of that kind.

        Args:
            some: places in ``texts``; of frozen features those of all texts are in the cache.
        """
        return []

    def paces(self, model: PreTrainedModel) -> dict[str, Pace]:
        """How fast each parameter learns beside the others, by name; those not named learn at the learning rate."""
        return {}

    def head_inputs(self, model: nn.Module, rows: Rows) -> np.ndarray | None:
        """(rows, width) float32 inputs of the last layer where it is solved, not stepped; else None."""
        return None

    def save(self, model: PreTrainedModel, tokenizer: PreTrainedTokenizerFast, folder: Path) -> None:
        """Write model and tokenizer as plain transformers reads them."""
        with quiet():
            model.save_pretrained(folder)
            tokenizer.save_pretrained(folder)

    def load(
        self, folder: Path, record: Mapping[str, Any], base: str | SharedBase | None
    ) -> tuple[PreTrainedModel, PreTrainedTokenizerFast]:
        """The model and tokenizer that were saved in a folder.

        Args:
            record: what ``Built.record`` said.
            base: for routes that save no copy of it, where the base model lies, or one that is in memory; None: found
                by its record.

        Raises:
            RunFolderError: weights are missing, which transformers would fill with random numbers.
        """
        model, found = from_pretrained(
            AutoModelForSequenceClassification, folder, use_safetensors=True, output_loading_info=True
        )
        if missing := sorted(found["missing_keys"]):
            raise RunFolderError(f"{folder}: expected every weight of the model, found no {', '.join(missing)}")
        return model.eval(), fast_tokenizer(folder)

    def reopened_logits(self, folder: Path, record: Mapping[str, Any], texts: Sequence[str]) -> np.ndarray:
        """(texts, labels) float32 logits of a saved folder that is opened as its model card says.

        Args:
            record: what ``Built.record`` said.
        """
        return self.opened_logits(*self.load(folder, record, None), texts)

    def opened_logits(
        self, model: PreTrainedModel, tokenizer: PreTrainedTokenizerFast, texts: Sequence[str]
    ) -> np.ndarray:
        """(texts, labels) float32 logits of a model that others have opened."""
        if self.long_text == "truncate":
            return plain_logits(model, tokenizer, texts)
        # Others would cut what is long.
        model = model.eval().to(distributed.state().device)
        return predict_logits(model, self.rows(model, tokenizer, texts))

    def needs_base(self, folder: Path) -> bool:
        """Whether a saved folder holds no copy of the base model."""
        return False

    def merged(self, model: PreTrainedModel) -> PreTrainedModel:
        """A copy of a model with its adapter added to the weights beside it.

        Raises:
            SettingError: the route has no adapter, or this model none any more.
        """
        raise SettingError(f"merge: expected an adapter (route lora), found a whole model (route {self.name})")

    def recorded(self) -> dict[str, Any]:
        """The settings as they are saved: no path of this machine."""
        return asdict(self)


def plain_logits(model: PreTrainedModel, tokenizer: PreTrainedTokenizerFast, texts: Sequence[str]) -> np.ndarray:
    """(texts, labels) float32 logits with no line of this project: the tokenizer's own padding, one batch."""
    model = model.eval().to(distributed.state().device)
    tokens = tokenizer(list(texts), padding=True, truncation=True, return_tensors="pt").to(model.device)
    with torch.inference_mode():
        return model(**tokens).logits.float().cpu().numpy()


def set_length(
    tokenizer: PreTrainedTokenizerFast, max_length: int | Literal["auto"], texts: Sequence[str]
) -> PreTrainedTokenizerFast:
    """Say how many tokens of a text are read, special ones included; never more than the tokenizer allowed before.

    Args:
        max_length: "auto": as many as ``SHARE_READ_WHOLE`` percent of the texts have at most.
    """
    if max_length == "auto":
        counts = token_counts(texts, tokenizer)
        # One token at least besides the special ones, also where no text has any.
        least = tokenizer.backend_tokenizer.num_special_tokens_to_add(False) + 1
        max_length = max(least, int(np.percentile(counts, SHARE_READ_WHOLE, method="higher")))
        log.info("max_length=auto: %d tokens", min(max_length, tokenizer.model_max_length))
    tokenizer.model_max_length = min(max_length, tokenizer.model_max_length)
    return tokenizer


def named_local(source: str | None) -> str | None:
    """A local file or folder by its name and content, and anything else as it is."""
    if source is None or not (local := Path(source).expanduser()).exists():
        return source
    return f"{local.name} ({content_stamp(local)[:16]})"
