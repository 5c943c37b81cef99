"""Say which of several processes this one is, and let them meet and exchange what they have."""

import atexit
import logging
import os
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager
from functools import cache
from pathlib import Path
from typing import Any

import torch
from accelerate import Accelerator, PartialState, utils

from nlptransfer.errors import SettingError

log = logging.getLogger("nlptransfer")

_TYPES = utils.DistributedType
TOGETHER = {_TYPES.NO, _TYPES.MULTI_CPU, _TYPES.MULTI_GPU, _TYPES.MULTI_XPU}
"""Where each process has all weights; apart from these, weights may be sharded by FSDP 2."""


def state() -> PartialState:
    """Return Accelerate's view of the processes, which know each other from the first call on."""
    _part_at_exit()
    # Where weights are sharded Accelerate's default is that one process loads a base and the others hold nothing, until
    # it is prepared; but what is frozen is computed before that, by all.
    os.environ["FSDP_CPU_RAM_EFFICIENT_LOADING"] = "false"
    return PartialState(cpu=_on_cpu())


def accelerator(mixed_precision: str, trackers: Sequence[str], logs: Path) -> Accelerator:
    """Make what a training runs on; a SettingError for a precision or a kind of distribution that is not supported.

    ``logs`` is the folder of trackers that write files: of this training alone, as each would be mixed with others.
    """
    # Accelerate itself would go on in full precision without a word.
    if mixed_precision == "fp16" and state().device.type == "cpu":
        raise SettingError("mixed_precision='fp16': expected a GPU, found a CPU: take bf16 or no")
    made = Accelerator(
        mixed_precision=mixed_precision,
        log_with=list(trackers) or None,
        project_config=utils.ProjectConfiguration(project_dir=str(logs), logging_dir=str(logs)),
        # The loop weighs its own batches; a launcher's setting would divide the loss once more.
        gradient_accumulation_plugin=utils.GradientAccumulationPlugin(num_steps=1),
    )
    if made.distributed_type not in TOGETHER and not made.is_fsdp2:
        raise SettingError(
            f"the launcher asks for {made.distributed_type.value}: expected several GPUs as they are, or "
            "--use_fsdp with --fsdp_version 2"
        )
    return made


def shards_weights() -> bool:
    """Tell whether the launcher asks for weights in shards."""
    return bool(utils.parse_flag_from_env("ACCELERATE_USE_FSDP"))


def is_main() -> bool:
    """Tell whether this process writes the files and shows the progress."""
    return bool(state().is_main_process)


def rank() -> int:
    """Return the number of this process, from 0."""
    return int(state().process_index)


def world_size() -> int:
    """Return how many processes run side by side."""
    return int(state().num_processes)


def barrier() -> None:
    """Wait until every process has come here."""
    state().wait_for_everyone()


def on_main(work: Callable[[], object]) -> None:
    """Let the main process do something, and all go on when it is done."""
    if is_main():
        work()
    barrier()


def from_main(value: Any) -> Any:
    """Return the main process's ``value``, on every process."""
    return value if world_size() == 1 else utils.broadcast_object_list([value])[0]


class _Gathered(torch.autograd.Function):
    """Gathers the rows of all processes; backward, each gets the sum of the gradients of its own rows."""

    @staticmethod
    def forward(_: Any, rows: torch.Tensor) -> torch.Tensor:
        gathered = [torch.empty_like(rows) for _ in range(world_size())]
        torch.distributed.all_gather(gathered, rows.contiguous())
        return torch.cat(gathered)

    @staticmethod
    def backward(_: Any, *gradients: torch.Tensor) -> torch.Tensor:
        whole = gradients[0].contiguous()
        torch.distributed.all_reduce(whole)
        return whole.chunk(world_size())[rank()]


def gather_with_gradient(rows: torch.Tensor) -> torch.Tensor:
    """Return (rows of all processes, ...), one process after the other; each must have as many."""
    return rows if world_size() == 1 else _Gathered.apply(rows)  # type: ignore[no-untyped-call]


def largest(number: int) -> int:
    """Return the largest of the processes' numbers."""
    return number if world_size() == 1 else max(utils.gather_object([number]))


def gather_dealt(results: Sequence[Any]) -> list[Any]:
    """Return the results of all processes for things that were dealt round, in the order of the things."""
    if world_size() == 1:
        return [*results]
    by_process = utils.gather_object([results])
    return [by_process[place % world_size()][place // world_size()] for place in range(sum(map(len, by_process)))]


def quiet_others() -> None:
    """Let only the main process log; call it once the processes know each other."""
    if not is_main():
        log.setLevel(logging.ERROR)


def main_first() -> AbstractContextManager[None]:
    """Let the main process do a block before the others, which then find its results in the cache."""
    first: AbstractContextManager[None] = state().main_process_first()
    return first


@cache
def _part_at_exit() -> None:
    # Threads of a process group that is still there when Python ends can abort a process that has done its work.
    atexit.register(lambda: torch.distributed.is_initialized() and torch.distributed.destroy_process_group())


@cache
def _on_cpu() -> bool:
    # PartialState heeds neither --cpu nor the lack of an accelerator: each process would take itself for the only one.
    on_cpu = utils.parse_flag_from_env("ACCELERATE_USE_CPU") or not torch.accelerator.is_available()
    # The launcher says where several processes meet, but to the one that it starts without GPUs not how many.
    meets = os.environ.keys() >= {"ACCELERATE_USE_CPU", "MASTER_PORT"}
    if on_cpu and meets and not os.environ.keys() & {"WORLD_SIZE", "PMI_SIZE", "OMPI_COMM_WORLD_SIZE"}:
        log.warning(
            "accelerate launch was asked for several processes and started one: on processors take "
            "torchrun --nproc-per-node N"
        )
    return on_cpu
