"""What several processes learn and judge is what one learns and judges; two processes on the CPU (gloo)."""

import json
import os
import signal
import subprocess
import sys
import time

import numpy as np
import pytest

from nlptransfer import processes

SCRIPT = """
import json, os, signal, sys
from pathlib import Path
from types import SimpleNamespace
import numpy as np, torch
from safetensors.torch import save_file
from torch import nn
from nlptransfer import processes
from nlptransfer.batching import FeatureRows, predict_logits
from nlptransfer.labels import Labels
from nlptransfer.objectives import Supervised, class_weights
from nlptransfer.training import Examples, TrainingSettings, train

folder, rows_a_process, die = Path(sys.argv[1]), int(sys.argv[2]), sys.argv[3] == "die"

class Tiny(nn.Module):
    def __init__(self):
        super().__init__()
        torch.manual_seed(5)
        self.body, self.head = nn.Linear(6, 8), nn.Linear(8, 3)
        self.seen = []

    def forward(self, features):
        if not self.training:
            self.seen += features[:, 0].tolist()
        elif die and processes.rank() == 1:
            os.kill(os.getpid(), signal.SIGKILL)
        return SimpleNamespace(logits=self.head(torch.relu(self.body(features))))

def examples(count, labels):
    draw = np.random.default_rng(count)
    features = draw.normal(size=(count, 6)).astype(np.float32)
    scores = features[:, :3] + draw.normal(size=(count, 3))
    targets = (scores > 0.5).astype(np.float32) if labels.multi_label else scores.argmax(axis=1)
    return Examples(FeatureRows(features), targets)

for several in (False, True):
    labels = Labels(("a", "b", "c"), several)
    learn, judged = examples(37, labels), examples(11, labels)
    model = Tiny()
    objective = Supervised(model, labels, class_weights("balanced", labels, learn.targets), 0.1)
    settings = TrainingSettings(
        num_train_epochs=4, learning_rate=0.01, per_device_train_batch_size=rows_a_process, save_steps=2,
        gradient_accumulation_steps=3, progress=not several, report_to=("tensorboard",), l1=0.001,
    )
    name = f"several_{processes.count()}" if several else f"one_{processes.count()}"
    report = train(
        objective, learn, judged, lambda logits: float(logits.std()), settings, folder / name / "checkpoints"
    )
    seen = len(model.seen)
    model.seen.clear()
    shared = predict_logits(model, judged.rows, share=True)
    part = len(model.seen)
    assert np.array_equal(shared, predict_logits(model, judged.rows))
    record = [part, report.step, [entry["loss"] for entry in report.history], shared.tolist()]
    (folder / name / f"rank_{processes.rank()}.json").write_text(json.dumps(record))
    if processes.is_main():
        save_file(model.state_dict(), folder / name / "final.safetensors")
    assert processes.from_main(processes.rank()) == 0
    processes.wait()
"""

TWO = [sys.executable, "-m", "accelerate.commands.launch", "--multi_gpu", "--num_processes=2", "--num_machines=1"]
TWO += ["--mixed_precision=no", "--dynamo_backend=no", "--main_process_port=0"]


def start(launcher, script, *arguments):
    # The launcher would take a GPU where there is one.
    environment = {**os.environ, "ACCELERATE_USE_CPU": "true", "OMP_NUM_THREADS": "1"}
    return subprocess.run(
        [*launcher, script, *map(str, arguments)], capture_output=True, text=True, timeout=200, env=environment
    )


@pytest.fixture(scope="module")
def runs(tmp_path_factory):
    """The same trainings by one process and by two, on the same batches."""
    folder = tmp_path_factory.mktemp("runs")
    script = folder / "script.py"
    script.write_text(SCRIPT)
    two, one = start(TWO, script, folder, 2, "live"), start([sys.executable], script, folder, 4, "live")
    assert (two.returncode, one.returncode) == (0, 0), two.stderr + one.stderr
    return folder, two


@pytest.mark.parametrize("kind", ["one", "several"])
def test_two_processes_learn_what_one_learns(runs, kind):
    from safetensors.numpy import load_file

    folder, _ = runs
    one, two = (load_file(folder / f"{kind}_{count}" / "final.safetensors") for count in (1, 2))
    assert max(np.abs(one[name] - two[name]).max() for name in one) < 1e-5
    (_, steps, losses, logits), *both = (
        json.loads((folder / f"{kind}_{count}" / f"rank_{rank}.json").read_text())
        for count, rank in ((1, 0), (2, 0), (2, 1))
    )
    assert steps == 4 * 4
    assert losses[-1] < losses[0]
    for record in both:
        assert record[1] == steps
        np.testing.assert_allclose(record[2], losses, atol=1e-5)
        np.testing.assert_allclose(record[3], logits, atol=1e-4)
    assert both[0][1:] == both[1][1:]


@pytest.mark.parametrize("kind", ["one", "several"])
def test_each_row_is_predicted_by_one_process_alone(runs, kind):
    folder, _ = runs
    assert sum(json.loads((folder / f"{kind}_2" / f"rank_{rank}.json").read_text())[0] for rank in (0, 1)) == 11


def test_files_and_progress_come_from_the_main_process_alone(runs):
    folder, two = runs
    assert two.stderr.count("16/16") == 1
    # An event file's name ends in its writer's process id and a count.
    assert len({path.name.split(".")[-2] for path in (folder / "one_2" / "logs").rglob("events.out*")}) == 1
    (saved,) = (folder / "one_2" / "checkpoints").iterdir()
    assert saved.name == "step_00000014"


def test_a_process_that_dies_takes_the_run_down(tmp_path):
    script = tmp_path / "script.py"
    script.write_text(SCRIPT)
    started = time.monotonic()
    done = start(
        [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node=2"],
        script,
        tmp_path,
        2,
        "die",
    )
    assert done.returncode != 0
    assert f"exitcode  : -{signal.SIGKILL.value}" in done.stderr
    assert time.monotonic() - started < 120
    assert not (tmp_path / "one_2" / "final.safetensors").exists()


def test_one_process_is_the_main_one_and_has_all_rows():
    assert (processes.rank(), processes.count(), processes.is_main()) == (0, 1, True)
    assert processes.from_main({"a": 1}) == {"a": 1}
    processes.wait()
    with processes.main_first():
        pass
    found = processes.gather_rows(
        [np.array([2, 0]), np.array([1])], [np.array([[3.0], [1.0]]), np.array([[2.0]])], 3, share=True
    )
    assert found.tolist() == [[1.0], [2.0], [3.0]]


def test_a_launcher_that_starts_one_of_several_is_found_out(monkeypatch, caplog):
    monkeypatch.setenv("ACCELERATE_USE_CPU", "true")
    monkeypatch.setenv("MASTER_PORT", "29500")
    monkeypatch.delenv("WORLD_SIZE", raising=False)
    processes._on_cpu.cache_clear()
    assert processes._on_cpu()
    assert "torchrun --nproc-per-node" in caplog.text
    processes._on_cpu.cache_clear()
