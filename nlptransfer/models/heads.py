"""The last layer of a classifier: what it takes, another one in its place, and one for other labels."""

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from transformers import PreTrainedModel

from nlptransfer.data import Labels
from nlptransfer.models.architectures import begin_anew, name_of, plain_model
from nlptransfer.models.inference import compute
from nlptransfer.models.rows import Rows


@contextmanager
def standing_in(layer: nn.Module | None, other: nn.Module | None) -> Iterator[None]:
    """Within it the layer gives what another one makes of the same inputs; without another one nothing changes."""
    if layer is None or other is None:
        yield
        return
    hook = layer.register_forward_hook(lambda _module, inputs, _output: other(*inputs))
    try:
        yield
    finally:
        hook.remove()


@contextmanager
def last_inputs(layer: nn.Module) -> Iterator[list[Tensor]]:
    """Within it a list that holds what the layer took last."""
    seen: list[Tensor] = []

    def note(_module: nn.Module, inputs: tuple[Tensor, ...]) -> None:
        seen[:] = inputs[:1]

    hook = layer.register_forward_pre_hook(note)
    try:
        yield seen
    finally:
        hook.remove()


def text_vectors(inputs: Tensor, batch: Mapping[str, Tensor], model: Any) -> Tensor:
    """(rows, width) of what a last layer takes; a decoder's takes every token, and the last real one is the answer."""
    if inputs.ndim == 2:
        return inputs
    ids = batch["input_ids"]
    places = torch.arange(ids.shape[1], device=ids.device)
    last = (places * (ids != model.config.pad_token_id)).argmax(dim=1)
    return inputs[torch.arange(len(inputs), device=inputs.device), last]


def represent(learner: nn.Module, head: nn.Linear, rows: Rows) -> np.ndarray:
    """(texts, width) float32: what the last layer takes; all processes call this together."""
    with last_inputs(head) as seen:

        def taken(batch: dict[str, Tensor]) -> Tensor:
            learner(**batch)
            return text_vectors(seen[0], batch, learner).float()

        return compute(learner, taken, rows, share=True)


def relabel(model: PreTrainedModel, head: nn.Linear, labels: Labels, seed: int) -> nn.Linear:
    """Put a fresh last layer for other labels in the place of a model's; returns the old one."""
    torch.manual_seed(seed)
    fresh = nn.Linear(head.in_features, labels.num_labels, bias=head.bias is not None)
    begin_anew(fresh, model.config)
    model.set_submodule(name_of(head, model), fresh.to(head.weight))
    _set_labels(model, labels)
    return head


def reorder(model: PreTrainedModel, head: nn.Linear, before: Labels, after: Labels) -> None:
    """Give a model's outputs another order and other names.

    Args:
        before: as the outputs are, by the names of ``after``.
        after: the same names in the order that is wanted.
    """
    places = [before.label2id[name] for name in after.names]
    with torch.no_grad():
        for parameter in head.parameters():
            parameter.copy_(parameter[places].clone())
    _set_labels(model, after)


def _set_labels(model: PreTrainedModel, labels: Labels) -> None:
    config: Any = model.config
    config.id2label, config.label2id, config.problem_type = labels.id2label, labels.label2id, labels.problem_type
    own: Any = plain_model(model)
    if hasattr(own, "num_labels"):
        own.num_labels = labels.num_labels
