"""Run a model over rows, and return its results in the order of the texts.
It knows batches, devices and processes, not what is computed."""

from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from torch.distributed.tensor import DTensor

from nlptransfer import distributed
from nlptransfer.models import cpu
from nlptransfer.models.batching import prediction_batches
from nlptransfer.models.partial import first_token_alone
from nlptransfer.models.rows import Rows

CPU_NUMBERS, GPU_NUMBERS = 400_000, 12_000_000
"""Numbers in the hidden states of one batch in prediction: they fit a processor's caches, and fill an accelerator."""


def predict_logits(model: Any, rows: Rows, *, share: bool = False) -> np.ndarray:
    """Compute the model's logits, (texts, labels) float32, also of no rows; see :func:`compute`."""
    if not len(rows):
        return np.zeros((0, model.config.num_labels), dtype=np.float32)
    with first_token_alone(model):
        return compute(model, lambda inputs: model(**inputs).logits.float(), rows, share=share)


def compute(
    model: Any,
    function: Callable[[dict[str, torch.Tensor]], torch.Tensor],
    rows: Rows,
    *,
    share: bool = False,
    places: Callable[[np.ndarray], np.ndarray] | None = None,
) -> np.ndarray:
    """Compute a function of batches of one row or more, with the model in evaluation mode, in the order of the texts.

    ``function`` maps a batch of n rows, on the model's device, to (n, ...). With ``share`` all processes call this and
    work on a part each; everyone gets all rows. ``places`` says where the results of a batch of rows go, if not one a
    row; all places together are 0, 1, ... each once. Returns (texts, ...), of windows the mean; or (places, ...).
    """
    device = next(model.parameters()).device
    numbers = CPU_NUMBERS if device.type == "cpu" else GPU_NUMBERS
    width = getattr(getattr(model, "config", None), "hidden_size", 384)
    batches = list(prediction_batches(rows.lengths, numbers // width))
    mine = batches[distributed.rank() :: distributed.world_size()] if share else batches
    # Sharded weights meet in every pass, so no process may make one pass fewer.
    sharded = share and any(isinstance(value, DTensor) for value in model.parameters())
    idle = batches[:1] if sharded and len(mine) * distributed.world_size() < len(batches) else []
    was_training = model.training
    model.eval()
    # Not inference_mode: what a model keeps from here, as rotary tables, may be trained with later.
    with torch.no_grad(), cpu.fast(model):
        results = [
            function({name: value.to(device) for name, value in rows.batch(batch).items()}).cpu().numpy()
            for batch in [*mine, *idle]
        ][: len(mine)]
    model.train(was_training)
    if places is not None:
        count = sum(len(places(batch)) for batch in batches)
        return distributed.gather_rows([places(batch) for batch in mine], results, count, share=share)
    every = distributed.gather_rows(mine, results, len(rows), share=share)
    if rows.windows is None:
        return every
    counts = np.diff(rows.windows).astype(np.float32).reshape(-1, *[1] * (every.ndim - 1))
    return np.add.reduceat(every, rows.windows[:-1], axis=0, dtype=np.float32) / counts
