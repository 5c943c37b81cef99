"""train(): the only loop. It knows objectives and rows, no route and no transfer."""

import logging
import math
import shutil
import sys
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, nullcontext
from copy import deepcopy
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import cast

import numpy as np
import torch
from accelerate import Accelerator
from accelerate.state import AcceleratorState, is_initialized
from accelerate.utils import set_seed
from safetensors.torch import load_file, save_file
from torch import Tensor
from torch.distributed.tensor import DTensor, distribute_tensor

from nlptransfer import distributed
from nlptransfer.cache import open_entry, remove, seal
from nlptransfer.errors import RunFolderError, SettingError, StorageError, TrainingError, first_line
from nlptransfer.evaluation import higher_is_better
from nlptransfer.files import read_json, write_json
from nlptransfer.models import (
    Examples,
    UsedRows,
    compute,
    endless_batches,
    fast,
    first_token_alone,
    forget,
    is_out_of_memory,
    release,
    rows_of_texts,
    tokens_of_texts,
    used_rows,
)
from nlptransfer.progress import no_progress, progress_bar
from nlptransfer.storage import is_refusal, storage_errors
from nlptransfer.training.losses import SOURCE, TARGET, BatchTargets, Objective
from nlptransfer.training.optimizer import (
    ParameterGroup,
    TrainingSettings,
    decays,
    finite_score,
    has_settled,
    make_optimizer,
    rate_share,
)

log = logging.getLogger("nlptransfer")

LOSS_CHECK_STEPS = 10
"""Steps between readings of the loss, which is then shown and checked for NaN: reading it makes a GPU wait."""


@dataclass
class TrainingReport:
    """How the training went; all that a resumed run has to know besides weights."""

    epoch: int = 0
    """epochs finished"""
    batch: int = 0
    """batches finished of the current epoch"""
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
    """rows of one forward pass on one process; fewer than in the settings where memory ran out"""
    rehearsed: int = 0
    """tokens, with padding, of the largest step that is known to fit in every process's memory"""
    loss_sum: float = 0.0
    """sum of this epoch's step losses so far"""
    history: list[dict[str, float]] = field(default_factory=list)
    """one entry an epoch: epoch, loss, learning_rate, and score where there are validation rows"""


def train(
    objective: Objective,
    examples: Examples,
    validation: Examples,
    *,
    score: Callable[[np.ndarray], float],
    metric: str | None = None,
    settings: TrainingSettings,
    checkpoints: Path,
    parameter_groups: Mapping[str, ParameterGroup] | None = None,
    extra: Examples | None = None,
    roles: tuple[str, str] = (TARGET, SOURCE),
) -> TrainingReport:
    """Minimize the objective over the examples; leave the best epoch's weights in the model.

    The best epoch scores highest; within a standard error it is the last one, whose rate has come down. The same
    settings, seed and number of processes give the same weights, also over a resume (bit for bit on a CPU).

    Args:
        objective: holds the model; what requires a gradient in it is trained.
        validation: rows whose logits are scored after each epoch; without any, the last epoch's weights stay.
        score: logits (rows, labels) -> score, higher is better; the same on every process.
        metric: its name among the scores of ``evaluation``, for the progress.
        settings: with epochs, rate and batch size set.
        checkpoints: folder for what a resume needs, shared by all processes; training goes on from a checkpoint in it.
        parameter_groups: of the parameters that learn slower or later than the others, by their names in the model.
        extra: rows of a second role: each step takes a batch of both, and an epoch repeats the smaller one.
        roles: of ``examples``, and of ``extra``.

    Raises:
        SettingError: a setting that makes no sense or does not fit the machine.
        TrainingError: no rows, nothing that learns, or a loss or score that is not a number.
        RunFolderError: the checkpoint was written by another number of processes.
    """
    by_role = {roles[0]: examples} | ({} if extra is None else {roles[1]: extra})
    objective.to(distributed.state().device)
    rows = [of_role.rows for of_role in by_role.values()]
    needs_all = _needs_all_rows(objective, settings)
    # What follows a training (report_to) writes beside its checkpoints.
    with storage_errors(checkpoints.parent), used_rows(objective.model, rows, needs_all) as embeddings:
        loop = _Loop(objective, by_role, validation, score, settings, checkpoints, parameter_groups, embeddings)
        return loop.run(metric)


def _needs_all_rows(objective: Objective, settings: TrainingSettings) -> str | None:
    """Return why all rows of the word embeddings must learn, also those that get no gradient; None: need not."""
    if objective.needs_all_embeddings:
        return "what is learned is about all of them"
    if settings.optimizer == "adafactor":
        return "adafactor scales a row's steps by those of others"
    if settings.l1 or (settings.weight_decay and settings.optimizer != "adamw"):
        return f"{'l1' if settings.l1 else f'weight_decay of {settings.optimizer}'} moves rows without a gradient, too"
    return "weights are sharded" if distributed.shards_weights() else None


class _Loop:
    def __init__(
        self,
        objective: Objective,
        examples: Mapping[str, Examples],
        validation: Examples,
        score: Callable[[np.ndarray], float],
        settings: TrainingSettings,
        checkpoints: Path,
        parameter_groups: Mapping[str, ParameterGroup] | None,
        embeddings: UsedRows | None,
    ) -> None:
        if not settings.num_train_epochs or not settings.learning_rate or not settings.per_device_train_batch_size:
            raise SettingError("expected num_train_epochs, learning_rate and per_device_train_batch_size to be set")
        settings.check()
        if not all(len(of_role.rows) for of_role in examples.values()):
            raise TrainingError("expected training rows, found none")
        self.settings, self.validation, self.score, self.checkpoints = settings, validation, score, checkpoints
        # A step takes a number of texts, with all their windows: else its weight would depend on how long they are.
        self.examples = {role: of_role.by_row for role, of_role in examples.items()}
        self.tokens = {role: tokens_of_texts(of_role.rows) for role, of_role in examples.items()}
        self.epochs, self.rate = settings.num_train_epochs, settings.learning_rate
        if is_initialized() and AcceleratorState().mixed_precision != settings.mixed_precision:
            forget(AcceleratorState)
        logs = checkpoints.parent / "logs" / checkpoints.name.partition("_")[2]
        self.accelerator = distributed.accelerator(settings.mixed_precision, settings.report_to, logs)
        self.device, self.processes = self.accelerator.device, int(self.accelerator.num_processes)
        self.report = TrainingReport(rows_per_pass=settings.per_device_train_batch_size)
        self.step_rows = self.pass_rows * settings.gradient_accumulation_steps
        self.epoch_steps = max(math.ceil(len(tokens) / self.step_rows) for tokens in self.tokens.values())
        self.steps = min(self.epochs * self.epoch_steps, settings.max_steps or sys.maxsize)
        self.row_weights = {
            role: _row_weights(objective, role, rows, self.device) for role, rows in self.examples.items()
        }
        self.whole = objective
        if self.accelerator.is_fsdp2 and not objective.can_be_sharded:
            raise SettingError("l2_sp: expected whole weights on every process, found shards: leave out --use_fsdp")
        # Sharding takes a module's weights apart: a copy is trained then, and its weights are put together at the end.
        self.trained = deepcopy(objective) if self.accelerator.is_fsdp2 else objective
        optimizer = make_optimizer(self.trained, settings, parameter_groups)
        self.objective, self.optimizer = self.accelerator.prepare(self.trained, optimizer)
        self.learning = [parameter for parameter in self.trained.parameters() if parameter.requires_grad]
        self.embeddings = embeddings
        self.accelerator.register_save_state_pre_hook(_drop_frozen)
        self.best: dict[str, Tensor] = {}
        set_seed(settings.initialization_seed, device_specific=True)

    @property
    def pass_rows(self) -> int:
        return self.report.rows_per_pass * self.processes

    def run(self, metric: str | None) -> TrainingReport:
        self._resume()
        self.metric = metric
        with (
            self._tracked(),
            no_progress(not self.settings.progress),
            progress_bar("training", self.steps, "steps", self.report.step) as self.bar,
            fast(self.trained),
            first_token_alone(self.trained.model),
        ):
            patience = self.settings.early_stopping_patience or self.epochs
            while self.report.step < self.steps and self.report.epoch - self.report.best_epoch < patience:
                self._epoch()
        if self.accelerator.is_main_process:
            log.info("Trained to %s in %.1f s: %s", self.bar.description, self.report.seconds, self.bar.note)
        scores = [entry["score"] for entry in self.report.history if "score" in entry]
        if scores and has_settled(self.settings, scores, len(self.validation.targets)):
            self.report.best_epoch, self.report.best_score = self.report.epoch, scores[-1]
        elif self.best:
            self.trained.load_state_dict(self.best, strict=False)
        if self.trained is not self.whole:
            self.whole.load_state_dict(self._gathered(learned_state(self.trained)), strict=False)
            self.whole.to(self.device)
        self.whole.eval()
        if self.device.type != "cpu":
            # It looks through all that Python holds.
            self.accelerator.free_memory()
        return self.report

    @contextmanager
    def _tracked(self) -> Iterator[None]:
        """Let the trackers follow this block; a TrainingError where one does not start."""
        name = f"{self.checkpoints.parent.name} {self.checkpoints.name.partition('_')[2]}".strip()
        # Within a run of the caller's, if there is one.
        options = {"mlflow": {"run_name": name, "nested_run": True}}
        try:
            self.accelerator.init_trackers("nlptransfer", self.settings.flat(), options)
        except Exception as error:  # each has kinds of its own
            if is_refusal(error):
                raise
            trackers = ", ".join(self.settings.report_to)
            raise TrainingError(f"report_to={trackers}: expected that it starts, found {first_line(error)}") from error
        try:
            yield
        finally:
            # Not end_training(): that takes down the process group, which evaluation still needs.
            for tracker in self.accelerator.trackers:
                tracker.finish()

    def _epoch(self) -> None:
        report, settings = self.report, self.settings
        first = report.epoch * self.epoch_steps
        batches = {
            role: endless_batches(tokens, self.step_rows, settings.order_seed, first, self.epoch_steps)
            for role, tokens in self.tokens.items()
        }
        self.objective.train()
        self.started = time.perf_counter()
        losses: list[Tensor] = []
        while report.batch < self.epoch_steps and report.step < self.steps:
            texts = {role: of_role[report.batch] for role, of_role in batches.items()}
            rows = {role: rows_of_texts(self.examples[role].rows, places) for role, places in texts.items()}
            losses.append(self._step(rows))
            report.step, report.batch = report.step + 1, report.batch + 1
            step_texts = sum(map(len, texts.values()))
            report.examples += step_texts
            self.bar.advance(texts=step_texts)
            is_last, saves = report.batch == self.epoch_steps, report.step % settings.save_steps == 0
            is_last |= report.step == self.steps
            if is_last or saves or len(losses) == LOSS_CHECK_STEPS:
                self._read_losses(losses)
                losses = []
            if saves and not is_last:
                self._save()
        loss = report.loss_sum / report.batch
        report.epoch, report.batch, report.loss_sum = report.epoch + 1, 0, 0.0
        self._validate(loss)
        self._show(loss)
        self._clock()
        if settings.save_epochs and report.step < self.steps:
            self._save()

    def _step(self, rows: Mapping[str, np.ndarray]) -> Tensor:
        """Take one step of the optimizer on the rows of all processes, and return this process's share of the loss."""
        share = rate_share(self.settings, self.report.step, self.steps)
        for group in self.optimizer.param_groups:
            has_begun = self.report.step >= group["start"] * self.steps
            group["lr"] = self.rate * share * group["rate"] if has_begun else 0.0
        self._rehearse(rows)
        while True:
            try:
                loss = self._backward(rows)
                break
            except Exception as error:
                if not is_out_of_memory(error):
                    raise
                if self.processes > 1:
                    # The other processes wait inside the step by now, and cannot be told.
                    raise self._out_of_memory() from error
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
        self._decay_unused_rows()
        self.optimizer.zero_grad()
        return loss

    def _decay_unused_rows(self) -> None:
        """Decay the rows of the word embeddings that get no gradient as AdamW decays them."""
        if self.embeddings is None or self.optimizer.step_was_skipped:
            return
        weight = self.embeddings.weight
        group = next(one for one in self.optimizer.param_groups if any(value is weight for value in one["params"]))
        self.embeddings.decay.mul_(1 - group["lr"] * group["weight_decay"])

    def _rehearse(self, rows: Mapping[str, np.ndarray]) -> None:
        """Halve the passes of all processes where one of them lacks the memory for the largest step so far."""
        size = max(len(places) * int(self.examples[role].rows.lengths[places].max()) for role, places in rows.items())
        if size <= self.report.rehearsed or not _rehearses(self.accelerator):
            return
        while True:
            failed: Exception | None = None
            try:
                self._backward(rows, meet=False)
            except Exception as error:
                if not is_out_of_memory(error):
                    raise
                failed = error
            self.optimizer.zero_grad()
            if not int(self.accelerator.reduce(torch.tensor(int(failed is not None), device=self.device))):
                break
            self._halve(failed)
        self.report.rehearsed = size

    def _backward(self, rows: Mapping[str, np.ndarray], *, meet: bool = True) -> Tensor:
        """Add up the gradients of a step over forward passes; they are averaged over processes if they meet."""
        passes = self._passes(rows)
        weight = {role: float(self.row_weights[role][places].sum()) for role, places in rows.items()}
        objective = self.objective if meet else self.trained
        loss = torch.zeros((), device=self.device)
        for number, rows_of_pass in enumerate(passes, start=1):
            waits = meet and number < len(passes)
            with self.accelerator.no_sync(self.objective) if waits else nullcontext():
                batches = {role: self._batch(role, places, weight[role]) for role, places in rows_of_pass.items()}
                if self.whole.together:
                    inputs, targets = ({role: pair[part] for role, pair in batches.items()} for part in (0, 1))
                    part = objective(inputs, targets)
                else:
                    part = objective(*next(iter(batches.values())))
                # Processes' gradients are averaged, and the loss is a sum over all rows.
                self.accelerator.backward(part * self.processes)
            loss += part.detach()
        return loss

    def _passes(self, rows: Mapping[str, np.ndarray]) -> list[dict[str, np.ndarray]]:
        """Split the rows of a step into forward passes, of one role each or of all roles in as many parts."""
        if self.whole.together:
            parts = max(math.ceil(len(places) / self.pass_rows) for places in rows.values())
            parts = min(parts, *map(len, rows.values()))
            split = {role: np.array_split(places, parts) for role, places in rows.items()}
            return [{role: split[role][part] for role in rows} for part in range(parts)]
        return [
            {role: places[start : start + self.pass_rows]}
            for role, places in rows.items()
            for start in range(0, len(places), self.pass_rows)
        ]

    def _batch(self, role: str, places: np.ndarray, weight: float) -> tuple[dict[str, Tensor], BatchTargets]:
        """Return inputs and targets of this process's rows in a pass; all of the role weigh ``weight`` in the step."""
        examples = self.examples[role]
        mine = places[self.accelerator.process_index :: self.processes]
        # Where a process has no row left it still takes part, with a row that weighs nothing.
        part = mine if len(mine) else places[:1]
        inputs = {name: value.to(self.device) for name, value in examples.rows.batch(part).items()}
        targets = torch.from_numpy(examples.targets[part]).to(self.device)
        weights = None if examples.weights is None else torch.from_numpy(examples.weights[part]).to(self.device)
        progress = self.report.step / self.steps
        return inputs, BatchTargets(targets, weight if len(mine) else math.inf, weights, role, progress)

    def _halve(self, error: Exception | None) -> None:
        """Take half as many rows in one forward pass from here on, and twice as many passes: the same step."""
        rows = self.report.rows_per_pass
        if rows < 2:
            raise self._out_of_memory() from error
        self.report.rows_per_pass = rows // 2
        if self.accelerator.is_main_process:
            message = "out of memory with %d rows in one forward pass: on with %d rows and twice as many passes a step"
            log.warning(message, rows, rows // 2)
        self.optimizer.zero_grad()
        release(error)

    def _out_of_memory(self) -> TrainingError:
        rows, passes = self.report.rows_per_pass, self.settings.gradient_accumulation_steps * 2
        advice = f"per_device_train_batch_size={rows // 2} with gradient_accumulation_steps={passes}, "
        return TrainingError(
            f"out of memory with {rows} rows in one forward pass: take {advice if rows > 1 else ''}a smaller "
            "max_length, gradient_checkpointing or a smaller base"
        )

    def _highest_rate(self) -> float:
        return float(max(group["lr"] for group in self.optimizer.param_groups))

    def _read_losses(self, waiting: list[Tensor]) -> None:
        losses = self.accelerator.reduce(torch.stack(waiting), reduction="sum")
        if not bool(torch.isfinite(losses).all()):
            raise self._diverged("the loss is no longer a number")
        self.report.loss_sum += float(losses.sum())
        values = {"loss": float(losses[-1]), "learning_rate": self._highest_rate()}
        self.accelerator.log(values, step=self.report.step)
        self._show(self.report.loss_sum / self.report.batch)

    def _diverged(self, what: str) -> TrainingError:
        return TrainingError(
            f"{what} near step {self.report.step}: try a lower learning_rate (it is {self.rate:g}), a longer "
            "warmup_ratio, a smaller max_grad_norm, or mixed_precision=no"
        )

    def _validate(self, loss: float) -> None:
        """Add the finished epoch to the history, and keep its weights where they are the best so far."""
        report = self.report
        entry = {"epoch": report.epoch, "loss": loss, "learning_rate": self._highest_rate(), **self.trained.notes()}
        report.history.append(entry)
        if not len(self.validation.rows):
            report.best_epoch = report.epoch
            return
        logits = compute(self.trained, self.trained, self.validation.rows, share=True, shown="validation")
        if not np.isfinite(logits).all():
            raise self._diverged("the model's outputs are no longer numbers")
        score = entry["score"] = finite_score(float(self.score(logits)))
        self.accelerator.log({"epoch_loss": loss, "validation_score": score}, step=report.step)
        if report.best_score is None or score > report.best_score:
            report.best_score, report.best_epoch = score, report.epoch
            self.best = {name: value.detach().clone() for name, value in learned_state(self.trained).items()}

    def _show(self, loss: float) -> None:
        report, scores = self.report, [entry["score"] for entry in self.report.history if "score" in entry]
        epoch = f"epoch {report.epoch + (report.batch > 0)} of {self.epochs}"
        note, sign = f"loss {loss:.4f}", 1 if self.metric is None or higher_is_better(self.metric) else -1
        if scores and report.best_score is not None:
            name = (self.metric or "score").replace("_", " ")
            note += f", validation {name} {sign * scores[-1]:.4f}"
            note += f" (best {sign * report.best_score:.4f} in epoch {report.best_epoch})"
        self.bar.say(epoch, note)

    def _clock(self) -> None:
        now = time.perf_counter()
        self.report.seconds += now - self.started
        self.started = now

    def _save(self) -> None:
        self._clock()
        writing = self.checkpoints / "writing"
        try:
            with storage_errors(self.checkpoints):
                self._write(writing)
        except StorageError:
            # The older checkpoint stays, which the same command goes on from.
            remove(writing)
            raise

    def _write(self, writing: Path) -> None:
        best = self._gathered(self.best)
        if self.accelerator.is_main_process:
            shutil.rmtree(writing, ignore_errors=True)
            writing.mkdir(parents=True)
            write_json(writing / "progress.json", {"processes": self.processes, **asdict(self.report)})
            if best:
                save_file({name: value.contiguous() for name, value in best.items()}, writing / "best.safetensors")
        self.accelerator.wait_for_everyone()
        self.accelerator.save_state(str(writing))
        self.accelerator.wait_for_everyone()
        if self.accelerator.is_main_process:
            seal(writing)
            older = self._saved()
            writing.rename(self.checkpoints / f"step_{self.report.step:08d}")
            for folder in older:
                shutil.rmtree(folder)

    def _saved(self) -> list[Path]:
        return sorted(self.checkpoints.glob("step_*"))

    def _gathered(self, state: Mapping[str, Tensor]) -> dict[str, Tensor]:
        return {
            name: cast(DTensor, value.to(self.device)).full_tensor() if isinstance(value, DTensor) else value
            for name, value in state.items()
        }

    def _resume(self) -> None:
        saved = self._saved()
        if not saved or (checkpoint := open_entry(saved[-1], "training", Path)) is None:
            return
        progress = read_json(checkpoint / "progress.json")
        if (writers := progress.pop("processes")) != self.processes:
            raise RunFolderError(
                f"{self.checkpoints.parent}: its checkpoint was written by {writers} processes, found "
                f"{self.processes}: start as many, or begin anew with overwrite"
            )
        self.report = TrainingReport(**progress)
        # Frozen weights are not in a checkpoint: the model has them already.
        self.accelerator.load_state(str(checkpoint), strict=False)
        best, state = checkpoint / "best.safetensors", self.trained.state_dict()
        for name, whole in (load_file(best) if best.exists() else {}).items():
            like, value = state[name], whole.to(self.device)
            is_shard = isinstance(like, DTensor)
            self.best[name] = distribute_tensor(value, like.device_mesh, like.placements) if is_shard else value


def _row_weights(objective: Objective, role: str, examples: Examples, device: torch.device) -> np.ndarray:
    """Return the (rows,) float64 weights of rows, by class and of their own."""
    weights = objective.row_weights(torch.from_numpy(examples.targets).to(device), role).double().cpu().numpy()
    return weights if examples.weights is None else weights * examples.weights


def _rehearses(accelerator: Accelerator) -> bool:
    # A processor's memory seldom runs out with an error; and processes with shards of the weights wait for each other
    # inside every layer.
    return (
        accelerator.num_processes > 1
        and accelerator.device.type != "cpu"
        and accelerator.distributed_type in distributed.TOGETHER
    )


def learned_state(module: torch.nn.Module) -> dict[str, Tensor]:
    """Return what training changes, by name: the state without frozen parameters, shared ones under one name."""
    every = dict(module.named_parameters(remove_duplicate=False))
    first = dict(module.named_parameters())
    left = {name for name, value in every.items() if name not in first or not value.requires_grad}
    return {name: value for name, value in module.state_dict().items() if name not in left}


def _drop_frozen(models: list[torch.nn.Module], weights: list[dict[str, Tensor]], _: str) -> None:
    # Sharded models are not in the list: their weights are already written.
    for model, state in zip(models, weights, strict=False):
        for name in state.keys() - learned_state(model).keys():
            del state[name]
