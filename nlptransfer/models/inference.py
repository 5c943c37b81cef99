"""Run a model over rows, and return its results in the order of the texts.
It knows batches, devices and processes, not what is computed."""

import logging
import math
from collections.abc import Callable, Sequence
from contextlib import nullcontext
from typing import Any
from weakref import WeakKeyDictionary

import numpy as np
import torch
from torch.distributed.tensor import DTensor

from nlptransfer import distributed
from nlptransfer.errors import TrainingError
from nlptransfer.models import cpu
from nlptransfer.models.batching import prediction_batches
from nlptransfer.models.memory import is_out_of_memory, release
from nlptransfer.models.partial import first_token_alone
from nlptransfer.models.rows import Rows
from nlptransfer.progress import Bar, progress_bar
from nlptransfer.settings import check

log = logging.getLogger("nlptransfer")

CPU_NUMBERS, GPU_NUMBERS = 400_000, 12_000_000
"""Numbers in the hidden states of one batch in prediction: they fit a processor's caches, and fill an accelerator."""


_most_tokens: WeakKeyDictionary[Any, float] = WeakKeyDictionary()
"""Tokens, with padding, that one pass through a model may have, where memory has run out before."""
Function = Callable[[dict[str, torch.Tensor]], torch.Tensor]


def predict_logits(
    model: Any, rows: Rows, *, share: bool = False, batch_size: int | None = None, shown: str | None = None
) -> np.ndarray:
    """Compute the model's logits, (texts, labels) float32, also of no rows; see :func:`compute`."""
    if not len(rows):
        return np.zeros((0, model.config.num_labels), dtype=np.float32)
    with first_token_alone(model):
        function: Function = lambda inputs: model(**inputs).logits.float()  # noqa: E731
        return compute(model, function, rows, share=share, batch_size=batch_size, shown=shown)


def compute(
    model: Any,
    function: Function,
    rows: Rows,
    *,
    share: bool = False,
    batch_size: int | None = None,
    shown: str | None = None,
) -> np.ndarray:
    """Compute a function of batches of one row or more, with the model in evaluation mode, in the order of the texts.

    ``function`` maps a batch of n rows, on the model's device, to (n, ...). With ``share`` all processes call this and
    work on a part each; everyone gets all rows. A batch has at most ``batch_size`` rows, and by default as many as the
    device computes fastest; where memory runs out it is halved, and a TrainingError is raised for one row. ``shown``
    is what a bar of the progress is called, if there is to be one. Returns (texts, ...), of windows the mean.
    """
    batches = planned(model, rows, batch_size)
    with progress_bar(shown, len(rows)) if shown is not None else nullcontext() as bar:
        results = passed(model, function, rows, batches, share=share, bar=bar)
    every = np.empty((len(rows), *results[0].shape[1:]), results[0].dtype)
    for batch, values in zip(batches, results, strict=True):
        every[batch] = values
    return every if rows.windows is None else window_means(every, rows.windows[:-1])


def planned(model: Any, rows: Rows, batch_size: int | None = None) -> list[np.ndarray]:
    """Return the places of the rows of each batch, see :func:`compute`."""
    numbers = CPU_NUMBERS if next(model.parameters()).device.type == "cpu" else GPU_NUMBERS
    width = getattr(getattr(model, "config", None), "hidden_size", 384)
    return [*prediction_batches(rows.lengths, numbers // width, batch_size, one_length=rows.one_length)]


def passed(
    model: Any,
    function: Function,
    rows: Rows,
    batches: Sequence[np.ndarray],
    *,
    share: bool = False,
    bar: Bar | None = None,
) -> list[np.ndarray]:
    """Compute a function of these batches as :func:`compute` does; of n rows it may have any number of results.

    The rows are counted on a ``bar``, with those that other processes are taken to have computed meanwhile.
    """
    results = []
    mine = batches[distributed.rank() :: distributed.world_size()] if share else batches
    # Sharded weights meet in every pass, so no process may make one pass fewer.
    sharded = share and any(isinstance(value, DTensor) for value in model.parameters())
    idle = batches[:1] if sharded and len(mine) * distributed.world_size() < len(batches) else []
    was_training = model.training
    model.eval()
    # Not inference_mode: what a model keeps from here, as rotary tables, may be trained with later.
    with torch.no_grad(), cpu.fast(model):
        try:
            for batch in [*mine, *idle]:
                results.append(_computed(model, function, rows, batch, halves=not sharded))
                if bar is not None:
                    bar.advance(len(batch) * (distributed.world_size() if share else 1))
            results = results[: len(mine)]
        finally:
            model.train(was_training)
    return distributed.gather_dealt(results) if share else results


def window_means(values: np.ndarray, firsts: np.ndarray) -> np.ndarray:
    """Return the mean of the windows of each text, (texts, ...) float32, whose first ones these are."""
    counts = np.diff(firsts, append=len(values)).astype(np.float32).reshape(-1, *[1] * (values.ndim - 1))
    return np.add.reduceat(values, firsts, axis=0, dtype=np.float32) / counts


def _computed(model: Any, function: Function, rows: Rows, batch: np.ndarray, *, halves: bool) -> np.ndarray:
    """Compute one batch; where memory runs out in halves, as all like it from there on, if it ``halves`` at all."""
    device, longest = next(model.parameters()).device, max(1, int(rows.lengths[batch].max()))
    count, tokens = len(batch), len(batch) * longest
    # Processes that hold shards of one model wait for each other inside of it.
    may_halve = halves and count > 1
    if not may_halve or tokens <= _most_tokens.get(model, math.inf):
        try:
            inputs = {name: value.to(device) for name, value in rows.batch(batch).items()}
            return function(inputs).cpu().numpy()
        except Exception as error:
            if not is_out_of_memory(error):
                raise
            where = f"out of memory on {device} with {count} row{'s' * (count > 1)} of {longest} tokens in one batch"
            if not may_halve:
                smaller = f"batch_size={count // 2}, " if count > 1 else ""
                advice = f"take {smaller}a smaller max_length in training, another device or a smaller base"
                raise TrainingError(f"{where}: {advice}") from error
            log.warning("%s: half as many are read at a time from here on", where)
            release(error)
        _most_tokens[model] = tokens / 2
    parts = batch[: count // 2], batch[count // 2 :]
    return np.concatenate([_computed(model, function, rows, part, halves=halves) for part in parts])


def find_device(name: str) -> torch.device:
    """Return the device of a name, as cpu, cuda, cuda:1 or mps; a SettingError for one that is not here."""
    known = ["cpu"]
    if accelerator := torch.accelerator.current_accelerator(check_available=True):
        kind = accelerator.type
        known += [kind, *(f"{kind}:{number}" for number in range(torch.accelerator.device_count()))]
    check(name in known, "device", name, f"one that is here: {', '.join(known)}")
    return torch.device(name)
