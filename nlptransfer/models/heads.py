"""Work on the last layer of a classifier: see its inputs, replace it for a while or for other labels.
It knows layers and labels, not what is trained."""

from collections.abc import Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager, nullcontext
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from transformers import PreTrainedModel

from nlptransfer.data import Labels
from nlptransfer.models.architectures import initialize, name_of, plain_model
from nlptransfer.models.inference import compute
from nlptransfer.models.rows import Rows


def standing_in(layer: nn.Module | None, other: nn.Module | None) -> AbstractContextManager[object]:
    """Let another layer compute the outputs of ``layer``; nothing changes where one of them is None."""
    if layer is None or other is None:
        return nullcontext()
    return layer.register_forward_hook(lambda _module, inputs, _output: other(*inputs))


@contextmanager
def last_inputs(layer: nn.Module) -> Iterator[list[Tensor]]:
    """Yield a list with the layer's last input, filled at each call."""
    seen: list[Tensor] = []

    def note(_module: nn.Module, inputs: tuple[Tensor, ...]) -> None:
        seen[:] = inputs[:1]

    with layer.register_forward_pre_hook(note):
        yield seen


def text_vectors(inputs: Tensor, batch: Mapping[str, Tensor], model: Any) -> Tensor:
    """Return a last layer's input for each text, (rows, width); in a decoder, whose head sees all tokens, the last."""
    if inputs.ndim == 2:
        return inputs
    ids = batch["input_ids"]
    places = torch.arange(ids.shape[1], device=ids.device)
    last = (places * (ids != model.config.pad_token_id)).argmax(dim=1)
    return inputs[torch.arange(len(inputs), device=inputs.device), last]


def represent(model: nn.Module, head: nn.Linear, rows: Rows) -> np.ndarray:
    """Compute the last layer's inputs, (texts, width) float32; all processes call this together."""
    with last_inputs(head) as seen:

        def inputs_of(batch: dict[str, Tensor]) -> Tensor:
            model(**batch)
            return text_vectors(seen[0], batch, model).float()

        return compute(model, inputs_of, rows, share=True)


def like(head: nn.Linear, labels: int) -> nn.Linear:
    """Return a newly initialized last layer of the same inputs, for a number of labels."""
    return type(head)(head.in_features, labels, bias=head.bias is not None)


def relabel(model: PreTrainedModel, head: nn.Linear, labels: Labels, seed: int) -> nn.Linear:
    """Replace the last layer by a newly initialized one for other labels, and return the old one."""
    torch.manual_seed(seed)
    layer = like(head, labels.num_labels)
    initialize(layer, model.config)
    model.set_submodule(name_of(head, model), layer.to(head.weight))
    _set_labels(model, labels)
    return head


def reorder(model: PreTrainedModel, head: nn.Linear, before: Labels, after: Labels) -> None:
    """Put a model's outputs in the order of ``after``, from that of ``before``, the same names."""
    places = [before.label2id[name] for name in after.names]
    with torch.no_grad():
        for parameter in head.parameters():
            parameter.copy_(parameter[places].clone())
    _set_labels(model, after)


def label_config(labels: Labels) -> dict[str, Any]:
    return {"id2label": labels.id2label, "label2id": labels.label2id, "problem_type": labels.problem_type}


def _set_labels(model: PreTrainedModel, labels: Labels) -> None:
    model.config.update(label_config(labels))
    plain: Any = plain_model(model)
    if hasattr(plain, "num_labels"):
        plain.num_labels = labels.num_labels
