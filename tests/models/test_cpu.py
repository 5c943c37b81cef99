"""Linear layers by oneDNN: the same numbers in float32, and nothing else touched."""

import copy
import os
import platform
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn
from torch.utils.checkpoint import checkpoint

from nlptransfer.models import cpu

SHAPES = given(
    leading=st.lists(st.integers(1, 5), max_size=3),
    width=st.integers(1, 40),
    out=st.integers(1, 40),
    bias=st.booleans(),
)


@pytest.fixture(autouse=True)
def gains(monkeypatch: pytest.MonkeyPatch) -> None:
    # Everywhere the way that a processor takes on which it gains.
    monkeypatch.setattr(cpu, "_onednn_gains", lambda: True)


@pytest.fixture
def calls(monkeypatch: pytest.MonkeyPatch) -> list[torch.Size]:
    """The inputs' shapes of the layers that go our way."""
    found = []
    product = cpu._Product.apply

    def counted(x, weight, bias):
        found.append(x.shape)
        return product(x, weight, bias)

    monkeypatch.setattr(cpu._Product, "apply", counted)
    return found


def gradients(layer: nn.Linear, x: torch.Tensor) -> list[torch.Tensor]:
    layer.zero_grad()
    x = x.clone().requires_grad_()
    y = layer(x)
    y.sin().sum().backward()
    return [y.detach(), x.grad, *[value.grad for value in layer.parameters()]]


@settings(deadline=None)
@SHAPES
def test_layers_and_gradients_are_float64s(leading: list[int], width: int, out: int, bias: bool) -> None:
    generator = torch.Generator().manual_seed(width)
    layer = nn.Linear(width, out, bias=bias)
    x = torch.randn(*leading, width, generator=generator)
    with cpu.fast(layer):
        found = gradients(layer, x)
    expected = gradients(copy.deepcopy(layer).double(), x.double())
    assert len(found) == len(expected)
    for one, other in zip(found, expected, strict=True):
        assert one.dtype == torch.float32
        torch.testing.assert_close(one.double(), other, rtol=1e-4, atol=1e-5)


@settings(deadline=None)
@given(
    shapes=st.lists(st.lists(st.integers(0, 5), max_size=3), min_size=1, max_size=3),
    width=st.integers(1, 40),
    out=st.integers(1, 40),
    bias=st.booleans(),
)
def test_packed_weights_give_the_same(shapes: list[list[int]], width: int, out: int, bias: bool) -> None:
    generator = torch.Generator().manual_seed(width)
    layer = nn.Linear(width, out, bias=bias)
    double = copy.deepcopy(layer).double()
    with torch.no_grad(), cpu.fast(layer, packed="all"):
        for leading in shapes:
            x = torch.randn(*leading, width, generator=generator)
            torch.testing.assert_close(layer(x).double(), double(x.double()), rtol=1e-4, atol=1e-5)


@pytest.fixture
def packed(monkeypatch: pytest.MonkeyPatch) -> list[torch.Size]:
    """The shapes of the weights that are packed."""
    found = []
    pack = torch.ops.mkldnn._reorder_linear_weight
    monkeypatch.setattr(
        torch.ops.mkldnn,
        "_reorder_linear_weight",
        lambda weight, rows: found.append(tuple(weight.shape)) or pack(weight, rows),
    )
    return found


def test_weights_are_packed_once_while_they_are_constant(
    calls: list[torch.Size], packed: list[torch.Size], monkeypatch: pytest.MonkeyPatch
) -> None:
    layer, x = nn.Linear(3, 2), torch.ones(4, 3)

    def learned(which: str) -> torch.Tensor:
        with torch.no_grad(), cpu.fast(layer, packed=which):
            for _ in range(3):
                found = layer(x)
            with torch.enable_grad():
                assert layer(x).requires_grad
        return found

    first = learned("all")
    assert (len(packed), len(calls)) == (1, 1)
    with torch.no_grad():
        layer.weight += 1
    torch.testing.assert_close(learned("all"), first + 3)
    assert (len(packed), len(calls)) == (2, 2)
    learned("none")
    learned("frozen")
    monkeypatch.setattr(cpu, "PACKED_NUMBERS", 5)
    learned("all")
    assert (len(packed), len(calls)) == (2, 14)


@settings(deadline=None)
@SHAPES
def test_packed_frozen_layers_give_float64s_gradients(leading: list[int], width: int, out: int, bias: bool) -> None:
    generator = torch.Generator().manual_seed(width)
    layer = nn.Linear(width, out, bias=bias).requires_grad_(False)
    with cpu.fast(layer, packed="frozen"):
        for _ in range(2):
            x = torch.randn(*leading, width, generator=generator)
            y, gradient, *others = gradients(layer, x)
            expected = gradients(copy.deepcopy(layer).double(), x.double())
            torch.testing.assert_close([y.double(), gradient.double()], expected[:2], rtol=1e-4, atol=1e-5)
            assert others == [None] * len(others)


def test_what_is_frozen_is_packed_both_ways_and_never_once_it_learns(
    calls: list[torch.Size], packed: list[torch.Size]
) -> None:
    model = nn.Sequential(nn.Linear(3, 5), nn.Linear(5, 4), nn.Linear(4, 2))
    model[1].requires_grad_(False)
    x = torch.ones(6, 3)

    def step() -> torch.Tensor:
        y = model(x).sum()
        y.backward()
        return y

    with cpu.fast(model, packed="frozen"):
        for _ in range(2):
            step()
        # Of layers that learn nothing is kept from one evaluation to the next.
        for _ in range(2):
            with torch.no_grad(), cpu.fast(model, packed="all"):
                before = model(x)
            with torch.no_grad():
                model[2].bias += 1
        with torch.no_grad(), cpu.fast(model, packed="all"):
            torch.testing.assert_close(model(x), before + 1)
        assert packed == [(4, 5), (5, 4), *[(5, 3), (2, 4)] * 3]
        copied = copy.deepcopy(model)
        with torch.no_grad():
            copied[1].weight.zero_()
            assert not torch.equal(copied(x), model(x))
        for value in (model[1].bias, model[1].weight):
            value.requires_grad_(True)
            step()
            assert value.grad is not None
    assert calls == [(6, 3), (6, 4)] * 2 + [(6, 3), (6, 5), (6, 4)] + [(6, 3), (6, 4)] + [(6, 3), (6, 5), (6, 4)] * 2


def test_both_orders_count_where_frozen_weights_are_packed(
    packed: list[torch.Size], monkeypatch: pytest.MonkeyPatch
) -> None:
    layer, x = nn.Linear(3, 2).requires_grad_(False), torch.ones(4, 3, requires_grad=True)
    for most, times in ((11, 0), (12, 2)):
        monkeypatch.setattr(cpu, "PACKED_NUMBERS", most)
        with cpu.fast(layer, packed="frozen"):
            layer(x).sum().backward()
        assert len(packed) == times


def test_without_the_inner_operators_products_are_as_in_training(
    calls: list[torch.Size], monkeypatch: pytest.MonkeyPatch
) -> None:
    layer, x = nn.Linear(3, 2), torch.ones(4, 3)
    with torch.no_grad(), cpu.fast(layer, packed="all"):
        packed = layer(x)
    monkeypatch.setattr(torch.ops, "mkldnn", SimpleNamespace())
    with torch.no_grad(), cpu.fast(layer, packed="all"):
        torch.testing.assert_close(layer(x), packed)
    assert calls == [(4, 3)]


def test_one_within_another_packs_for_the_outer_one() -> None:
    layer, x = nn.Linear(3, 2), torch.ones(4, 3)
    with torch.no_grad(), cpu.fast(layer, packed="all"):
        with cpu.fast(layer, packed="all"):
            layer(x)
        assert layer.packed is not None
        torch.testing.assert_close(layer(x), layer(x))
    assert layer.packed is None and type(layer) is nn.Linear


def test_what_is_frozen_gets_no_gradient() -> None:
    layer = nn.Linear(3, 2).requires_grad_(False)
    x = torch.randn(4, 3, requires_grad=True)
    with cpu.fast(layer):
        layer(x).sum().backward()
    assert layer.weight.grad is None and layer.bias.grad is None
    torch.testing.assert_close(x.grad, layer.weight.sum(dim=0).expand(4, 3))


def test_only_layers_in_float32_go_our_way(calls: list[torch.Size]) -> None:
    class Own(nn.Linear):
        """Quantized layers are such subclasses."""

    whole = nn.ModuleList([nn.Linear(3, 2), nn.Linear(3, 2, dtype=torch.bfloat16), Own(3, 2)])
    with cpu.fast(whole):
        whole[0](torch.ones(4, 3))
        whole[1](torch.ones(5, 3, dtype=torch.bfloat16))
        whole[2](torch.ones(6, 3))
        nn.Linear(3, 2)(torch.ones(7, 3))
        with torch.autocast("cpu", torch.bfloat16):
            assert whole[0](torch.ones(8, 3)).dtype == torch.bfloat16
    whole[0](torch.ones(9, 3))
    assert calls == [(4, 3)]


def test_no_accelerator_and_no_other_processor_is_touched(
    calls: list[torch.Size], monkeypatch: pytest.MonkeyPatch
) -> None:
    elsewhere, here = nn.Linear(3, 2, device="meta"), nn.Linear(3, 2)
    with cpu.fast(elsewhere):
        elsewhere(torch.ones(4, 3, device="meta"))
    monkeypatch.setattr(cpu, "_onednn_gains", lambda: False)
    with cpu.fast(here):
        here(torch.ones(4, 3))
    assert not calls


def test_one_within_another_and_errors_leave_all_as_it_was(calls: list[torch.Size]) -> None:
    before = torch.backends.mkldnn.matmul.fp32_precision
    layer = nn.Linear(3, 2)
    with pytest.raises(RuntimeError, match="shapes cannot be multiplied"), cpu.fast(layer):
        with cpu.fast(layer):
            layer(torch.ones(4, 3))
        layer(torch.ones(4, 3))
        layer(torch.ones(4, 5))
    assert type(layer) is nn.Linear
    assert calls == [(4, 3), (4, 3), (4, 5)]
    assert torch.backends.mkldnn.matmul.fp32_precision == before


def test_activations_computed_twice(calls: list[torch.Size]) -> None:
    layer, x = nn.Linear(3, 2), torch.ones(4, 3, requires_grad=True)
    with cpu.fast(layer):
        checkpoint(layer, x, use_reentrant=False).sum().backward()
    assert len(calls) == 2
    torch.testing.assert_close(layer.weight.grad, torch.full((2, 3), 4.0))


@pytest.mark.parametrize(
    ("maker", "width", "expected"),
    [("AuthenticAMD", "AVX512", True), ("GenuineIntel", "AVX512", False), ("AuthenticAMD", "AVX2", False)],
)
def test_who_gains(maker: str, width: str, expected: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    described = tmp_path / "cpuinfo"
    described.write_text(f"vendor_id : {maker}\n")
    monkeypatch.setattr(cpu, "CPU_INFO", described)
    monkeypatch.setattr(torch.backends.cpu, "get_cpu_capability", lambda: width)
    monkeypatch.setattr(torch.backends.mkl, "is_available", lambda: True)
    assert cpu._is_held_back() is expected


def test_a_system_that_does_not_describe_its_processor(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(cpu, "CPU_INFO", tmp_path / "none")
    assert not cpu._is_held_back()


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="only glibc is told to keep memory")
@pytest.mark.parametrize(("variables", "told"), [({}, 2), ({"MALLOC_TRIM_THRESHOLD_": "65536"}, 0)])
def test_memory_is_kept_unless_its_user_has_said_how(
    variables: dict[str, str], told: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    calls: list[tuple[int, int]] = []
    library = SimpleNamespace(mallopt=lambda number, value: calls.append((number, value)))
    monkeypatch.setattr(cpu.ctypes, "CDLL", lambda name: library)
    for name in [name for name in os.environ if name.startswith("MALLOC_")]:
        monkeypatch.delenv(name)
    for name, value in variables.items():
        monkeypatch.setenv(name, value)
    cpu._keep_memory.__wrapped__()
    assert len(calls) == told
    # The numbers of malloc.h.
    assert {number for number, _ in calls} <= {-1, -3}


@pytest.mark.parametrize(("rounds", "expected"), [(False, True), (True, False)])
def test_a_processor_that_would_round_is_left_alone(
    rounds: bool, expected: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.undo()
    monkeypatch.setattr(cpu, "_is_held_back", lambda: True)
    product = torch.Tensor.__matmul__

    def rounded(left: torch.Tensor, right: torch.Tensor) -> torch.Tensor:
        if left.dtype == torch.float64:
            return product(left, right)
        return product(left.bfloat16().float(), right.bfloat16().float())

    if rounds:
        monkeypatch.setattr(torch.Tensor, "__matmul__", rounded)
    cpu._onednn_gains.cache_clear()
    try:
        assert cpu._onednn_gains() is expected
    finally:
        cpu._onednn_gains.cache_clear()


@pytest.mark.skipif(not hasattr(torch.backends.mkldnn, "matmul"), reason="this torch has no such switch")
def test_who_leaves_last_turns_the_switch_back():
    switch = torch.backends.mkldnn.matmul
    before = switch.fp32_precision
    first, second = cpu._onednn, cpu._onednn
    first.__enter__()
    second.__enter__()
    first.__exit__(None, None, None)
    assert switch.fp32_precision == "bf16"
    second.__exit__(None, None, None)
    assert switch.fp32_precision == before
