"""Let rows of several adapters go together through the base that they share.
It knows layers and rows, not texts or labels."""

import logging
from collections.abc import Iterator, Sequence
from contextvars import ContextVar
from typing import Any

import numpy as np
import torch
from peft import PeftModel
from peft.tuners import lora
from peft.utils import ModulesToSaveWrapper
from torch import Tensor, nn
from torch.nn import functional

from nlptransfer.models.copying import around_same_tensors
from nlptransfer.models.inference import compute
from nlptransfer.models.partial import first_token_alone
from nlptransfer.models.rows import Rows, VectorRows
from nlptransfer.models.tokens import TokenRows

log = logging.getLogger("nlptransfer")

_KINDS: Any = (lora.LoraLayer, ModulesToSaveWrapper)
_parts: ContextVar[list[tuple[int, int]]] = ContextVar("parts")
"""Adapter and count of the rows of a batch, which lie in this order; of a thread, as several may compute at once."""


def shared_weights(model: nn.Module) -> object:
    """Return what two adapters have in common if their rows can go together; None for a model without an adapter."""
    if not isinstance(model, PeftModel):
        return None
    base: Any = model.get_base_model()
    # Identity: equal weights that lie in memory twice are not shared.
    return id(base.get_input_embeddings().weight), tuple(_adapted(model, ModulesToSaveWrapper))


def mixed_adapters(models: Sequence[PeftModel], trial: TokenRows) -> "MixedAdapters | None":
    """Return adapters that compute together, after a trial on a row; None for a base that does not keep rows apart."""
    try:
        return MixedAdapters(models, trial)
    except _NotByRow:
        kind = models[0].config.model_type
        log.info("model type %r: adapters go through it one after the other, as its layers see no rows", kind)
        return None


class MixedAdapters:
    """Adapters of one base, with a head each, that compute each its own rows of a batch.

    The weights of the base multiply all rows at once; what an adapter adds, and its head, is computed of its rows
    alone, so that ranks, adapted layers and numbers of labels may differ. peft's ``adapter_names`` mixes neither heads
    of several layers nor of other numbers of labels. All have the same :func:`shared_weights`; no tensor is copied.
    """

    def __init__(self, models: Sequence[PeftModel], trial: TokenRows) -> None:
        self.most_labels = max(model.config.num_labels for model in models)
        plain = [model.get_base_model() for model in models]
        self.model: Any = around_same_tensors(plain[0]).eval()
        for name in {name for model in models for name in _adapted(model, _KINDS)}:
            layers = [model.get_submodule(name) for model in plain]
            kind = _Added if all(map(_is_added, layers)) else _ByRow
            self.model.set_submodule(name, kind(layers))
        # One row, more often than it has tokens: what is not one a row is seen by its number.
        places = np.zeros(int(trial.lengths[0]) + 1, dtype=np.int64)
        device = next(self.model.parameters()).device
        inputs = {name: value.to(device) for name, value in trial.batch(places).items()}
        with torch.no_grad():
            self._computed({**inputs, "adapter": torch.arange(len(places))[:, None] % len(models)})

    def logits(self, rows: Rows, adapters: np.ndarray, batch_size: int | None = None) -> np.ndarray:
        """Return logits, (texts, most labels) float32, of texts with the places of their adapters, (texts,)."""
        numbered = VectorRows(rows, "adapter", adapters[:, None].astype(np.float32))
        with first_token_alone(self.model):
            return compute(self.model, self._computed, numbered, batch_size=batch_size)

    def _computed(self, inputs: dict[str, Tensor]) -> Tensor:
        adapters, order = inputs.pop("adapter").flatten().long().sort(stable=True)
        numbers, counts = adapters.unique_consecutive(return_counts=True)
        token = _parts.set([*zip(numbers.tolist(), counts.tolist(), strict=True)])
        try:
            output: Tensor = self.model(**{name: value[order] for name, value in inputs.items()}).logits.float()
        finally:
            _parts.reset(token)
        logits = output.new_zeros(len(output), self.most_labels)
        logits[order, : output.shape[1]] = output
        return logits


def _adapted(model: PeftModel, kinds: Any) -> list[str]:
    return [name for name, module in model.get_base_model().named_modules() if isinstance(module, kinds)]


def _is_added(layer: nn.Module) -> bool:
    """Tell whether a layer is one of the base, or that and a product that is added (DoRA scales the sum)."""
    return not isinstance(layer, _KINDS) or (type(layer) is lora.Linear and not layer.lora_variant)


class _NotByRow(Exception):
    """A layer does not see one entry for each row first: it may see tokens first, or positions alone."""


class _ByRow(nn.Module):
    """Layers in the place of one: each computes the rows of its adapter."""

    def __init__(self, layers: Sequence[nn.Module]) -> None:
        super().__init__()
        self.layers = nn.ModuleList(layers)

    def forward(self, x: Tensor, *args: Any, **options: Any) -> Tensor:
        outputs = [layer(part, *args, **options) for layer, part in self._split(x)]
        most = max(output.shape[-1] for output in outputs)
        return torch.cat([functional.pad(output, (0, most - output.shape[-1])) for output in outputs])

    def _split(self, *values: Tensor) -> Iterator[Any]:
        """Yield each layer with its part of values that have one entry for each row."""
        numbers, counts = zip(*_parts.get(), strict=True)
        if {*map(len, values)} != {sum(counts)}:
            raise _NotByRow
        return zip((self.layers[number] for number in numbers), *(value.split(counts) for value in values), strict=True)


class _Added(_ByRow):
    """Layers that share one of the base, which computes all rows at once."""

    def forward(self, x: Tensor, *args: Any, **options: Any) -> Tensor:
        first: Any = self.layers[0]
        y: Tensor = getattr(first, "base_layer", first)(x, *args, **options)
        for layer, of_x, of_y in self._split(x, y):
            for name in getattr(layer, "active_adapters", ()):
                small = layer.lora_A[name](of_x.to(layer.lora_A[name].weight.dtype))
                of_y += layer.lora_B[name](small) * layer.scaling[name]
        return y
