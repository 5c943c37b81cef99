"""Copy a model's modules around the same tensors, and let models be pickled. Does not know what for."""

from copy import deepcopy
from itertools import chain
from typing import TypeVar

import torch
from torch import nn
from transformers import PreTrainedModel

from nlptransfer.models.patches import captures, remove_captures

Model = TypeVar("Model", bound=nn.Module)
_announced: set[type] = set()


def around_same_tensors(model: Model) -> Model:
    """Return a model of its own with the same parameters and buffers in memory."""
    return deepcopy(model, {id(tensor): tensor for tensor in chain(model.parameters(), model.buffers())})


def without_capture(model: Model) -> Model:
    """Return a model that can be pickled, with the same tensors: itself unless transformers captures its outputs."""
    if not any(map(captures, model.modules())):
        return model
    copied = around_same_tensors(model)
    for module in copied.modules():
        remove_captures(module)
    return copied


def announce(model: nn.Module) -> None:
    """Let transformers know the classes of a model that was unpickled.

    It learns only in the constructor of a class that this one can give hidden states; without, it gives None.
    """
    for module in model.modules():
        if isinstance(module, PreTrainedModel) and type(module).__module__.startswith("transformers."):
            kind = type(module)
            if kind not in _announced:
                with torch.device("meta"):
                    kind(deepcopy(module.config))
                _announced.add(kind)
