"""train(): the only loop. It knows objectives and rows, no route and no transfer."""

import logging
import math
import shutil
import time
from collections.abc import Callable, Mapping
from contextlib import nullcontext
from copy import deepcopy
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import cast

import numpy as np
import torch
from accelerate import Accelerator
from accelerate.state import AcceleratorState, is_initialized
from accelerate.utils import set_seed
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn
from safetensors.torch import load_file, save_file
from torch import Tensor
from torch.distributed.tensor import DTensor, distribute_tensor

from nlptransfer import distributed
from nlptransfer.errors import RunFolderError, SettingError, TrainingError
from nlptransfer.files import read_json, write_json
from nlptransfer.models import (
    Examples,
    compute,
    endless_batches,
    fast,
    first_token_alone,
    forget,
    rows_of_texts,
    tokens_of_texts,
)
from nlptransfer.training.losses import SOURCE, TARGET, BatchTargets, Objective
from nlptransfer.training.optimizer import (
    ParameterGroup,
    TrainingSettings,
    decays,
    has_settled,
    make_optimizer,
    rate_share,
)

log = logging.getLogger("nlptransfer")

LOSS_CHECK_STEPS = 10
"""The loss is read, shown and checked for NaN every so many steps: reading it makes a GPU wait."""


@dataclass
class TrainingReport:
    """How the training went; all that a resumed run has to know besides weights."""

    epoch: int = 0
    """epochs finished"""
    batch: int = 0
    """batches finished of the epoch that is going on"""
    step: int = 0
    """optimizer steps taken"""
    best_epoch: int = 0
    """the epoch that scored best so far; at the end the one whose weights are kept"""
    best_score: float | None = None
    """its validation score"""
    seconds: float = 0.0
    """time spent, validation included, over all resumes"""
    examples: int = 0
    """training texts seen, each epoch anew"""
    rows_per_pass: int = 0
    """rows of one forward pass on one process; fewer than asked where memory ran out"""
    rehearsed: int = 0
    """tokens of the largest step, padding counted, that is known to fit in every process's memory"""
    loss_sum: float = 0.0
    """sum of this epoch's step losses so far"""
    history: list[dict[str, float]] = field(default_factory=list)
    """one entry an epoch: epoch, loss, learning_rate, and score where there are validation rows"""


def train(
    objective: Objective,
    examples: Examples,
    validation: Examples,
    judge: Callable[[np.ndarray], float],
    settings: TrainingSettings,
    checkpoints: Path,
    parameter_groups: Mapping[str, ParameterGroup] | None = None,
    beside: Examples | None = None,
    roles: tuple[str, str] = (TARGET, SOURCE),
) -> TrainingReport:
    """Minimize the objective over the examples; leave the best epoch's weights in the model.

    That is the one that scores best on validation; of scores within a standard error the last, its rate come down.

    With the same settings, seed and number of processes the same weights come out, also where the run was cut off
    and resumed on the way (bit for bit on a CPU).

    Args:
        objective: holds the model; what requires a gradient in it is trained.
        examples: training rows.
        validation: rows whose logits are judged after each epoch; without any, the last epoch's weights stay.
        judge: logits (rows, labels) -> score, higher is better; the same on every process.
        settings: with no None left among epochs, rate and batch size.
        checkpoints: folder for what a resume needs, shared by all processes; a checkpoint in it is gone on with.
        parameter_groups: of the parameters that learn slower or later than the others, by their names in the model.
        beside: rows of a second role: each step takes a batch of either role, an epoch passes over the larger of
            both, and the smaller comes again and again, in a new order each time.
        roles: of ``examples``, and of ``beside``.

    Raises:
        SettingError: a setting that makes no sense or does not fit the machine.
        TrainingError: no rows, nothing that learns, or a loss or score that is not a number.
        RunFolderError: the checkpoint was written by another number of processes.
    """
    given = {roles[0]: examples} | ({} if beside is None else {roles[1]: beside})
    return _Loop(objective, given, validation, judge, settings, checkpoints, parameter_groups or {}).run()


class _Loop:
    """The state of one training."""

    def __init__(
        self,
        objective: Objective,
        roles: Mapping[str, Examples],
        validation: Examples,
        judge: Callable[[np.ndarray], float],
        settings: TrainingSettings,
        checkpoints: Path,
        parameter_groups: Mapping[str, ParameterGroup],
    ) -> None:
        if not settings.num_train_epochs or not settings.learning_rate or not settings.per_device_train_batch_size:
            raise SettingError("expected num_train_epochs, learning_rate and per_device_train_batch_size to be set")
        settings.check()
        if not all(len(examples.rows) for examples in roles.values()):
            raise TrainingError("expected training rows, found none")
        self.settings, self.validation, self.judge, self.checkpoints = settings, validation, judge, checkpoints
        # A step is of so many texts, with all their windows: else what a step weighs would depend on their number.
        self.roles = {role: examples.by_row for role, examples in roles.items()}
        self.texts = {role: tokens_of_texts(examples.rows) for role, examples in roles.items()}
        self.epochs, self.rate = settings.num_train_epochs, settings.learning_rate
        if is_initialized() and AcceleratorState().mixed_precision != settings.mixed_precision:
            forget(AcceleratorState)
        self.accelerator = distributed.accelerator(settings.mixed_precision, settings.report_to, checkpoints.parent)
        self.micro_rows = settings.per_device_train_batch_size * self.accelerator.num_processes
        self.step_rows = self.micro_rows * settings.gradient_accumulation_steps
        self.epoch_steps = max(math.ceil(len(tokens) / self.step_rows) for tokens in self.texts.values())
        self.steps = self.epochs * self.epoch_steps
        self.lengths = {role: examples.rows.lengths for role, examples in self.roles.items()}
        device = self.accelerator.device
        objective.to(device)
        self.row_weights = {role: _row_weights(objective, role, own, device) for role, own in self.roles.items()}
        self.plain = objective
        if self.accelerator.is_fsdp2 and not objective.can_be_sharded:
            raise SettingError("l2_sp: expected whole weights on every process, found shards: leave out --use_fsdp")
        # Sharding takes a module's weights apart: a copy is trained then, and what it learns comes back whole.
        self.trained = deepcopy(objective) if self.accelerator.is_fsdp2 else objective
        optimizer = make_optimizer(self.trained, settings, parameter_groups)
        self.objective, self.optimizer = self.accelerator.prepare(self.trained, optimizer)
        self.learning = [parameter for parameter in self.trained.parameters() if parameter.requires_grad]
        self.accelerator.register_save_state_pre_hook(_drop_frozen)
        self.report = TrainingReport(rows_per_pass=settings.per_device_train_batch_size)
        self.best: dict[str, Tensor] = {}
        set_seed(settings.seed if settings.init_seed is None else settings.init_seed, device_specific=True)

    def run(self) -> TrainingReport:
        self._resume()
        if self.settings.report_to:
            self.accelerator.init_trackers("nlptransfer", config=self.settings.flat())
        with self._bar() as bar, fast(self.trained), first_token_alone(self.trained.model):
            task = bar.add_task("training", total=self.steps, completed=self.report.step, note="")

            def show(note: str | None) -> None:
                bar.update(task, completed=self.report.step)
                if note:
                    bar.update(task, note=note)

            while self.report.epoch < self.epochs and not self._out_of_patience():
                self._epoch(show)
        scores = [entry["score"] for entry in self.report.history if "score" in entry]
        if scores and has_settled(self.settings, scores, len(self.validation.targets)):
            self.report.best_epoch, self.report.best_score = self.report.epoch, self.report.history[-1]["score"]
        elif self.best:
            self.trained.load_state_dict(self.best, strict=False)
        if self.trained is not self.plain:
            self.plain.load_state_dict(self._whole(learned_state(self.trained)), strict=False)
            self.plain.to(self.accelerator.device)
        # Not end_training(): that takes down the process group, which evaluation still needs.
        for tracker in self.accelerator.trackers:
            tracker.finish()
        self.plain.eval()
        if self.accelerator.device.type != "cpu":
            # It looks through all that Python holds.
            self.accelerator.free_memory()
        return self.report

    def _epoch(self, show: Callable[[str | None], None]) -> None:
        report, settings = self.report, self.settings
        data_seed = settings.seed if settings.data_seed is None else settings.data_seed
        first = report.epoch * self.epoch_steps
        plan = [
            dict(zip(self.roles, texts, strict=True))
            for texts in zip(
                *(
                    endless_batches(self.texts[role], self.step_rows, data_seed, first, self.epoch_steps)
                    for role in self.roles
                ),
                strict=True,
            )
        ]
        self.objective.train()
        started = time.perf_counter()
        waiting: list[Tensor] = []
        for texts in plan[report.batch :]:
            waiting.append(self._step({role: rows_of_texts(self.roles[role].rows, own) for role, own in texts.items()}))
            report.step, report.batch = report.step + 1, report.batch + 1
            report.examples += sum(map(len, texts.values()))
            last, save = report.batch == len(plan), report.step % settings.save_steps == 0
            show(None)
            if last or save or len(waiting) == LOSS_CHECK_STEPS:
                self._read_losses(waiting)
                show(self._note())
            if save and not last:
                started = self._clock(started)
                self._save()
        loss = report.loss_sum / len(plan)
        report.epoch, report.batch, report.loss_sum = report.epoch + 1, 0, 0.0
        self._validate(loss)
        self._clock(started)
        show(self._note())
        if settings.save_epochs and report.epoch < self.epochs:
            self._save()

    def _step(self, rows: dict[str, np.ndarray]) -> Tensor:
        """One step of the optimizer on the rows of all processes; returns this process's share of the loss."""
        self._set_rate()
        self._rehearse(rows)
        while True:
            try:
                loss = self._backward(rows)
                break
            except torch.OutOfMemoryError as error:
                if self.accelerator.num_processes > 1:
                    # The other processes wait inside the step by now, and cannot be told.
                    raise self._too_small() from error
                self._halve(error)
        if self.settings.max_grad_norm is not None:
            self.accelerator.clip_grad_norm_(self.learning, self.settings.max_grad_norm)
        elif self.settings.l1:
            self.accelerator.unscale_gradients()
        if self.settings.l1:
            for parameter in self.learning:
                if decays(parameter) and parameter.grad is not None:
                    parameter.grad.add_(parameter.detach().sign(), alpha=self.settings.l1)
        self.optimizer.step()
        self.optimizer.zero_grad()
        return loss

    def _rehearse(self, rows: dict[str, np.ndarray]) -> None:
        """Halve the passes of all processes where one of them lacks the memory for the largest step so far."""
        size = max(len(places) * int(self.lengths[role][places].max()) for role, places in rows.items())
        if size <= self.report.rehearsed or not _rehearses(self.accelerator):
            return
        while True:
            failed: torch.OutOfMemoryError | None = None
            try:
                self._backward(rows, meet=False)
            except torch.OutOfMemoryError as error:
                failed = error
            self.optimizer.zero_grad()
            if not int(self.accelerator.reduce(torch.tensor(int(failed is not None), device=self.accelerator.device))):
                break
            self._halve(failed)
        self.report.rehearsed = size

    def _backward(self, rows: dict[str, np.ndarray], *, meet: bool = True) -> Tensor:
        """The gradients of a step, added up over forward passes; returns this process's share of the loss.

        Args:
            rows: of each role.
            meet: whether the gradients of all processes are averaged.
        """
        passes = self._passes(rows)
        total = {role: float(self.row_weights[role][places].sum()) for role, places in rows.items()}
        loss = torch.zeros((), device=self.accelerator.device)
        for number, some in enumerate(passes, start=1):
            waits = meet and number < len(passes)
            with self.accelerator.no_sync(self.objective) if waits else nullcontext():
                given = {role: self._given(role, places, total[role]) for role, places in some.items()}
                inputs, batch = ({role: pair[part] for role, pair in given.items()} for part in (0, 1))
                objective = self.objective if meet else self.trained
                part = objective(inputs, batch) if self.plain.together else objective(*given[next(iter(some))])
                # Processes' gradients are averaged, and the loss is a sum over all rows.
                self.accelerator.backward(part * self.accelerator.num_processes)
            loss += part.detach()
        return loss

    def _passes(self, rows: Mapping[str, np.ndarray]) -> list[dict[str, np.ndarray]]:
        """The rows of a step by forward pass: of one role each, or of all roles in as many parts."""
        if self.plain.together:
            parts = max(math.ceil(len(places) / self.micro_rows) for places in rows.values())
            parts = min(parts, *map(len, rows.values()))
            split = {role: np.array_split(places, parts) for role, places in rows.items()}
            return [{role: split[role][part] for role in rows} for part in range(parts)]
        return [
            {role: places[start : start + self.micro_rows]}
            for role, places in rows.items()
            for start in range(0, len(places), self.micro_rows)
        ]

    def _given(self, role: str, places: np.ndarray, total: float) -> tuple[dict[str, Tensor], BatchTargets]:
        """What this process takes of some rows of one role in a forward pass, and how they are judged."""
        device, examples = self.accelerator.device, self.roles[role]
        mine = places[self.accelerator.process_index :: self.accelerator.num_processes]
        # Where a process has no row left it still takes part, with a row that weighs nothing.
        share = mine if len(mine) else places[:1]
        inputs = {name: value.to(device) for name, value in examples.rows.batch(share).items()}
        targets = torch.from_numpy(examples.targets[share]).to(device)
        weights = None if examples.weights is None else torch.from_numpy(examples.weights[share]).to(device)
        progress = self.report.step / self.steps
        return inputs, BatchTargets(targets, total if len(mine) else math.inf, weights, role, progress)

    def _halve(self, error: torch.OutOfMemoryError | None) -> None:
        """Take half as many rows in one forward pass from here on, and twice as many passes: the same step.

        Args:
            error: of this process, where it is the one that ran out.
        """
        rows = self.report.rows_per_pass
        if rows < 2:
            raise self._too_small() from error
        self.report.rows_per_pass = rows // 2
        self.micro_rows = self.report.rows_per_pass * self.accelerator.num_processes
        if self.accelerator.is_main_process:
            log.warning(
                "out of memory with %d rows in one forward pass: on with %d rows and twice as many passes a step",
                rows,
                rows // 2,
            )
        self.optimizer.zero_grad()
        if error is not None:
            # What the failed pass holds must go before the memory is free.
            error.__traceback__ = None
        if torch.accelerator.is_available():
            torch.accelerator.empty_cache()

    def _too_small(self) -> TrainingError:
        rows, passes = self.report.rows_per_pass, self.settings.gradient_accumulation_steps * 2
        advice = f"per_device_train_batch_size={rows // 2} with gradient_accumulation_steps={passes}, "
        return TrainingError(
            f"out of memory with {rows} rows in one forward pass: take {advice if rows > 1 else ''}a smaller "
            "max_length, gradient_checkpointing or a smaller base"
        )

    def _set_rate(self) -> None:
        share = rate_share(self.settings, self.report.step, self.steps)
        for group in self.optimizer.param_groups:
            begun = self.report.step >= group["start"] * self.steps
            group["lr"] = self.rate * share * group["rate"] if begun else 0.0

    def _rate(self) -> float:
        return float(max(group["lr"] for group in self.optimizer.param_groups))

    def _read_losses(self, waiting: list[Tensor]) -> None:
        losses = self.accelerator.reduce(torch.stack(waiting), reduction="sum")
        waiting.clear()
        if not bool(torch.isfinite(losses).all()):
            raise self._diverged("the loss is no longer a number")
        self.report.loss_sum += float(losses.sum())
        if self.settings.report_to:
            values = {"loss": float(losses[-1]), "learning_rate": self._rate()}
            self.accelerator.log(values, step=self.report.step)

    def _diverged(self, what: str) -> TrainingError:
        return TrainingError(
            f"{what} near step {self.report.step}: try a lower learning_rate (it is {self.rate:g}), a longer "
            "warmup_ratio, a smaller max_grad_norm, or mixed_precision=no"
        )

    def _validate(self, loss: float) -> None:
        report = self.report
        entry = {"epoch": report.epoch, "loss": loss, "learning_rate": self._rate(), **self.trained.notes()}
        report.history.append(entry)
        if not len(self.validation.rows):
            report.best_epoch = report.epoch
            return
        logits = compute(self.trained, self.trained, self.validation.rows, share=True)
        if not np.isfinite(logits).all():
            raise self._diverged("the model's outputs are no longer numbers")
        score = entry["score"] = float(self.judge(logits))
        if not math.isfinite(score):
            raise TrainingError(
                f"expected a finite validation score, found {score}: choose another metric_for_best_model"
            )
        if self.settings.report_to:
            self.accelerator.log({"epoch_loss": loss, "validation_score": score}, step=report.step)
        if report.best_score is None or score > report.best_score:
            report.best_score, report.best_epoch = score, report.epoch
            self.best = {name: value.detach().clone() for name, value in learned_state(self.trained).items()}

    def _out_of_patience(self) -> bool:
        patience = self.settings.early_stopping_patience
        return patience is not None and self.report.epoch - self.report.best_epoch >= patience

    def _clock(self, started: float) -> float:
        now = time.perf_counter()
        self.report.seconds += now - started
        return now

    def _save(self) -> None:
        """Write a checkpoint under a temporary name, rename it, and remove the one before."""
        writing = self.checkpoints / "writing"
        best = self._whole(self.best)
        if self.accelerator.is_main_process:
            shutil.rmtree(writing, ignore_errors=True)
            writing.mkdir(parents=True)
            progress = {"processes": self.accelerator.num_processes, **asdict(self.report)}
            write_json(writing / "progress.json", progress)
            if best:
                save_file({name: value.contiguous() for name, value in best.items()}, writing / "best.safetensors")
        self.accelerator.wait_for_everyone()
        self.accelerator.save_state(str(writing))
        self.accelerator.wait_for_everyone()
        if self.accelerator.is_main_process:
            older = _saved(self.checkpoints)
            writing.rename(self.checkpoints / f"step_{self.report.step:08d}")
            for folder in older:
                shutil.rmtree(folder)

    def _whole(self, state: dict[str, Tensor]) -> dict[str, Tensor]:
        """The tensors with their shards put together; all processes call this."""
        return {
            name: cast(DTensor, value.to(self.accelerator.device)).full_tensor()
            if isinstance(value, DTensor)
            else value
            for name, value in state.items()
        }

    def _resume(self) -> None:
        saved = _saved(self.checkpoints)
        if not saved:
            return
        progress = read_json(saved[-1] / "progress.json")
        if (writers := progress.pop("processes")) != self.accelerator.num_processes:
            raise RunFolderError(
                f"{self.checkpoints.parent}: its checkpoint was written by {writers} processes, found "
                f"{self.accelerator.num_processes}: start as many, or begin anew with overwrite"
            )
        self.report = TrainingReport(**progress)
        self.micro_rows = self.report.rows_per_pass * writers
        # Frozen weights are not in a checkpoint: the model has them already.
        self.accelerator.load_state(str(saved[-1]), strict=False)
        best = saved[-1] / "best.safetensors"
        found, device = load_file(best) if best.exists() else {}, self.accelerator.device
        shards = self.trained.state_dict()
        self.best = {name: _sharded_as(shards[name], value.to(device)) for name, value in found.items()}

    def _bar(self) -> Progress:
        return Progress(
            BarColumn(bar_width=12),
            MofNCompleteColumn(),
            TimeRemainingColumn(),
            TextColumn("{task.fields[note]}"),
            console=Console(stderr=True),
            disable=not (self.settings.progress and self.accelerator.is_main_process),
        )

    def _note(self) -> str:
        report = self.report
        loss = report.loss_sum / report.batch if report.batch else report.history[-1]["loss"]
        last = next((entry["score"] for entry in reversed(report.history) if "score" in entry), None)
        score = "" if last is None else f" score {last:.4f} best {report.best_score:.4f}"
        # Short enough for 80 columns.
        return f"epoch {report.epoch + (report.batch > 0)}/{self.epochs} loss {loss:.4f}{score}"


def _row_weights(objective: Objective, role: str, examples: Examples, device: torch.device) -> np.ndarray:
    """(rows,) float64: what each row weighs, by its class and by itself."""
    weights = objective.row_weights(torch.from_numpy(examples.targets).to(device), role).double().cpu().numpy()
    return weights if examples.weights is None else weights * examples.weights


def _rehearses(accelerator: Accelerator) -> bool:
    # A processor's memory does not run out with an error; and processes with shards of the weights wait for each other
    # inside every layer.
    return (
        accelerator.num_processes > 1
        and accelerator.device.type != "cpu"
        and accelerator.distributed_type in distributed.TOGETHER
    )


def _saved(checkpoints: Path) -> list[Path]:
    return sorted(checkpoints.glob("step_*"))


def learned_state(module: torch.nn.Module) -> dict[str, Tensor]:
    """What training changes: all of the state but frozen parameters (running means count); what has two names, once."""
    every = dict(module.named_parameters(remove_duplicate=False))
    first = dict(module.named_parameters())
    left = {name for name, value in every.items() if name not in first or not value.requires_grad}
    return {name: value for name, value in module.state_dict().items() if name not in left}


def _sharded_as(like: Tensor, whole: Tensor) -> Tensor:
    return distribute_tensor(whole, like.device_mesh, like.placements) if isinstance(like, DTensor) else whole


def _drop_frozen(models: list[torch.nn.Module], weights: list[dict[str, Tensor]], _: str) -> None:
    # Of sharded models there are none here: their weights are already written.
    for model, state in zip(models, weights, strict=False):
        learned = learned_state(model)
        for name in [name for name in state if name not in learned]:
            del state[name]
