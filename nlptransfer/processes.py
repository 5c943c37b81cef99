"""Which process am I, and how do the processes meet: whoever must know asks here."""

import atexit
import logging
import os
from collections.abc import Sequence
from contextlib import AbstractContextManager
from functools import cache
from typing import Any

import numpy as np
import torch
from accelerate import PartialState
from accelerate.utils import broadcast_object_list, gather_object, parse_flag_from_env

log = logging.getLogger("nlptransfer")


def state() -> PartialState:
    """Accelerate's view of the processes, which know each other from the first call on."""
    _part_at_exit()
    return PartialState(cpu=_on_cpu())


def is_main() -> bool:
    """Whether this process writes the files and shows the progress."""
    return state().is_main_process


def rank() -> int:
    """The number of this process, from 0."""
    return state().process_index


def count() -> int:
    """How many processes run side by side."""
    return state().num_processes


def wait() -> None:
    """Go on only when every process has come here."""
    state().wait_for_everyone()


def from_main(value: Any) -> Any:
    """The main process's ``value``, on every process."""
    return value if count() == 1 else broadcast_object_list([value])[0]


def gather_rows(indices: Sequence[np.ndarray], values: Sequence[np.ndarray], rows: int, *, share: bool) -> np.ndarray:
    """Put rows that were worked on in batches back in order.

    Args:
        indices: for each batch of this process, the places of its rows.
        values: for each batch of this process, its results, (rows of the batch, ...).
        rows: how many rows there are in all, at least one.
        share: whether every process did a part of them (each row exactly one); without it, this one did all.

    Returns:
        (rows, ...), the same on every process that takes part.
    """
    pairs = list(zip(indices, values, strict=True))
    if share and count() > 1:
        pairs = gather_object(pairs)
    out = np.empty((rows, *pairs[0][1].shape[1:]), dtype=pairs[0][1].dtype)
    for places, results in pairs:
        out[places] = results
    return out


def quiet_others() -> None:
    """Let only the main process log; call it once the processes know each other."""
    if not is_main():
        log.setLevel(logging.ERROR)


def main_first() -> AbstractContextManager[None]:
    """Let the main process do a block before the others, which then find its results in the cache."""
    return state().main_process_first()


@cache
def _part_at_exit() -> None:
    # Threads of a process group that is still there when Python ends can abort a process that has done its work.
    atexit.register(lambda: torch.distributed.is_initialized() and torch.distributed.destroy_process_group())


@cache
def _on_cpu() -> bool:
    # PartialState by itself heeds neither the launcher's --cpu nor a machine without an accelerator: each of
    # several processes would then take itself for the only one.
    asked = parse_flag_from_env("ACCELERATE_USE_CPU")
    if asked and "MASTER_PORT" in os.environ and not {"WORLD_SIZE", "PMI_SIZE", "OMPI_COMM_WORLD_SIZE"} & {*os.environ}:
        log.warning(
            "accelerate launch --cpu was asked for several processes and started one: for several on a CPU use "
            "torchrun --nproc-per-node N"
        )
    return asked or not torch.accelerator.is_available()
