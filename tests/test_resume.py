"""A run that is cut off goes on as if nothing had been; here by a stop in the process, and by a true SIGKILL."""

import os
import signal
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file
from test_training import BASE, PACES, Crowded, Tiny, fit, one_thread, rows, same

__all__ = ["one_thread"]

SETTINGS = replace(BASE, num_train_epochs=4, save_steps=3, early_stopping_patience=2)

SCRIPT = """
import json, os, signal, sys
from pathlib import Path
import numpy as np, torch
from safetensors.torch import save_file
from nlptransfer.batching import encode
from nlptransfer.labels import Labels
from nlptransfer.objectives import Supervised
from nlptransfer.training import Examples, TrainingSettings, train
from nlptransfer.word2vec import Word2VecConfig, Word2VecForSequenceClassification, make_tokenizer

films, kill_at, folders = Path(sys.argv[1]), int(sys.argv[2]), map(Path, sys.argv[3:])
rows = [json.loads(line) for line in films.read_text(encoding="utf-8").splitlines()]
tokenizer = make_tokenizer(sorted({word for row in rows for word in row["text"].split()}), 64)
labels = Labels(("negative", "positive"))
tokens = [encode([row["text"] for row in part], tokenizer, 64) for part in (rows[:200], rows[200:])]
targets = labels.encode([row["label"] for row in rows])
config = Word2VecConfig(vocab_size=len(tokenizer), hidden_size=16, num_filters=8, dropout=0.5, train_vectors=True)
settings = TrainingSettings(
    num_train_epochs=3, learning_rate=1e-2, per_device_train_batch_size=16, save_steps=4, progress=False
)

def kill(module, inputs):
    global passes
    passes += module.training
    if passes == kill_at:
        os.kill(os.getpid(), signal.SIGKILL)

for folder in folders:
    torch.manual_seed(0)
    model = Word2VecForSequenceClassification(config)
    passes = 0
    model.register_forward_pre_hook(kill)
    report = train(
        Supervised(model, labels), Examples(tokens[0], targets[:200]), Examples(tokens[1], targets[200:]),
        lambda logits: float((logits.argmax(1) == targets[200:]).mean()), settings, folder / "checkpoints",
    )
    save_file(model.state_dict(), folder / "final.safetensors")
    print(passes, json.dumps(report.history))
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
    whole, expected = fit(tmp_path / "whole", SETTINGS, Crowded(fits=3, dropout=0.3))
    with pytest.raises(KeyboardInterrupt):
        fit(tmp_path / "cut", SETTINGS, Crowded(fits=3, dropout=0.3, stop_at=30))
    # It is not tried again with as many as were asked for, although they would fit by now.
    model, report = fit(tmp_path / "cut", SETTINGS, Crowded(fits=8, dropout=0.3))
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


def test_a_killed_process_resumes_bit_for_bit(tmp_path):
    script, films = tmp_path / "script.py", Path(__file__).parents[1] / "data" / "films" / "train.jsonl"
    script.write_text(SCRIPT)

    environment = {**os.environ, "OMP_NUM_THREADS": "1"}

    def start(kill_at, *folders):
        command = [sys.executable, script, films, str(kill_at), *(tmp_path / folder for folder in folders)]
        return subprocess.run(command, capture_output=True, text=True, timeout=200, env=environment)

    (tmp_path / "whole").mkdir()
    # 13 batches an epoch: the kill comes in the middle of the second, after the checkpoint of step 20.
    assert start(22, "cut").returncode == -signal.SIGKILL
    assert [path.name for path in (tmp_path / "cut" / "checkpoints").iterdir()] == ["step_00000020"]
    done = start(-1, "cut", "whole")
    assert done.returncode == 0, done.stderr
    resumed, whole = (line.split(maxsplit=1) for line in done.stdout.splitlines())
    assert (resumed[0], whole[0], resumed[1]) == ("19", "39", whole[1])
    weights = [load_file(tmp_path / name / "final.safetensors") for name in ("whole", "cut")]
    assert all(torch.equal(weights[0][name], weights[1][name]) for name in weights[0])
