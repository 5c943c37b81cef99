"""Keep one base model in memory for several classifiers, each with weights of its own.
It knows bases and heads, not how classifiers are saved."""

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import torch
from transformers import PreTrainedModel

from nlptransfer import distributed
from nlptransfer.data import Labels
from nlptransfer.hub import BaseModel, check_weights, find_base
from nlptransfer.models.architectures import last_layer
from nlptransfer.models.copying import around_same_tensors
from nlptransfer.models.heads import relabel
from nlptransfer.models.loading import load_encoder, load_model, load_tokenizer


class SharedBase:
    """A base model that is loaded once: ``Classifier.load(folder, base=shared)`` adds the folder's own weights.

    Classifiers on it may be used in turn, or from several threads: each is a model of its own, which shares the base's
    weights and no state. ``name`` is a folder or a hub id, None: the default encoder; ``revision`` a commit, branch or
    tag on the hub. A base that cannot be had is a BaseModelError.
    """

    def __init__(self, name: str | None = None, revision: str | None = None) -> None:
        self.base = find_base(name, revision)
        self._loaded: dict[str, PreTrainedModel] = {}

    def encoder(self, record: Mapping[str, Any]) -> PreTrainedModel:
        """Return the frozen encoder, the same for all, if it has the weights of a classifier's record."""
        base, kind = self._used(record), f"encoder {record.get('keep_layers')}"
        if kind not in self._loaded:
            self._loaded[kind] = load_encoder(base).to(distributed.state().device)
        return self._loaded[kind]

    def classifier(
        self, record: Mapping[str, Any], labels: Labels, dtype: torch.dtype = torch.float32, four_bit: bool = False
    ) -> PreTrainedModel:
        """Return a classifier with a new head for these labels on the base, if it has the weights of the record."""
        base, kind = self._used(record), f"{'4bit' if four_bit else dtype} {record.get('keep_layers')}"
        if kind not in self._loaded:
            two = Labels(("0", "1"))
            model, _ = load_model(base, two, load_tokenizer(base), 0, dtype=dtype, four_bit=four_bit)
            self._loaded[kind] = model.to(distributed.state().device).requires_grad_(False)
        shared = self._loaded[kind]
        model = around_same_tensors(shared)
        relabel(model, last_layer(model), labels, 0)
        return model

    def _used(self, record: Mapping[str, Any]) -> BaseModel:
        check_weights(self.base, record)
        return replace(self.base, keep_layers=record.get("keep_layers"))
