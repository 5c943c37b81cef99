"""A run that is cut off goes on as if nothing had been; here by a stop in the process, and by a true SIGKILL."""

import json
import os
import subprocess
import sys
from dataclasses import replace

import pytest
import torch
from conftest import write_rows
from safetensors.torch import load_file
from test_anatomy import SIZES, make_base
from test_encoder_routes import texts_of
from test_training import BASE, PACES, Crowded, Tiny, fit, one_thread, rows, same

__all__ = ["one_thread"]

SETTINGS = replace(BASE, num_train_epochs=4, save_steps=3, early_stopping_patience=2)

SCRIPT = """
import gc, json, os, signal, sys
from pathlib import Path
import nlptransfer.run
from nlptransfer import experiment, stages
from nlptransfer.encoder_routes import Full, Lora
from nlptransfer.word2vec_route import Word2Vec

words, encoder, folder = sys.argv[1:3], sys.argv[3:5], Path(sys.argv[5])
settings = {"num_train_epochs": 3, "per_device_train_batch_size": 16, "save_steps": 3, "progress": False}
routes = (
    (Word2Vec(num_filters=8, dropout=0.5, train_vectors=True), *words, 2e-2, 17),
    (Full(max_length=16, dropout=0.2), *encoder, 5e-3, 14),
    (Lora(max_length=16, dropout=0.2, lora_dropout=0.2), *encoder, 5e-3, 11),
)
train, nlptransfer.run.SPEED_SECONDS = stages.train, 0.0
gc.freeze()

def run(route, data, base, rate, name, kill_at=None):
    passes = 0

    def kill(objective, _):
        nonlocal passes
        passes += objective.training
        if passes == kill_at:
            os.kill(os.getpid(), signal.SIGKILL)

    def watched(objective, *rest):
        objective.register_forward_pre_hook(kill)
        return train(objective, *rest)

    stages.train = watched
    out = folder / f"{route.name}-{name}"
    experiment.finetune(data, route=route, base=base, learning_rate=rate, output_dir=out, **settings)
    return passes

for *plan, kill_at in routes:
    # By a fork, as the imports take longest; nothing has run in this process that would have started threads.
    child = os.fork()
    if not child:
        run(*plan, "cut", kill_at)
        os._exit(1)
    assert os.WTERMSIG(os.waitpid(child, 0)[1]) == signal.SIGKILL
for route, *plan, _ in routes:
    kept = [path.name for path in (folder / f"{route.name}-cut").rglob("step_*")]
    print(json.dumps([route.name, kept, run(route, *plan, "cut"), run(route, *plan, "whole")]))
"""


STAGES_SCRIPT = """
import gc, json, os, signal, sys
from pathlib import Path
import nlptransfer.run
from nlptransfer import Copy, Full, Joint, Lora, Relate, Sequential, experiment, stages

source, target, encoder, folder = *sys.argv[1:4], Path(sys.argv[4])
settings = {
    "num_train_epochs": 3, "per_device_train_batch_size": 16, "save_steps": 3, "progress": False, "base": encoder,
    "learning_rate": 5e-3, "verdict": False,
}
full = Full(max_length=16, dropout=0.2)
auto = Sequential(target_settings={"layers": "auto"})
# Passes: 27 on the source, 9 on the target, 54 on both together.
plans = {
    "source": (full, Sequential(), 14), "target": (full, Sequential(), 32), "held": (full, Sequential(l2_sp=0.1), 32),
    "copy": (full, Copy(), 14), "joint": (full, Joint(weighting="scheduled"), 29), "relate": (full, Relate(), 33),
    "second choice": (full, auto, 27 + 9 + 5), "lora": (Lora(max_length=16, dropout=0.2), Sequential(), 33),
}
train, nlptransfer.run.SPEED_SECONDS = stages.train, 0.0
gc.freeze()

def run(name, end, route, transfer, kill_at=None):
    passes = 0

    def kill(objective, _):
        nonlocal passes
        passes += objective.training
        if passes == kill_at:
            os.kill(os.getpid(), signal.SIGKILL)

    def watched(objective, *rest):
        objective.register_forward_pre_hook(kill)
        return train(objective, *rest)

    stages.train = watched
    out = folder / f"{name}-{end}"
    experiment.finetune(target, source=source, route=route, transfer=transfer, output_dir=out, **settings)
    return passes

for name, (route, transfer, kill_at) in plans.items():
    child = os.fork()
    if not child:
        run(name, "cut", route, transfer, kill_at)
        os._exit(1)
    assert os.WTERMSIG(os.waitpid(child, 0)[1]) == signal.SIGKILL
    kept = sorted(path.relative_to(folder / f"{name}-cut").as_posix() for path in folder.glob(f"{name}-cut/*/*"))
    print(json.dumps([name, kept, run(name, "cut", route, transfer), run(name, "whole", route, transfer)]))
"""


def cut_off(folder, at, settings=SETTINGS, dropout=0.3, paces=None):
    with pytest.raises(KeyboardInterrupt):
        fit(folder, settings, Tiny(dropout, stop_at=at), paces=paces)


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


def test_paces_survive(tmp_path):
    # Step 6 of 20 is before the start of the last parameter, and after that of another.
    whole, _ = fit(tmp_path / "whole", SETTINGS, Tiny(0.3), paces=PACES)
    cut_off(tmp_path / "cut", 8, paces=PACES)
    assert same(whole, fit(tmp_path / "cut", SETTINGS, Tiny(0.3), paces=PACES)[0])
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
    whole, _ = fit(tmp_path / "whole", SETTINGS, Tiny(0.3), judge=lambda _: next(scores))
    with pytest.raises(KeyboardInterrupt):
        fit(tmp_path / "cut", SETTINGS, Tiny(0.3, stop_at=12), judge=lambda _: next(scores))
    resumed, report = fit(tmp_path / "cut", SETTINGS, Tiny(0.3), judge=lambda _: next(scores))
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
    # A running mean is learnt too.
    assert "model.hidden.1.running_mean" in state


def test_a_run_that_ended_but_for_its_last_epoch_needs_that_alone(tmp_path):
    _, expected = fit(tmp_path, SETTINGS, examples=rows(37))
    model = Tiny()
    _, report = fit(tmp_path, SETTINGS, model)
    assert report.history == expected.history
    assert model.passes <= 5


def test_killed_runs_of_every_route_resume_bit_for_bit(remarks_folder, vectors_file, tmp_path):
    script, data = tmp_path / "script.py", tmp_path / "data"
    script.write_text(SCRIPT)
    data.mkdir()
    for name, count in (("train", 130), ("validation", 40), ("test", 20)):
        write_rows(data / f"{name}.jsonl", list(zip(*texts_of(count, seed=count), strict=True)))
    encoder = make_base(tmp_path / "bert", "bert", SIZES | {"num_hidden_layers": 2}).path
    command = [sys.executable, script, remarks_folder, vectors_file, data, encoder, tmp_path]
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    done = subprocess.run(command, capture_output=True, text=True, timeout=200, env=environment)
    assert done.returncode == 0, done.stderr
    # 7 or 9 batches an epoch, 21 or 27 in all, and a checkpoint after each third and each epoch.
    assert [json.loads(line) for line in done.stdout.splitlines()] == [
        ["word2vec", ["step_00000015"], 6, 21],
        ["full", ["step_00000012"], 15, 27],
        ["lora", ["step_00000009"], 18, 27],
    ]
    for name in ("word2vec", "full", "lora"):
        cut, whole = (tmp_path / f"{name}-{end}" for end in ("cut", "whole"))
        (weights,) = (whole / "model").glob("*.safetensors")
        assert weights.read_bytes() == (cut / "model" / weights.name).read_bytes()
        trainings = [json.loads((folder / "experiment.json").read_text())["training"] for folder in (cut, whole)]
        assert trainings[0]["history"] == trainings[1]["history"]


def test_killed_transfers_resume_bit_for_bit_in_every_stage(tmp_path):
    script = tmp_path / "script.py"
    script.write_text(STAGES_SCRIPT)
    for side, train_rows in (("source", 130), ("target", 40)):
        (tmp_path / side).mkdir()
        for name, count in (("train", train_rows), ("validation", 20), ("test", 20)):
            found = texts_of(count, seed=train_rows + count)
            write_rows(tmp_path / side / f"{name}.jsonl", list(zip(*found, strict=True)))
    encoder = make_base(tmp_path / "bert", "bert", SIZES | {"num_hidden_layers": 2}).path
    command = [sys.executable, script, tmp_path / "source", tmp_path / "target", encoder, tmp_path]
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    done = subprocess.run(command, capture_output=True, text=True, timeout=300, env=environment)
    assert done.returncode == 0, done.stderr
    told = {name: (kept, left, whole) for name, kept, left, whole in map(json.loads, done.stdout.splitlines())}
    assert len(told) == 8
    # In the second stage what the first has learnt is kept, and is not learnt again.
    finished = "checkpoints_source/finished"
    for name, (kept, left, whole) in told.items():
        assert (finished in kept) == (name not in ("source", "copy", "joint"))
        assert left < whole and (left <= 9 or finished not in kept or name == "second choice")
    assert any(place.startswith("checkpoints_freeze_layers1/step_") for place in told["second choice"][0])
    assert "checkpoints_freeze_layers0/finished" in told["second choice"][0]
    for name in told:
        cut, whole = (tmp_path / f"{name}-{end}" for end in ("cut", "whole"))
        (weights,) = (whole / "model").glob("*.safetensors")
        assert weights.read_bytes() == (cut / "model" / weights.name).read_bytes()
        for report in ("test", "transfer"):
            found, expected = (json.loads((folder / "metrics.json").read_text())[report] for folder in (cut, whole))
            assert found == expected
        assert not [*cut.glob("checkpoints*")]
