"""Classifiers of every route as ONNX: what onnxruntime makes of them, alone and through Classifier; 8 bits; errors."""

import logging
import math
import re
import sys
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import cache
from itertools import pairwise
from pathlib import Path

import numpy as np
import onnxruntime
import pytest
import torch
from peft import PeftModel
from safetensors.numpy import load_file
from torch import Tensor, nn
from transformers import AutoTokenizer

import nlptransfer
from helpers.classifiers import changed, without_hashes, write_vectors
from helpers.corpora import WORDS
from helpers.encoders import SHAPES, make_base, make_xlnet_base
from helpers.runs import finetune
from nlptransfer import Classifier, Full, Lora, Probe, Word2Vec
from nlptransfer.classifier.onnx import OnnxForSequenceClassification
from nlptransfer.data.labels import Labels
from nlptransfer.errors import BaseModelError, RunFolderError, SettingError, VerificationError
from nlptransfer.files import read_json, size_mb, write_json
from nlptransfer.routes.base import Route

FILES = {"config.json", "model.onnx", "nlptransfer.json", "tokenizer.json", "tokenizer_config.json"}
ONE = Labels(("bad", "fair", "good"))
SEVERAL = Labels(("bad", "fair", "good"), multi_label=True)
TEXTS = ["word1 word2 word12", "word7", "word8 word3 unheard", " ".join(WORDS * 2), "word4 " * 9, ""]


@dataclass(frozen=True)
class Case:
    """A classifier to export."""

    route: Route
    labels: Labels
    base: str
    """a kind of encoder, or a file of vectors"""


CASES = {
    "cnn": Case(Word2Vec(num_filters=4), ONE, "vectors.txt"),
    "mlp": Case(Word2Vec(head_type="mlp", pooling=("mean", "max"), mlp_sizes=(6,)), SEVERAL, "vectors.txt"),
    "linear": Case(Word2Vec(head_type="linear"), ONE, "vectors.txt"),
    "probe": Case(Probe(features=("encoder",), pooling=("mean", "max", "cls")), ONE, "bert"),
    "probe with n-grams": Case(Probe(features=("encoder", "ngrams"), max_length=8, long_text="windows"), ONE, "bert"),
    "linear with n-grams": Case(Word2Vec(head_type="linear", features=("word2vec", "ngrams")), SEVERAL, "vectors.txt"),
    "probe with words": Case(Probe(features=("encoder", "word2vec"), head_type="mlp"), SEVERAL, "distilbert"),
    "full": Case(Full(), ONE, "xlnet"),
    "full, several": Case(Full(max_length=8, long_text="windows"), SEVERAL, "bert"),
    "lora": Case(Lora(rank=2, base_precision="bfloat16"), ONE, "llama"),
    "lora, several": Case(Lora(rank=2), SEVERAL, "distilbert"),
}


@pytest.fixture(scope="module")
def untrained(tmp_path_factory) -> Callable[[Case], Classifier]:
    """A classifier with weights that are drawn."""
    root = tmp_path_factory.mktemp("bases")
    # Wide enough for 8 bits to save more than they cost.
    vectors = write_vectors(root / "vectors.txt", 1000)

    def make(case: Case) -> Classifier:
        base, route = root / case.base, case.route
        if case.base != vectors.name and not base.exists():
            shape = SHAPES[case.base] | {"num_hidden_layers": 1, "n_layers": 1, "n_layer": 1}
            if case.base == "xlnet":
                make_xlnet_base(base, shape)
            else:
                make_base(base, case.base, shape)
        if isinstance(route, Probe) and "word2vec" in route.features:
            route = replace(route, vectors=str(vectors))
        return changed(route, base, case.labels)

    return make


@dataclass(frozen=True)
class Pair:
    """A classifier, what it was exported to, and where."""

    case: Case
    live: Classifier
    exported: Classifier
    folder: Path

    def wanted(self, texts: list[str]) -> np.ndarray:
        """Logits in torch, in float32."""
        in_16_bits = isinstance(self.live.route, Lora) and self.live.route.base_precision == "bfloat16"
        return (self.live.merge() if in_16_bits else self.live).logits(texts)


@pytest.fixture(scope="module")
def pairs(untrained, tmp_path_factory) -> Callable[[str], Pair]:
    """The cases by name, each exported once: that takes seconds."""

    @cache
    def pair_of(name: str) -> Pair:
        live, folder = untrained(CASES[name]), tmp_path_factory.mktemp("exported") / "out"
        return Pair(CASES[name], live, live.export_onnx(folder), folder)

    return pair_of


@pytest.fixture(scope="module", params=CASES)
def pair(request, pairs) -> Pair:
    return pairs(request.param)


@pytest.fixture(scope="module")
def words(pairs) -> Pair:
    """One that is exported quickly."""
    return pairs("mlp")


# What onnxruntime makes of it


def test_logits_are_those_of_the_live_model(pair):
    wanted = pair.wanted(TEXTS)
    # Else equal logits would mean little.
    assert wanted.std() > 0.01
    np.testing.assert_allclose(pair.exported.logits(TEXTS), wanted, atol=1e-4)
    for place, text in enumerate(TEXTS):
        np.testing.assert_allclose(pair.exported.logits([text]), wanted[[place]], atol=1e-4)
    many = TEXTS * 300
    np.testing.assert_allclose(pair.exported.logits(many[::-1]), np.tile(wanted, (300, 1))[::-1], atol=1e-4)
    assert pair.exported.logits([]).shape == (0, 3)


def test_onnxruntime_alone_gives_them(pair):
    session = onnxruntime.InferenceSession(pair.folder / "model.onnx", providers=["CPUExecutionProvider"])
    # Windows are made before the graph.
    windows = pair.live.route.long_text == "windows"
    texts = [text for text in TEXTS if text and not (windows and len(text.split()) > 6)]
    inputs = dict(AutoTokenizer.from_pretrained(pair.folder)(texts, padding=True, truncation=True, return_tensors="np"))
    if (pair.folder / "words").exists():
        cut = AutoTokenizer.from_pretrained(pair.folder / "words")
        inputs["word_ids"] = cut(texts, padding=True, truncation=True, return_tensors="np")["input_ids"]
    if (pair.folder / "ngrams.safetensors").exists():
        inputs["ngram_ids"], inputs["ngram_weights"] = ngrams_by_hand(pair.folder, texts)
    types = {value.name: value.type for value in session.get_inputs()}
    numbers = {"tensor(int64)": np.int64, "tensor(float)": np.float32}
    (logits,) = session.run(["logits"], {name: inputs[name].astype(numbers[kind]) for name, kind in types.items()})
    np.testing.assert_allclose(logits, pair.wanted(texts), atol=1e-4)
    assert all(value.shape[0] == "batch" for value in session.get_inputs())
    assert [value.name for value in session.get_outputs()] == ["logits"]


def ngrams_by_hand(folder: Path, texts: list[str]) -> tuple[np.ndarray, np.ndarray]:
    """Compute the n-grams of texts by the formula alone."""
    saved = load_file(folder / "ngrams.safetensors")
    written = saved["terms"].tobytes()
    places = {written[start:end].decode(): at for at, (start, end) in enumerate(pairwise([0, *saved["ends"]]))}
    rows = []
    for text in texts:
        words = text.lower().split()
        counts = Counter(word for word in [*words, *map(" ".join, pairwise(words))] if word in places)
        ids = [places[word] for word in counts]
        weights = np.array([(1 + math.log(count)) * saved["idf"][places[word]] for word, count in counts.items()])
        rows.append((ids, weights / np.linalg.norm(weights) if ids else weights))
    width = max(len(ids) for ids, _ in rows)
    return tuple(
        np.array([[*values, *[0] * (width - len(values))] for values in part]) for part in zip(*rows, strict=True)
    )


def test_folder_is_whole(pair):
    features = getattr(pair.live.route, "features", ())
    extra = {"words"} if isinstance(pair.live.route, Probe) and "word2vec" in features else set()
    extra |= {"ngrams.safetensors"} if "ngrams" in features else set()
    assert {path.name for path in pair.folder.iterdir()} == FILES | extra
    config = read_json(pair.folder / "config.json")
    assert config["id2label"] == {"0": "bad", "1": "fair", "2": "good"}
    assert config["problem_type"] == pair.live.labels.problem_type
    assert re.fullmatch(r"\w+ForSequenceClassification", *config["architectures"])
    record = read_json(pair.folder / "nlptransfer.json")
    route = pair.live.route
    assert record["route"] == "onnx"
    assert record["settings"] == {"learned_by": route.name, "long_text": route.long_text}
    assert record["format"] == "onnx" and 0 <= record["max_logit_difference"] < 1e-4
    assert record["labels"] == list(pair.live.labels.names) and record["base"] == pair.live.record["base"]
    graph = (pair.folder / "model.onnx").read_bytes()
    for path in (Path(nlptransfer.__file__), Path(torch.__file__), pair.folder):
        assert str(path.parent.parent).encode() not in graph


def test_loaded_from_the_graph_or_its_folder_it_predicts_alike(pair):
    wanted = pair.live.predict(TEXTS)
    for place in (pair.folder, pair.folder / "model.onnx", str(pair.folder / "model.onnx")):
        found = Classifier.load(place).predict(TEXTS)
        assert [each.multi_label for each in found] == [each.multi_label for each in wanted]
        assert [list(each.probabilities) for each in found] == [list(each.probabilities) for each in wanted]
    if pair.live.model.dtype == torch.float32:
        assert [each.labels for each in found] == [each.labels for each in wanted]
        assert found[0].probabilities == pytest.approx(wanted[0].probabilities, abs=1e-4)
    abstained = Classifier.load(pair.folder).predict(TEXTS, min_confidence=1)
    assert [(each.abstained, each.labels) for each in abstained] == [(True, ())] * len(TEXTS)


def test_it_computes_on_the_device_that_is_named(words):
    loaded = Classifier.load(words.folder, device="cpu")
    assert loaded.model.session.get_providers() == ["CPUExecutionProvider"]
    np.testing.assert_array_equal(loaded.logits(TEXTS), Classifier.load(words.folder).logits(TEXTS))
    with pytest.raises(SettingError, match=r"device='mps': expected one that onnxruntime can use here: CPUExecution"):
        loaded.model.compute_on(torch.device("mps"))


def test_the_live_model_stays_as_it_was(pair, untrained):
    assert isinstance(pair.live.model, PeftModel) == isinstance(pair.live.route, Lora)
    assert not pair.live.model.training
    np.testing.assert_array_equal(pair.live.logits(TEXTS), untrained(pair.case).logits(TEXTS))


def test_saved_again_it_is_the_same(words, tmp_path):
    again = Classifier.load(words.folder).save_pretrained(tmp_path / "again")
    assert {path.name for path in again.iterdir()} == FILES
    assert (again / "model.onnx").read_bytes() == (words.folder / "model.onnx").read_bytes()
    np.testing.assert_array_equal(Classifier.load(again).logits(TEXTS), Classifier.load(words.folder).logits(TEXTS))


@pytest.mark.parametrize(("said", "threads"), [("3", 3), ("2,1", 2), ("", 0), ("many", 0)])
def test_threads_are_as_many_as_the_environment_says(words, monkeypatch, said, threads):
    monkeypatch.setenv("OMP_NUM_THREADS", said)
    model = Classifier.load(words.folder).model
    assert isinstance(model, OnnxForSequenceClassification)
    # 0: onnxruntime's own choice, one for each core.
    assert model.session.get_session_options().intra_op_num_threads == threads


def test_wherever_it_is_put_the_model_takes_what_lies_in_main_memory(words):
    model = Classifier.load(words.folder).model
    assert model.to("meta").device == torch.device("cpu") and model.half().dtype == torch.float32
    assert not any(parameter.requires_grad for parameter in model.parameters())


# 8 bits


def test_8_bits_are_smaller_and_nearly_as_good(words, tmp_path, capfd):
    wanted = words.live.logits(TEXTS)
    handlers, level = list(logging.getLogger().handlers), logging.getLogger("torch.onnx").level
    found = words.live.export_onnx(tmp_path / "out", int8=True)
    # What torch and onnxruntime say while they work is kept from the user.
    assert capfd.readouterr() == ("", "")
    assert logging.getLogger().handlers == handlers and logging.getLogger("torch.onnx").level == level
    assert size_mb(tmp_path / "out/model.onnx") < 0.4 * size_mb(words.folder / "model.onnx")
    np.testing.assert_allclose(found.logits(TEXTS), wanted, atol=0.1 * np.abs(wanted).max())
    record = read_json(tmp_path / "out/nlptransfer.json")
    assert record["format"] == "onnx int8" and 1e-5 < record["max_logit_difference"] < 0.1 * np.abs(wanted).max()
    assert {path.name for path in (tmp_path / "out").iterdir()} == FILES


@pytest.mark.parametrize("int8", [False, True])
def test_weights_beyond_one_file_lie_beside_it(words, int8, tmp_path, monkeypatch):
    # A file of ONNX may have 2 GB; here a kilobyte.
    monkeypatch.setattr("torch.onnx._internal.exporter._onnx_program._LARGE_MODEL_THRESHOLD", 1000)
    found = words.live.export_onnx(tmp_path / "out", int8=int8)
    assert {path.name for path in (tmp_path / "out").iterdir()} == FILES | {"model.onnx.data"}
    np.testing.assert_allclose(found.logits(TEXTS), words.live.logits(TEXTS), atol=0.5 if int8 else 1e-4)
    (without_hashes(tmp_path / "out") / "model.onnx.data").unlink()
    with pytest.raises(RunFolderError, match=r"model\.onnx: expected a graph that onnxruntime opens, found .*data"):
        Classifier.load(tmp_path / "out")


# Errors


@pytest.mark.parametrize("package", ["onnx", "onnxscript", "onnxruntime"])
def test_packages_that_are_not_installed(words, package, tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, package, None)
    with pytest.raises(SettingError, match=r"export to ONNX needs .*: pip install 'nlptransfer\[onnx\]'"):
        words.live.export_onnx(tmp_path / "out")
    assert not (tmp_path / "out").exists()
    if package != "onnxruntime":
        # To predict takes one of them.
        assert Classifier.load(words.folder).logits(TEXTS).shape == (6, 3)
        return
    with pytest.raises(SettingError, match=r"needs the package onnxruntime: pip install 'nlptransfer\[onnx\]'"):
        Classifier.load(words.folder)


class Counting(nn.Module):
    """What no graph can have: a way that depends on the numbers."""

    def forward(self, features: Tensor) -> Tensor:
        return features if float(features.sum()) > 0 else -features


class Drawing(nn.Module):
    """What is another each time."""

    def forward(self, features: Tensor) -> Tensor:
        return features + torch.rand_like(features)


def test_a_model_that_cannot_be_exported(untrained, tmp_path):
    live = untrained(CASES["linear"])
    live.model.body.add_module("last", Counting())
    live.model.body.forward = lambda features: live.model.body.last(features)
    with pytest.raises(BaseModelError, match=r"found model type 'word2vec', which fails with .*: keep it as it is"):
        live.export_onnx(tmp_path / "out")
    assert not any(tmp_path.iterdir())


def test_a_graph_that_gives_something_else(untrained, tmp_path):
    live = untrained(CASES["linear"])
    live.model.classifier = nn.Sequential(live.model.classifier, Drawing())
    with pytest.raises(VerificationError, match=r"expected logits as the live model has them \(to 0.001\), found"):
        live.export_onnx(tmp_path / "out")
    assert not any(tmp_path.iterdir())


def test_a_spoiled_graph(words, tmp_path):
    spoiled = without_hashes(Classifier.load(words.folder).save_pretrained(tmp_path / "out"))
    whole = (spoiled / "model.onnx").read_bytes()
    for content in (b"", whole[: len(whole) // 2], b"no graph at all"):
        (spoiled / "model.onnx").write_bytes(content)
        with pytest.raises(RunFolderError, match=r"model\.onnx: expected a graph that onnxruntime opens, found "):
            Classifier.load(spoiled)
    (spoiled / "model.onnx").unlink()
    with pytest.raises(RunFolderError, match=r"model\.onnx: expected a graph that onnxruntime opens, found "):
        Classifier.load(spoiled)


def test_a_graph_of_other_labels(words, tmp_path):
    folder = without_hashes(Classifier.load(words.folder).save_pretrained(tmp_path / "out"))
    config = read_json(folder / "config.json")
    config |= {"id2label": {"0": "bad", "1": "good"}, "label2id": {"bad": 0, "good": 1}}
    write_json(folder / "config.json", config)
    with pytest.raises(
        RunFolderError, match=r"expected logits of 2 labels, as config\.json has them, found logits of 3"
    ):
        Classifier.load(folder)


def test_what_was_exported_cannot_learn(words, tmp_path):
    exported = Classifier.load(words.folder)
    rows = [(name, name) for name in ONE.names for _ in range(8)]
    with pytest.raises(SettingError, match=r"expected a classifier that can learn, .* of route word2vec"):
        finetune(rows, source=exported, output_dir=tmp_path / "run")
    with pytest.raises(SettingError, match="merge: expected an adapter"):
        exported.merge()
    with pytest.raises(SettingError, match="export: expected a model in torch, found one in ONNX"):
        exported.export_onnx(tmp_path / "out")
