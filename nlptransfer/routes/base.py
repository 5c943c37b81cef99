"""What a route is: how a model is built for the data, fed and trained; and a saved format: how it is saved and opened.

Knows no route by name, nor where data comes from.
"""

import logging
from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, ClassVar, Literal, cast

import numpy as np
import torch
from torch import Tensor, nn
from transformers import AutoModelForSequenceClassification, PreTrainedModel, PreTrainedTokenizerFast

from nlptransfer import distributed
from nlptransfer.data import Data, Labels
from nlptransfer.errors import RunFolderError, SettingError
from nlptransfer.files import content_stamp
from nlptransfer.hub import CardSection, fast_tokenizer, from_pretrained, quiet
from nlptransfer.models import LongText, Rows, SharedBase, predict_logits, token_counts
from nlptransfer.settings import Settings
from nlptransfer.training import ParameterGroup, learned_state

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
class SavedFormat(Settings, ABC):
    """How a classifier is saved, opened and described; its fields are the settings that are saved with it."""

    name: ClassVar[str]
    opened_by: ClassVar[str] = "transformers"
    """what else than nlptransfer opens a saved folder"""

    long_text: LongText = field(default="truncate", kw_only=True)
    """what is read of a text of more than max_length tokens: truncate: the first ones; head_tail: a quarter from the
    beginning and the rest from the end; windows: all, in windows that overlap by a quarter, pooled into one prediction
    and counting as one text in the loss"""

    @abstractmethod
    def rows(
        self, model: PreTrainedModel, tokenizer: PreTrainedTokenizerFast, texts: Sequence[str], *, share: bool = False
    ) -> Rows:
        """Return the model's inputs for these texts.

        Args:
            share: whether all processes call this together, in a run: what is frozen is then computed once, each
                process doing a part, and kept in the feature cache.
        """

    def truncated(self, tokenizer: PreTrainedTokenizerFast, texts: Sequence[str]) -> int:
        """Count the texts that have tokens which are not read."""
        if self.long_text == "windows":
            return 0
        return int((token_counts(texts, tokenizer) > tokenizer.model_max_length).sum())

    def save(self, model: PreTrainedModel, tokenizer: PreTrainedTokenizerFast, folder: Path) -> None:
        """Write model and tokenizer as plain transformers reads them."""
        with quiet():
            model.save_pretrained(folder)
            tokenizer.save_pretrained(folder)

    def load(
        self, folder: Path, record: Mapping[str, Any], base: str | SharedBase | None
    ) -> tuple[PreTrainedModel, PreTrainedTokenizerFast]:
        """Open the model and tokenizer that were saved in a folder.

        Args:
            record: what ``Built.record`` said.
            base: for formats that hold no copy of it, where the base model lies, or one that is in memory; None: found
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
        """Return (texts, labels) float32 logits of a saved folder that is opened as its model card says.

        Args:
            record: what ``Built.record`` said.
        """
        return self.opened_logits(*self.load(folder, record, None), texts)

    def opened_logits(
        self, model: PreTrainedModel, tokenizer: PreTrainedTokenizerFast, texts: Sequence[str]
    ) -> np.ndarray:
        """Return (texts, labels) float32 logits of a model that others have opened."""
        model = model.eval().to(distributed.state().device)
        if self.long_text != "truncate":
            # Others would truncate what is long.
            return predict_logits(model, self.rows(model, tokenizer, texts))
        # No line of this project: the tokenizer's own padding, one batch.
        tokens = tokenizer(list(texts), padding=True, truncation=True, return_tensors="pt").to(model.device)
        with torch.inference_mode():
            return cast(np.ndarray, model(**tokens).logits.float().cpu().numpy())

    def needs_base(self, folder: Path) -> bool:
        """Tell whether a saved folder holds no copy of the base model."""
        return False

    def merged(self, model: PreTrainedModel) -> "tuple[SavedFormat, PreTrainedModel]":
        """Return a copy of a model with its adapter added to the weights of the base, and the format of that.

        Raises:
            SettingError: the format has no adapter, or this model none any more.
        """
        raise SettingError(f"merge: expected an adapter, found a whole model (route {self.name})")

    def averaged(
        self,
        parts: "Sequence[tuple[SavedFormat, PreTrainedModel]]",
        shares: Sequence[float],
        labels: Labels,
        tokenizer: PreTrainedTokenizerFast,
        record: Mapping[str, Any],
        base: str | None,
    ) -> "tuple[SavedFormat, PreTrainedModel]":
        """Return one model with the weighted average of the adapters of several, and the format of that.

        Args:
            parts: format and model of each.
            shares: weight of each, 1 together.
            record: what ``Built.record`` said of their base.
            base: where that lies; None: found by its record.

        Raises:
            SettingError: one has no adapter, or their adapters do not go together.
        """
        raise SettingError(f"classifier 1: expected an adapter, found a whole model (route {self.name})")

    def saves_merged(self, model: PreTrainedModel) -> bool:
        """Tell whether a model has an adapter that must be merged before it is saved."""
        return False

    def check_export(self) -> None:
        """Raise a SettingError where an ONNX graph of the model would not give what the model gives."""
        return None

    def recorded(self) -> dict[str, Any]:
        """Return the settings as they are saved: no path of this machine."""
        return asdict(self)

    def card_section(self, record: Mapping[str, Any], repo_id: str) -> CardSection:
        """Describe a saved classifier for its model card.

        Args:
            record: what its nlptransfer.json holds.
            repo_id: its name on the hub, or its folder.
        """
        return CardSection(f"It learned by the route `{self.name}`.")


@dataclass(frozen=True)
class Route(SavedFormat):
    """How a pretrained model becomes a classifier: how it is built, fed and trained."""

    per_stage: ClassVar[tuple[str, ...]] = ()
    """settings of how the model learns, which a stage of a transfer may have otherwise than the one before"""
    varied: ClassVar[tuple[str, ...]] = ()
    """settings in which ``variants`` differ"""
    learns_encoder: ClassVar[bool] = False
    """whether a pretrained encoder learns, or an adapter of it"""
    is_adapter: ClassVar[bool] = False
    """whether the weights of the base stay as they are, and others that are added to them learn"""
    has_vectors: ClassVar[bool] = False
    """whether it is built on word vectors, which may be trained further before"""

    @abstractmethod
    def build(self, data: Data, base: str | None, revision: str | None, seed: int, extra: Sequence[str] = ()) -> Built:
        """Return a newly initialized model for the data's labels; only training texts are looked at.

        Args:
            extra: training texts of another task, that the model is to read too.
        """

    @abstractmethod
    def defaults(self, data: Data) -> dict[str, Any]:
        """Return epochs, learning rate and batch size that suit the data, where the user asks for none."""

    @property
    def is_frozen(self) -> bool:
        """Whether a small classifier alone learns, on features that are computed once."""
        return False

    @property
    def fits_head(self) -> bool:
        """Whether the last layer alone learns, and is fitted."""
        return False

    @abstractmethod
    def head(self, model: PreTrainedModel) -> nn.Linear:
        """Return the last layer, whose outputs are the logits."""

    def learning(
        self, model: PreTrainedModel, tokenizer: PreTrainedTokenizerFast, *splits: Sequence[str]
    ) -> tuple[nn.Module, list[Rows]]:
        """Return the module that the loop trains, and its inputs for the texts of each split.

        By default the model itself; a module that shares the model's parameters where the frozen part is left out.
        """
        return model, [self.rows(model, tokenizer, texts, share=True) for texts in splits]

    def variants(self, model: PreTrainedModel) -> Sequence["Route"]:
        """Return the routes of which the best on validation is kept; one where there is nothing to choose."""
        return [self]

    def freeze(self, model: PreTrainedModel) -> None:
        """Set for each parameter whether it learns, as the settings of this stage have it."""
        return None

    def state(self, model: PreTrainedModel) -> dict[str, Tensor]:
        """Return what this route may change in a model, by name: not a copy."""
        return learned_state(model)

    def layer_vectors(
        self, model: PreTrainedModel, tokenizer: PreTrainedTokenizerFast, texts: Sequence[str], some: np.ndarray
    ) -> list[np.ndarray]:
        """Return for each layer (len(some), width) float32, the mean over the tokens of some of the texts.

        All processes call this together. Empty where the route has nothing of that kind.

        Args:
            some: places in ``texts``; of frozen features those of all texts are in the cache.
        """
        return []

    def parameter_groups(self, model: PreTrainedModel) -> dict[str, ParameterGroup]:
        """Return how fast parameters learn, by name; those not named learn at the learning rate."""
        return {}

    def head_inputs(self, model: nn.Module, rows: Rows) -> np.ndarray | None:
        """Return (rows, width) float32 inputs of the last layer where it is fitted, not trained; else None."""
        return None

    def continued_vectors(self, texts: Sequence[str], base: str | None, revision: str | None, **training: Any) -> str:
        """Train the word vectors of a base further, before a model is built on them, and return their folder.

        All processes call this together, of routes that have vectors.

        Args:
            training: epochs, learning_rate and seed.

        Raises:
            SettingError: the route has none.
        """
        raise SettingError(f"route={self.name}: expected a route with word vectors, found none to train further")


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
