"""Which process am I, and how do the processes meet: whoever must know asks here."""

import logging
from collections.abc import Sequence
from contextlib import AbstractContextManager
from typing import Any

import numpy as np
from accelerate import PartialState
from accelerate.utils import broadcast_object_list, gather_object


def is_main() -> bool:
    """Whether this process writes the files and shows the progress."""
    return PartialState().is_main_process


def rank() -> int:
    """The number of this process, from 0."""
    return PartialState().process_index


def count() -> int:
    """How many processes run side by side."""
    return PartialState().num_processes


def wait() -> None:
    """Go on only when every process has come here."""
    PartialState().wait_for_everyone()


def from_main(value: Any) -> Any:
    """The main process's ``value``, on every process."""
    return value if count() == 1 else broadcast_object_list([value])[0]


def gather_rows(indices: Sequence[np.ndarray], values: Sequence[np.ndarray], rows: int, *, share: bool) -> np.ndarray:
    """Put rows that were worked on in batches back in order.

    Args:
        indices: for each batch of this process, the places of its rows.
        values: for each batch of this process, its results, (rows of the batch, ...).
        rows: how many rows there are in all.
        share: whether every process did a part of them (each row exactly one); without it, this one did all.

    Returns:
        (rows, ...), the same on every process that takes part.
    """
    pairs = list(zip(indices, values, strict=True))
    everyone = gather_object(pairs) if share and count() > 1 else pairs
    out: np.ndarray | None = None
    for places, results in everyone:
        if out is None:
            out = np.empty((rows, *results.shape[1:]), dtype=results.dtype)
        out[places] = results
    return np.empty((0,)) if out is None else out


def quiet_others() -> None:
    """Let only the main process log; call it once the processes know each other."""
    if not is_main():
        logging.getLogger("nlptransfer").setLevel(logging.ERROR)


def main_first() -> AbstractContextManager[None]:
    """Let the main process do a block before the others, which then find its results in the cache."""
    return PartialState().main_process_first()
