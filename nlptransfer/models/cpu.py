"""Faster float32 on a processor: who multiplies the matrices, and memory that is not given back between steps."""

import ctypes
import os
import platform
import sys
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from functools import cache
from pathlib import Path
from threading import Lock
from typing import Any, Literal, cast

import torch
from torch import Tensor, nn
from torch.distributed.tensor import DTensor
from torch.nn import functional

TRIM_THRESHOLD, MMAP_THRESHOLD = -1, -3
"""Numbers of glibc's mallopt(3)."""
KEPT_BYTES = 1 << 30
"""Blocks up to this size are taken from memory that the process keeps."""
CPU_INFO = Path("/proc/cpuinfo")
PACKED_NUMBERS = 1 << 28
"""Most weights that are kept packed beside the model's own."""
PACKED_ROWS = 1024
"""Rows of a product that weights are packed for; always the same, or a resumed run could round otherwise."""
ROUNDING = 1e-5
"""Largest relative error of a product in float32; with factors rounded to bfloat16 it is some 1e-3."""


@contextmanager
def fast(model: nn.Module, *, packed: Literal["none", "frozen", "all"] = "none") -> Iterator[None]:
    """Within it the model's linear layers on a processor run as fast as we can have it, in float32 as ever.

    torch multiplies by MKL, which keeps to half of the width of a processor that Intel did not make. oneDNN, which
    torch has too, does not, but is slower than MKL in the small products of attention: so it gets linear layers alone.

    Args:
        packed: which weights do not change, where several batches pass: those that do not learn, or all, as long as no
            gradients are asked for. They are packed once, in the order in which oneDNN reads them, and not for every
            product.
    """
    if any(value.device.type != "cpu" for value in model.parameters()):
        yield
        return
    _keep_memory()
    layers = [layer for layer in model.modules() if type(layer) is nn.Linear] if _onednn_gains() else []
    for layer in layers:
        layer.__class__ = _FastLinear
    packing = _to_pack(model, packed)
    for layer in packing:
        layer.packed = _Packed(is_frozen=packed == "frozen")
    try:
        yield
    finally:
        for layer in packing:
            layer.packed = None
        for layer in layers:
            layer.__class__ = nn.Linear


def fast_products() -> AbstractContextManager[object]:
    """Within it products of float32 matrices on a processor run as those of :func:`fast`'s linear layers."""
    return _onednn if _onednn_gains() else nullcontext()


class _FastLinear(nn.Linear):
    packed: "_Packed | None" = None

    def forward(self, input: Tensor) -> Tensor:
        alike = input.dtype == self.weight.dtype == torch.float32
        if not alike or torch.is_autocast_enabled("cpu"):
            return super().forward(input)
        packed = self.packed  # once: another thread may take it away
        if packed is not None and packed.serves(self):
            if not torch.is_grad_enabled():
                return packed.product(input, self.weight, self.bias)
            return cast(Tensor, _PackedProduct.apply(input, self.weight, self.bias, packed))
        return cast(Tensor, _Product.apply(input, self.weight, self.bias))


def _to_pack(model: nn.Module, which: str) -> list[_FastLinear]:
    found = [layer for layer in model.modules() if type(layer) is _FastLinear and layer.packed is None]
    found = [layer for layer in found if not isinstance(layer.weight, DTensor)]  # each process is to hold but a part
    if which == "frozen":
        found = [layer for layer in found if not _learns(layer)]
    orders = {"none": 0, "frozen": 2, "all": 1}[which]
    numbers = orders * sum(layer.weight.numel() for layer in found)
    return found if 0 < numbers <= PACKED_NUMBERS and _can_pack() else []


def _learns(layer: nn.Linear) -> bool:
    return layer.weight.requires_grad or (layer.bias is not None and layer.bias.requires_grad)


class _Packed:
    """The weight of a layer in oneDNN's order, and if it is frozen its transpose for gradients, each once needed."""

    def __init__(self, is_frozen: bool) -> None:
        self.is_frozen = is_frozen
        self.weight: Tensor | None = None
        self.transpose: Tensor | None = None

    def __deepcopy__(self, memo: dict[int, Any]) -> None:
        """Nothing: a copy of the layer may change when this one does not."""

    def serves(self, layer: nn.Linear) -> bool:
        """Whether the layer is still what was packed, and no gradient of it is asked for."""
        return not (_learns(layer) if self.is_frozen else torch.is_grad_enabled())

    def product(self, x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
        if self.weight is None:
            self.weight = torch.ops.mkldnn._reorder_linear_weight(weight.detach(), PACKED_ROWS)
        return _packed_product(x, self.weight, bias)

    def back(self, gradient: Tensor, weight: Tensor) -> Tensor:
        if self.transpose is None:
            transpose = weight.detach().t().contiguous()
            self.transpose = torch.ops.mkldnn._reorder_linear_weight(transpose, PACKED_ROWS)
        return _packed_product(gradient, self.transpose, None)


def _packed_product(x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
    return cast(Tensor, torch.ops.mkldnn._linear_pointwise(x, weight, bias, "none", [], ""))


class _PackedProduct(torch.autograd.Function):
    """y = x Wᵀ + b of a frozen layer, and the gradient of x."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: Tensor, bias: Tensor | None, packed: _Packed) -> Tensor:
        ctx.weight, ctx.packed = weight, packed
        return packed.product(x, weight, bias)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor | None, ...]:
        found = ctx.packed.back(gradients[0].contiguous(), ctx.weight) if ctx.needs_input_grad[0] else None
        return found, None, None, None


class _Product(torch.autograd.Function):
    """y = x Wᵀ + b and its gradients."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
        ctx.save_for_backward(x, weight)
        with _onednn:
            return functional.linear(x, weight, bias)

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
    """Within it, products go to oneDNN. The switch is one for all threads: the last to leave turns it back."""

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
    """Whether products by oneDNN are float32's, and faster by what the processor is: a clock might say otherwise when
    a run is resumed, which would change its last digits."""
    if not _is_held_back() or not hasattr(torch.backends.mkldnn, "matmul"):
        return False
    draw = torch.Generator().manual_seed(0)
    left, right = (torch.randn(256, 256, generator=draw) for _ in range(2))
    exact = left.double() @ right.double()
    with _onednn:
        found = left @ right
    return float((found - exact).norm() / exact.norm()) < ROUNDING


def _can_pack() -> bool:
    # What torch's compiler makes of linear layers, and no promise.
    return all(hasattr(torch.ops.mkldnn, name) for name in ("_reorder_linear_weight", "_linear_pointwise"))


def _is_held_back() -> bool:
    wide = torch.backends.mkl.is_available() and torch.backends.cpu.get_cpu_capability() == "AVX512"
    try:
        return wide and "GenuineIntel" not in CPU_INFO.read_text(encoding="utf-8")
    except OSError:
        return False


@cache
def _keep_memory() -> None:
    # glibc returns large blocks to the system at once, and to get them anew, zeroed page by page, takes a fifth of a
    # step of full fine-tuning. It holds for the whole process from then on, but not against what its user has set.
    asked = any(name.startswith("MALLOC_") for name in os.environ)
    if sys.platform == "linux" and platform.libc_ver()[0] == "glibc" and not asked:
        libc = ctypes.CDLL(None)
        libc.mallopt(MMAP_THRESHOLD, KEPT_BYTES)
        libc.mallopt(TRIM_THRESHOLD, KEPT_BYTES)
