"""The figures of the encoder routes, all on all-MiniLM-L6-v2; each is one function, as in figures.py."""

import os
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import encoder_peers as peers
from figures import Missing, Places, Row, clock, fit_head, in_turns

ROWS = {"trec6": 512, "amazon_books": 64}
"""Training rows of an epoch, short texts and long ones: some seconds on two cores."""
FROZEN_ROWS = {"trec6": 160, "amazon_books": 32}
"""Fewer, for three epochs each."""
GPU_ROWS = {"trec6": 4_096, "sst2": 8_192}
WARM_UP_ROWS = 16
ROUNDS = 3
FROZEN_LAYERS = 4
"""Of six: the upper third learns."""


@dataclass(frozen=True)
class Spent:
    """Seconds of a training."""

    preparing: float
    """tokenizing, and computing activations where they are kept"""
    training: float
    """train(), from its call to its return"""
    stepping: float
    """the same without setting up and without writing checkpoints, which weigh little in trainings of usual length"""


def full(places: Places) -> list[Row]:
    """Full fine-tuning: an epoch, tokenized before"""
    _stay_on_cpu()
    return _beside_trainer(places, ROWS, "no")


def lora(places: Places) -> list[Row]:
    """LoRA: an epoch at rank 8, tokenized before"""
    _stay_on_cpu()
    from nlptransfer.routes.full import Full
    from nlptransfer.routes.lora import Lora

    rows = []
    for name in ROWS:
        data = _few(_loaded(places, name), ROWS[name])
        found = _rounds(
            {
                "Lora": lambda some: _fit(Lora(rank=8, max_length=peers.MAX_LENGTH), some).training,
                "wider": lambda some: _fit(Lora(max_length=peers.MAX_LENGTH), some).training,
                "Full": lambda some: _fit(Full(max_length=peers.MAX_LENGTH), some).training,
                "Trainer": partial(_stock, lora=True),
            },
            data,
        )
        speed = {contestant: len(data.train) / seconds for contestant, seconds in found.items()}
        what = f"Lora, {_described(data)}"
        rows += [
            Row(what, speed["Lora"], "examples/s", "Full", speed["Full"], times=1.15),
            Row(what, speed["Lora"], "examples/s", "transformers Trainer with peft", speed["Trainer"]),
            Row(f"{what}, at the default rank of {Lora().rank}", speed["wider"], "examples/s", "Full", speed["Full"]),
        ]
    return rows


def frozen(places: Places) -> list[Row]:
    """Lower layers frozen: 3 epochs of the upper 2 of 6, from texts in memory; the activations below computed once"""
    _stay_on_cpu()
    from nlptransfer.routes.full import Full

    whole = Full(max_length=peers.MAX_LENGTH)
    upper = replace(whole, freeze_layers=FROZEN_LAYERS)

    def fit(route: Full, some: Any, cached: bool = True) -> float:
        with _empty_cache():
            spent = _fit(route, some, epochs=3, cached=cached)
        return spent.preparing + spent.stepping

    rows = []
    for name in FROZEN_ROWS:
        data = _few(_loaded(places, name), FROZEN_ROWS[name])
        found = _rounds(
            {
                "cached": lambda some: fit(upper, some),
                "not cached": lambda some: fit(upper, some, cached=False),
                "all": lambda some: fit(whole, some),
            },
            data,
        )
        what = f"Full(freeze_layers={FROZEN_LAYERS}), {_described(data)}"
        rows += [
            Row(what, found["cached"], "s", "the same without kept activations", found["not cached"], times=1.4),
            Row(what, found["cached"], "s", "Full of all layers", found["all"], times=2),
        ]
    return rows


def probe(places: Places) -> list[Row]:
    """Probe: fitted once more, the features in the cache"""
    _stay_on_cpu()
    from nlptransfer.routes.full import Full
    from nlptransfer.routes.probe import Probe

    route, whole = (kind(max_length=peers.MAX_LENGTH) for kind in (Probe, Full))
    rows = []
    for name in ROWS:
        data = _loaded(places, name)
        few = _few(data, ROWS[name])
        with _empty_cache():
            # The first one computes the features.
            first = clock(lambda data=data: fit_head(route, _built(route, data), data))
            built = _built(route, data)
            _fit(whole, _few(data, WARM_UP_ROWS))
            found = in_turns(
                {
                    "refit": partial(clock, partial(fit_head, route, built, data)),
                    "build": partial(clock, partial(_built, route, data)),
                    "epoch": lambda few=few: _fit(whole, few).training,
                },
                ROUNDS,
                warm_up=False,
            )
        epoch = found["epoch"] * _tokens(data) / _tokens(few)
        peer = f"an epoch of Full on these rows, by tokens from one on {len(few.train)} of them", epoch
        described = _described(data)
        rows += [
            Row(f"Probe, {described}: features, strength, solution", found["refit"], "s", *peer, times=100),
            Row(
                f"Probe, {described}: and build(), which loads the encoder and standardizes",
                found["refit"] + found["build"],
                "s",
                *peer,
            ),
            Row(f"Probe, {described}: all this for the first time, features computed", first, "s", *peer),
        ]
    return rows


def classify(places: Places) -> list[Row]:
    """Prediction by encoders: text in, label out"""
    _stay_on_cpu()
    from nlptransfer import Classifier
    from nlptransfer.routes.full import Full
    from nlptransfer.routes.lora import Lora

    routes = {"Full": Full(), "Lora, merged": Lora(merge=True)}
    rows = []
    for name in ROWS:
        # File order: predict() itself puts like lengths together.
        texts = places.texts("test", name)[0]
        data = _few(_loaded(places, name), WARM_UP_ROWS)
        calls: dict[str, Callable[[], Any]] = {}
        with TemporaryDirectory() as folder:
            for kind, route in routes.items():
                built = _built(route, data)
                # What the weights are does not matter to the time: nothing is trained.
                saved = Path(folder) / kind
                Classifier(route, built.model.eval(), built.tokenizer, data.labels).save_pretrained(saved)
                calls[kind] = partial(Classifier.load(saved).predict, texts)
                calls[f"pipeline, {kind}"] = partial(peers.pipeline(saved), texts)
        seconds = in_turns({contestant: partial(clock, call) for contestant, call in calls.items()}, ROUNDS)
        speed = {contestant: len(texts) / spent for contestant, spent in seconds.items()}
        rows += [
            Row(
                f"Classifier.predict, {kind}, {name}, {len(texts):,} test texts",
                speed[kind],
                "texts/s",
                "transformers pipeline",
                speed[f"pipeline, {kind}"],
                times=2,
            )
            for kind in routes
        ]
    return rows


def gpu(places: Places) -> list[Row]:
    """On a GPU: an epoch of full fine-tuning in bf16"""
    import torch

    if not torch.cuda.is_available():
        raise Missing("no GPU")
    return _beside_trainer(places, GPU_ROWS, "bf16")


def _beside_trainer(places: Places, counts: Mapping[str, int], precision: str) -> list[Row]:
    """Full beside the stock Trainer, and beside the machine's matrix products."""
    from nlptransfer.routes.full import Full

    size = 2048 if precision == "no" else 8192
    rows = []
    for name in counts:
        data = _few(_loaded(places, name), counts[name])
        found = _rounds(
            {
                "Full": lambda some: _fit(Full(max_length=peers.MAX_LENGTH), some, precision=precision).training,
                "Trainer": partial(_stock, cpu=precision == "no"),
                "product": lambda _: _product_seconds(size, precision),
            },
            data,
        )
        speed = {contestant: len(data.train) / seconds for contestant, seconds in found.items()}
        what = f"Full, {_described(data)}"
        done = 6 * _parameters() * _tokens(data) / found["Full"] / 1e9
        most = 2 * size**3 / found["product"] / 1e9
        product = f"fastest {'float32' if precision == 'no' else precision} product of {size} x {size} matrices"
        rows += [
            Row(what, speed["Full"], "examples/s", "transformers Trainer", speed["Trainer"], times=1.2),
            Row(f"{what}: arithmetic", done, "GFLOP/s", product, most),
        ]
    return rows


def _loaded(places: Places, name: str) -> Any:
    """The rows that train on a data set, and its validation rows."""
    from nlptransfer import load_data
    from nlptransfer.data.dataset import DataSettings

    data = load_data(places.texts("train", name), DataSettings(test_size=0, calibration_size=0))
    return replace(data, name=name)


def _few(data: Any, rows: int) -> Any:
    """The data with fewer training rows, evenly out of all when sorted by length: lengths are spread as before."""
    import numpy as np

    order = np.argsort(_lengths(data), kind="stable")
    picked = order[np.linspace(0, len(order) - 1, min(rows, len(order))).round().astype(int)]
    return replace(data, train=data.train.take(np.sort(picked)))


def _lengths(data: Any) -> Any:
    from nlptransfer.hub.base_models import find_base
    from nlptransfer.models.loading import load_tokenizer
    from nlptransfer.models.tokens import encode

    return encode(data.train.texts, load_tokenizer(find_base()), peers.MAX_LENGTH).lengths


def _tokens(data: Any) -> int:
    """Real tokens of the training rows: no padding."""
    return int(_lengths(data).sum())


def _described(data: Any) -> str:
    return f"{data.name}, {len(data.train):,} rows of {_tokens(data) / len(data.train):.0f} tokens"


def _parameters() -> int:
    """Weights outside the embeddings: each takes part in 2 floating-point operations a token forward, 4 backward."""
    from nlptransfer.hub.base_models import find_base
    from nlptransfer.models import architectures, loading

    encoder = loading.load_encoder(find_base())
    below = sum(p.numel() for part in architectures.embeddings_of(encoder) for p in part.parameters())
    return encoder.num_parameters() - below


def _built(route: Any, data: Any) -> Any:
    from nlptransfer import distributed

    built = route.build(data, None, None, seed=0)
    built.model.to(distributed.state().device)
    return built


def _fit(route: Any, data: Any, epochs: int = 1, precision: str = "no", cached: bool = True) -> Spent:
    """Train a fresh model as finetune() does, without validation rows.

    Args:
        cached: whether the route's way round frozen layers is taken; else the loop trains the model as it is.
    """
    from nlptransfer.training.loop import Examples, TrainingSettings, train
    from nlptransfer.training.losses import LabelLoss, Objective

    built = _built(route, data)
    started = time.perf_counter()
    learner, rows = built.model, None
    if cached:
        learner, (rows,) = route.learning(built.model, built.tokenizer, data.train.texts)
    else:
        rows = route.rows(built.model, built.tokenizer, data.train.texts)
    preparing = time.perf_counter() - started
    objective = Objective(learner, LabelLoss(data.labels))
    settings = TrainingSettings(
        num_train_epochs=epochs,
        learning_rate=peers.LEARNING_RATE,
        per_device_train_batch_size=peers.BATCH,
        warmup_ratio=peers.WARM_UP,
        mixed_precision=precision,
        save_steps=10**9,
        progress=False,
    )
    nothing = Examples(route.rows(built.model, built.tokenizer, []), data.train.targets[:0])
    with TemporaryDirectory() as folder:
        started = time.perf_counter()
        report = train(
            objective, Examples(rows, data.train.targets), nothing, score=lambda _: 0.0, settings=settings,
            checkpoints=Path(folder),
        )  # fmt: skip
        training = time.perf_counter() - started
    return Spent(preparing, training, report.seconds)


def _stock(data: Any, lora: bool = False, cpu: bool = True) -> float:
    """Seconds of the stock Trainer."""
    from nlptransfer.hub.base_models import find_base

    rows = data.train.texts, data.train.targets, data.labels.num_labels
    with TemporaryDirectory() as folder:
        return clock(peers.trainer(find_base().path, Path(folder), *rows, lora=lora, cpu=cpu))


def _product_seconds(size: int, precision: str) -> float:
    """The best of five products of square matrices, by the fastest of what torch has: float32, or bf16 on a GPU."""
    import torch

    from nlptransfer.models import cpu

    on_gpu = precision != "no"
    options: dict[str, Any] = {"device": "cuda", "dtype": torch.bfloat16} if on_gpu else {}
    layer = torch.nn.Linear(size, size, bias=False, **options)
    rows = torch.randn(size, size, **options)

    def multiply() -> None:
        layer(rows)
        if on_gpu:
            torch.cuda.synchronize()

    with torch.no_grad(), cpu.fast(layer):
        multiply()
        return min(clock(multiply) for _ in range(5))


def _rounds(contestants: Mapping[str, Callable[[Any], float]], data: Any) -> dict[str, float]:
    """Median seconds of each on the data, after a short turn on few rows that does not count."""
    few = _few(data, WARM_UP_ROWS)
    for run in contestants.values():
        run(few)
    return in_turns({name: partial(run, data) for name, run in contestants.items()}, ROUNDS, warm_up=False)


@contextmanager
def _empty_cache() -> Iterator[None]:
    """A feature cache with nothing in it, removed at the end."""
    before = os.environ.get("HF_HOME")
    with TemporaryDirectory(ignore_cleanup_errors=True) as folder:
        os.environ["HF_HOME"] = folder
        try:
            yield
        finally:
            if before is None:
                del os.environ["HF_HOME"]
            else:
                os.environ["HF_HOME"] = before


def _stay_on_cpu() -> None:
    # The sets are cut for processors; a GPU has a figure of its own.
    os.environ["ACCELERATE_USE_CPU"] = "1"


FIGURES: dict[str, Callable[[Places], list[Row]]] = {
    figure.__name__: figure for figure in (full, lora, frozen, probe, classify, gpu)
}
"""The figures by name; the first line of a docstring is the heading."""
