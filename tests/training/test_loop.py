import json
import math
import re
from dataclasses import replace
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from accelerate.utils import DistributedType
from torch.nn import functional

from helpers.bars import drawn_bars
from helpers.training import BASE, LABELS, PACES, SEVERAL, Crowded, Tiny, fit, rows, same
from nlptransfer import distributed
from nlptransfer.cache import seal
from nlptransfer.errors import RunFolderError, SettingError, TrainingError
from nlptransfer.models.batching import training_batches
from nlptransfer.training.loop import train
from nlptransfer.training.losses import LabelLoss, Objective
from nlptransfer.training.optimizer import rate_share
from nlptransfer.transfer.joint import JointLoss


def test_one_label_is_learned_and_the_report_tells_how(tmp_path):
    settings = replace(BASE, num_train_epochs=10)
    examples = rows(300)
    frozen = Tiny().frozen.weight.clone()
    model, report = fit(tmp_path, settings, examples=examples)
    assert report.best_score > 0.65
    assert (report.epoch, report.step, report.examples) == (10, 10 * 38, 10 * 300)
    assert [entry["epoch"] for entry in report.history] == list(range(1, 11))
    assert report.history[-1]["loss"] < report.history[0]["loss"] / 2
    assert report.best_score == report.history[report.best_epoch - 1]["score"]
    assert torch.equal(model.frozen.weight, frozen)
    assert not model.training
    json.dumps(vars(report), allow_nan=False)


def test_several_labels_are_learned(tmp_path):
    validation = rows(50, 1, SEVERAL)
    settings = replace(BASE, num_train_epochs=10, label_smoothing=0.1)

    def score(logits):
        return float(((logits > 0) == validation.targets).mean())

    _, report = fit(tmp_path, settings, None, rows(300, 0, SEVERAL), validation, score, SEVERAL, np.array([1, 2, 3]))
    assert report.best_score > 0.65


@pytest.mark.parametrize("clip", [None, 0.05])
def test_steps_are_those_of_a_loop_written_out(tmp_path, clip):
    settings = replace(BASE, optimizer="sgd", max_grad_norm=clip, weight_decay=0.1, l1=0.01, warmup_ratio=0.2)
    examples = rows(37)
    model, report = fit(tmp_path, settings, examples=examples, validation=rows(0))
    plain = Tiny()
    learning = [p for p in plain.parameters() if p.requires_grad]
    speed = {p: torch.zeros_like(p) for p in learning}
    for step, batch in enumerate(b for epoch in range(3) for b in training_batches(np.ones(37), 8, 0, epoch)):
        loss = functional.cross_entropy(
            plain(torch.from_numpy(examples.rows.features[batch])).logits, torch.from_numpy(examples.targets[batch])
        )
        gradients = torch.autograd.grad(loss, learning)
        norm = torch.cat([g.flatten() for g in gradients]).norm()
        with torch.no_grad():
            for p, g in zip(learning, gradients, strict=True):
                g = g * min(1.0, (clip or math.inf) / (norm + 1e-6))
                if p.ndim > 1:
                    g = g + 0.01 * p.sign() + 0.1 * p
                speed[p] = 0.9 * speed[p] + g
                p -= 0.01 * rate_share(settings, step, 15) * speed[p]
    assert report.step == 15
    torch.testing.assert_close(model.state_dict(), plain.state_dict(), atol=1e-6, rtol=1e-5)


STEPS = replace(
    BASE, num_train_epochs=4, optimizer="sgd", lr_scheduler_type="constant", warmup_ratio=0, max_grad_norm=None,
    weight_decay=0,
)  # fmt: skip


def weights_after(steps, folder, settings=STEPS):
    """The weights after so many of 4 steps, each on all rows."""
    model = Tiny(stop_at=steps + 1)
    with pytest.raises(KeyboardInterrupt):
        fit(folder, settings, model, rows(8), rows(0), parameter_groups=PACES)
    return dict(model.named_parameters())


def test_each_parameter_learns_at_its_own_pace(tmp_path):
    plain, examples = Tiny(), rows(8)
    logits = plain(torch.from_numpy(examples.rows.features)).logits
    functional.cross_entropy(logits, torch.from_numpy(examples.targets)).backward()
    found = weights_after(1, tmp_path)
    rates = {"hidden.0.weight": 0.005, "hidden.0.bias": 0.0, "head.weight": 0.0, "head.bias": 0.01}
    for name, rate in rates.items():
        before = plain.get_parameter(name)
        assert before.grad.abs().max() > 0
        torch.testing.assert_close(found[name], before - rate * before.grad, atol=1e-7, rtol=0)


@pytest.mark.parametrize("optimizer", ["adamw", "sgd", "rmsprop", "adafactor"])
def test_a_parameter_whose_start_has_not_come_stays(tmp_path, optimizer):
    settings, begins = replace(STEPS, optimizer=optimizer, weight_decay=0.1), {"hidden.0.bias": 1, "head.weight": 2}
    before = dict(Tiny().named_parameters())
    for steps in (1, 2, 3):
        found = weights_after(steps, tmp_path / str(steps), settings)
        still = {name for name, value in found.items() if torch.equal(value, before[name])}
        late = {name for name, start in begins.items() if steps <= start}
        assert still == {"frozen.weight", "frozen.bias"} | late


OUT_OF_MEMORY = [
    torch.OutOfMemoryError("out of memory"),
    RuntimeError("DefaultCPUAllocator: can't allocate memory: you"),
]


@pytest.mark.parametrize("error", OUT_OF_MEMORY, ids=["accelerator", "processor"])
def test_where_memory_runs_out_smaller_passes_make_the_same_steps(tmp_path, caplog, error):
    asked = replace(BASE, per_device_train_batch_size=8)
    crowded = Crowded(fits=3, error=error)
    _, report = fit(tmp_path / "crowded", asked, crowded)
    small = replace(BASE, per_device_train_batch_size=2, gradient_accumulation_steps=4)
    plain, expected = fit(tmp_path / "plain", small)
    assert same(plain, crowded)
    assert [line.getMessage() for line in caplog.records] == [
        f"out of memory with {rows} rows in one forward pass: on with {fewer} rows and twice as many passes a step"
        for rows, fewer in ((8, 4), (4, 2))
    ]
    assert (report.rows_per_pass, expected.rows_per_pass) == (2, 2)
    assert (report.step, report.examples, report.history) == (expected.step, expected.examples, expected.history)
    assert crowded.sizes[:2] == [8, 4] and max(crowded.sizes[2:]) == 2


def test_what_a_failed_step_had_added_up_is_forgotten(tmp_path):
    settings = replace(BASE, optimizer="sgd", per_device_train_batch_size=4, gradient_accumulation_steps=2)
    plain, _ = fit(tmp_path / "plain", settings, examples=rows(40))
    # The second pass of the third step.
    crowded, report = fit(tmp_path / "crowded", settings, Crowded(fits=2, since=6), rows(40))
    assert (report.rows_per_pass, crowded.sizes[:9]) == (2, [4] * 6 + [2] * 3)
    torch.testing.assert_close(crowded.state_dict(), plain.state_dict(), atol=1e-6, rtol=0)


@pytest.mark.parametrize("error", OUT_OF_MEMORY, ids=["accelerator", "processor"])
def test_where_memory_runs_out_in_validation_its_batches_are_halved(tmp_path, error):
    crowded, report = fit(tmp_path / "crowded", model=Crowded(fits=7, error=error, in_training=False))
    plain, expected = fit(tmp_path / "plain")
    assert same(plain, crowded) and report.history == expected.history
    assert crowded.sizes[:6] == [20, 10, 5, 5, 5, 5] and {*crowded.sizes[6:]} == {5}


def test_an_error_that_is_no_lack_of_memory_goes_on(tmp_path):
    with pytest.raises(RuntimeError, match="another"):
        fit(tmp_path, model=Crowded(error=RuntimeError("another")))


def test_a_row_that_does_not_fit_ends_with_advice(tmp_path):
    with pytest.raises(TrainingError, match="out of memory with 1 rows in one forward pass: take a smaller max_length"):
        fit(tmp_path, model=Crowded(fits=0))


@pytest.mark.parametrize("labels", [LABELS, SEVERAL])
def test_k_batches_of_b_are_one_batch_of_k_times_b(tmp_path, labels):
    examples, weights = rows(37, 0, labels), np.array([0.5, 1.0, 4.0])
    settings = replace(BASE, optimizer="sgd", label_smoothing=0.1)
    ways = (settings, replace(settings, per_device_train_batch_size=2, gradient_accumulation_steps=4))
    one, four = (
        fit(tmp_path / str(i), way, Tiny(), examples, rows(0), None, labels, weights)[0] for i, way in enumerate(ways)
    )
    torch.testing.assert_close(one.state_dict(), four.state_dict(), atol=1e-6, rtol=0)


@pytest.mark.parametrize("name", ["adamw", "adam", "sgd", "rmsprop", "adafactor"])
def test_every_optimizer_learns(tmp_path, name):
    settings = replace(BASE, optimizer=name, num_train_epochs=6, learning_rate=0.1 if name == "adafactor" else 0.01)
    _, report = fit(tmp_path, settings, examples=rows(80))
    assert report.history[-1]["loss"] < report.history[0]["loss"]


def test_l1_makes_weights_small(tmp_path):
    sums = [fit(tmp_path / str(l1), replace(BASE, l1=l1))[0].head.weight.abs().sum() for l1 in (0.0, 0.3)]
    assert sums[1] < 0.9 * sums[0]


def test_the_same_seed_gives_the_same_weights_and_seeds_part_order_from_dropout(tmp_path):
    def trained(**seeds):
        return fit(tmp_path / json.dumps(seeds), replace(BASE, **seeds), Tiny(dropout=0.3))[0]

    first = trained(seed=1)
    torch.rand(3)
    assert same(first, fit(tmp_path / "again", replace(BASE, seed=1), Tiny(dropout=0.3))[0])
    assert same(first, trained(seed=2, init_seed=1, data_seed=1))
    assert not same(first, trained(seed=1, init_seed=2))
    assert not same(first, trained(seed=1, data_seed=2))


def test_training_stops_early_and_keeps_the_best_epochs_weights(tmp_path):
    scores = iter([0.1, 0.5, 0.4, 0.5, 0.3, 0.9])
    settings = replace(BASE, num_train_epochs=9, early_stopping_patience=3)
    model, report = fit(tmp_path / "a", settings, score=lambda _: next(scores))
    assert (report.epoch, report.best_epoch, report.best_score) == (5, 2, 0.5)
    scores = iter([0.1, 0.5, 0.4])
    kept, report = fit(tmp_path / "b", replace(settings, num_train_epochs=9), score=lambda _: next(scores, 0.6))
    assert report.best_epoch == 4
    assert not same(model, kept)
    with pytest.raises(KeyboardInterrupt):
        fit(tmp_path / "c", settings, model=(cut := Tiny(stop_at=11)), score=lambda _: 0.5)
    assert same(model, cut)


def test_the_last_epoch_is_kept_within_a_standard_error_of_the_best_where_its_rate_has_come_down(tmp_path):
    def trained(name, scores, **settings):
        scores = iter(scores)
        return fit(tmp_path / name, replace(BASE, **settings), score=lambda _: next(scores))

    # Of 20 rows: 0.6 +- 0.1095, 0.7 +- 0.1025.
    last, _ = trained("rising", [0.1, 0.2, 0.3])
    model, report = trained("near", [0.5, 0.6, 0.5])
    assert (report.best_epoch, report.best_score) == (3, 0.5)
    assert same(model, last)
    model, report = trained("far", [0.5, 0.7, 0.59])
    assert (report.best_epoch, report.best_score) == (2, 0.7)
    assert not same(model, last)
    assert trained("constant", [0.5, 0.6, 0.5], lr_scheduler_type="constant")[1].best_epoch == 2
    assert trained("stopped", [0.5, 0.6, 0.5], early_stopping_patience=1, num_train_epochs=4)[1].best_epoch == 2
    assert trained("losses", [-0.5, -0.4, -0.41])[1].best_epoch == 2


@pytest.mark.parametrize(("most", "epochs"), [(7, [1, 2]), (5, [1]), (99, [1, 2, 3])])
def test_steps_end_where_they_are_to_also_within_an_epoch(tmp_path, most, epochs):
    examples, rates = rows(37), []
    for name, settings in ("whole", replace(BASE, lr_scheduler_type="constant", warmup_ratio=0)), ("cut", None):
        settings = settings or replace(BASE, lr_scheduler_type="constant", warmup_ratio=0, max_steps=most)
        rates.append(fit(tmp_path / name, settings, examples=examples)[1])
    whole, cut = rates
    assert (cut.step, [entry["epoch"] for entry in cut.history]) == (min(most, whole.step), epochs)
    assert cut.history[: most // 5] == whole.history[: most // 5]


def test_without_validation_rows_the_last_weights_stay(tmp_path):
    model, report = fit(tmp_path / "a", replace(BASE, early_stopping_patience=1), validation=rows(0), score=None)
    assert (report.epoch, report.best_epoch, report.best_score) == (3, 3, None)
    assert "score" not in report.history[0]
    scores = iter([1.0, 2.0, 3.0])
    assert same(model, fit(tmp_path / "b", BASE, score=lambda _: next(scores))[0])


def test_a_loss_that_is_no_number_stops_with_advice(tmp_path):
    examples = rows(37)
    examples.rows.features[5] = np.nan
    with pytest.raises(
        TrainingError, match=r"loss is no longer a number near step \d+: try a lower learning_rate .*0.01"
    ):
        fit(tmp_path, examples=examples)
    validation = rows(9)
    validation.rows.features[0] = np.inf
    with pytest.raises(TrainingError, match="outputs are no longer numbers near step 5: try"):
        fit(tmp_path, validation=validation)
    with pytest.raises(TrainingError, match="finite validation score, found nan: choose another metric_for_best_model"):
        fit(tmp_path, score=lambda _: math.nan)


def test_what_cannot_be_trained_is_refused(tmp_path):
    with pytest.raises(TrainingError, match="expected training rows, found none"):
        fit(tmp_path, examples=rows(0))
    with pytest.raises(TrainingError, match="expected parameters that learn, found all of them frozen"):
        fit(tmp_path, model=Tiny().requires_grad_(False))
    with pytest.raises(SettingError, match="expected num_train_epochs, learning_rate and per_device"):
        fit(tmp_path, replace(BASE, learning_rate=None))
    if not torch.accelerator.is_available():
        with pytest.raises(SettingError, match="mixed_precision='fp16': expected a GPU, found a CPU"):
            fit(tmp_path, replace(BASE, mixed_precision="fp16"))


@pytest.mark.parametrize("kind", ["FSDP", "DEEPSPEED", "MEGATRON_LM"])
def test_weights_are_sharded_in_one_way_alone(kind, tmp_path, monkeypatch):
    made = SimpleNamespace(distributed_type=DistributedType[kind], is_fsdp2=False)
    monkeypatch.setattr(distributed, "Accelerator", lambda **options: made)
    with pytest.raises(SettingError, match=f"asks for {kind}: expected .* or --use_fsdp with --fsdp_version 2"):
        fit(tmp_path, BASE)


def test_tensorboard_gets_losses_rates_and_scores(tmp_path):
    fit(tmp_path, replace(BASE, report_to=("tensorboard",), class_weights={"a": 2.0}))
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    events = EventAccumulator(str(next((tmp_path / "logs").rglob("events.out*")).parent)).Reload()
    assert {"loss", "learning_rate", "epoch_loss", "validation_score"} <= set(events.Tags()["scalars"])
    assert [event.step for event in events.Scalars("validation_score")] == [5, 10, 15]


def test_progress_is_shown_and_is_silent_when_asked(tmp_path, caplog):
    caplog.set_level("INFO", "nlptransfer")
    with drawn_bars() as drawn:
        fit(tmp_path / "a", replace(BASE, progress=True))
    seen = [bars[0] for bars in drawn if len(bars) == 1]
    assert {("epoch 3 of 3", "15 of 15 steps")} <= {(description, count) for description, (count, *_), _ in seen}
    assert all(speed.endswith(" texts/s") for _, (_, speed, _), _ in seen[1:])
    assert [bars[1][0] for bars in drawn if len(bars) == 2] == ["validation"] * 6
    note = r"loss \d\.\d{4}, validation accuracy \d\.\d{4} \(best \d\.\d{4} in epoch \d\)"
    assert re.fullmatch(note, seen[-1][2])
    # The bar is gone, and the log has the last of it.
    assert drawn[-1] == [] and re.search(rf"Trained to epoch 3 of 3 in [\d.]+ s: {note}", caplog.text)
    with drawn_bars() as drawn:
        fit(tmp_path / "b", BASE)
    assert drawn == []


def test_progress_shows_a_score_of_which_less_is_better_as_it_is(tmp_path):
    validation = rows(20, seed=1)
    with drawn_bars() as drawn:
        train(
            Objective(Tiny(), LabelLoss(LABELS)), rows(5), validation, score=lambda logits: -0.5, metric="loss",
            settings=replace(BASE, progress=True), checkpoints=tmp_path / "c",
        )  # fmt: skip
    assert "validation loss 0.5000 (best 0.5000 in epoch 1)" in drawn[-2][0][2]


def test_mlflow_gets_settings_losses_and_scores(tmp_path, monkeypatch):
    mlflow = pytest.importorskip("mlflow")
    monkeypatch.setenv("MLFLOW_TRACKING_URI", (tmp_path / "store").as_uri())
    with pytest.raises(TrainingError, match="report_to=mlflow: expected that it starts, found The filesystem tracking"):
        fit(tmp_path / "refused", replace(BASE, report_to=("mlflow",)))
    monkeypatch.setenv("MLFLOW_ALLOW_FILE_STORE", "true")
    with mlflow.start_run() as outer, pytest.raises(KeyboardInterrupt):
        fit(tmp_path / "stopped", replace(BASE, report_to=("mlflow",)), Tiny(stop_at=8))
    assert mlflow.active_run() is None
    fit(tmp_path / "whole", replace(BASE, report_to=("mlflow",)))
    client = mlflow.MlflowClient()
    whole, stopped = client.search_runs([client.get_experiment_by_name("nlptransfer").experiment_id])
    assert (whole.info.run_name, stopped.info.run_name) == ("whole", "stopped")
    assert stopped.data.tags["mlflow.parentRunId"] == outer.info.run_id and "mlflow.parentRunId" not in whole.data.tags
    assert whole.data.params["learning_rate"] == str(BASE.learning_rate) and whole.data.params["optimizer"] == "adamw"
    scores = client.get_metric_history(whole.info.run_id, "validation_score")
    assert [score.step for score in scores] == [5, 10, 15]
    assert {"loss", "learning_rate", "epoch_loss"} <= whole.data.metrics.keys()


def test_half_precision_trains_and_leaves_a_plain_model(tmp_path):
    model, report = fit(tmp_path, replace(BASE, mixed_precision="bf16", num_train_epochs=6), examples=rows(80))
    assert report.history[-1]["loss"] < report.history[0]["loss"]
    assert model(torch.zeros(1, 6)).logits.dtype == torch.float32
    assert {p.dtype for p in model.parameters()} == {torch.float32}


def test_a_launchers_accumulation_is_not_counted_twice(tmp_path, monkeypatch):
    plain, _ = fit(tmp_path / "a", replace(BASE, optimizer="sgd"))
    monkeypatch.setenv("ACCELERATE_GRADIENT_ACCUMULATION_STEPS", "4")
    assert same(plain, fit(tmp_path / "b", replace(BASE, optimizer="sgd"))[0])


def test_a_checkpoint_of_other_processes_is_refused(tmp_path):
    with pytest.raises(KeyboardInterrupt):
        fit(tmp_path, model=Tiny(stop_at=8))
    saved = next((tmp_path / "checkpoints").glob("step_*")) / "progress.json"
    saved.write_text(saved.read_text().replace('"processes": 1', '"processes": 2'))
    seal(saved.parent)
    with pytest.raises(RunFolderError, match=r"written by 2 processes, found 1: start as many, or .* overwrite"):
        fit(tmp_path)


def test_a_step_takes_a_batch_of_either_role_and_the_smaller_comes_again(tmp_path):
    """The weights are those of alpha * Ls + beta * Lt stepped on in a loop written out."""
    target, source = rows(11), rows(37, seed=4)
    settings = replace(BASE, num_train_epochs=3, per_device_train_batch_size=8, optimizer="sgd", learning_rate=0.1)
    settings = replace(settings, max_grad_norm=None, lr_scheduler_type="constant", warmup_ratio=0.0, weight_decay=0.0)
    weights = np.linspace(0.5, 1.5, 37).astype(np.float32)
    model, criterion = Tiny(), LabelLoss(LABELS)
    objective = JointLoss(model, criterion, criterion, lambda progress: (0.7 * (1 - progress), 2.0))
    report = train(
        objective, target, rows(0), score=lambda logits: 0.0, settings=settings, checkpoints=tmp_path / "c",
        extra=replace(source, weights=weights),
    )  # fmt: skip
    other = Tiny().train()
    optimizer = torch.optim.SGD([p for p in other.parameters() if p.requires_grad], lr=0.1, momentum=0.9)
    sources = [batch for epoch in range(3) for batch in training_batches(np.ones(37), 8, 0, epoch)]
    targets = [batch for epoch in range(8) for batch in training_batches(np.ones(11), 8, 0, epoch)][:15]
    # Five batches of the source an epoch; two of the target, which come again.
    assert report.step == 15 and report.examples == 3 * 37 + sum(map(len, targets))
    for step, (of_source, of_target) in enumerate(zip(sources, targets, strict=True)):
        loss = 0.0
        for share, examples, places, weigh in (
            (0.7 * (1 - step / 15), source, of_source, weights[of_source]),
            (2.0, target, of_target, np.ones(len(of_target), np.float32)),
        ):
            logits = other(torch.from_numpy(examples.rows.features[places])).logits
            losses = functional.cross_entropy(logits, torch.from_numpy(examples.targets[places]), reduction="none")
            loss = loss + share * (losses * torch.from_numpy(weigh)).sum() / float(weigh.sum())
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    torch.testing.assert_close(model.state_dict(), other.state_dict(), atol=1e-6, rtol=1e-5)


def test_both_roles_need_rows(tmp_path):
    objective = JointLoss(Tiny(), LabelLoss(LABELS), LabelLoss(LABELS), lambda progress: (1.0, 1.0))
    with pytest.raises(TrainingError, match="expected training rows, found none"):
        train(
            objective, rows(5), rows(5), score=lambda logits: 0.0, settings=BASE, checkpoints=tmp_path / "c",
            extra=rows(0),
        )  # fmt: skip
