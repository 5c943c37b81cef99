"""Texts of more tokens than a model reads: how they are cut or windowed, learned from, predicted, kept and told."""

import logging
from dataclasses import replace
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from tokenizers import Tokenizer, models, pre_tokenizers, processors
from torch.nn import functional
from transformers import PreTrainedTokenizerFast

from helpers.classifiers import LABELS, ONE_STEP, build, classifier_of, weights_of
from helpers.corpora import FILM_WORDS, WORDS, texts_of
from helpers.encoders import Bases, make_film_base, xlnet_tokenizer
from helpers.encoders import make_tokenizer as template_tokenizer
from helpers.runs import finetune
from helpers.training import train_rows
from nlptransfer import Classifier, Full, Joint, Lora, Probe, Word2Vec
from nlptransfer.classifier.persistence import SavedRecord
from nlptransfer.classifier.push import card_facts
from nlptransfer.data.columns import JOINT
from nlptransfer.errors import SettingError
from nlptransfer.files import read_json
from nlptransfer.hub.card import model_card
from nlptransfer.models.inference import predict_logits
from nlptransfer.models.rows import (
    Examples,
    FeatureRows,
    SomeRows,
    VectorRows,
    WordIdRows,
    rows_of_texts,
    texts_of_rows,
)
from nlptransfer.models.tokens import TokenRows, encode, encode_words, token_counts
from nlptransfer.report.page import write_report
from nlptransfer.routes.base import Route, set_length
from nlptransfer.routes.word2vec_model import make_tokenizer
from nlptransfer.training.losses import LabelLoss, class_weights

MODES = ("truncate", "head_tail", "windows")
LONG = [" ".join(WORDS[(row + place) % len(WORDS)] for place in range(size)) for row, size in enumerate((3, 30, 0, 17))]


# Tokens, beside what the tokenizer itself gives


def of_model(model: Any, before: Any, after: Any, **names: str) -> PreTrainedTokenizerFast:
    plain = Tokenizer(model)
    plain.pre_tokenizer, plain.post_processor = before, after
    return PreTrainedTokenizerFast(tokenizer_object=plain, pad_token="<pad>", unk_token="<unk>", **names)


def bert() -> PreTrainedTokenizerFast:
    names = ["<pad>", "<unk>", "[CLS]", "[SEP]", "word", *(f"##{digit}" for digit in range(10))]
    pieces = models.WordPiece({name: number for number, name in enumerate(names)}, unk_token="<unk>")
    return of_model(pieces, pre_tokenizers.Whitespace(), processors.BertProcessing(("[SEP]", 3), ("[CLS]", 2)))


def bytes_of(after: Any) -> PreTrainedTokenizerFast:
    names = ["<pad>", "<unk>", "<s>", "</s>", *sorted(pre_tokenizers.ByteLevel.alphabet())]
    pieces = models.BPE({name: number for number, name in enumerate(names)}, [], unk_token="<unk>")
    return of_model(pieces, pre_tokenizers.ByteLevel(), after)


START_ONLY = processors.TemplateProcessing(single="<s> $A", special_tokens=[("<s>", 2)])
TOKENIZERS: dict[str, PreTrainedTokenizerFast] = {
    "words": make_tokenizer(WORDS),
    "template": template_tokenizer(),
    "bert": bert(),
    "roberta": bytes_of(processors.RobertaProcessing(("</s>", 3), ("<s>", 2))),
    "start only": bytes_of(processors.Sequence([processors.ByteLevel(), START_ONLY])),
    "xlnet": xlnet_tokenizer(),
}
SOME_TEXTS = st.lists(
    st.lists(st.sampled_from([*WORDS[:6], "unheard", "[CLS]"]), max_size=12).map(" ".join), max_size=6
)


def rows_in(rows: TokenRows, name: str = "ids") -> list[list[int]]:
    values = getattr(rows, name)
    return [values[start:end].tolist() for start, end in pairwise(rows.offsets)]


def room_of(tokenizer: PreTrainedTokenizerFast, max_length: int) -> int:
    return max_length - tokenizer.num_special_tokens_to_add()


def test_several_columns_are_read_with_the_separator_between_them(tmp_path: Path) -> None:
    texts = [f"good plot{JOINT}a long film", "dull"]
    pairs = PreTrainedTokenizerFast.from_pretrained(make_film_base(tmp_path))
    assert rows_in(encode(texts, pairs, 32)) == [pairs("good plot [SEP] a long film")["input_ids"], [2, 15, 3]]
    assert rows_in(encode(texts, pairs, 32))[0].count(pairs.sep_token_id) == 2
    words = make_tokenizer(FILM_WORDS, 32)
    assert rows_in(encode_words(texts, words, "truncate"))[0] == words("good plot\na long film")["input_ids"]


@pytest.mark.parametrize("kind", TOKENIZERS)
@settings(max_examples=25, deadline=None)
@given(texts=SOME_TEXTS, room=st.integers(1, 20))
def test_each_mode_reads_what_plain_calls_of_the_tokenizer_give(kind: str, texts: list[str], room: int) -> None:
    tokenizer = TOKENIZERS[kind]
    length = room + tokenizer.num_special_tokens_to_add()
    bare = [tokenizer(text, add_special_tokens=False)["input_ids"] for text in texts]
    plain = [tokenizer(text, truncation=True, max_length=length)["input_ids"] for text in texts]
    read = {mode: encode(texts, tokenizer, length, mode) for mode in MODES}
    assert rows_in(read["truncate"]) == plain
    # The special tokens are those that plain calls put around the text's own.
    framed = [text[:1] and [*own] for text, own in zip(bare, plain, strict=True)]
    for own, text, row in zip(framed, bare, rows_in(read["head_tail"]), strict=True):
        head = -(-room // 4)
        kept = text if len(text) <= room else text[:head] + text[len(text) - (room - head) :]
        place = next((p for p in range(len(own)) if own[p : p + len(text[:room])] == text[:room]), 0)
        assert row == own[:place] + kept + own[place + len(kept) :] if own else row in plain
    found = rows_in(read["windows"])
    starts = range(len(texts) + 1) if read["windows"].windows is None else read["windows"].windows
    step = room - room // 4
    for number, text in enumerate(texts):
        mine = found[starts[number] : starts[number + 1]]
        cut = {"truncation": True, "max_length": length, "stride": room // 4, "return_overflowing_tokens": True}
        theirs = tokenizer(text, **cut)["input_ids"]
        assert mine[:-1] == theirs[:-1] and len(mine) == len(theirs)
        assert [len(row) for row in mine] == [min(length, len(bare[number]) + length - room)] * len(mine)
        # The last one ends with the text, and no token is left out between.
        if len(mine) > 1:
            last = tokenizer(text, add_special_tokens=False)["input_ids"][-room:]
            assert any(mine[-1][place : place + room] == last for place in range(length - room + 1))
            assert (len(mine) - 1) * step + room >= len(bare[number]) > (len(mine) - 2) * step + room


@pytest.mark.parametrize("kind", TOKENIZERS)
def test_short_texts_are_the_same_in_every_mode(kind: str) -> None:
    tokenizer = TOKENIZERS[kind]
    texts = ["", "word1 word2", "word3", "unheard"]
    plain = tokenizer(texts)["input_ids"]
    for mode in MODES:
        rows = encode(texts, tokenizer, 40, mode)
        assert rows_in(rows) == plain
        assert (rows.windows, rows.long_text) == (None, mode)
    assert rows_in(encode(texts, tokenizer, None, "windows")) == plain
    assert token_counts(texts, tokenizer).tolist() == [len(ids) for ids in plain]
    assert len(token_counts([], tokenizer)) == len(encode([], tokenizer, 40, "windows")) == 0


def test_of_510_tokens_the_first_128_and_the_last_382() -> None:
    words = models.WordLevel({f"w{number}": number for number in range(1000)}, unk_token="w4")
    tokenizer = of_model(words, pre_tokenizers.Whitespace(), processors.BertProcessing(("w3", 3), ("w2", 2)))
    (row,) = rows_in(encode([" ".join(f"w{number}" for number in range(10, 910))], tokenizer, 512, "head_tail"))
    assert row == [2, *range(10, 10 + 128), *range(910 - 382, 910), 3]


def test_long_texts_are_taken_apart_in_chunks_too(monkeypatch: pytest.MonkeyPatch) -> None:
    tokenizer = TOKENIZERS["template"]
    whole = {mode: encode(LONG, tokenizer, 9, mode) for mode in MODES}
    monkeypatch.setattr("nlptransfer.models.tokens.ENCODE_CHUNK", 2)
    for mode, rows in whole.items():
        again = encode(LONG, tokenizer, 9, mode)
        assert rows_in(again) == rows_in(rows)
        np.testing.assert_array_equal(again.windows, rows.windows)
    assert whole["windows"].windows.tolist() == [0, 1, 6, 7, 10]


# Rows, texts and weights


WINDOWS = st.lists(st.integers(1, 5), min_size=1, max_size=12)


def windowed(counts: list[int]) -> TokenRows:
    offsets = np.concatenate([[0], np.cumsum(np.random.default_rng(0).integers(0, 9, sum(counts)))])
    return TokenRows(np.arange(offsets[-1], dtype=np.int32), offsets, windows=np.concatenate([[0], np.cumsum(counts)]))


@given(WINDOWS, st.booleans())
def test_windows_share_the_weight_of_their_text(counts: list[int], weighed: bool) -> None:
    texts = np.arange(len(counts))
    weights = (1.0 + texts).astype(np.float32) if weighed else None
    rows = Examples(windowed(counts), texts, weights).by_row
    assert rows.targets.tolist() == [text for text, count in enumerate(counts) for _ in range(count)]
    assert rows.weights is not None and rows.weights.dtype == np.float32
    found = np.bincount(rows.targets, rows.weights)
    np.testing.assert_allclose(found, 1 + texts if weighed else np.ones(len(counts)), rtol=1e-6)
    several = np.eye(len(counts), dtype=np.float32)
    np.testing.assert_array_equal(Examples(rows.rows, several).by_row.targets, several[rows.targets])


@given(WINDOWS, st.data())
def test_rows_of_texts_are_all_their_windows(counts: list[int], data: st.DataObject) -> None:
    rows = windowed(counts)
    texts = np.array(data.draw(st.permutations(range(len(counts)))))[: data.draw(st.integers(1, len(counts)))]
    found = rows_of_texts(rows, texts)
    assert sorted(found) == sorted(row for text in texts for row in range(rows.windows[text], rows.windows[text + 1]))
    assert (np.diff(rows.lengths[found]) >= 0).all()
    teacher = VectorRows(rows, "teacher", np.arange(len(counts), dtype=np.float32))
    assert teacher.batch(found)["teacher"].tolist() == texts_of_rows(rows, found).tolist()
    assert [counts[text] for text in texts] == [(texts_of_rows(rows, found) == text).sum() for text in texts]
    first = SomeRows(teacher, np.arange(int(texts[0]) + 1))
    assert len(first) == len(first.lengths) == first.windows[-1] == sum(counts[: int(texts[0]) + 1])


# How long is long


@given(st.lists(st.integers(0, 50), min_size=1, max_size=300), st.integers(4, 60))
@settings(max_examples=40, deadline=None)
def test_auto_is_the_99th_percentile_up_to_the_limit(sizes: list[int], limit: int) -> None:
    tokenizer = template_tokenizer()
    tokenizer.model_max_length = limit
    set_length(tokenizer, "auto", ["word1 " * size for size in sizes])
    counts = np.sort(sizes) + 2
    fitting = (counts <= tokenizer.model_max_length).mean()
    assert tokenizer.model_max_length == limit or (
        fitting >= 0.99 and (tokenizer.model_max_length == 3 or tokenizer.model_max_length in counts)
    )
    # Shorter, and more than 1% would be cut.
    assert (counts < tokenizer.model_max_length).mean() < 0.99 or tokenizer.model_max_length == 3


def test_a_given_length_is_cut_to_the_limit() -> None:
    tokenizer = template_tokenizer()
    tokenizer.model_max_length = 9
    assert set_length(tokenizer, 12, []).model_max_length == 9
    assert set_length(tokenizer, 5, []).model_max_length == 5


@pytest.mark.parametrize("wrong", [{"max_length": "long"}, {"max_length": 0}, {"long_text": "fold"}])
def test_wrong_settings(wrong: dict[str, Any]) -> None:
    ((name, value),) = wrong.items()
    with pytest.raises(SettingError, match=f"{name}={value!r}: expected"):
        Full(**wrong).check()


# What is learned is what is predicted


def mean_logits(classifier: Classifier, texts: list[str]) -> torch.Tensor:
    """(texts, labels): each window of each text alone through the model, and their mean."""
    model, tokenizer = classifier.model, classifier.tokenizer
    found = []
    for text in texts:
        rows = encode([text], tokenizer, tokenizer.model_max_length, "windows")
        each = [model(**rows.batch(np.array([row]))).logits[0] for row in range(len(rows))]
        found.append(torch.stack(each).mean(dim=0))
    return torch.stack(found)


@pytest.mark.parametrize("kind", ["bert", "xlnet", "llama"])
@pytest.mark.parametrize("route", [Full(max_length=8, long_text="windows"), Lora(max_length=8, long_text="windows")])
def test_predictions_are_means_over_windows(route: Any, kind: str, bases: Bases) -> None:
    classifier = classifier_of(route, build(route, bases(kind)))
    with torch.no_grad():
        np.testing.assert_allclose(classifier.logits(LONG), mean_logits(classifier, LONG), atol=1e-5)
    short = replace(classifier, route=replace(route, long_text="truncate"))
    different = np.abs(classifier.logits(LONG) - short.logits(LONG)).max(axis=1) > 1e-4
    assert different.tolist() == [False, True, False, True]


@pytest.mark.parametrize("layers", [0, 1])
@pytest.mark.parametrize("passes", [1, 2])
def test_a_step_weighs_texts_not_windows(layers: int, passes: int, bases: Bases, tmp_path: Path) -> None:
    route = Full(max_length=6, long_text="windows", dropout=0.0, freeze_layers=layers)
    built = build(route, bases("bert"))
    targets, balance = np.array([0, 1, 1, 0]), {"bad": 3.0, "good": 0.5}
    weights = torch.tensor([2.0, 1.0, 1.0, 0.5])
    classifier = classifier_of(route, built)
    if layers:
        route.freeze(built.model)
    before = weights_of(built.model)
    # By hand: of each text the mean loss of its windows.
    windows = encode(LONG, built.tokenizer, 6, "windows")
    own = np.repeat(np.arange(4), np.diff(windows.windows))
    logits = torch.cat([built.model(**windows.batch(np.array([row]))).logits for row in range(len(windows))])
    by_class = torch.tensor([3.0, 0.5])
    losses = functional.cross_entropy(logits, torch.from_numpy(targets[own]), by_class, reduction="none")
    of_text = torch.stack([losses[torch.from_numpy(own == text)].mean() for text in range(4)])
    total = (weights * by_class[targets]).sum()
    loss = (of_text * weights).sum() / total
    loss.backward()
    expected = {
        name: before[name] - 0.1 * value.grad if value.grad is not None else before[name]
        for name, value in built.model.named_parameters()
    }
    built.model.zero_grad()
    learner, (rows,) = route.learning(built.model, built.tokenizer, LONG)
    passes_of = {"per_device_train_batch_size": 4 // passes, "gradient_accumulation_steps": passes}
    criterion = LabelLoss(LABELS, class_weights(balance, LABELS, targets))
    report = train_rows(
        learner, rows, targets, tmp_path, criterion=criterion, weights=weights.numpy(), **ONE_STEP | passes_of
    )
    assert (report.step, report.examples) == (1, 4)
    assert report.history[0]["loss"] == pytest.approx(loss.item(), rel=1e-3 if layers else 1e-5)
    for name, value in weights_of(built.model).items():
        torch.testing.assert_close(value, expected[name], atol=2e-4 if layers else 1e-5, rtol=1e-3)
    assert any(not torch.equal(value, before[name]) for name, value in weights_of(classifier.model).items())


def test_validation_scores_texts(bases: Bases, tmp_path: Path) -> None:
    route = Full(max_length=6, long_text="windows", dropout=0.0)
    built = build(route, bases("bert"))
    rows, seen = route.rows(built.model, built.tokenizer, LONG), []

    def score(logits: np.ndarray) -> float:
        seen.append(logits)
        return 1.0

    report = train_rows(built.model, rows, np.array([0, 1, 1, 0]), tmp_path, score=score, **ONE_STEP)
    assert report.best_score == 1.0
    np.testing.assert_allclose(seen[0], predict_logits(built.model, rows), atol=1e-5)
    assert seen[0].shape == (4, 2)


# Frozen features


@pytest.mark.parametrize("head", ["linear", "mlp"])
def test_a_probe_sees_the_mean_of_the_windows_features(head: Any, bases: Bases) -> None:
    route = Probe(
        features=("encoder",),
        max_length=8,
        long_text="windows",
        head_type=head,
        pooling=("mean", "max"),
        mlp_sizes=(4,),
    )
    built = build(route, bases("distilbert"), LONG * 3)
    kept, fresh = (route.rows(built.model, built.tokenizer, LONG, share=share) for share in (True, False))
    assert isinstance(kept, FeatureRows) and isinstance(fresh, FeatureRows)
    windows = encode(LONG, built.tokenizer, 8, "windows")
    inputs = [windows.batch(np.array([row])) for row in range(len(windows))]
    with torch.no_grad():
        each = torch.cat([built.model.encoder_features(**one) for one in inputs])
    expected = np.stack([each[a:b].float().mean(0) for a, b in pairwise(windows.windows)])
    np.testing.assert_allclose(kept.features, expected, rtol=2e-3, atol=2e-3)
    np.testing.assert_array_equal(kept.features, fresh.features)
    classifier = classifier_of(route, built)
    np.testing.assert_array_equal(classifier.logits(LONG), classifier.logits(LONG, share=True))
    # A text is the same alone.
    np.testing.assert_allclose(classifier.logits(LONG[1:2]), classifier.logits(LONG)[1:2], atol=2e-2)


def small(route: Word2Vec, vectors: Path, texts: list[str]) -> Classifier:
    return classifier_of(route, build(route, vectors, texts))


@pytest.mark.parametrize("head", ["linear", "mlp"])
def test_pooled_words_of_windows_are_all_words(head: Any, remarks: Any, vectors_file: Path) -> None:
    texts = remarks[0][:20]
    asked = {"head_type": head, "pooling": ("mean", "max"), "mlp_sizes": (4,)}
    cut = small(Word2Vec(max_length=5, long_text="windows", **asked), vectors_file, texts)
    whole = small(Word2Vec(max_length=500, **asked), vectors_file, texts)
    np.testing.assert_array_equal(cut.logits(texts), whole.logits(texts))
    assert cut.tokenizer.model_max_length == 5
    # Windows that each count as much as they have new words: here two without an overlap.
    tokens = encode_words(["a b c"], make_tokenizer(["a", "b", "c"], 2), "windows")
    assert (tokens.windows, tokens.lengths.tolist()) == (None, [3])


@pytest.mark.parametrize("asked", [{}, {"head_type": "mlp", "train_vectors": True}])
def test_other_heads_on_words_are_given_windows(asked: Any, remarks: Any, vectors_file: Path) -> None:
    texts = [" ".join(remarks[0][:count]) for count in (1, 2, 3)]
    classifier = small(Word2Vec(max_length=8, long_text="windows", num_filters=3, **asked), vectors_file, texts)
    with torch.no_grad():
        np.testing.assert_allclose(classifier.logits(texts), mean_logits(classifier, texts), atol=1e-5)


# Whole runs


def halves(count: int, seed: int) -> tuple[list[str], list[str]]:
    """Texts of whose label only the last words tell, after many that say nothing."""
    texts, labels = texts_of(count, seed)
    return [" ".join([*(WORDS[10:]), text]) for text in texts], labels


SPLITS = {"train": halves(60, 0), "validation": halves(24, 1), "test": halves(40, 2)}
FEW = {"num_train_epochs": 2, "learning_rate": 5e-3, "per_device_train_batch_size": 8}
RUNS: dict[str, tuple[Route, str]] = {
    "full": (Full(max_length=9), "bert"),
    "upper layers": (Full(max_length=9, freeze_layers=1, head_first=True), "bert"),
    "lora": (Lora(max_length=9), "llama"),
    "probe": (Probe(features=("encoder",), max_length=9), "distilbert"),
    "probe mlp with words": (
        Probe(features=("encoder", "word2vec"), head_type="mlp", max_length=9, dimensions=4),
        "distilbert",
    ),
    "cnn": (Word2Vec(max_length=9, num_filters=8), ""),
    "linear": (Word2Vec(max_length=9, head_type="linear"), ""),
}


@pytest.mark.parametrize(
    ("name", "mode"), [*((name, "windows") for name in RUNS), ("probe", "head_tail"), ("cnn", "head_tail")]
)
def test_what_comes_late_is_learned_and_survives_a_reload(
    name: str, mode: Any, bases: Bases, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    route, kind = RUNS[name]
    route = replace(route, long_text=mode)
    base = bases(kind).path if kind else bases("bert").path
    caplog.set_level(logging.INFO, "nlptransfer")
    run = finetune(SPLITS, route=route, base=base, output_dir=tmp_path / "run", **FEW)
    lost = {"train": 1.0, "validation": 1.0, "test": 1.0} if mode == "head_tail" else dict.fromkeys(SPLITS, 0.0)
    assert run.data.truncated == lost
    assert ("100% of the training texts have more than 9 tokens" in caplog.text) == (mode == "head_tail")
    saved = read_json(run.folder / "model" / "nlptransfer.json")
    assert (saved["max_length"], saved["settings"]["long_text"]) == (9, mode)
    again = Classifier.load(run.folder)
    assert again.route == route
    texts = SPLITS["test"][0]
    np.testing.assert_allclose(again.logits(texts), run.classifier.logits(texts), atol=1e-5)
    found = again.evaluate(SPLITS["test"])
    assert found["accuracy"] == run.metrics["accuracy"]
    assert found["loss"] == pytest.approx(run.metrics["loss"], rel=1e-3)
    if name == "probe":
        assert found["accuracy"] > 0.8


def test_windows_of_source_and_target(bases: Bases, tmp_path: Path) -> None:
    route = Full(max_length=9, long_text="windows")
    few = FEW | {"num_train_epochs": 1, "output_dir": tmp_path}
    run = finetune(SPLITS, source=SPLITS, transfer=Joint(), route=route, base=bases("bert").path, **few)
    # Texts, not windows; twice as many where it began again.
    assert run.training.examples in (120, 240, 360)


def test_a_length_of_its_own_choice_is_saved_with_the_tokenizer(
    bases: Bases, vectors_file: Path, tmp_path: Path
) -> None:
    texts = ["word1 " * size for size in range(1, 19)]
    labels = [LABELS.names[row % 2] for row in range(18)]
    test = (["word1 " * 30, "word2"], ["bad", "good"])
    data = {"train": (texts, labels), "validation": (texts, labels), "test": test}
    few = FEW | {"num_train_epochs": 1, "max_length": "auto"}
    for route, base, length in (
        ("full", bases("bert").path, 20), ("probe", bases("distilbert").path, 20), ("word2vec", vectors_file, 36),
    ):  # fmt: skip
        run = finetune(data, route=route, base=base, output_dir=tmp_path / route, **few)
        assert Classifier.load(tmp_path / route).tokenizer.model_max_length == length
        assert run.settings["route"]["max_length"] == "auto"
        assert run.data.truncated == {"train": 0.0, "validation": 0.0, "test": 0.5}


def test_the_report_and_the_card_tell_what_is_not_read(bases: Bases, tmp_path: Path) -> None:
    route = Full(max_length=9, long_text="head_tail")
    run = finetune(SPLITS, route=route, base=bases("bert").path, output_dir=tmp_path, **FEW | {"num_train_epochs": 1})
    page = write_report(run.folder).read_text(encoding="utf-8")
    assert "Texts of more tokens than are read" in page and page.count("100.0%") >= 3
    facts = card_facts(SavedRecord.read(run.folder / "model"), "me/films")
    cards = {mode: model_card(replace(facts, long_text=mode)) for mode in MODES}
    assert "It reads the first 9 tokens of a text; what is longer is truncated." in cards["truncate"]
    assert "Of a text of more than 9 tokens it reads the first quarter of so many, and the rest" in cards["head_tail"]
    assert "of more than 9 tokens in windows that overlap, pooled into one prediction" in cards["windows"]
    for mode in ("head_tail", "windows"):
        assert cards[mode].count("plain transformers too, truncate what is longer") == 1
    assert "plain transformers too" not in cards["truncate"]


# ONNX


def test_each_window_goes_with_all_words_of_its_text() -> None:
    words = TokenRows(np.arange(6, dtype=np.int32), np.array([0, 1, 4, 6]), pad_id=9)
    rows = WordIdRows(windowed([2, 1, 3]), words)
    assert rows.windows.tolist() == [0, 2, 3, 6]
    found = rows.batch(np.array([5, 0, 2, 1]))
    assert found["word_ids"].tolist() == [[4, 5, 9], [0, 9, 9], [1, 2, 3], [0, 9, 9]]
    assert found["input_ids"].shape[0] == 4


def test_a_graph_cannot_pool_features_below_hidden_layers(bases: Bases, tmp_path: Path) -> None:
    route = Probe(max_length=8, long_text="windows", head_type="mlp")
    classifier = classifier_of(route, build(route, bases("distilbert"), LONG * 3))
    with pytest.raises(SettingError, match="expected a probe with head_type=linear where long_text=windows, found mlp"):
        classifier.export_onnx(tmp_path / "onnx")
    assert not (tmp_path / "onnx").exists()
