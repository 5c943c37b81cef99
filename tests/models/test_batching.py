from itertools import product
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from tokenizers.processors import TemplateProcessing
from torch import nn

from nlptransfer.errors import SettingError, TrainingError
from nlptransfer.models.batching import BATCH_COST, endless_batches, prediction_batches, training_batches
from nlptransfer.models.inference import find_device, passed, planned, predict_logits
from nlptransfer.models.rows import ActivationRows
from nlptransfer.models.tokens import TokenRows, encode
from nlptransfer.routes.word2vec_model import make_tokenizer

LENGTHS = st.lists(st.integers(0, 600), max_size=300).map(lambda found: np.array(found, dtype=np.int64))


class Counting(nn.Module):
    """Logits that tell a row from every other: the sum of its ids, and its length."""

    config = SimpleNamespace(num_labels=2)

    def __init__(self):
        super().__init__()
        self.unit = nn.Parameter(torch.ones(()))
        self.calls = 0

    def forward(self, input_ids, attention_mask):
        assert not self.training
        self.calls += 1
        sums = torch.stack([(input_ids * attention_mask).sum(1), attention_mask.sum(1)], dim=1)
        return SimpleNamespace(logits=sums * self.unit)


def token_rows(lengths, **settings):
    draw = np.random.default_rng(0)
    offsets = np.concatenate([[0], np.cumsum(lengths)]).astype(np.int64)
    return TokenRows(draw.integers(1, 1000, offsets[-1]).astype(np.int32), offsets, pad_id=7, **settings)


@given(LENGTHS, st.integers(1, 40), st.integers(0, 3), st.integers(0, 3))
def test_every_row_comes_once_an_epoch_and_the_plan_depends_on_its_arguments_alone(lengths, size, seed, epoch):
    plan = training_batches(lengths, size, seed, epoch)
    assert sorted(np.concatenate([[], *plan]).tolist()) == list(range(len(lengths)))
    assert sorted(map(len, plan), reverse=True)[:-1] == [size] * (len(plan) - 1)
    np.random.seed(seed + epoch)
    again = training_batches(lengths.copy(), size, seed, epoch)
    assert [batch.tolist() for batch in plan] == [batch.tolist() for batch in again]


def test_epochs_and_seeds_make_other_batches_even_of_few_rows():
    lengths = np.arange(64)
    plans = [training_batches(lengths, 16, seed, epoch) for seed in (0, 1) for epoch in (0, 1)]
    assert len({frozenset(frozenset(batch.tolist()) for batch in plan) for plan in plans}) == 4


def test_batches_are_of_like_length():
    lengths = np.random.default_rng(0).integers(1, 100, 6400)
    padded = sum(len(batch) * lengths[batch].max() for batch in training_batches(lengths, 32, 0, 0))
    assert padded < 1.1 * lengths.sum()


@given(LENGTHS, st.integers(1, 2000))
def test_prediction_batches_take_every_row_once_and_stay_small(lengths, tokens):
    batches = list(prediction_batches(lengths, tokens))
    assert sorted(np.concatenate([[], *batches]).tolist()) == list(range(len(lengths)))
    for batch in batches:
        assert len(batch) == 1 or len(batch) * max(1, lengths[batch].max()) <= tokens


def work(batches, tokens):
    return sum(tokens * BATCH_COST + len(batch) * max(batch) for batch in batches)


@given(st.lists(st.integers(1, 9), min_size=1, max_size=40), st.integers(9, 100))
def test_prediction_batches_are_cut_where_it_is_cheapest(lengths, tokens):
    lengths, cheapest = np.sort(lengths), np.inf
    changes = np.flatnonzero(np.diff(lengths)) + 1
    # All ways to part the lengths, each part in batches that are as full as they may be.
    for cut in product([False, True], repeat=len(changes)):
        parts = np.split(lengths, changes[list(cut)])
        full = [[part.max()] * min(tokens // part.max(), len(part)) for part in parts]
        counts = [-(-len(part) // len(batch)) for part, batch in zip(parts, full, strict=True)]
        padded = sum(len(part) * part.max() for part in parts)
        cheapest = min(cheapest, padded + sum(counts) * tokens * BATCH_COST)
    assert work([lengths[batch] for batch in prediction_batches(lengths, tokens)], tokens) <= cheapest + 1e-9


@settings(max_examples=25, deadline=None)
@given(st.lists(st.integers(0, 3000), min_size=1, max_size=60))
def test_logits_come_in_the_order_of_the_rows(lengths):
    rows, model = token_rows(lengths), Counting().train()
    expected = [[rows.ids[start:end].sum(), end - start] for start, end in zip(rows.offsets, rows.offsets[1:])]  # noqa: B905
    found = predict_logits(model, rows)
    np.testing.assert_array_equal(found, np.array(expected, dtype=np.float32))
    np.testing.assert_array_equal(predict_logits(model, rows, share=True), found)
    assert predict_logits(model, token_rows([])).shape == (0, 2)
    assert model.training
    assert found.dtype == np.float32


LENGTHS_AND_CHOICE = st.lists(st.integers(0, 9), min_size=1, max_size=12).flatmap(
    lambda lengths: st.tuples(st.just(lengths), st.lists(st.integers(0, len(lengths) - 1), min_size=1, max_size=12))
)


@given(LENGTHS_AND_CHOICE, st.booleans())
def test_a_batch_is_that_of_a_loop_over_rows_and_tokens(lengths_and_choice, left):
    lengths, choice = lengths_and_choice
    types = (np.arange(sum(lengths)) % 3).astype(np.int8)
    tokens = token_rows(lengths, type_ids=types, pad_left=left)
    values = np.random.default_rng(1).normal(size=(sum(lengths), 2)).astype(np.float16)
    rows = ActivationRows(tokens, values)
    width = max(1, *(lengths[row] for row in choice))
    expected = {"input_ids": [], "attention_mask": [], "token_type_ids": [], "activations": []}
    for row in choice:
        own = range(tokens.offsets[row], tokens.offsets[row + 1])
        blank = [None] * (width - len(own))
        places = [*blank, *own] if left else [*own, *blank]
        expected["input_ids"].append([7 if place is None else tokens.ids[place] for place in places])
        expected["attention_mask"].append([int(place is not None) for place in places])
        expected["token_type_ids"].append([0 if place is None else types[place] for place in places])
        expected["activations"].append([[0, 0] if place is None else values[place].tolist() for place in places])
    found = rows.batch(np.array(choice))
    assert {name: value.tolist() for name, value in found.items()} == expected
    assert found["activations"].dtype == torch.float16
    assert (len(rows), rows.lengths.tolist()) == (len(lengths), lengths)


@settings(max_examples=25, deadline=None)
@given(st.lists(st.integers(0, 3000), min_size=1, max_size=40), st.booleans())
def test_rows_may_have_any_number_of_results(lengths, left):
    rows, model = token_rows(lengths, pad_left=left), Counting().train()

    def doubled(inputs):
        assert not model.training
        # Any number a row: here one for each token.
        return 2 * inputs["input_ids"][inputs["attention_mask"].bool()]

    batches = planned(model, rows)
    for batch, found in zip(batches, passed(model, doubled, rows, batches, share=True), strict=True):
        np.testing.assert_array_equal(found, 2 * rows.ids[rows.places(batch)[0]])
    assert model.training


def test_encoding_takes_texts_of_any_length(monkeypatch):
    monkeypatch.setattr("nlptransfer.models.tokens.ENCODE_CHUNK", 2)
    tokenizer = make_tokenizer(["good", "film"], 512)
    texts = ["", "good film", "film", " ", "good " * 200_000, "x" * 1_000_000, "good unheard film"]
    rows = encode(texts, tokenizer, 3)
    assert rows.lengths.tolist() == [0, 2, 1, 0, 3, 1, 3]
    assert rows.ids.tolist() == [i for text in texts for i in tokenizer(text[:100])["input_ids"][:3]]
    assert rows.ids.dtype == np.int32
    assert len(encode([], tokenizer, 3)) == 0


def test_encoding_leaves_the_tokenizer_as_it_was():
    tokenizer = make_tokenizer(["good", "film"], 512)
    before = tokenizer.backend_tokenizer.to_str()
    encode(["good film"], tokenizer, 1)
    assert tokenizer.backend_tokenizer.to_str() == before
    tokenizer.backend_tokenizer.enable_truncation(9)
    tokenizer.backend_tokenizer.enable_padding(length=4)
    before = tokenizer.backend_tokenizer.to_str()
    assert encode(["good film"], tokenizer, 5).lengths.tolist() == [2]
    assert tokenizer.backend_tokenizer.to_str() == before


@pytest.mark.parametrize(
    "single, types", [("[CLS]:0 $A:0 [SEP]:0", None), ("$A:0 [SEP]:0 [CLS]:2", [0, 0, 0, 2, 0, 0, 2])]
)
def test_segments_are_kept_where_they_are_not_all_0(single, types):
    tokenizer = make_tokenizer(["[CLS]", "[SEP]", "good", "film"], 512)
    known = tokenizer.get_vocab()
    tokenizer.backend_tokenizer.post_processor = TemplateProcessing(
        single=single, special_tokens=[(name, known[name]) for name in ("[CLS]", "[SEP]")]
    )
    assert encode(["good film", "film"], tokenizer, 9).type_ids is None
    tokenizer.model_input_names = ["input_ids", "token_type_ids", "attention_mask"]
    rows = encode(["good film", "film"], tokenizer, 9)
    assert (rows.type_ids if rows.type_ids is None else rows.type_ids.tolist()) == types
    assert not rows.pad_left
    tokenizer.padding_side = "left"
    assert encode([], tokenizer, 9).pad_left


def test_special_tokens_count_and_must_leave_room():
    tokenizer = make_tokenizer(["[CLS]", "[SEP]", "good", "film"], 512)
    known = tokenizer.get_vocab()
    tokenizer.backend_tokenizer.post_processor = TemplateProcessing(
        single="[CLS] $A [SEP]", special_tokens=[(name, known[name]) for name in ("[CLS]", "[SEP]")]
    )
    assert encode(["good film"], tokenizer, 3).ids.tolist() == [known["[CLS]"], known["good"], known["[SEP]"]]
    with pytest.raises(SettingError, match="max_length=2: expected more than the 2 special tokens"):
        encode(["good film"], tokenizer, 2)


@given(st.integers(1, 40), st.integers(1, 9), st.integers(0, 60), st.integers(0, 30))
@settings(max_examples=60, deadline=None)
def test_endless_batches_are_one_epochs_after_the_others(rows, size, first, count):
    lengths = np.random.default_rng(rows).integers(1, 9, rows)
    found = endless_batches(lengths, size, 3, first, count)
    epochs = [batch for epoch in range(first + count + 1) for batch in training_batches(lengths, size, 3, epoch)]
    assert len(found) == count
    for one, other in zip(found, epochs[first : first + count], strict=True):
        np.testing.assert_array_equal(one, other)


# Memory


CPU_ALLOCATOR = "[enforce fail at alloc_cpu.cpp:127] err == 0. DefaultCPUAllocator: can't allocate memory: you tried"
OUT_OF_MEMORY = {
    "an accelerator's": torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB"),
    "the processor's": RuntimeError(CPU_ALLOCATOR),
    "the processor's, on Windows": RuntimeError(
        "DefaultCPUAllocator: not enough memory: you tried to allocate 8 bytes"
    ),
    "Apple's": RuntimeError("MPS backend out of memory (MPS allocated: 9.00 GB)"),
    "numpy's": MemoryError(),
}


class Crowded(Counting):
    """Has memory for this many tokens in one pass."""

    def __init__(self, fits, error):
        super().__init__()
        self.fits, self.error, self.shapes = fits, error, []

    def forward(self, input_ids, attention_mask):
        self.shapes.append(tuple(input_ids.shape))
        if input_ids.numel() > self.fits:
            raise self.error
        return super().forward(input_ids, attention_mask)


@pytest.mark.parametrize("error", OUT_OF_MEMORY.values(), ids=OUT_OF_MEMORY)
def test_where_memory_runs_out_batches_are_halved(error, caplog):
    rows = token_rows([8] * 40 + [3, 5, 7])
    crowded = Crowded(100, error)
    np.testing.assert_array_equal(predict_logits(crowded, rows), predict_logits(Counting(), rows))
    # 43 rows at once, then at most a quarter of their tokens, and no batch is tried that is known not to fit.
    assert crowded.shapes[:2] == [(43, 8), (21, 8)]
    assert all(rows * tokens <= 100 for rows, tokens in crowded.shapes[2:])
    assert [line.getMessage() for line in caplog.records] == [
        f"out of memory on cpu with {rows} rows of 8 tokens in one batch: half as many are read at a time from here on"
        for rows in (43, 21)
    ]


def test_the_results_of_a_halved_batch_are_in_the_order_of_its_rows():
    rows = token_rows([4, 2, 7, 1, 7])

    def tokens(inputs):
        if len(inputs["input_ids"]) > 2:
            raise MemoryError
        return inputs["input_ids"][inputs["attention_mask"].bool()]

    (batch,) = batches = planned(Counting(), rows)
    (found,) = passed(Counting(), tokens, rows, batches)
    np.testing.assert_array_equal(found, rows.ids[rows.places(batch)[0]])


def test_a_row_that_does_not_fit_ends_with_advice():
    model = Crowded(7, MemoryError()).train()
    with pytest.raises(TrainingError, match=r"^out of memory on cpu with 1 row of 8 tokens in one batch: take a small"):
        predict_logits(model, token_rows([8, 8]))
    assert model.training
    with pytest.raises(RuntimeError, match="another"):
        predict_logits(Crowded(7, RuntimeError("another")), token_rows([8, 8]))


@given(LENGTHS, st.integers(1, 70))
def test_a_batch_has_at_most_the_rows_that_it_may(lengths, batch_size):
    batches = list(prediction_batches(lengths, 1024, batch_size))
    assert max(map(len, batches), default=0) <= batch_size
    assert sorted(np.concatenate(batches).tolist() if batches else []) == [*range(len(lengths))]
    rows = token_rows([6] * 20)
    np.testing.assert_array_equal(predict_logits(Counting(), rows, batch_size=3), predict_logits(Counting(), rows))


def test_devices_that_are_not_here():
    assert find_device("cpu") == torch.device("cpu")
    for name in ("cuda:99", "gpu", "cpu:7", ""):
        with pytest.raises(SettingError, match=f"device={name!r}: expected one that is here: cpu"):
            find_device(name)
