"""The route Full: a whole encoder learns, or its upper layers."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Annotated, Any, ClassVar, Literal

import torch
from annotated_types import Ge, Interval
from torch import nn
from transformers import PreTrainedModel, PreTrainedTokenizerFast

from nlptransfer.data import Data
from nlptransfer.models import (
    ActivationRows,
    Rows,
    activations,
    embeddings_of,
    last_layer,
    layers_of,
    represent,
    upper_layers,
)
from nlptransfer.routes.base import HeadInputs, Route
from nlptransfer.routes.encoder import EncoderRoute, default_settings
from nlptransfer.settings import check
from nlptransfer.training import ParameterGroup

FROZEN_HERE = "frozen_by_nlptransfer"
"""Mark of a parameter that would learn if its layer were not frozen."""


@dataclass(frozen=True)
class Full(EncoderRoute):
    """All of the encoder learns, or its upper layers."""

    name: ClassVar[str] = "full"
    per_stage: ClassVar[tuple[str, ...]] = (
        "freeze_embeddings",
        "freeze_layers",
        "layers",
        "layer_decay",
        "gradual_unfreezing",
        "head_first",
    )
    varied: ClassVar[tuple[str, ...]] = ("freeze_layers",)

    freeze_embeddings: bool = False
    """whether the embeddings stay as they are"""
    freeze_layers: Annotated[int, Ge(0)] = 0
    """lowest layers that stay as they are, and the embeddings with them; what they give is computed once"""
    layers: Literal["auto"] | None = None
    """auto: none, a third, two thirds and all layers are frozen in turn, and the best on validation is kept"""
    layer_decay: Annotated[float, Interval(gt=0, le=1)] = 1.0
    """each layer's learning rate as a share of that of the layer above it (Clark et al. 2020)"""
    gradual_unfreezing: bool = False
    """whether layers begin to learn in turn, the head first, all by half of the training (Howard and Ruder 2018)"""
    head_first: bool = False
    """whether the last layer is fitted on the frozen encoder before all learns (LP-FT, Kumar et al. 2022)"""

    def check(self) -> None:
        super().check()
        both = self.layers is not None and self.freeze_layers > 0
        check(not both, "freeze_layers", self.freeze_layers, "0 with layers=auto, which tries several")

    def state(self, model: PreTrainedModel) -> dict[str, torch.Tensor]:
        # Another stage may freeze other layers.
        return model.state_dict()

    def training_in_words(self, record: Mapping[str, Any]) -> str:
        if self.freeze_layers:
            lowest = f"Of the encoder the lowest {self.freeze_layers} layers stayed as they are"
            return f"{lowest}; the layers above learned, and the head."
        if self.layers == "auto":
            return "The head and the upper layers of the encoder learned, as many as did best on validation."
        embeddings = " but its embeddings" if self.freeze_embeddings else ""
        return f"All of the encoder{embeddings} learned, and the head."

    def variants(self, model: PreTrainedModel) -> Sequence[Route]:
        if self.layers is None:
            return [self]
        count = len(layers_of(model))
        numbers = sorted({0, round(count / 3), round(2 * count / 3), count})
        return [replace(self, layers=None, freeze_layers=number) for number in numbers]

    def freeze(self, model: PreTrainedModel) -> None:
        frozen: list[nn.Module] = []
        if self.freeze_layers:
            layers = layers_of(model)
            least = f"at most its {len(layers)} layers"
            check(self.freeze_layers <= len(layers), "freeze_layers", self.freeze_layers, least)
            frozen += layers[: self.freeze_layers]
        if frozen or self.freeze_embeddings:
            frozen += embeddings_of(model)
        # The stage before may have frozen other layers; what the base never learns stays as it is.
        for parameter in model.parameters():
            parameter.requires_grad_(parameter.requires_grad or getattr(parameter, FROZEN_HERE, False))
        for parameter in nn.ModuleList(frozen).parameters():
            if parameter.requires_grad:
                setattr(parameter, FROZEN_HERE, True)
            parameter.requires_grad_(False)

    def defaults(self, data: Data) -> dict[str, Any]:
        return default_settings(data, 1e-4, least_epochs=3)

    def learning(
        self, model: PreTrainedModel, tokenizer: PreTrainedTokenizerFast, *splits: Sequence[str]
    ) -> tuple[nn.Module, list[Rows]]:
        self.freeze(model)
        if not self.freeze_layers:
            return super().learning(model, tokenizer, *splits)
        rows: list[Rows] = []
        for texts in splits:
            tokens = self.rows(model, tokenizer, texts)
            rows.append(ActivationRows(tokens, activations(model, tokenizer, texts, tokens, self.freeze_layers)))
        return upper_layers(model, self.freeze_layers), rows

    def parameter_groups(self, model: PreTrainedModel) -> dict[str, ParameterGroup]:
        if self.layer_decay == 1 and not self.gradual_unfreezing:
            return {}
        layers = layers_of(model)
        floors: dict[int, int] = {id(p): 0 for part in embeddings_of(model) for p in part.parameters()}
        floors |= {id(p): number for number, layer in enumerate(layers, start=1) for p in layer.parameters()}
        top = len(layers) + 1
        parameter_groups = {}
        for name, parameter in model.named_parameters():
            below = top - floors.get(id(parameter), top)
            start = 0.5 * below / top if self.gradual_unfreezing else 0.0
            parameter_groups[name] = ParameterGroup(self.layer_decay**below, start)
        return parameter_groups

    def head_inputs(self, model: nn.Module, rows: Rows) -> HeadInputs | None:
        return (represent(model, last_layer(model), rows), None) if self.head_first else None
