"""What several processes learn and judge is what one learns and judges; two processes on the CPU (gloo)."""

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import psutil
import pytest
from conftest import write_rows
from test_probe import make_base

from nlptransfer import Experiment, cli, finetune, processes
from nlptransfer.errors import DataError

SCRIPT = """
import json, sys
from pathlib import Path
from types import SimpleNamespace
import numpy as np, torch
from safetensors.torch import save_file
from torch import nn
from nlptransfer import processes, training
from nlptransfer.batching import FeatureRows, predict_logits
from nlptransfer.labels import Labels
from nlptransfer.objectives import LabelLoss, Objective, class_weights
from nlptransfer.training import Examples, TrainingSettings, train

folder, rows_a_process = Path(sys.argv[1]), int(sys.argv[2])

# As where there are GPUs.
training._rehearses = lambda accelerator: accelerator.num_processes > 1

class Tiny(nn.Module):
    def __init__(self, crowded):
        super().__init__()
        self.crowded = crowded
        torch.manual_seed(5)
        self.body, self.head = nn.Linear(6, 8), nn.Linear(8, 3)
        self.seen = []

    def forward(self, features):
        if not self.training:
            self.seen += features[:, 0].tolist()
        elif self.crowded and processes.rank() == 1 and len(features) > 1:
            raise torch.OutOfMemoryError("out of memory")
        return SimpleNamespace(logits=self.head(torch.relu(self.body(features))))

def examples(count, labels):
    draw = np.random.default_rng(count)
    features = draw.normal(size=(count, 6)).astype(np.float32)
    scores = features[:, :3] + draw.normal(size=(count, 3))
    targets = (scores > 0.5).astype(np.float32) if labels.multi_label else scores.argmax(axis=1)
    return Examples(FeatureRows(features), targets)

for kind in ("one", "several", "crowded"):
    labels = Labels(("a", "b", "c"), kind == "several")
    learn, judged = examples(37, labels), examples(11, labels)
    model = Tiny(kind == "crowded")
    objective = Objective(model, LabelLoss(labels, class_weights("balanced", labels, learn.targets), 0.1))
    settings = TrainingSettings(
        num_train_epochs=4, learning_rate=0.01, per_device_train_batch_size=rows_a_process, save_steps=2,
        gradient_accumulation_steps=3, progress=kind == "one", report_to=("tensorboard",), l1=0.001,
    )
    name = f"{kind}_{processes.count()}"
    report = train(
        objective, learn, judged, lambda logits: float(logits.std()), settings, folder / name / "checkpoints"
    )
    seen = len(model.seen)
    model.seen.clear()
    shared = predict_logits(model, judged.rows, share=True)
    part = len(model.seen)
    assert np.array_equal(shared, predict_logits(model, judged.rows))
    record = [part, report.rows_per_pass, report.step, [entry["loss"] for entry in report.history], shared.tolist()]
    (folder / name / f"rank_{processes.rank()}.json").write_text(json.dumps(record))
    if processes.is_main():
        save_file(model.state_dict(), folder / name / "final.safetensors")
    assert processes.from_main(processes.rank()) == 0
    processes.wait()
"""

NOT_SHARDED = ("held to the source", "relate", "solved joint")
"""Of the transfers below, those that are not run with weights in shards."""

ROUTES_SCRIPT = """
import sys
from pathlib import Path
import numpy as np
import nlptransfer.run
from nlptransfer import Full, Joint, Lora, Probe, Relate, Sequential, finetune
from test_probe import WORDS

nlptransfer.run.SPEED_SECONDS = 0.0

base, folder, rows_a_process = sys.argv[1], Path(sys.argv[2]), int(sys.argv[3])
draw = np.random.default_rng(0)
texts = sorted({" ".join(draw.choice(WORDS, size=draw.integers(2, 12))) for _ in range(80)})
labels = ["good" if {"good", "gem"} & {*text.split()} else "bad" if "bad" in text else "neither" for text in texts]
routes = {
    "full": Full(dropout=0.0),
    "upper layers": Full(dropout=0.0, freeze_layers=1, layer_decay=0.8),
    "lora": Lora(dropout=0.0),
    "probe mlp": Probe(head_type="mlp", dropout=0.0, mlp_sizes=(8,)),
    "probe linear": Probe(),
}
sources = sorted({" ".join(draw.choice(WORDS, size=draw.integers(2, 12))) for _ in range(110)})
theirs = ["good" if "gem" in text else "bad" if "dull" in text or "bad" in text else "neither" for text in sources]
other_names = [f"very {label}" for label in theirs]
transfers = {
    "joint": (Full(dropout=0.0), Joint(alpha=0.7, weighting="scheduled"), other_names),
    "relate": (Full(dropout=0.0), Relate(), theirs),
    "held to the source": (Full(dropout=0.0), Sequential(l2_sp=0.1), theirs),
    "solved joint": (Probe(), Joint(), theirs),
}
plans = {name: (route, {}) for name, route in routes.items()} | {
    # Adam makes whole steps of what rounding has left of a gradient where the pull to the source is all there is.
    name: (route, {
        "source": (sources, names), "transfer": transfer, "verdict": False, "num_train_epochs": 3, "optimizer": "sgd",
        "learning_rate": 0.05,
    })
    for name, (route, transfer, names) in transfers.items()
}
for name, (route, given) in plans.items():
    if name in sys.argv[4:]:
        continue
    settings = {"num_train_epochs": 8, "learning_rate": 1e-3, **given}
    finetune(
        (texts, labels), route=route, base=base, output_dir=folder / name, class_weights="balanced", progress=False,
        per_device_train_batch_size=rows_a_process, gradient_accumulation_steps=3, **settings,
    )
"""

SHARDED_SCRIPT = (
    """
from accelerate.state import AcceleratorState, PartialState
from accelerate.utils import DistributedType

# Accelerate shards weights over accelerators alone, torch over processors too.
made = AcceleratorState.__init__

def sharded(self, *values, fsdp_plugin=None, **options):
    made(self, *values, **options)
    if fsdp_plugin is not None:
        self.fsdp_plugin = fsdp_plugin
        self.distributed_type = PartialState._shared_state["distributed_type"] = DistributedType.FSDP

AcceleratorState.__init__ = sharded

# Each run stops after its third checkpoint and is gone on with.
from nlptransfer import experiment, training

whole, save, saved = experiment.finetune, training._Loop._save, []

def stopping(loop):
    save(loop)
    saved.append(loop)
    if len(saved) == 3:
        raise KeyboardInterrupt

def finetune(*values, **options):
    saved.clear()
    try:
        whole(*values, **options)
    except KeyboardInterrupt:
        whole(*values, **options)

training._Loop._save, experiment.finetune = stopping, finetune
"""
    + ROUTES_SCRIPT
)

TWO = [sys.executable, "-m", "accelerate.commands.launch", "--multi_gpu", "--num_processes=2", "--num_machines=1"]
TWO += ["--mixed_precision=no", "--dynamo_backend=no", "--main_process_port=0"]


def start(launcher, script, *arguments, **variables):
    # The launcher would take a GPU where there is one.
    environment = {**os.environ, "ACCELERATE_USE_CPU": "true", "OMP_NUM_THREADS": "1", **variables}
    environment["PYTHONPATH"] = str(Path(__file__).parent)
    return subprocess.run(
        [*launcher, script, *map(str, arguments)], capture_output=True, text=True, timeout=200, env=environment
    )


@pytest.fixture(scope="module")
def runs(tmp_path_factory):
    """The same trainings by one process and by two, on the same batches."""
    folder = tmp_path_factory.mktemp("runs")
    script = folder / "script.py"
    script.write_text(SCRIPT)
    two, one = start(TWO, script, folder, 2), start([sys.executable], script, folder, 4)
    assert (two.returncode, one.returncode) == (0, 0), two.stderr + one.stderr
    return folder, two


@pytest.mark.parametrize("kind", ["one", "several", "crowded"])
def test_two_processes_learn_what_one_learns(runs, kind):
    from safetensors.numpy import load_file

    folder, run = runs
    one, two = (load_file(folder / f"{kind}_{count}" / "final.safetensors") for count in (1, 2))
    assert max(np.abs(one[name] - two[name]).max() for name in one) < 1e-5
    (_, _, steps, losses, logits), *both = (
        json.loads((folder / f"{kind}_{count}" / f"rank_{rank}.json").read_text())
        for count, rank in ((1, 0), (2, 0), (2, 1))
    )
    assert steps == 4 * 4
    assert losses[-1] < losses[0]
    for record in both:
        assert record[1:3] == [1 if kind == "crowded" else 2, steps]
        np.testing.assert_allclose(record[3], losses, atol=1e-5)
        np.testing.assert_allclose(record[4], logits, atol=1e-4)
    assert both[0][1:] == both[1][1:]
    assert run.stderr.count("out of memory with 2 rows in one forward pass: on with 1 rows") == 1


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


@pytest.fixture(scope="module")
def every_route(tmp_path_factory):
    """58 rows by each encoder route on 1 and on 2 processes: 24 steps of 3 passes, the last of an epoch not full."""
    folder = tmp_path_factory.mktemp("routes")
    script = folder / "script.py"
    script.write_text(ROUTES_SCRIPT)
    base = make_base(folder / "encoder")
    two = start(TWO, script, base, folder / "2", 4)
    one = start([sys.executable], script, base, folder / "1", 8)
    script.write_text(SHARDED_SCRIPT)
    # What `accelerate launch --use_fsdp --fsdp_version 2 --fsdp_auto_wrap_policy TRANSFORMER_BASED_WRAP` sets.
    sharding = {"ACCELERATE_USE_FSDP": "true", "FSDP_VERSION": "2", "FSDP_CPU_RAM_EFFICIENT_LOADING": "true"}
    sharding["FSDP_AUTO_WRAP_POLICY"] = "TRANSFORMER_BASED_WRAP"
    sharded = start(TWO, script, base, folder / "2 sharded", 4, *NOT_SHARDED, **sharding)
    for run in (two, one, sharded):
        assert run.returncode == 0, run.stderr
    return folder


@pytest.mark.parametrize("processes_", ["2", "2 sharded"])
@pytest.mark.parametrize(
    "route",
    [
        "full", "upper layers", "lora", "probe mlp", "probe linear",
        "joint", "held to the source", "solved joint",
    ],
)  # fmt: skip
def test_two_processes_learn_what_one_learns_by_every_encoder_route(route, processes_, every_route):
    from safetensors.numpy import load_file

    if processes_ == "2 sharded" and route in NOT_SHARDED:
        pytest.skip("not run with shards")
    one, two = (Experiment(every_route / count / route) for count in ("1", processes_))
    assert (one.record["processes"], two.record["processes"]) == (1, 2)
    (name,) = (path.name for path in (one.folder / "model").glob("*.safetensors"))
    weights, others = (load_file(run.folder / "model" / name) for run in (one, two))
    assert weights.keys() == others.keys()
    assert max(np.abs(weights[key] - others[key]).max() for key in weights) < 1e-5
    assert one.metrics["per_class"] == two.metrics["per_class"] and one.metrics["rows"] == two.metrics["rows"]
    histories = [run.record["training"].get("history", []) for run in (one, two)]
    assert bool(histories[0]) == (route not in ("probe linear", "solved joint"))
    for mine, theirs in zip(*histories, strict=True):
        assert mine["loss"] == pytest.approx(theirs["loss"], abs=1e-5)
    if histories[0]:
        steps = 12 if route.startswith("joint") else 9 if route in NOT_SHARDED else 24
        assert one.record["training"]["step"] == two.record["training"]["step"] == steps


def test_relations_are_those_of_a_pass_and_two_processes_score_as_one(every_route):
    one, two = (Experiment(every_route / count / "relate") for count in ("1", "2"))
    low, high = one.metrics["accuracy_interval"]
    assert low <= two.metrics["accuracy"] <= high and two.metrics["rows"] == one.metrics["rows"]
    assert one.record["training"]["step"] == two.record["training"]["step"] == 9


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


# accelerate launch --cpu, which starts one process


ROOT = Path(__file__).parents[1]
LAUNCH = [str(Path(sys.executable).with_name("accelerate")), "launch", "--num_processes", "2", "--cpu"]
SETTINGS = {"head_type": "cnn", "dropout": 0.0, "num_train_epochs": 12, "save_steps": 5}

FAILING = """
import typer
from nlptransfer import cli, processes
from nlptransfer.errors import DataError

cli.SECONDS_FOR_FIRST = {seconds}

def main(of: str) -> None:
    if processes.count() == 2 and str(processes.rank()) in of:
        raise DataError("no such rows")
    processes.wait()

cli.run_verb(main, None)
"""


def launched(*arguments):
    """A run under the launcher, all of whose processes can be stopped as one."""
    return subprocess.Popen(
        [*LAUNCH, *map(str, arguments)],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
        env={**os.environ, "OMP_NUM_THREADS": "1"},
    )


def ended(run):
    try:
        out, err = run.communicate(timeout=120)
    except subprocess.TimeoutExpired:
        os.killpg(run.pid, signal.SIGKILL)
        raise
    return SimpleNamespace(code=run.returncode, out=out, err=err)


def largest_difference(one, two):
    from safetensors.numpy import load_file

    weights, others = (load_file(folder / "model" / "model.safetensors") for folder in (one, two))
    assert weights.keys() == others.keys()
    return max(np.abs(weights[name] - others[name]).max() for name in weights)


@pytest.fixture(scope="module")
def corpus(remarks, tmp_path_factory):
    """107 rows to learn from: neither they nor their batches divide by two."""
    folder = tmp_path_factory.mktemp("corpora") / "remarks"
    folder.mkdir()
    rows = list(zip(*remarks, strict=True))
    for name, part in {"train": rows[:107], "validation": rows[107:130], "test": rows[130:]}.items():
        write_rows(folder / f"{name}.jsonl", part)
    return folder


@pytest.fixture(scope="module")
def call(corpus, vectors_file):
    """What a launched run is asked: half of the rows that one process takes at once."""
    settings = {**SETTINGS, "per_device_train_batch_size": 8}
    return [corpus, "--base", vectors_file, *(f"--set={name}={value}" for name, value in settings.items())]


@pytest.fixture(scope="module")
def recipe_of_two(call, tmp_path_factory):
    folder = tmp_path_factory.mktemp("launched") / "run"
    return folder, ended(launched(ROOT / "recipes" / "topics.py", *call, "--output-dir", folder))


def test_a_recipe_launched_on_the_cpu_is_learnt_by_all_its_processes(recipe_of_two, corpus, vectors_file, tmp_path):
    folder, done = recipe_of_two
    assert done.code == 0, done.err
    assert done.out.count("word2vec cnn") == done.out.count(f"written: {folder}") == 1
    assert done.err.count(f"-> {folder}") == done.err.count("84/84") == 1
    two = Experiment(folder)
    assert two.record["processes"] == 2
    same = {**SETTINGS, "per_device_train_batch_size": 16, "progress": False}
    one = finetune(corpus, base=vectors_file, output_dir=tmp_path, **same)
    assert one.record["processes"] == 1
    assert largest_difference(folder, tmp_path) < 1e-5
    assert two.metrics["accuracy"] == one.metrics["accuracy"]


def test_a_killed_process_takes_the_run_down_and_the_same_command_goes_on(recipe_of_two, call, tmp_path):
    command = ["-m", "nlptransfer", "finetune", *call, "--output-dir", tmp_path / "run"]
    run = launched(*command)
    (victim,) = until(lambda: [each for each in processes_under(run) if each.environ().get("RANK") == "1"])
    until(lambda: [*(tmp_path / "run" / "checkpoints").glob("step_*")])
    others = processes_under(run)
    victim.kill()
    killed = time.monotonic()
    done = ended(run)
    assert time.monotonic() - killed < 20
    assert done.code == 1 and not [each for each in others if each.is_running()]
    said, _, launchers = done.err.partition("Traceback")
    assert said.splitlines()[-1] == (
        "error: rank 1 of 2 processes ended (signal 9, SIGKILL): the run was stopped; start the same command again "
        "and it goes on from its last checkpoint"
    )
    # What follows is the launcher's own, and no other process has anything to say.
    assert "Traceback" not in launchers and launchers.splitlines()[-1].startswith("subprocess.CalledProcessError")
    assert json.loads((tmp_path / "run" / "experiment.json").read_text())["status"] == "running"
    done = ended(launched(*command))
    assert done.code == 0, done.err
    resumed = Experiment(tmp_path / "run").record
    assert (resumed["status"], resumed["processes"]) == ("finished", 2)
    assert largest_difference(tmp_path / "run", recipe_of_two[0]) == 0


def until(found):
    give_up = time.monotonic() + 120
    while not (result := found()):
        assert time.monotonic() < give_up
        time.sleep(0.01)
    return result


def processes_under(run):
    def is_there(process):
        try:
            return process.environ() is not None
        except psutil.Error:
            return False

    return [each for each in psutil.Process(run.pid).children(recursive=True) if is_there(each)]


@pytest.mark.parametrize(
    ("ranks", "seconds", "said"), [("01", 20, "error: no such rows"), ("1", 1, "error (rank 1): no such rows")]
)
def test_an_error_on_purpose_is_said_once(ranks, seconds, said, tmp_path):
    script = tmp_path / "script.py"
    script.write_text(FAILING.replace("{seconds}", str(seconds)))
    done = ended(launched(script, ranks))
    assert done.code == 1
    assert [line for line in done.err.splitlines() if "rows" in line or "rank" in line] == [said]


def test_what_is_asked_is_checked_before_any_process_is_started(command_line, monkeypatch):
    monkeypatch.setenv("MASTER_PORT", "29500")
    monkeypatch.setattr(processes, "start_all", lambda: pytest.fail("started"))
    assert command_line(cli.main, "finetune", "data", "--nonsense").code == 2
    assert command_line(cli.main, "finetune", "--help").code == 0


@pytest.mark.parametrize(
    ("rank", "error", "seconds", "said"),
    [
        (0, DataError("no rows"), 0, "error: no rows\n"),
        (1, DataError("no rows"), cli.SECONDS_FOR_FIRST, "error (rank 1): no rows\n"),
        (0, KeyError("x"), cli.SECONDS_FOR_CAUSE, ""),
        (1, KeyError("x"), cli.SECONDS_FOR_FIRST + cli.SECONDS_FOR_CAUSE, ""),
    ],
)
def test_processes_that_fail_speak_in_turn(rank, error, seconds, said, monkeypatch, capsys):
    monkeypatch.setenv("WORLD_SIZE", "2")
    for name in ("RANK", "LOCAL_RANK"):
        monkeypatch.setenv(name, str(rank))
    slept = []
    monkeypatch.setattr("time.sleep", slept.append)

    def fail():
        raise error

    with pytest.raises(SystemExit if said else KeyError):
        cli._guarded(fail)
    assert (slept, capsys.readouterr().err) == ([seconds], said)


@pytest.mark.parametrize("main", [True, False])
def test_what_all_would_do_alike_is_done_by_the_main_process(main, monkeypatch):
    monkeypatch.setenv("WORLD_SIZE", "2")
    done = []
    monkeypatch.setattr(processes, "is_main", lambda: main)
    monkeypatch.setattr(processes, "wait", lambda: done.append("waited"))
    cli._once(lambda: done.append("worked"))
    assert done == (["worked", "waited"] if main else ["waited"])


def left_alone(monkeypatch, launcher):
    """As a launcher with this command line starts one process of several."""
    monkeypatch.setattr("sys.argv", ["topics.py", "data", "--seed", "1"])
    parent = SimpleNamespace(cmdline=lambda: [*launcher, "topics.py", "data", "--seed", "1"])
    monkeypatch.setattr("psutil.Process", lambda: SimpleNamespace(parent=lambda: parent))
    for name, value in {"ACCELERATE_USE_CPU": "True", "MASTER_ADDR": "here", "MASTER_PORT": "29500"}.items():
        monkeypatch.setenv(name, value)


@pytest.mark.parametrize(
    ("launcher", "expected"),
    [
        (["python", "/bin/accelerate", "launch", "--num_processes", "3", "--cpu"], (3, 1, 0)),
        (["accelerate-launch", "--cpu", "--num-processes=3"], (3, 1, 0)),
        (["python", "-m", "accelerate.commands.launch", "--num_processes=3", "--cpu"], (3, 1, 0)),
        (["accelerate", "launch", "--num_processes=4", "--num_machines=2", "--machine_rank=1"], (4, 2, 1)),
        (["accelerate", "launch", "--config_file", "CONFIG"], (5, 1, 0)),
        (["accelerate", "launch", "--config_file", "CONFIG", "--num_processes", "2"], (2, 1, 0)),
        (["accelerate", "launch", "--cpu"], None),
        (["accelerate", "launch", "--num_processes=2", "--num_machines=4"], None),
        (["accelerate", "launch", "--num_processes=2", "other.py"], (2, 1, 0)),
        (["make", "all"], None),
        ([], None),
    ],
)
def test_how_many_were_asked_of_the_launcher(launcher, expected, monkeypatch, tmp_path):
    config = tmp_path / "config.yaml"
    config.write_text("distributed_type: MULTI_CPU\nnum_processes: 5\nuse_cpu: true\n")
    left_alone(monkeypatch, [str(config) if word == "CONFIG" else word for word in launcher])
    assert processes._asked_of_launcher() == expected


def test_who_is_not_this_processs_launcher_is_not_asked(monkeypatch):
    left_alone(monkeypatch, ["accelerate", "launch", "--num_processes=2"])
    monkeypatch.setattr("sys.argv", ["topics.py", "other"])
    assert processes._asked_of_launcher() is None


def test_machines_meet_where_the_launcher_says(monkeypatch):
    left_alone(monkeypatch, ["accelerate", "launch", "--num_processes=4", "--num_machines=2", "--machine_rank=1"])
    configs = []
    monkeypatch.setattr(
        "torch.distributed.launcher.elastic_launch", lambda config, _: lambda *words: configs.append(config)
    )
    monkeypatch.setattr("logging.disable", lambda level: None)
    with pytest.raises(SystemExit) as end:
        processes.start_all()
    assert not end.value.code
    (config,) = configs
    assert (config.nproc_per_node, config.min_nodes, config.max_nodes, config.max_restarts) == (2, 2, 2, 0)
    assert (config.rdzv_backend, config.rdzv_endpoint) == ("static", "here:29500")
    assert config.rdzv_configs["rank"] == 1


def test_a_process_that_was_started_as_one_of_several_starts_none(monkeypatch):
    left_alone(monkeypatch, ["accelerate", "launch", "--num_processes=4"])
    monkeypatch.setenv("WORLD_SIZE", "4")
    processes.start_all()


def test_a_script_that_is_left_alone_is_told_of_torchrun(monkeypatch, caplog):
    left_alone(monkeypatch, ["accelerate", "launch", "--num_processes=2", "--cpu"])
    monkeypatch.delenv("WORLD_SIZE", raising=False)
    processes._on_cpu.cache_clear()
    assert processes._on_cpu()
    assert "torchrun --nproc-per-node" in caplog.text
    processes._on_cpu.cache_clear()
