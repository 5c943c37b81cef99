"""Linear layers by oneDNN: the same numbers in float32, and nothing else touched."""

import copy
import os
from collections.abc import Callable
from contextlib import nullcontext
from pathlib import Path
from threading import Thread

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from peft import LoraConfig, get_peft_model
from threadpoolctl import ThreadpoolController, threadpool_info
from torch import nn
from transformers import BertConfig, BertForSequenceClassification

from nlptransfer.models import cpu

SHAPES = given(
    leading=st.lists(st.integers(1, 5), max_size=3),
    width=st.integers(1, 40),
    out=st.integers(1, 40),
    bias=st.booleans(),
)


@pytest.fixture
def gains(monkeypatch: pytest.MonkeyPatch) -> None:
    # Everywhere the way that a processor takes on which it gains; where oneDNN would round, without its products.
    with monkeypatch.context() as within:
        within.setattr(cpu, "_is_held_back", lambda: True)
        rounds = not cpu._onednn_gains.__wrapped__()
    if rounds:
        monkeypatch.setattr(cpu, "_onednn", nullcontext())
    monkeypatch.setattr(cpu, "_onednn_gains", lambda: True)


@pytest.fixture
def calls(gains: None, monkeypatch: pytest.MonkeyPatch) -> list[torch.Size]:
    """The inputs' shapes of the layers that go our way."""
    found = []
    product = cpu._Product.apply

    def counted(x, weight, bias):
        found.append(x.shape)
        return product(x, weight, bias)

    monkeypatch.setattr(cpu._Product, "apply", counted)
    return found


def gradients(layer: nn.Module, x: torch.Tensor) -> list[torch.Tensor]:
    layer.zero_grad()
    x = x.clone().requires_grad_()
    y = layer(x)
    y.sin().sum().backward()
    return [y.detach(), x.grad, *[value.grad for value in layer.parameters()]]


@pytest.mark.usefixtures("gains")
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


@pytest.mark.usefixtures("gains")
def test_what_is_frozen_gets_no_gradient() -> None:
    layer = nn.Linear(3, 2).requires_grad_(False)
    x = torch.randn(4, 3, requires_grad=True)
    with cpu.fast(layer):
        layer(x).sum().backward()
    assert layer.weight.grad is None and layer.bias.grad is None
    torch.testing.assert_close(x.grad, layer.weight.sum(dim=0).expand(4, 3))


def test_only_layers_in_float32_go_our_way(calls: list[torch.Size]) -> None:
    class Shard(torch.Tensor):
        """Has products of its own."""

    layer, half, shard = nn.Linear(3, 2), nn.Linear(3, 2, dtype=torch.bfloat16), nn.Linear(3, 2)
    shard.weight = nn.Parameter(shard.weight.detach().as_subclass(Shard))
    with cpu.fast(layer):
        layer(torch.ones(4, 3))
        half(torch.ones(5, 3, dtype=torch.bfloat16))
        assert isinstance(shard(torch.ones(6, 3)), Shard)
        with torch.autocast("cpu", torch.bfloat16):
            assert layer(torch.ones(7, 3)).dtype == torch.bfloat16
        other = Thread(target=layer, args=(torch.ones(8, 3),))
        other.start()
        other.join()
    layer(torch.ones(9, 3))
    assert calls == [(4, 3)]


def test_layers_beside_an_adapter_go_our_way(calls: list[torch.Size]) -> None:
    config = LoraConfig(r=2, target_modules=["0"], init_lora_weights=False)
    model, x = get_peft_model(nn.Sequential(nn.Linear(3, 4)), config), torch.ones(5, 3)
    expected = gradients(model, x)
    with cpu.fast(model):
        found = gradients(model, x)
    torch.testing.assert_close(found, expected)
    assert calls == [(5, 3), (5, 3), (5, 2)]


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
    layer(torch.ones(4, 3))
    assert calls == [(4, 3), (4, 3), (4, 5)]
    assert torch.backends.mkldnn.matmul.fp32_precision == before


def test_models_that_compute_layers_twice_are_left_alone(calls: list[torch.Size]) -> None:
    shape = {"hidden_size": 8, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 8}
    model = BertForSequenceClassification(BertConfig(vocab_size=9, **shape)).train()
    inputs = {"input_ids": torch.tensor([[1, 2, 3]]), "labels": torch.tensor([1])}
    for counted in (8, 0):
        with cpu.fast(model):
            model(**inputs).loss.backward()
        assert len(calls) == counted
        model.activation_checkpointing_enable()
        calls.clear()


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


@pytest.mark.parametrize(("rounds", "expected"), [(False, True), (True, False)])
def test_a_processor_that_would_round_is_left_alone(
    rounds: bool, expected: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(cpu, "_is_held_back", lambda: True)
    monkeypatch.setattr(cpu, "_onednn", nullcontext())
    product = torch.Tensor.__matmul__

    def rounded(left: torch.Tensor, right: torch.Tensor) -> torch.Tensor:
        if left.dtype == torch.float64:
            return product(left, right)
        return product(left.bfloat16().float(), right.bfloat16().float())

    if rounds:
        monkeypatch.setattr(torch.Tensor, "__matmul__", rounded)
    assert cpu._onednn_gains.__wrapped__() is expected


@pytest.mark.skipif(not hasattr(torch.backends.mkldnn, "matmul"), reason="this torch has no such switch")
def test_who_leaves_last_turns_the_switch_back():
    switch = torch.backends.mkldnn.matmul
    before = switch.fp32_precision
    user = cpu._OneDnn()
    for _ in range(2):
        user.__enter__()
    user.__exit__()
    assert switch.fp32_precision == "bf16"
    user.__exit__()
    assert switch.fp32_precision == before


@pytest.fixture
def cgroup(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[[dict[str, str]], None]:
    """A host of 64 cores, with the files of a cgroup in place of its own."""

    def of(files: dict[str, str]) -> None:
        for name, content in files.items():
            (tmp_path / name).parent.mkdir(exist_ok=True)
            (tmp_path / name).write_text(content)

    monkeypatch.setattr(cpu, "CGROUP", tmp_path)
    monkeypatch.setattr(os, "sched_getaffinity", lambda process: range(64))
    monkeypatch.setattr(cpu, "usable_cores", cpu.usable_cores.__wrapped__)
    for name in ("OMP_NUM_THREADS", "RAYON_NUM_THREADS"):
        monkeypatch.delenv(name, raising=False)
    return of


QUOTAS = {
    "v2": ({"cpu.max": "150000 100000\n"}, 2),
    "v2, a part of one": ({"cpu.max": "5000 100000\n"}, 1),
    "v2, none": ({"cpu.max": "max 100000\n"}, 64),
    "v1": ({"cpu/cpu.cfs_quota_us": "300000\n", "cpu/cpu.cfs_period_us": "100000\n"}, 3),
    "v1, none": ({"cpu/cpu.cfs_quota_us": "-1\n", "cpu/cpu.cfs_period_us": "100000\n"}, 64),
    "no cgroup": ({}, 64),
}


@pytest.mark.parametrize("name", QUOTAS)
def test_threads_stay_within_the_quota_of_a_container(name, cgroup, monkeypatch, caplog):
    files, cores = QUOTAS[name]
    cgroup(files)
    caplog.set_level("INFO", logger="nlptransfer")
    before = torch.get_num_threads()
    limits = [(one.get("filepath"), one["num_threads"]) for one in threadpool_info()]
    try:
        torch.set_num_threads(8)
        monkeypatch.setenv("OMP_NUM_THREADS", "8")
        cpu.stay_within_quota.__wrapped__()
        # As somebody has set it; tokenizers would take all cores of the host.
        assert torch.get_num_threads() == 8 and os.environ["RAYON_NUM_THREADS"] == "8"
        for name in ("OMP_NUM_THREADS", "RAYON_NUM_THREADS"):
            monkeypatch.delenv(name)
        cpu.stay_within_quota.__wrapped__()
        assert cpu.usable_cores() == cores and torch.get_num_threads() == min(8, cores)
        assert os.environ.get("RAYON_NUM_THREADS") == (str(cores) if cores < 8 else None)
        assert ("threads are used and not 8" in caplog.text) == (cores < 8)
    finally:
        torch.set_num_threads(before)
        for controller in ThreadpoolController().lib_controllers:
            controller.set_num_threads(dict(limits).get(controller.filepath, before))
