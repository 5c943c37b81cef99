"""Faster float32 on a processor: who multiplies the matrices, and by how many threads."""

import logging
import math
import os
from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext, suppress
from functools import cache
from pathlib import Path
from threading import Lock
from typing import Any, cast

import torch
from torch import Tensor, nn
from torch.nn import functional
from torch.overrides import TorchFunctionMode

log = logging.getLogger("nlptransfer")

CPU_INFO = Path("/proc/cpuinfo")
CGROUP = Path("/sys/fs/cgroup")
_QUOTAS = (("cpu.max",), ("cpu/cpu.cfs_quota_us", "cpu/cpu.cfs_period_us"))
"""Files with the microseconds of all cores together, and of how long a time, in the two versions of cgroups."""
ROUNDING = 1e-5
"""Largest relative error of a product in float32; with factors rounded to bfloat16 it is some 1e-3."""

_process: int | None = None
"""The number of the process that has computed here last: this one, or one that it was forked from."""


@cache
def usable_cores() -> int:
    """Return the cores that this process may use: fewer than there are by its affinity, or its cgroup's quota."""
    usable = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    for files in _QUOTAS:
        with suppress(OSError, ValueError):  # no such file, or "max"
            quota, period = map(int, " ".join((CGROUP / file).read_text() for file in files).split())
            usable = min(usable, math.ceil(quota / period)) if quota > 0 else usable
    return usable


@cache
def stay_within_quota() -> None:
    """Let torch and BLAS have as many threads as a container's quota allows, where nobody has set a number.

    They would take one for each core of the host, and be stopped for most of the time once the quota is used up.
    """
    allowed, threads = usable_cores(), torch.get_num_threads()
    if _limit_threads(allowed):
        log.info(
            "%d threads are used and not %d, as this process may use no more cores; OMP_NUM_THREADS=N sets them",
            allowed,
            threads,
        )


def share_cores(processes: int) -> None:
    """Let this process have its share of the threads, as one of several that compute here, unless a user says how many.

    As many as one of them alone would have, each, they would wait for each other most of the time.
    """
    _limit_threads(max(1, usable_cores() // processes))


def _limit_threads(most: int) -> bool:
    """Let torch, BLAS and tokenizers have so many threads at most, where nobody has set a number."""
    said = os.environ.get("OMP_NUM_THREADS")
    if said is None and most >= torch.get_num_threads():
        return False
    # Tokenizers know a variable of their own alone, and read it when they first tokenize several texts.
    os.environ.setdefault("RAYON_NUM_THREADS", str(most) if said is None else said.split(",")[0])
    if said is not None:
        return False
    from threadpoolctl import threadpool_limits

    torch.set_num_threads(most)
    threadpool_limits(most)
    return True


def set_threads() -> None:
    """Let torch have no more threads than can work: within a quota, and in a forked process one.

    The threads of a process that has computed do not go with a fork, and torch would wait for them without end.
    """
    global _process
    stay_within_quota()
    if _process not in (None, os.getpid()):
        torch.set_num_threads(1)
    _process = os.getpid()


def fast(model: nn.Module) -> AbstractContextManager[object]:
    """Run this thread's linear layers of a float32 model on a processor by oneDNN within a block, where it is faster.

    torch multiplies by MKL, which takes half the vector width of processors that Intel did not make. oneDNN takes all
    of it, but is slower than MKL in the small products of attention.
    """
    set_threads()
    is_here = all(value.device.type == "cpu" for value in model.parameters())
    # Such models compute layers once more while they go back, where torch asks no mode.
    computes_twice = any(getattr(module, "gradient_checkpointing", False) for module in model.modules())
    return _LinearByOneDnn() if is_here and not computes_twice and _onednn_gains() else nullcontext()


def fast_products() -> AbstractContextManager[object]:
    """Multiply float32 matrices on a processor within a block as :func:`fast` does for linear layers."""
    set_threads()
    return _onednn if _onednn_gains() else nullcontext()


class _LinearByOneDnn(TorchFunctionMode):
    def __torch_function__(self, function: Callable[..., Any], types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if function is functional.linear and not types:  # types: of tensors with products of their own, as shards have
            function = _linear
        return function(*args, **(kwargs or {}))


def _linear(input: Tensor, weight: Tensor, bias: Tensor | None = None) -> Tensor:
    if not (input.dtype == weight.dtype == torch.float32) or torch.is_autocast_enabled("cpu"):
        return functional.linear(input, weight, bias)
    return cast(Tensor, _Product.apply(input, weight, bias))  # type: ignore[no-untyped-call]


class _Product(torch.autograd.Function):
    """y = x Wᵀ + b and its gradients."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
        ctx.save_for_backward(x, weight)
        rows = x.reshape(-1, x.shape[-1])
        with _onednn:  # not by linear(), which an outer one would take for a layer
            y = rows @ weight.t() if bias is None else torch.addmm(bias, rows, weight.t())
        return y.view(*x.shape[:-1], weight.shape[0])

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor | None, Tensor | None, Tensor | None]:
        (gradient,) = gradients
        x, weight = ctx.saved_tensors
        of_x, of_weight, of_bias = ctx.needs_input_grad
        rows = gradient.reshape(-1, gradient.shape[-1])
        with _onednn:
            return (
                (rows @ weight).view(x.shape) if of_x else None,
                rows.t() @ x.reshape(-1, x.shape[-1]) if of_weight else None,
                rows.sum(dim=0) if of_bias else None,
            )


class _OneDnn:
    """Sends products to oneDNN within a block. The switch is one for all threads: the last to leave turns it back."""

    def __init__(self) -> None:
        self._lock, self._inside, self._before = Lock(), 0, ""

    def __enter__(self) -> None:
        # Allowed to round factors to bfloat16, torch hands products to oneDNN, which rounds where the processor
        # multiplies blocks of bfloat16 (AMX) and nowhere else: _onednn_gains() has seen that this one does not.
        matmul = cast(Any, torch.backends.mkldnn).matmul
        with self._lock:
            if not self._inside:
                self._before, matmul.fp32_precision = matmul.fp32_precision, "bf16"
            self._inside += 1

    def __exit__(self, *_: object) -> None:
        with self._lock:
            self._inside -= 1
            if not self._inside:
                cast(Any, torch.backends.mkldnn).matmul.fp32_precision = self._before


_onednn = _OneDnn()


@cache
def _onednn_gains() -> bool:
    # By the kind of processor: a clock might say otherwise when a run is resumed, which would change its last digits.
    if not _is_held_back() or not hasattr(torch.backends.mkldnn, "matmul"):
        return False
    draw = torch.Generator().manual_seed(0)
    left, right = (torch.randn(256, 256, generator=draw) for _ in range(2))
    exact = left.double() @ right.double()
    with _onednn:
        product = left @ right
    return float((product - exact).norm() / exact.norm()) < ROUNDING


def _is_held_back() -> bool:
    wide = torch.backends.mkl.is_available() and torch.backends.cpu.get_cpu_capability() == "AVX512"
    try:
        return wide and "GenuineIntel" not in CPU_INFO.read_text(encoding="utf-8")
    except OSError:
        return False
