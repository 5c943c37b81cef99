"""Let the rows of an encoder's word embeddings that training texts use learn alone: a data set uses few of many.
It knows embeddings and token ids, not losses or the loop."""

import logging
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from typing import cast

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional
from transformers import PreTrainedModel

from nlptransfer.models.architectures import within_peft
from nlptransfer.models.rows import Rows, used_ids

log = logging.getLogger("nlptransfer")

WORTH = 0.75
"""Share of the rows in use up to which it is worth it."""


class UsedRows(nn.Module):
    """An embedding of which some rows learn; the others, which get no gradient, are all decayed by one factor."""

    decay: Tensor

    def __init__(self, whole: nn.Embedding, used: np.ndarray) -> None:
        super().__init__()
        device = whole.weight.device
        self.used = torch.from_numpy(used.astype(np.int64)).to(device)
        # No buffers: these would be sent to all processes before each forward pass.
        self.places = torch.full((whole.num_embeddings,), -1, dtype=torch.int64, device=device)
        self.places[self.used] = torch.arange(len(used), device=device)
        # The whole one's own memory: nothing is held twice.
        self.others = whole.weight.detach()
        self.weight = nn.Parameter(self.others[self.used])
        padding = -1 if whole.padding_idx is None else int(self.places[whole.padding_idx])
        self.padding_idx = None if padding < 0 else padding
        # A product over thousands of steps; Apple's GPUs have no float64.
        exact = torch.float32 if device.type == "mps" else torch.float64
        self.register_buffer("decay", torch.ones((), dtype=exact, device=device))

    def forward(self, ids: Tensor) -> Tensor:
        """Return (rows, tokens, width) embeddings; in training those of other rows are an IndexError."""
        places = self.places[ids]
        if self.training:
            return functional.embedding(places, self.weight, self.padding_idx)
        learned = functional.embedding(places.clamp(min=0), self.weight)
        others = (functional.embedding(ids, self.others) * self.decay).to(learned.dtype)
        return torch.where((places < 0).unsqueeze(-1), others, learned)

    @torch.no_grad()
    def write_back(self) -> None:
        """Write what was learned, and what the decay left of the other rows, into the whole embedding."""
        self.others.mul_(self.decay)
        self.others[self.used] = self.weight


@contextmanager
def used_rows(model: nn.Module, examples: Iterable[Rows], why_not: str | None = None) -> Iterator[UsedRows | None]:
    """Within the block, hold gradient and optimizer state for the rows of these examples' tokens alone.

    None: all rows learn as they did, or none does: the model has no plain word embeddings that are its own, the texts
    use most of them, or there is a reason ``why_not``, which is said.
    """
    whole = own_embeddings(model)
    ids = [used_ids(rows) for rows in examples]
    if whole is None or not whole.weight.requires_grad or any(some is None for some in ids):
        yield None
        return
    used = np.unique(np.concatenate(cast(list[np.ndarray], ids)))
    if len(used) > WORTH * whole.num_embeddings:
        yield None
        return
    if why_not is not None:
        message = "all %s rows of the word embeddings are learned, not the %s of the texts alone: %s"
        log.info(message, f"{whole.num_embeddings:,}", f"{len(used):,}", why_not)
        yield None
        return
    encoder, part = cast(PreTrainedModel, within_peft(model)), UsedRows(whole, used)
    encoder.set_input_embeddings(part)
    try:
        yield part
    finally:
        part.write_back()
        encoder.set_input_embeddings(whole)


def own_embeddings(model: nn.Module) -> nn.Embedding | None:
    """Return a classifier's word embeddings, where they are one plain table that nothing else has."""
    plain = within_peft(model)
    encoder = plain.base_model if isinstance(plain, PreTrainedModel) else None
    # Word vectors, which are no encoder's, are pooled out of the matrix itself.
    if encoder is plain or not isinstance(encoder, PreTrainedModel):
        return None
    try:
        found = plain.get_input_embeddings()
    except (NotImplementedError, AttributeError):  # it reads characters, or is an upper part
        return None
    # Some scale what they look up, or hold it with a head.
    if type(found) is not nn.Embedding or found.max_norm or found.scale_grad_by_freq:
        return None
    owners = sum(value is found.weight for module in plain.modules() for value in module.parameters(recurse=False))
    holders = sum(child is found for module in plain.modules() for child in module.children())
    return found if owners == holders == 1 else None
