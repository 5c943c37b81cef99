"""Settings of the loop, the course of the learning rate, and the optimizers with their groups."""

import math
from dataclasses import replace

import pytest
import torch
from transformers import get_scheduler

from helpers.training import BASE, LABELS, PACES, Tiny
from nlptransfer.errors import SettingError
from nlptransfer.training.losses import LabelLoss, Objective
from nlptransfer.training.optimizer import ParameterGroup, TrainingSettings, make_optimizer, rate_share


@pytest.mark.parametrize("kind", ["linear", "cosine", "constant"])
def test_the_rate_takes_transformers_course(kind):
    settings = replace(BASE, lr_scheduler_type=kind, warmup_ratio=0.2)
    optimizer = torch.optim.SGD([torch.zeros(1, requires_grad=True)], lr=1.0)
    name = "constant_with_warmup" if kind == "constant" else kind
    scheduler = get_scheduler(name, optimizer, num_warmup_steps=4, num_training_steps=20)
    for step in range(20):
        assert rate_share(settings, step, 20) == pytest.approx(scheduler.get_last_lr()[0])
        optimizer.step()
        scheduler.step()


@pytest.mark.parametrize("name", ["adamw", "adam", "sgd", "rmsprop", "adafactor"])
def test_every_optimizer_spares_biases_from_decay(name):
    optimizer = make_optimizer(Tiny(), replace(BASE, optimizer=name))
    groups = [(group["weight_decay"], {p.ndim for p in group["params"]}) for group in optimizer.param_groups]
    assert groups == [(0.01, {2}), (0, {1})]
    assert type(optimizer).__name__.lower() == name
    assert bool(optimizer.defaults.get("fused")) == (name in ("adamw", "adam"))


@pytest.mark.parametrize("name", ["adamw", "adam", "sgd", "rmsprop", "adafactor"])
def test_at_its_default_rate_every_optimizer_learns_what_adamw_does(name):
    draw = torch.Generator().manual_seed(0)
    inputs = torch.randn(256, 8, generator=draw)
    targets = (inputs @ torch.randn(8, 3, generator=draw)).argmax(dim=1)
    torch.manual_seed(1)
    model = torch.nn.Sequential(torch.nn.Linear(8, 32), torch.nn.GELU(), torch.nn.Linear(32, 3))
    settings = replace(BASE, optimizer=name, learning_rate=None).with_defaults({"learning_rate": 1e-3})
    optimizer = make_optimizer(model, settings)
    for step in range(300):
        rows = slice(step % 8 * 32, step % 8 * 32 + 32)
        optimizer.zero_grad()
        torch.nn.functional.cross_entropy(model(inputs[rows]), targets[rows]).backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        for group in optimizer.param_groups:
            group["lr"] = settings.learning_rate * rate_share(settings, step, 300)
        optimizer.step()
    right = (model(inputs).argmax(dim=1) == targets).float().mean()
    # A third of them is chance; at AdamW's own rate SGD ends at .8, Adafactor at .54.
    assert right > 0.85


def test_defaults_stand_in_for_none_alone():
    settings = TrainingSettings(optimizer="sgd", num_train_epochs=3)
    filled = settings.with_defaults({"num_train_epochs": 5, "learning_rate": 1e-3, "per_device_train_batch_size": 8})
    assert (filled.num_train_epochs, filled.learning_rate, filled.per_device_train_batch_size) == (
        3,
        pytest.approx(5 * 1e-3**0.5),
        8,
    )
    assert replace(settings, learning_rate=0.5).with_defaults({"learning_rate": 1e-3}).learning_rate == 0.5


def test_the_optimizer_groups_parameters_by_pace_and_decay():
    model = Tiny()
    names = {id(parameter): name for name, parameter in model.named_parameters()}
    objective = Objective(model, LabelLoss(LABELS))
    groups = {
        tuple(names[id(p)] for p in group["params"]): (group["rate"], group["start"], group["weight_decay"])
        for group in make_optimizer(objective, BASE, PACES).param_groups
    }
    assert groups == {
        ("hidden.0.weight",): (0.5, 0.0, 0.01),
        ("hidden.0.bias",): (0.25, 0.25, 0.0),
        ("head.weight",): (1.0, 0.5, 0.01),
        ("head.bias",): (1.0, 0.0, 0.0),
    }
    alike = make_optimizer(objective, BASE, dict.fromkeys(names.values(), ParameterGroup(0.5))).param_groups
    assert [(len(group["params"]), group["rate"]) for group in alike] == [(2, 0.5), (2, 0.5)]


@pytest.mark.parametrize(
    ("name", "value", "message"),
    [
        ("num_train_epochs", 0, "whole number from 1"),
        ("per_device_train_batch_size", 0, "whole number from 1"),
        ("gradient_accumulation_steps", 0, "whole number from 1"),
        ("save_steps", 0, "whole number from 1"),
        ("learning_rate", -1.0, "above 0"),
        ("learning_rate", math.nan, "above 0"),
        ("warmup_ratio", 1.0, "a number from 0, below 1"),
        ("label_smoothing", -0.1, "a number from 0, below 1"),
        ("weight_decay", -1.0, "a number from 0"),
        ("l1", -1.0, "a number from 0"),
        ("max_grad_norm", 0.0, "above 0"),
        ("early_stopping_patience", 0, "whole number from 1"),
        ("report_to", ("tensorbord",), "unknown tracker 'tensorbord': did you mean 'tensorboard'"),
    ],
)
def test_senseless_settings_are_refused_by_name(name, value, message):
    with pytest.raises(SettingError, match=f"{name}.*{message}"):
        replace(BASE, **{name: value}).check()


@pytest.mark.parametrize(("tracker", "install"), [("wandb", "'wandb'"), ("mlflow", r"'nlptransfer\[mlflow\]'")])
def test_a_tracker_that_is_not_installed_is_named_with_its_cure(tracker, install, monkeypatch):
    monkeypatch.setattr("nlptransfer.training.optimizer.find_spec", lambda package: None)
    with pytest.raises(SettingError, match=f"report_to: {tracker} is not installed: pip install {install}"):
        replace(BASE, report_to=(tracker,)).check()
