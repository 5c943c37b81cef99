"""A run that is cut off goes on as if nothing had been; here by a stop in the process, and by a true SIGKILL."""

import json
import os
import subprocess
import sys
from dataclasses import replace
from functools import partial

import pytest
import torch
from safetensors.torch import load_file

from helpers.corpora import texts_of, write_splits
from helpers.encoders import SIZES, make_base
from helpers.runs import finetune, same_weights
from helpers.training import BASE, PACES, Crowded, Tiny, fit, rows, same
from nlptransfer import Classifier
from nlptransfer.errors import StorageError
from nlptransfer.experiments import fitting

SETTINGS = replace(BASE, num_train_epochs=4, save_steps=3, early_stopping_patience=2)


def cut_off(folder, at, settings=SETTINGS, dropout=0.3, parameter_groups=None):
    with pytest.raises(KeyboardInterrupt):
        fit(folder, settings, Tiny(dropout, stop_at=at), parameter_groups=parameter_groups)


@pytest.mark.parametrize("optimizer", ["adamw", "sgd", "rmsprop", "adafactor"])
@pytest.mark.parametrize("at", [2, 5, 9, 20])
def test_a_run_cut_off_anywhere_ends_in_the_same_weights(tmp_path, optimizer, at):
    settings = replace(SETTINGS, optimizer=optimizer, early_stopping_patience=None)
    whole, expected = fit(tmp_path / "whole", settings, Tiny(0.3))
    cut_off(tmp_path / "cut", at, settings)
    torch.rand(7)
    model = Tiny(0.3)
    resumed, report = fit(tmp_path / "cut", settings, model)
    assert same(whole, resumed)
    assert (report.history, report.step) == (expected.history, expected.step)
    assert model.passes <= expected.step - (at - 4 if at > 4 else 0)


def test_a_run_cut_off_twice_and_saved_at_other_steps_ends_in_the_same_weights(tmp_path):
    whole, _ = fit(tmp_path / "whole", SETTINGS, Tiny(0.3))
    cut_off(tmp_path / "cut", 5)
    cut_off(tmp_path / "cut", 9, replace(SETTINGS, save_steps=2))
    assert same(whole, fit(tmp_path / "cut", SETTINGS, Tiny(0.3))[0])


def test_no_checkpoint_is_written_after_epochs_where_none_is_wanted(tmp_path):
    whole, _ = fit(tmp_path / "whole", SETTINGS, Tiny(0.3))
    for name, wanted, kept in (("often", True, "step_00000005"), ("cut", False, "step_00000004")):
        settings = replace(SETTINGS, save_epochs=wanted, save_steps=4)
        cut_off(tmp_path / name, 7, settings)
        assert [path.name for path in (tmp_path / name / "checkpoints").iterdir()] == [kept]
    assert same(whole, fit(tmp_path / "cut", settings, Tiny(0.3))[0])


def test_paces_survive(tmp_path):
    # Step 6 of 20 is before the start of the last parameter, and after that of another.
    whole, _ = fit(tmp_path / "whole", SETTINGS, Tiny(0.3), parameter_groups=PACES)
    cut_off(tmp_path / "cut", 8, parameter_groups=PACES)
    assert same(whole, fit(tmp_path / "cut", SETTINGS, Tiny(0.3), parameter_groups=PACES)[0])
    assert not same(whole, fit(tmp_path / "even", SETTINGS, Tiny(0.3))[0])


def test_fewer_rows_of_a_pass_survive(tmp_path):
    examples = rows(38)
    whole, expected = fit(tmp_path / "whole", SETTINGS, Crowded(fits=3, dropout=0.3), examples)
    with pytest.raises(KeyboardInterrupt):
        fit(tmp_path / "cut", SETTINGS, Crowded(fits=3, dropout=0.3, stop_at=30), examples)
    # It is not tried again with as many as were asked for, although they would fit by now.
    model, report = fit(tmp_path / "cut", SETTINGS, Crowded(fits=8, dropout=0.3), examples)
    assert same(whole, model)
    assert (max(model.sizes), report.rows_per_pass) == (2, 2)
    assert report.history == expected.history


def test_the_best_weights_so_far_survive(tmp_path):
    scores = iter([0.9, 0.2, 0.1] * 2)
    whole, _ = fit(tmp_path / "whole", SETTINGS, Tiny(0.3), score=lambda _: next(scores))
    with pytest.raises(KeyboardInterrupt):
        fit(tmp_path / "cut", SETTINGS, Tiny(0.3, stop_at=12), score=lambda _: next(scores))
    resumed, report = fit(tmp_path / "cut", SETTINGS, Tiny(0.3), score=lambda _: next(scores))
    assert same(whole, resumed)
    assert (report.best_epoch, report.epoch) == (1, 3)


def test_a_checkpoint_cut_off_while_being_written_is_ignored(tmp_path, monkeypatch):
    whole, _ = fit(tmp_path / "whole", SETTINGS, Tiny(0.3))
    real, calls = torch.save, []

    def third_fails(*args, **kwargs):
        calls.append(args)
        if len(calls) == 4:
            raise KeyboardInterrupt
        return real(*args, **kwargs)

    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr(torch, "save", third_fails)
        fit(tmp_path / "cut", SETTINGS, Tiny(0.3))
    assert sorted(path.name for path in (tmp_path / "cut" / "checkpoints").iterdir()) == ["step_00000003", "writing"]
    assert same(whole, fit(tmp_path / "cut", SETTINGS, Tiny(0.3))[0])


def test_one_checkpoint_is_kept_without_what_is_frozen(tmp_path):
    cut_off(tmp_path, 14)
    (saved,) = (tmp_path / "checkpoints").iterdir()
    state = load_file(saved / "model.safetensors")
    assert saved.name == "step_00000012"
    assert {name.split(".")[1] for name in state} == {"hidden", "head"}
    # A running mean is learned too.
    assert "model.hidden.1.running_mean" in state


def test_a_run_that_ended_but_for_its_last_epoch_needs_that_alone(tmp_path):
    _, expected = fit(tmp_path, SETTINGS, examples=rows(37))
    model = Tiny()
    _, report = fit(tmp_path, SETTINGS, model)
    assert report.history == expected.history
    assert model.passes <= 5


@pytest.fixture(scope="module")
def killed(remarks_folder, vectors_file, tmp_path_factory):
    """The folder of the killed runs; by name what each left, and the passes of the rest of it and of a whole one."""
    folder = tmp_path_factory.mktemp("killed")
    (folder / "remarks").symlink_to(remarks_folder)
    (folder / "vectors.txt").symlink_to(vectors_file)
    for name, sizes in {"texts": (130, 40, 20), "source": (66, 20, 20), "target": (40, 20, 20)}.items():
        splits = dict(zip(("train", "validation", "test"), sizes, strict=True))
        write_splits(folder / name, {split: texts_of(count, sizes[0] + count) for split, count in splits.items()})
    make_base(folder / "encoder", "bert", SIZES | {"num_hidden_layers": 2})
    command = [sys.executable, "-m", "helpers.killed_runs", folder]
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    done = subprocess.run(command, capture_output=True, text=True, timeout=300, env=environment)
    assert done.returncode == 0, done.stderr
    told = {(name, end): rest for name, end, *rest in map(json.loads, done.stdout.splitlines())}
    return folder, {name: [*told[name, "cut"], told[name, "whole"][1]] for name, end in told if end == "cut"}


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        # 7 or 9 batches an epoch, 21 or 27 in all, and a checkpoint after each third and each epoch.
        ("word2vec", ["step_00000015", 6, 21]),
        ("full", ["step_00000012", 15, 27]),
        ("lora", ["step_00000009", 18, 27]),
    ],
)
def test_killed_runs_of_every_route_resume_bit_for_bit(name, expected, killed):
    folder, told = killed
    assert told[name] == [[f"checkpoints/{expected[0]}"], *expected[1:]]
    assert_same_weights(folder, name)
    cut, whole = (json.loads((folder / f"{name}-{end}" / "experiment.json").read_text()) for end in ("cut", "whole"))
    assert cut["training"]["history"] == whole["training"]["history"]


@pytest.mark.parametrize(
    "name", ["source", "target", "held", "copy", "joint", "relational", "second choice", "lora target"]
)
def test_killed_transfers_resume_bit_for_bit_in_every_stage(name, killed):
    folder, told = killed
    kept, left, whole = told[name]
    # In the second stage what the first has learned is kept, and is not learned again.
    finished = "checkpoints_source/finished" in kept
    assert finished == (name not in ("source", "copy", "joint"))
    assert left < whole and (left <= 9 or not finished or name == "second choice")
    if name == "second choice":
        assert any(place.startswith("checkpoints_freeze_layers1/step_") for place in kept)
        assert "checkpoints_freeze_layers0/finished" in kept
    assert_same_weights(folder, name)
    cut, whole = (json.loads((folder / f"{name}-{end}" / "metrics.json").read_text()) for end in ("cut", "whole"))
    assert all(cut[report] == whole[report] for report in ("test", "transfer"))
    assert not [*(folder / f"{name}-cut").glob("checkpoints*")]


def assert_same_weights(folder, name):
    cut, whole = (folder / f"{name}-{end}" / "model" for end in ("cut", "whole"))
    (weights,) = whole.glob("*.safetensors")
    assert weights.read_bytes() == (cut / weights.name).read_bytes()


def test_a_full_disk_where_training_is_followed(tmp_path, monkeypatch):
    def full(*_: object, **__: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("accelerate.Accelerator.init_trackers", full)
    with pytest.raises(StorageError, match=rf"^{tmp_path}: cannot be written: No space left on device: make room"):
        fit(tmp_path, BASE)


def test_what_fails_after_training_leaves_what_was_learned(remarks_folder, vectors_file, tmp_path, monkeypatch):
    run = partial(finetune, remarks_folder, base=vectors_file, output_dir=tmp_path / "run", num_train_epochs=2)
    whole = run(output_dir=tmp_path / "whole")

    def full(*_: object) -> None:
        raise StorageError("no room")

    with monkeypatch.context() as patch:
        patch.setattr(Classifier, "save_pretrained", full)
        with pytest.raises(StorageError, match=r"^no room$"):
            run()
    monkeypatch.setattr(fitting, "train", full)
    assert same_weights(run(), whole) and not [*(tmp_path / "run").glob("checkpoints*")]
