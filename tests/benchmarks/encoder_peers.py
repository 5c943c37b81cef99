"""What the encoder routes are measured beside: the stock tools of transformers and peft, with their own settings."""

import warnings
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np

BATCH, MAX_LENGTH, LEARNING_RATE, WARM_UP = 32, 128, 5e-5, 0.06
"""What both sides train with."""


def trainer(
    base: Path,
    folder: Path,
    texts: Sequence[str],
    targets: np.ndarray,
    labels: int,
    *,
    lora: bool = False,
    cpu: bool = True,
) -> Callable[[], Any]:
    """An epoch of transformers' Trainer, dynamic padding, length-grouped, that is ready to be run; bf16 on a GPU.

    Args:
        folder: for what it writes, which is nothing.
        labels: how many there are.
        lora: whether peft's matrices of rank 8 are learned beside all linear layers.
    """
    from datasets import Dataset
    from transformers import (
        AutoModelForSequenceClassification,
        AutoTokenizer,
        DataCollatorWithPadding,
        PrinterCallback,
        Trainer,
        TrainingArguments,
        set_seed,
    )

    _quiet()
    set_seed(0)
    tokenizer = AutoTokenizer.from_pretrained(base)
    model = AutoModelForSequenceClassification.from_pretrained(base, num_labels=labels)
    if lora:
        from peft import LoraConfig, get_peft_model

        heads = ["pooler", "classifier"]
        config = LoraConfig(task_type="SEQ_CLS", r=8, lora_alpha=16, target_modules="all-linear", modules_to_save=heads)
        model = get_peft_model(model, config)
    tokens = tokenizer(list(texts), truncation=True, max_length=MAX_LENGTH)
    arguments = TrainingArguments(
        str(folder),
        per_device_train_batch_size=BATCH,
        num_train_epochs=1,
        learning_rate=LEARNING_RATE * (10 if lora else 1),
        warmup_steps=WARM_UP,
        train_sampling_strategy="group_by_length",
        report_to=[],
        save_strategy="no",
        logging_strategy="no",
        disable_tqdm=True,
        use_cpu=cpu,
        bf16=not cpu,
    )
    ready = Trainer(
        model,
        arguments,
        train_dataset=Dataset.from_dict({**tokens, "label": targets.tolist()}),
        data_collator=DataCollatorWithPadding(tokenizer),
    )
    ready.remove_callback(PrinterCallback)
    return ready.train


def pipeline(folder: Path) -> Callable[[Sequence[str]], list[dict[str, Any]]]:
    """transformers' pipeline over a saved classifier, 32 texts at a time, cut where the saved tokenizer says."""
    from transformers import AutoModelForSequenceClassification, AutoTokenizer
    from transformers import pipeline as make

    _quiet()
    model = AutoModelForSequenceClassification.from_pretrained(folder)
    tokenizer = AutoTokenizer.from_pretrained(folder)
    ready = make("text-classification", model=model, tokenizer=tokenizer, truncation=True, device="cpu")
    return lambda texts: ready(list(texts), batch_size=BATCH)


def _quiet() -> None:
    from transformers.utils import logging

    # peft asks transformers by an old name.
    warnings.filterwarnings("ignore", category=FutureWarning)
    logging.set_verbosity_error()
    logging.disable_progress_bar()
