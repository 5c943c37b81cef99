"""Which process am I, and how do the processes meet: whoever must know asks here."""

import atexit
import logging
import os
import re
import sys
from collections.abc import Sequence
from contextlib import AbstractContextManager
from functools import cache
from pathlib import Path
from typing import Any, NoReturn

import numpy as np
import psutil
import torch
from accelerate import Accelerator, PartialState
from accelerate.state import AcceleratorState, is_initialized
from accelerate.utils import (
    DistributedType,
    GradientAccumulationPlugin,
    ProjectConfiguration,
    broadcast_object_list,
    gather_object,
    parse_flag_from_env,
)

from nlptransfer.errors import SettingError

log = logging.getLogger("nlptransfer")

TOGETHER = {DistributedType.NO, DistributedType.MULTI_CPU, DistributedType.MULTI_GPU, DistributedType.MULTI_XPU}
"""How processes may work together beside sharded weights: each has all of them."""


def state() -> PartialState:
    """Accelerate's view of the processes, which know each other from the first call on."""
    _part_at_exit()
    # Where weights are sharded Accelerate's default is that one process loads a base and the others hold nothing, until
    # it is prepared; but what is frozen is computed before that, by all.
    os.environ["FSDP_CPU_RAM_EFFICIENT_LOADING"] = "false"
    return PartialState(cpu=_on_cpu())


def accelerator(mixed_precision: str, trackers: Sequence[str], folder: Path) -> Accelerator:
    """What a training runs on.

    Args:
        folder: of the run; trackers write into ``logs`` in it.

    Raises:
        SettingError: a precision that the machine has not, or a launcher's way of working together that is not ours.
    """
    # Accelerate itself would go on in full precision without a word.
    if mixed_precision == "fp16" and state().device.type == "cpu":
        raise SettingError("mixed_precision='fp16': expected a GPU, found a CPU: take bf16 or no")
    # Each training may ask for another precision; Accelerate remembers the first one otherwise.
    if is_initialized() and AcceleratorState().mixed_precision != mixed_precision:
        AcceleratorState._reset_state()
    made = Accelerator(
        mixed_precision=mixed_precision,
        log_with=list(trackers) or None,
        project_config=ProjectConfiguration(project_dir=str(folder), logging_dir=str(folder / "logs")),
        # The loop weighs its own batches; a launcher's setting would divide the loss once more.
        gradient_accumulation_plugin=GradientAccumulationPlugin(num_steps=1),
    )
    if made.distributed_type not in TOGETHER and not made.is_fsdp2:
        raise SettingError(
            f"the launcher asks for {made.distributed_type.value}: expected several GPUs as they are, or "
            "--use_fsdp with --fsdp_version 2"
        )
    return made


def is_main() -> bool:
    """Whether this process writes the files and shows the progress."""
    return state().is_main_process


def rank() -> int:
    """The number of this process, from 0."""
    return state().process_index


def world_size() -> int:
    """How many processes run side by side."""
    return state().num_processes


def barrier() -> None:
    """Go on only when every process has come here."""
    state().wait_for_everyone()


def from_main(value: Any) -> Any:
    """The main process's ``value``, on every process."""
    return value if world_size() == 1 else broadcast_object_list([value])[0]


class _Gathered(torch.autograd.Function):
    """The rows of all processes; what each makes of them comes back to the process that they are of, added up."""

    @staticmethod
    def forward(_: Any, rows: torch.Tensor) -> torch.Tensor:
        found = [torch.empty_like(rows) for _ in range(world_size())]
        torch.distributed.all_gather(found, rows.contiguous())
        return torch.cat(found)

    @staticmethod
    def backward(_: Any, *gradients: torch.Tensor) -> torch.Tensor:
        whole = gradients[0].contiguous()
        torch.distributed.all_reduce(whole)
        return whole.chunk(world_size())[rank()]


def gather_with_gradient(rows: torch.Tensor) -> torch.Tensor:
    """(rows of all processes, ...): those of each process, as many on each, one after the other."""
    return rows if world_size() == 1 else _Gathered.apply(rows)


def largest(number: int) -> int:
    """The largest of the processes' numbers."""
    return number if world_size() == 1 else max(gather_object([number]))


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
    if share and world_size() > 1:
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


def start_all() -> None:
    """Be the launcher that ``accelerate launch`` is for GPUs alone: without them it starts one of several processes.

    In such a process this starts all that were asked for, with the same command line, watches over them, and ends
    with them. In any other it returns, and where nobody can say how many were asked for.
    """
    if _is_left_alone() and _has_cpu_only() and (asked := _asked_of_launcher()):
        _supervise(*asked)


@cache
def _part_at_exit() -> None:
    # Threads of a process group that is still there when Python ends can abort a process that has done its work.
    atexit.register(lambda: torch.distributed.is_initialized() and torch.distributed.destroy_process_group())


@cache
def _on_cpu() -> bool:
    # PartialState by itself heeds neither the launcher's --cpu nor a machine without an accelerator: each of
    # several processes would then take itself for the only one.
    found = _has_cpu_only()
    if found and _is_left_alone():
        log.warning(
            "accelerate launch was asked for several processes and started one: on a CPU, start a script of your own "
            "with torchrun --nproc-per-node N"
        )
    return found


def _has_cpu_only() -> bool:
    return parse_flag_from_env("ACCELERATE_USE_CPU") or not torch.accelerator.is_available()


def _is_left_alone() -> bool:
    # The launcher says where several processes meet, but to the one that it starts without GPUs not how many.
    says, counts = {"ACCELERATE_USE_CPU", "MASTER_PORT"}, {"WORLD_SIZE", "PMI_SIZE", "OMPI_COMM_WORLD_SIZE"}
    return says <= {*os.environ} and not counts & {*os.environ}


def _asked_of_launcher() -> tuple[int, int, int] | None:
    """Processes, machines and the number of this one, as the parent's command line or its configuration has them."""
    from accelerate.commands.config import default_config_file, load_config_from_file
    from accelerate.commands.launch import launch_command_parser

    try:
        parent = psutil.Process().parent()
        words = parent.cmdline() if parent else []
    except psutil.Error:
        return None
    verb = next((place for place, word in enumerate(words) if re.search(r"(^|\W)launch(\.\w+)?$", word)), None)
    if verb is None or words[len(words) - len(sys.argv[1:]) :] != sys.argv[1:]:
        return None
    try:
        asked = launch_command_parser().parse_args(words[verb + 1 :])
    except SystemExit:
        return None
    names = ("num_processes", "num_machines", "machine_rank")
    values = {name: getattr(asked, name, None) for name in names}
    # As the launcher does: its --cpu alone leaves the file of accelerate config aside.
    if asked.config_file or (os.path.isfile(default_config_file) and not asked.cpu):
        config = load_config_from_file(asked.config_file)
        values = {name: getattr(config, name, None) if value is None else value for name, value in values.items()}
    several, machines = values["num_processes"] or 1, values["num_machines"] or 1
    return (several, machines, values["machine_rank"] or 0) if 1 < several >= machines else None


def _supervise(count: int, machines: int, machine: int) -> NoReturn:
    from torch.distributed.elastic.multiprocessing import DefaultLogsSpecs, SignalException
    from torch.distributed.elastic.multiprocessing.errors import ChildFailedError
    from torch.distributed.launcher import LaunchConfig, elastic_launch

    # What torchrun would log about an end is said below in one sentence.
    logging.disable(logging.ERROR)
    meeting: dict[str, Any] = {"rdzv_backend": "c10d", "rdzv_endpoint": "localhost:0", "run_id": str(os.getpid())}
    if machines > 1:
        endpoint = f"{os.environ['MASTER_ADDR']}:{os.environ['MASTER_PORT']}"
        meeting = {"rdzv_backend": "static", "rdzv_endpoint": endpoint, "rdzv_configs": {"rank": machine}}
        meeting["run_id"] = "none"
    config = LaunchConfig(
        min_nodes=machines,
        max_nodes=machines,
        nproc_per_node=count // machines,
        max_restarts=0,
        logs_specs=DefaultLogsSpecs(log_dir=os.devnull),
        **meeting,
    )
    try:
        elastic_launch(config, sys.executable)(*sys.orig_argv[1:])
    except ChildFailedError as error:
        rank, failure = error.get_first_failure()
        # An error on purpose, which the process itself has put into words.
        if failure.exitcode == 2:
            sys.exit(2)
        if failure.exitcode > 0:
            sys.exit(
                f"error: rank {rank} of {count} processes ended (exit code {failure.exitcode}): the run was stopped"
            )
        sys.exit(
            f"error: rank {rank} of {count} processes ended (signal {-failure.exitcode}, {failure.signal_name()}): the "
            "run was stopped; start the same command again and it goes on from its last checkpoint"
        )
    except SignalException as end:
        sys.exit(128 + end.sigval)
    sys.exit()
