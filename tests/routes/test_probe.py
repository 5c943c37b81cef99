"""The route Probe: its features against plain transformers, its cache, what it saves, and what it refuses."""

import json
import logging
import os
import signal
from collections.abc import Sequence
from dataclasses import replace
from multiprocessing import get_context
from pathlib import Path
from shutil import copytree, move
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.numpy import load_file, save_file
from transformers import AutoModel, FunnelConfig, FunnelModel, PreTrainedTokenizerFast
from transformers.utils import logging as hf_logging

from helpers.classifiers import train_only
from helpers.corpora import FILM_WORDS
from helpers.encoders import make_film_base
from helpers.folders import files_of, no_path_in
from helpers.training import train_rows
from nlptransfer.cache import cache_folder
from nlptransfer.data.labels import Labels
from nlptransfer.errors import BaseModelError, RunFolderError, SettingError
from nlptransfer.models import features, inference
from nlptransfer.models.inference import predict_logits
from nlptransfer.models.rows import FeatureRows, NgramRows, Rows
from nlptransfer.models.tokens import LongText
from nlptransfer.routes.base import Built
from nlptransfer.routes.probe import Probe
from nlptransfer.routes.probe_model import ProbeForSequenceClassification
from nlptransfer.training.lbfgs import Features, fit
from nlptransfer.training.losses import LabelLoss, Objective
from nlptransfer.training.optimizer import TrainingSettings
from nlptransfer.vectors.store import save_vectors

TEXTS = [
    "a good film", "the plot was dull and long", "great cast", "a mess", "the film was a gem", "bad bad plot and cast",
    "good", "long and dull and long and bad", "unheard of", "a great plot",
]  # fmt: skip
TARGETS = np.array([1, 0, 1, 0, 1, 0, 1, 0, 0, 1])
LAYERS = [("all", [1, 2, 3]), ("last", [3]), (2, [2]), (-2, [2]), ((1, -1), [1, 3]), ((-1, 3, 1), [1, 3])]

pytestmark = pytest.mark.usefixtures("own_cache")


@pytest.fixture
def base(tmp_path: Path) -> str:
    return make_film_base(tmp_path / "encoder")


@pytest.fixture
def vectors(tmp_path: Path) -> str:
    """A file of 5-dimensional word vectors."""
    matrix = np.random.default_rng(0).normal(0, 3, (len(FILM_WORDS), 5)).astype(np.float32)
    save_vectors(tmp_path / "vectors.txt", FILM_WORDS, matrix)
    return str(tmp_path / "vectors.txt")


def build(route: Probe, base: str, seed: int = 0, texts: Sequence[str] = TEXTS) -> Built:
    return route.build(train_only(texts, np.arange(len(texts)) % 2), base, None, seed)


def own(built: Built) -> ProbeForSequenceClassification:
    assert isinstance(built.model, ProbeForSequenceClassification)
    return built.model


def rows_of(route: Probe, built: Built, texts: Sequence[str] = TEXTS, share: bool = True) -> Rows:
    return route.rows(built.model, built.tokenizer, texts, share=share)


def features_of(route: Probe, built: Built, texts: Sequence[str] = TEXTS) -> np.ndarray:
    rows = rows_of(route, built, texts)
    dense = rows.rows if isinstance(rows, NgramRows) else rows
    assert isinstance(dense, FeatureRows)
    return dense.features


def head_inputs(route: Probe, built: Built, texts: Sequence[str] = TEXTS) -> np.ndarray:
    inputs = route.head_inputs(built.model, rows_of(route, built, texts))
    assert inputs is not None
    return inputs[0]


def entries() -> int:
    return len([*cache_folder("features").glob("*")])


def by_hand(base: str, texts: Sequence[str], layers: list[int], pooling: tuple[str, ...]) -> np.ndarray:
    """Each text alone through plain transformers, with no padding."""
    tokenizer = PreTrainedTokenizerFast.from_pretrained(base)
    model = AutoModel.from_pretrained(base).eval()
    found = []
    for text in texts:
        with torch.no_grad():
            states = model(**tokenizer(text, return_tensors="pt"), output_hidden_states=True).hidden_states
        parts = []
        for number in layers:
            state = states[number][0]
            pooled = {"mean": state.mean(0), "max": state.amax(0), "cls": state[0]}
            parts += [pooled[kind] for kind in pooling]
        found.append(torch.cat(parts).numpy())
    return np.stack(found)


# Features


@pytest.mark.parametrize("kind", ["bert", "decoder"])
@pytest.mark.parametrize("pooling", [("mean",), ("max", "mean"), ("cls",), ("mean", "cls", "max")])
def test_features_are_those_of_plain_transformers(tmp_path: Path, kind: str, pooling: Any) -> None:
    base = make_film_base(tmp_path / kind, kind)
    route = Probe(pooling=pooling)
    found = features_of(route, build(route, base))
    assert found.dtype == np.float16
    np.testing.assert_allclose(found, by_hand(base, TEXTS, [1, 2, 3], pooling), rtol=2e-3, atol=2e-3)


@pytest.mark.parametrize(("asked", "numbers"), LAYERS)
def test_layers(base: str, asked: Any, numbers: list[int]) -> None:
    route = Probe(layers=asked)
    built = build(route, base)
    assert own(built).config.layers == numbers
    expected = by_hand(base, TEXTS, numbers, ("mean",))
    np.testing.assert_allclose(features_of(route, built), expected, rtol=2e-3, atol=2e-3)


@pytest.mark.parametrize("kind", ["bert", "decoder"])
@pytest.mark.parametrize("head", ["linear", "mlp"])
def test_logits_from_the_cache_are_those_from_text(tmp_path: Path, kind: str, head: Any) -> None:
    route = Probe(pooling=("mean", "cls"), head_type=head)
    built = build(route, make_film_base(tmp_path / kind, kind))
    cached = predict_logits(built.model, rows_of(route, built))
    np.testing.assert_allclose(cached, predict_logits(built.model, rows_of(route, built, share=False)), atol=0.02)


def test_text_of_no_token_is_zero(tmp_path: Path) -> None:
    route = Probe(pooling=("mean", "max", "cls"))
    built = build(route, make_film_base(tmp_path / "decoder", "decoder"))
    found = features_of(route, built, ["", "a good film", " "])
    assert not found[[0, 2]].any() and found[1].any()
    assert not features_of(route, built, [""]).any()
    assert np.isfinite(predict_logits(built.model, rows_of(route, built, ["", "good"], share=False))).all()


def test_long_texts_are_cut(base: str) -> None:
    route = Probe(max_length=5)
    built = build(route, base)
    assert built.tokenizer.model_max_length == 5
    found = features_of(route, built, ["a good film and a bad plot", "a good film"])
    np.testing.assert_array_equal(found[0], found[1])


def test_no_texts(base: str) -> None:
    route = Probe()
    built = build(route, base)
    before = entries()
    assert head_inputs(route, built, []).shape == (0, 3 * 8)
    assert predict_logits(built.model, rows_of(route, built, [])).shape == (0, 2)
    assert entries() == before


def test_what_float16_has_not_becomes_its_end(base: str) -> None:
    weights = load_file(Path(base) / "model.safetensors")
    weights["encoder.layer.2.output.LayerNorm.bias"][:2] = 1e6, -1e6
    save_file(weights, Path(base) / "model.safetensors", metadata={"format": "pt"})
    route = Probe(layers="last")
    built = build(route, base)
    found = features_of(route, built)
    assert (found[:, 0] == 65504).all() and (found[:, 1] == -65504).all()
    cached = predict_logits(built.model, rows_of(route, built))
    assert np.isfinite(cached).all()
    np.testing.assert_allclose(cached, predict_logits(built.model, rows_of(route, built, share=False)), atol=0.02)


def test_constant_features_are_left_alone(base: str) -> None:
    file, norm = Path(base) / "model.safetensors", "encoder.layer.2.output.LayerNorm"
    weights = load_file(file)
    weights[f"{norm}.weight"][:3] = 0, 1e-3, 0
    weights[f"{norm}.bias"][:3] = 0.25, 0, 0
    save_file(weights, file, metadata={"format": "pt"})
    # Rounded to float16 the second one is now this, now that: its spread is that of the rounding.
    weights[f"{norm}.bias"][1] = 1 + 2**-11 - np.median(by_hand(base, TEXTS, [3], ("mean",))[:, 1])
    save_file(weights, file, metadata={"format": "pt"})
    route = Probe(layers="last")
    built = build(route, base)
    assert len(np.unique(features_of(route, built)[:, 1])) == 2
    assert own(built).body.standardize.scale[:3].tolist() == [1, 1, 1]
    inputs = head_inputs(route, built)
    assert np.abs(inputs[:, :3]).max() < 1e-3
    np.testing.assert_allclose(inputs[:, 3:].mean(axis=0), 0, atol=1e-5)
    np.testing.assert_allclose(inputs[:, 3:].std(axis=0), 1, atol=1e-4)


def test_padding_counts_for_nothing(base: str) -> None:
    route = Probe(pooling=("mean", "max", "cls"))
    built = build(route, base)
    plain = rows_of(route, built, share=False)
    expected = predict_logits(built.model, plain)

    def spoil(_: Any, __: Any, inputs: dict[str, torch.Tensor], output: Any) -> Any:
        padding = ~inputs["attention_mask"].bool().unsqueeze(2)
        output.hidden_states = tuple(states.masked_fill(padding, torch.nan) for states in output.hidden_states)
        return output

    own(built).encoder.register_forward_hook(spoil, with_kwargs=True)
    np.testing.assert_array_equal(predict_logits(built.model, plain), expected)


# The cache


def test_second_run_neither_runs_the_encoder_nor_the_tokenizer(base: str, monkeypatch: pytest.MonkeyPatch) -> None:
    route = Probe()
    first = features_of(route, build(route, base, seed=1))
    assert entries() == 1

    def refuse(*_: Any, **__: Any) -> None:
        raise AssertionError("the encoder was run")

    monkeypatch.setattr(ProbeForSequenceClassification, "encoder_features", refuse)
    with monkeypatch.context() as patched:
        patched.setattr(Probe, "tokens", refuse)
        again = build(Probe(head_type="mlp"), base, seed=2)
        np.testing.assert_array_equal(features_of(route, again), first)
    with pytest.raises(AssertionError, match="the encoder was run"):
        predict_logits(again.model, rows_of(route, again, share=False))


def test_whatever_changes_features_is_another_entry(base: str, tmp_path: Path) -> None:
    copied = copytree(base, tmp_path / "moved")
    retrained = make_film_base(tmp_path / "retrained", seed=1)
    reworded = copytree(base, tmp_path / "reworded")
    tokens = json.loads((reworded / "tokenizer.json").read_text())
    vocabulary = tokens["model"]["vocab"]
    vocabulary["great"], vocabulary["dull"] = vocabulary["dull"], vocabulary["great"]
    (reworded / "tokenizer.json").write_text(json.dumps(tokens))
    reshaped = copytree(base, tmp_path / "reshaped")
    config = json.loads((reshaped / "config.json").read_text())
    (reshaped / "config.json").write_text(json.dumps({**config, "hidden_act": "relu"}))
    poolings: list[Any] = [("max",), ("mean", "max"), ("max", "mean")]
    routes = [Probe(layers=(1, 3)), Probe(max_length=31), *(Probe(pooling=pooling) for pooling in poolings)]
    others = [(Probe(), other) for other in (base, retrained, str(reworded), str(reshaped))]
    others += [(route, base) for route in routes]
    for number, (route, other) in enumerate(others, start=1):
        build(route, other)
        assert entries() == number
    built = build(Probe(), base, texts=TEXTS[:-1])
    build(Probe(), base, texts=[*TEXTS[:-1], "a great film"])
    build(Probe(), base, texts=TEXTS[::-1])
    assert entries() == len(others) + 3
    for same in (Probe(), Probe(head_type="mlp", dropout=0.1), Probe(layers=(1, 2, -1))):
        build(same, base)
        build(same, str(copied))
    rows_of(Probe(), built)
    assert entries() == len(others) + 3


PARTS = [*FILM_WORDS, *(f"{word} {other} film " * 3 for word in FILM_WORDS for other in FILM_WORDS[:3])]
"""Texts of several lengths."""


def compute_parts(route: Probe, built: Built, home: Path, out: Path, kill_at: int | None) -> None:
    """Compute features with a cache in ``home``; be killed when so many rows went through the encoder."""
    real, passed = ProbeForSequenceClassification.encoder_features, 0
    logging.basicConfig(filename=out.with_suffix(".log"), level="WARNING", force=True)
    os.environ["HF_HOME"], features.PART_ROWS, inference.CPU_NUMBERS = str(home), 8, 512

    def counted(model: ProbeForSequenceClassification, input_ids: torch.Tensor, **inputs: torch.Tensor) -> torch.Tensor:
        nonlocal passed
        passed += len(input_ids)
        if kill_at is not None and passed > kill_at:
            os.kill(os.getpid(), signal.SIGKILL)
        return real(model, input_ids, **inputs)

    ProbeForSequenceClassification.encoder_features = counted
    np.savez(out, features=features_of(route, built, PARTS), passed=passed)


def children(*calls: tuple[Any, ...]) -> list[int | None]:
    """How processes end that are forked from this one, and compute at once."""
    started = [get_context("fork").Process(target=compute_parts, args=call) for call in calls]
    for one in started:
        one.start()
    for one in started:
        one.join()
    return [one.exitcode for one in started]


@pytest.mark.filterwarnings("ignore:.*fork:DeprecationWarning")
@pytest.mark.parametrize("long_text", ["truncate", "windows"])
def test_features_of_a_run_that_was_killed_twice(base: str, tmp_path: Path, long_text: LongText) -> None:
    route = Probe(max_length=8, long_text=long_text, pooling=("mean", "max"))
    built, homes = build(route, base), (tmp_path / "one", tmp_path / "other")
    out = [tmp_path / f"{name}.npz" for name in ("whole", "cut", "first", "second")]
    assert children((route, built, homes[0], out[0], None)) == [0]
    whole = np.load(out[0])
    for _ in range(2):
        assert children((route, built, homes[1], out[1], whole["passed"] // 3)) == [-signal.SIGKILL]
    parts = sorted(homes[1].rglob("array.npy"))
    with parts[0].open("r+b") as file:
        file.seek(-1, os.SEEK_END)
        file.write(b"?")
    # Two at once, each of which may do all by itself.
    assert children(*((route, built, homes[1], place, None) for place in out[2:])) == [0, 0]
    both = [np.load(place) for place in out[2:]]
    for found in both:
        np.testing.assert_array_equal(found["features"].view(np.uint8), whole["features"].view(np.uint8))
    passed = [int(found["passed"]) for found in both]
    # The first to end went on; the other has nothing left to do, or does all where the parts are gone before its turn.
    assert 0 < min(filter(None, passed)) < whole["passed"]
    said = "".join(place.with_suffix(".log").read_text() for place in out)
    assert len(parts) >= 3 and 1 <= said.count("is damaged, and is made anew") == len(said.splitlines()) <= 2
    assert [len([*(home / "nlptransfer" / "features").iterdir()]) for home in homes] == [1, 1]


# Heads


def test_fitted_head_learns(base: str) -> None:
    route = Probe(features=("encoder",))
    built = build(route, base)
    inputs = head_inputs(route, built)
    assert inputs.dtype == np.float32 and inputs.shape == (len(TEXTS), 3 * 8)
    weight, bias = fit(LabelLoss(Labels(("bad", "good"), False)), Features(inputs, TARGETS), 0.01)
    with torch.no_grad():
        route.head(built.model).weight.copy_(torch.from_numpy(weight))
        route.head(built.model).bias.copy_(torch.from_numpy(bias))
    for share in (True, False):
        found = predict_logits(built.model, rows_of(route, built, share=share))
        np.testing.assert_allclose(found, inputs @ weight.T + bias, atol=0.05)
        assert (found.argmax(axis=1) == TARGETS).all()


def test_mlp_learns_and_the_encoder_stays(base: str, tmp_path: Path) -> None:
    route = Probe(head_type="mlp", mlp_sizes=(16, 8), dropout=0.1)
    built = build(route, base)
    rows = rows_of(route, built)
    assert route.head_inputs(built.model, rows) is None
    before = {name: value.clone() for name, value in own(built).encoder.state_dict().items()}
    settings = {"num_train_epochs": 30, "learning_rate": 0.02, "per_device_train_batch_size": 5}

    def score(logits: np.ndarray) -> float:
        return float((logits.argmax(axis=1) == TARGETS).mean())

    train_rows(built.model, rows, TARGETS, tmp_path, score=score, **settings)
    assert (predict_logits(built.model, rows_of(route, built, share=False)).argmax(axis=1) == TARGETS).all()
    for name, value in own(built).encoder.state_dict().items():
        assert torch.equal(value, before[name])
    TrainingSettings(**route.defaults(train_only(TEXTS, TARGETS))).check()


def test_only_the_classifier_learns_and_the_encoder_is_always_in_eval_mode(base: str, vectors: str) -> None:
    model = own(build(Probe(features=("encoder", "word2vec"), vectors=vectors, head_type="mlp"), base))
    learned = {name.split(".")[0] for name, value in model.named_parameters() if value.requires_grad}
    assert learned == {"body", "classifier"}
    for module in (model, Objective(model, LabelLoss(Labels(("bad", "good"), False), None, 0.0))):
        module.train()
        assert model.training and model.body.layers.training
        assert not any(part.training for part in model.encoder.modules())
    model.eval()
    assert not model.body.training


def test_initial_weights_depend_on_the_seed_alone(base: str) -> None:
    heads = [own(build(Probe(head_type="mlp"), base, seed=seed)).classifier.weight for seed in (1, 1, 2)]
    assert torch.equal(heads[0], heads[1]) and not torch.equal(heads[0], heads[2])


# Words beside the encoder


def test_word_vectors_beside(base: str, vectors: str) -> None:
    route = Probe(features=("encoder", "word2vec"), vectors=vectors, layers="last")
    built = build(route, base)
    model = own(built)
    assert model.vectors is not None and not model.vectors.weight[:2].any()
    found = features_of(route, built)
    assert found.shape == (len(TEXTS), 8 + 5) and found.dtype == np.float16
    np.testing.assert_array_equal(found[:, :8], features_of(Probe(layers="last"), build(Probe(layers="last"), base)))
    place = {word: i for i, word in enumerate(FILM_WORDS, start=2)}
    vector = model.vectors.weight.numpy()
    expected = np.mean([vector[place[word]] for word in TEXTS[0].split()], axis=0)
    np.testing.assert_allclose(found[0, 8:], expected, atol=1e-3)
    assert not found[TEXTS.index("unheard of"), 8:].any()
    np.testing.assert_allclose(np.linalg.norm(vector[2:], axis=1), 1, rtol=1e-5)
    plain = rows_of(route, built, share=False)
    assert len(plain) == len(TEXTS) and plain.lengths.tolist() == [len(text.split()) + 2 for text in TEXTS]
    np.testing.assert_allclose(
        predict_logits(model, rows_of(route, built)), predict_logits(model, plain), rtol=0.01, atol=0.02
    )
    assert built.record["vectors"] == {"kind": "vectors", "name": "vectors.txt"}


def test_word_vectors_out_of_the_same_encoder(base: str) -> None:
    built = build(Probe(features=("word2vec", "encoder"), dimensions=4), base)
    assert own(built).config.word_dimensions == 4
    assert built.record["vectors"]["kind"] == "distilled"


# Saved and loaded


ROUTES = {
    "linear": Probe(features=("encoder",)),
    "ngrams": Probe(features=("encoder", "ngrams")),
    "mlp": Probe(head_type="mlp", layers=(1, -1), pooling=("max", "cls"), max_length=6),
    "words": Probe(features=("encoder", "word2vec"), dimensions=6),
}


@pytest.mark.parametrize("kind", ROUTES)
def test_saved_and_loaded(base: str, tmp_path: Path, kind: str, caplog: pytest.LogCaptureFixture) -> None:
    route, folder = ROUTES[kind], tmp_path / "saved"
    built = build(route, base)
    expected = predict_logits(built.model, rows_of(route, built, share=False))
    route.save(built.model, built.tokenizer, folder)
    tokenizer = {"tokenizer.json", "tokenizer_config.json"}
    words = {f"words/{name}" for name in tokenizer} if kind == "words" else set()
    words |= {"ngrams.safetensors"} if kind == "ngrams" else set()
    assert set(files_of(folder)) == {"model.safetensors", "config.json", *tokenizer, *words}
    weights = load_file(folder / "model.safetensors")
    assert not [name for name in weights if name.startswith("encoder.")]
    assert weights["classifier.weight"].shape[0] == 2
    extra = sum(value.size for name, value in weights.items() if name != "vectors.weight")
    assert extra == sum(p.numel() for p in own(built).parameters() if p.requires_grad) + 2 * len(
        own(built).body.standardize.mean
    )
    no_path_in(folder, tmp_path)
    config = json.loads((folder / "config.json").read_text())
    assert config["base"] == {"name": "encoder", "revision": None, "sha256": built.record["sha256"]}
    assert config["id2label"] == {"0": "bad", "1": "good"}
    caplog.clear()
    hf_logging.enable_propagation()
    try:
        torch.manual_seed(99)
        model, tokenizer_again = route.load(folder, built.record, None)
    finally:
        hf_logging.disable_propagation()
    assert not caplog.records
    assert not model.training
    assert [name for name, p in model.named_parameters() if p.requires_grad] == [
        name for name, p in built.model.named_parameters() if p.requires_grad
    ]
    again = replace(built, model=model, tokenizer=tokenizer_again)
    np.testing.assert_array_equal(predict_logits(model, rows_of(route, again, share=False)), expected)
    # The very entries of the cache, too.
    np.testing.assert_array_equal(features_of(route, again), features_of(route, built))


def test_base_that_moved(base: str, tmp_path: Path) -> None:
    route, folder = Probe(), tmp_path / "saved"
    built = build(route, base)
    route.save(built.model, built.tokenizer, folder)
    moved = str(move(base, tmp_path / "elsewhere"))
    with pytest.raises(BaseModelError, match=r"encoder: the base was a local folder, .*name it \(base=FOLDER"):
        route.load(folder, built.record, None)
    model, _ = route.load(folder, built.record, moved)
    expected = predict_logits(built.model, rows_of(route, built, share=False))
    np.testing.assert_array_equal(predict_logits(model, rows_of(route, built, share=False)), expected)


def test_weights_that_are_missing(base: str, tmp_path: Path) -> None:
    route, folder = Probe(head_type="mlp"), tmp_path / "saved"
    built = build(route, base)
    route.save(built.model, built.tokenizer, folder)
    weights = load_file(folder / "model.safetensors")
    save_file({name: value for name, value in weights.items() if "scale" not in name}, folder / "model.safetensors")
    with pytest.raises(RunFolderError, match=r"expected every weight .* found no body.standardize.scale$"):
        route.load(folder, built.record, None)
    (folder / "model.safetensors").unlink()
    with pytest.raises(RunFolderError, match=r"found no body.layers.0.bias, .*, classifier.weight$"):
        route.load(folder, built.record, None)


# What is refused


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"features": ("word2vec",)}, "expected encoder among them; for word vectors alone take route word2vec"),
        (
            {"features": ()},
            "expected 'auto' or a list (or text with commas) from 'encoder', 'word2vec', 'ngrams' of 1",
        ),
        ({"features": ("encoder", "encoder")}, "expected each at most once"),
        ({"features": ("glove",)}, "from 'encoder', 'word2vec', 'ngrams' of 1 or more"),
        (
            {"features": ("encoder", "ngrams"), "head_type": "mlp"},
            "head_type='mlp': expected head_type=linear beside ngrams",
        ),
        ({"vectors": "mine.txt"}, "vectors='mine.txt': expected features=encoder,word2vec"),
        ({"layers": 0}, "layers=0: expected all, last, or numbers from 1"),
        ({"layers": (2, 0)}, "layers=(2, 0): expected all, last, or numbers from 1"),
        ({"layers": ()}, "layers=(): expected all, last, or numbers from 1"),
        ({"layers": "top"}, "layers='top': expected one of 'all', 'last' or a whole number or a list"),
        ({"layers": 4}, "layers=4: expected numbers from 1 to 3, or from -3 to -1, as encoder has 3 layers"),
        ({"layers": (1, -4)}, "layers=(1, -4): expected numbers from 1 to 3"),
        ({"pooling": ()}, "pooling=(): expected a list (or text with commas) from 'mean', 'max', 'cls' of 1 or more"),
        ({"pooling": ("mean", "mean")}, "pooling=('mean', 'mean'): expected each at most once"),
        ({"pooling": ("last",)}, "expected one of 'mean', 'max', 'cls'"),
        ({"head_type": "cnn"}, "head_type='cnn': expected one of 'linear', 'mlp'"),
        ({"max_length": 0}, "max_length=0: expected a whole number from 1"),
        ({"max_length": 2}, "max_length=2: expected more than the 2 special tokens"),
    ],
)
def test_settings_that_make_no_sense(base: str, settings: dict[str, Any], message: str) -> None:
    with pytest.raises(SettingError) as caught:
        build(Probe(**settings), base)
    assert message in str(caught.value)


def test_equal_layer_widths_of_mlp_are_no_mistake(base: str) -> None:
    assert own(build(Probe(head_type="mlp", mlp_sizes=(8, 8)), base)).body.width == 8


def test_bases_that_are_refused(base: str, vectors: str, tmp_path: Path) -> None:
    with pytest.raises(
        BaseModelError, match=r"vectors.txt: expected the folder of an encoder or a hub id, found a file"
    ):
        build(Probe(), vectors)
    sizes = {"d_model": 8, "d_head": 4, "d_inner": 8, "block_sizes": [1, 1], "n_head": 2}
    pools = copytree(base, tmp_path / "pools")
    FunnelModel(FunnelConfig(**sizes, vocab_size=len(FILM_WORDS) + 4)).save_pretrained(pools)
    with pytest.raises(BaseModelError, match=r"pools: expected an encoder with hidden states for each .*'funnel'"):
        build(Probe(), str(pools))
