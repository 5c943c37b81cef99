"""Model cards: what the hub reads, what people read, and the lines that open a classifier without nlptransfer."""

import json
import os
import re
import subprocess
import sys
import tomllib
import unicodedata
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import yaml
from huggingface_hub import ModelCard, constants
from hypothesis import example, given, settings
from hypothesis import strategies as st
from markdown_it import MarkdownIt
from markdown_it.token import Token

import nlptransfer
from helpers.encoders import SHAPES, make_base
from helpers.runs import finetune
from nlptransfer import Classifier, Full, Lora, Word2Vec
from nlptransfer.classifier.persistence import SavedRecord
from nlptransfer.classifier.push import card_facts
from nlptransfer.errors import SettingError
from nlptransfer.files import read_json
from nlptransfer.hub import card as hub_card
from nlptransfer.hub.card import CardFacts
from nlptransfer.routes.base import Route

REPO = "acme/films"
COMMIT = "0123456789abcdef0123456789abcdef01234567"
ENCODER = {"kind": "encoder", "name": "acme/tiny-base", "revision": COMMIT, "sha256": "ab" * 32}
LOCAL = ENCODER | {"name": "tiny-base", "revision": None}
TEST = {
    "rows": 120, "accuracy": 1 / 3, "accuracy_interval": [0.25, 0.41], "f1_macro": 0.3, "f1_macro_interval": [0.2, 0.4],
    "precision_macro": 0.31, "recall_macro": 0.32, "mcc": -0.1, "loss": 0.7,
    "per_class": {name: {"precision": 0.5, "recall": 0.25, "f1": 1 / 3, "support": 60} for name in ("bad", "good")},
}  # fmt: skip
SEVERAL_TEST = {name: value for name, value in TEST.items() if name != "mcc"}
SEVERAL_TEST |= {"f1_micro": 0.45, "f1_micro_interval": [0.4, 0.5], "subset_accuracy": 1 / 3, "lrap": 0.6}
RESULTS = {
    "data": "films",
    "rows": {"train": 1216, "validation": 24, "calibration": 20, "test": 120},
    "label_counts": {"bad": 1000, "good": 216},
    "fingerprints": {"train": {"rows": 1216, "hash": "cd" * 32}, "test": {"rows": 120, "hash": "ef" * 32}},
    "seed": 3,
    "training": {"num_train_epochs": 4, "learning_rate": 5e-5, "class_weights": None},
    "test": TEST,
    "cost": {"train_seconds": 12.3, "trainable_parameters": 4610, "total_parameters": 22_717_826, "size_mb": 0.716},
    "versions": {"nlptransfer": "0.1.0", "torch": "2.13.0"},
    "command": "nlptransfer finetune films --route full",
}
VERDICT = {"verdict": "helps", "metric": "accuracy", "gain": 0.1, "interval": [0.02, 0.18], "seeds": 3}
VERDICT |= {"direct": 0.7, "with_source": 0.8}


def record_of(route: str = "full", base: dict[str, Any] = ENCODER, **more: Any) -> dict[str, Any]:
    """A record of two labels with results; ``more`` overrides, and None leaves out."""
    record = {
        "route": route, "settings": {"max_length": 256}, "labels": ["bad", "good"], "multi_label": False,
        "thresholds": None, "normalization": "none", "max_length": 256, "base": base,
        "calibration": {"rows": 20, "temperature": 1.25}, "results": RESULTS,
        "verified": {"opened_by": "transformers", "texts": 8, "max_difference": 2e-7},
    }  # fmt: skip
    return {name: value for name, value in {**record, **more}.items() if value is not None or name == "thresholds"}


WORDS = {"kind": "vectors", "name": "glove.txt.gz", "words": 2000, "dimensions": 50}
DISTILLED = {"kind": "distilled", "name": "acme/tiny-base", "revision": COMMIT, "words": 2000, "dimensions": 50}
PROBE = {"head_type": "linear", "layers": "all", "pooling": ["mean"], "max_length": 256}
LORA = {"rank": 8, "lora_alpha": 16.0, "max_length": 256}


def exported_of(route: str, settings: dict[str, Any], form: str) -> dict[str, Any]:
    learned = {"route": route, "settings": settings}
    return record_of("onnx", settings={"learned_by": route}, format=form, learned=learned)


def facts_of(record: dict[str, Any], repo_id: str = REPO, **own: Any) -> CardFacts:
    return card_facts(SavedRecord.of_json(record, Path("nlptransfer.json")), repo_id, **own)


def model_card(record: dict[str, Any], repo_id: str = REPO, **own: Any) -> str:
    return hub_card.model_card(facts_of(record, repo_id, **own))


def loading_code(record: dict[str, Any], repo_id: str = REPO) -> str:
    return facts_of(record, repo_id).section.loading_code


RECORDS = {
    "full": record_of(),
    "full, upper layers": record_of(settings={"freeze_layers": 2}),
    "probe": record_of("probe", settings=PROBE),
    "lora": record_of("lora", settings=LORA),
    "merged lora": record_of("lora", settings=LORA | {"merge": True}),
    "average of loras": record_of("lora", settings=LORA, average={"weights": [0.5, 0.5]}),
    "word2vec": record_of("word2vec", WORDS, settings={"head_type": "cnn"}),
    "word2vec distilled": record_of("word2vec", DISTILLED, settings={"head_type": "linear"}),
    "onnx": exported_of("full", {}, "onnx"),
    "onnx int8": exported_of("probe", PROBE, "onnx int8"),
}
# The library and the relation to the base that the hub is told, and words on the training.
KINDS = {
    "full": ("transformers", "finetune", "All of the encoder learned"),
    "full, upper layers": ("transformers", "finetune", "the lowest 2 layers stayed as they are"),
    "probe": ("nlptransfer", "adapter", "A head (`linear`) was fitted"),
    "lora": ("peft", "adapter", "LoRA matrices of rank 8 (alpha 16)"),
    "merged lora": ("transformers", "finetune", "the matrices are merged into the encoder"),
    "average of loras": ("peft", "adapter", "average of 2 such"),
    "word2vec": ("nlptransfer", None, "those of glove.txt.gz: 2,000"),
    "word2vec distilled": ("nlptransfer", None, "distilled from acme/"),
    "onnx": ("nlptransfer", "finetune", "exported to ONNX"),
    "onnx int8": ("nlptransfer", "quantized", "with weights in int8"),
}


def metadata(card: str) -> dict[str, Any]:
    """The YAML block as another parser than the card's own reads it."""
    _, block, _ = re.split(r"^---$", card, maxsplit=2, flags=re.MULTILINE)
    return dict(yaml.safe_load(block))


def body(card: str) -> str:
    return re.split(r"^---$", card, maxsplit=2, flags=re.MULTILINE)[2]


def tokens_of(card: str) -> list[Token]:
    return MarkdownIt("commonmark").enable("table").parse(body(card))


def shown(token: Token) -> str:
    """What a reader sees of a line; anything but text and code would be markup that a user's name has smuggled in."""
    assert {child.type for child in token.children} <= {"text", "text_special", "code_inline", "softbreak"}
    return "".join("\n" if child.type == "softbreak" else child.content for child in token.children)


def headings(card: str) -> list[str]:
    tokens = tokens_of(card)
    return [shown(tokens[place + 1]) for place, token in enumerate(tokens) if token.type == "heading_open"]


def table(card: str, first: str) -> list[list[str]]:
    """The rows of the first table below the heading ``first``."""
    rows: list[list[str]] = []
    tokens = tokens_of(card)
    start = next(place for place, token in enumerate(tokens) if token.type == "inline" and token.content == first)
    for token in tokens[start + 1 :]:
        if token.type == "tr_open":
            rows.append([])
        elif rows and token.type == "inline":
            rows[-1].append(shown(token))
        elif token.type in ("table_close", "heading_open"):
            break
    return rows[1:]


def code_blocks(text: str) -> list[str]:
    return [token.content for token in MarkdownIt("commonmark").parse(text) if token.type == "fence"]


def visible(name: str) -> str:
    """A name on one line: what ends a line, controls something or turns the direction of writing is a blank."""
    turning = {"LRE", "RLE", "LRO", "RLO", "PDF", "LRI", "RLI", "FSI", "PDI"}
    hidden = [
        unicodedata.category(sign) in ("Cc", "Zl", "Zp") or unicodedata.bidirectional(sign) in turning for sign in name
    ]
    return "".join(" " if is_hidden else sign for sign, is_hidden in zip(name, hidden, strict=True))


# What the hub and people read


@pytest.mark.parametrize("kind", KINDS)
def test_the_hub_is_told_what_kind_of_model_it_is(kind):
    record, (library, relation, trained) = RECORDS[kind], KINDS[kind]
    card = model_card(record, license="apache-2.0", language=["en", "no"], datasets=["acme/reviews"])
    told = metadata(card)
    assert (told["library_name"], told.get("base_model_relation")) == (library, relation)
    assert told.get("base_model") == (None if record["base"] is WORDS else "acme/tiny-base")
    assert told["tags"][:3] == ["nlptransfer", record.get("learned", record)["route"], "text-classification"]
    assert ("onnx" in told["tags"]) == ("onnx" in kind)
    assert (told["license"], told["language"], told["datasets"]) == ("apache-2.0", ["en", "no"], ["acme/reviews"])
    assert told["pipeline_tag"] == "text-classification"
    assert told["widget"] == [{"text": "This is bad."}, {"text": "This is good."}]
    # As the client reads and writes it, before the hub checks it.
    assert metadata(str(ModelCard(card))) == told
    assert trained in card


def test_baselines_stand_below_the_scores():
    beside = {
        "majority": {"scores": {"accuracy": 0.25, "accuracy_interval": [0.2, 0.3]}},
        "tfidf": {"scores": {"accuracy": 0.5, "accuracy_interval": [0.4, 0.6]}},
    }
    rows = table(model_card(record_of(results=RESULTS | {"baselines": beside})), "Scores")
    assert rows[-2:] == [
        ["accuracy, baseline: always the most frequent label", "0.250", "[0.200, 0.300]"],
        ["accuracy, baseline: TF-IDF of words with a linear classifier", "0.500", "[0.400, 0.600]"],
    ]


@pytest.mark.parametrize("kind", KINDS)
def test_every_part_is_there_and_says_what_it_is(kind):
    card = model_card(RECORDS[kind])
    parts = ["Labels", "How it was trained", "Scores", "Calibration", "Cost", "Limits", "How to load it"]
    assert headings(card) == [REPO, *parts, "How to repeat it"]
    assert table(card, "Labels") == [["bad", "1,000"], ["good", "216"]]
    assert ["accuracy", "0.333", "[0.250, 0.410]"] in table(card, "Scores")
    assert "| good | 0.500 | 0.250 | 0.333 | 60 |" in card
    assert "temperature of 1.250 was fitted on 20 rows" in card
    assert ["total parameters", "22,717,826"] in table(card, "Cost")
    unit = "words" if "word2vec" in kind else "tokens"
    assert f"reads the first 256 {unit} of a text; what is longer is truncated" in card
    assert f'Classifier.load("{REPO}").predict([text])[0]' in card
    assert ["train", "1,216", "cd" * 32] in table(card, "How to repeat it")
    assert "Seed 3." in card and "torch 2.13.0" in card
    assert code_blocks(card)[-1] == "nlptransfer finetune films --route full\n"
    assert not re.search(r"None|Undefined|\n{4}", body(card).replace("top_k=None", ""))


def test_settings_of_the_loop_are_shown_where_there_was_one():
    rows = table(model_card(RECORDS["full"]), "How it was trained")
    assert rows == [["num_train_epochs", "4"], ["learning_rate", "5e-05"]]
    assert table(model_card(RECORDS["probe"]), "How it was trained") == []


def test_a_record_made_by_hand_has_a_sensible_card():
    card = model_card(record_of("lora", settings=LORA, results=None, calibration=None, verified=None))
    assert not metadata(card).keys() & {"model-index", "metrics", "model_name", "license", "language", "datasets"}
    assert headings(card) == [
        REPO, "Labels", "How it was trained", "Scores", "Calibration", "Limits", "How to load it"
    ]  # fmt: skip
    assert table(card, "Labels") == [["bad"], ["good"]] and len(metadata(card)["widget"]) == 2
    assert "it was not measured on test rows" in card and "the probabilities are as training left them" in card
    assert "How good it is, is not known" in card


@pytest.mark.parametrize("base", [LOCAL, {}], ids=["local", "none"])
def test_a_base_that_is_not_on_the_hub_is_not_named_to_it(base):
    card = model_card(record_of(base=base))
    assert not metadata(card).keys() & {"base_model", "base_model_relation"}
    assert ("tiny-base, a local folder" in card) == bool(base)


def test_several_labels_at_once():
    record = record_of(multi_label=True, thresholds=[0.25, 0.75], results=RESULTS | {"test": SEVERAL_TEST})
    card = model_card(record)
    assert "any number of 2 labels" in card
    assert table(card, "Labels") == [["bad", "1,000", "0.250"], ["good", "216", "0.750"]]
    assert [row[0] for row in table(card, "Scores")][:3] == ["micro F1", "macro F1", "all labels right"]
    metrics = metadata(card)["model-index"][0]["results"][0]["metrics"]
    assert [(metric["type"], metric["value"], metric.get("args")) for metric in metrics] == [
        ("f1", 0.45, {"average": "micro"}), ("f1", 0.3, {"average": "macro"}), ("accuracy", 1 / 3, None)
    ]  # fmt: skip
    assert "fitted on the same rows" in card
    assert "sigmoid" in loading_code(record) and "softmax" not in card
    assert "given from a probability of 0.5" in model_card(record_of(multi_label=True, results=None))


def test_scores_reach_the_hub_as_they_are_with_their_intervals():
    card = model_card(record_of(), datasets=["acme/reviews"])
    (index,) = metadata(card)["model-index"]
    (result,) = index["results"]
    assert index["name"] == "films"
    assert result["dataset"] == {"name": "films", "type": "acme/reviews", "split": "test"}
    assert {metric["name"]: (metric["type"], metric["value"]) for metric in result["metrics"]} == {
        "accuracy (95% interval 0.250 to 0.410)": ("accuracy", 1 / 3),
        "macro F1 (95% interval 0.200 to 0.400)": ("f1", 0.3),
        "macro precision": ("precision", 0.31),
        "macro recall": ("recall", 0.32),
        "Matthews correlation": ("matthews_correlation", -0.1),
    }
    assert metadata(card)["metrics"] == ["accuracy", "f1", "precision", "recall", "matthews_correlation"]
    # Rows of which of the two?
    two = metadata(model_card(record_of(), datasets=["acme/reviews", "acme/more"]))
    assert two["model-index"][0]["results"][0]["dataset"]["type"] == "unknown"


def test_labels_that_no_row_judges_are_left_out_of_means():
    nothing = {"precision": None, "recall": None, "f1": None, "support": 0}
    test = TEST | {"labels_judged": 1, "per_class": {"bad": TEST["per_class"]["bad"], "good": nothing}}
    text = model_card(record_of(results=RESULTS | {"test": test}))
    assert "| macro F1, 1 of 2 labels | 0.300 |" in text and "| good |  |  |  | 0 |" in text


@pytest.mark.parametrize(
    ("verdict", "words"),
    [("helps", "The source helped:"), ("hurts", "The source hurt:"), ("no evidence", "There is no evidence that")],
)
def test_the_verdict_on_a_source_in_words(verdict, words):
    told = {"transfer": {"name": "joint", "source": {"name": "gadgets"}}, "verdict": VERDICT | {"verdict": verdict}}
    card = model_card(record_of(results=RESULTS | told))
    assert words in card and "Knowledge came from the source gadgets by the transfer `joint`" in card
    assert "accuracy 0.800 with it and 0.700 without, a gain of +0.100" in card
    assert "(95% interval +0.020 to +0.180), over 3 seeds." in card
    assert "trained without it" not in card


def test_a_source_that_was_left_out_by_its_verdict():
    verdict = VERDICT | {"verdict": "hurts", "taken": "direct", "seeds": 1}
    card = model_card(record_of(results=RESULTS | {"verdict": verdict}))
    assert "over 1 seed.\nThis is the classifier that was trained without it." in card
    assert "Knowledge came" not in card


def test_what_a_reader_must_know_of_the_texts():
    assert "languages that its base has not read" in model_card(record_of())
    assert "trained and tested on texts in: de, fr;" in model_card(record_of(), language=["de", "fr"])
    words = model_card(RECORDS["word2vec"])
    assert "words of the training texts can be read there" in words and "a vector mean nothing" in words
    web = model_card(record_of(normalization="web"))
    assert "brought into the form `web`" in web and "brought into" not in words


def test_ngrams_are_named_and_plain_transformers_is_not():
    ngrams, features = "n-grams, which are TF-IDF of words and pairs of words", ["word2vec", "ngrams"]
    beside = f"and {ngrams}"
    words = {"head_type": "linear", "features": features}
    for with_ngrams, without, text in (
        (record_of("word2vec", WORDS, settings=words), RECORDS["word2vec distilled"], f"on them {beside}"),
        (
            record_of("probe", settings=PROBE | {"features": ["encoder", "ngrams"]}),
            RECORDS["probe"],
            f"with {ngrams} (characters where words are not spaced), beside them",
        ),
        (
            record_of("probe", settings=PROBE | {"features": ["encoder", "word2vec", "ngrams"]}),
            RECORDS["probe"],
            f"with the mean of word vectors out of a base that the record does not name {beside}",
        ),
        (exported_of("probe", PROBE | {"features": ["encoder", "ngrams"]}, "onnx"), RECORDS["onnx int8"], "TF-IDF of"),
    ):
        card = model_card(with_ngrams)
        assert text in card and "TF-IDF" not in model_card(without)
        assert "words of the training texts can be read there" in card
        assert "import nlptransfer.word2vec" not in card and not loading_code(with_ngrams)
    assert "import nlptransfer.word2vec" in model_card(RECORDS["word2vec distilled"])


def test_a_base_in_16_bits_is_opened_in_32():
    record = RECORDS["lora"]
    halved = record | {"settings": LORA | {"base_precision": "bfloat16"}}
    assert "dtype=torch.float32," in loading_code(halved) and "dtype" not in loading_code(record)
    assert "in bfloat16, which these lines hold in float32" in model_card(halved)
    assert "takes a GPU and bitsandbytes" in model_card(record | {"settings": LORA | {"base_precision": "4bit"}})


@pytest.mark.parametrize(
    ("wrong", "expected"),
    [
        ({"repo_id": "../films"}, "repo_id='../films'"),
        ({"license": "Apache 2.0"}, "license='Apache 2.0': expected the hub's id"),
        ({"language": ["english"]}, "language='english': expected an ISO 639 code"),
        ({"language": "en"}, "language='en': expected a list"),
        ({"datasets": ["reviews.csv"]}, "datasets='reviews.csv': expected the hub id"),
        ({"datasets": ["acme/reviews", "/home/me/reviews"]}, "datasets='/home/me/reviews'"),
        ({"datasets": "acme/reviews"}, "expected a list"),
        ({"examples": "a text"}, "examples='a text': expected a list"),
    ],
    ids=str,
)
def test_what_the_hub_cannot_know_is_refused(wrong, expected):
    with pytest.raises(SettingError, match=re.escape(expected)):
        model_card(record_of(), **{"repo_id": REPO} | wrong)


def test_a_data_set_that_is_a_folder_here_is_refused(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    model_card(record_of(), datasets=["data/films"])
    (tmp_path / "data" / "films").mkdir(parents=True)
    with pytest.raises(SettingError, match=r"data/films.*no path of this machine"):
        model_card(record_of(), datasets=["data/films"])


# Names that users give


SIGNS = r"""|`*_[](){}<>&$~#!@:\'"-+=.%?,;/""" + "\n\r\t\x00\x85\u2028\u202e\ufeff "
TRICKS = (
    "a|b", "<b>", "`", "``` ```", "---", "\n---\n", "{{ 7 * 7 }}", "{% for %}", "[x](javascript:y)", "&amp;", "&#124;",
    "$$x$$", r"\(x\)", "# x", "- x", "yes", "null", "1e3", "0x1F", "'", '"', ": x", "!!python/object:os.system", "*a",
    "http://x.y", "<!-- x", "]]>", "_x_", "__x__", "~~x~~", "|---|", "\\", "\\|", "好", "🎬", "é",
)  # fmt: skip
NAMES = st.text(st.sampled_from(SIGNS) | st.characters(codec="utf-8"), min_size=1, max_size=20) | st.lists(
    st.sampled_from(TRICKS), min_size=1, max_size=3
).map("".join)


@settings(max_examples=40, deadline=None)
@given(st.lists(NAMES, min_size=1, max_size=4, unique=True), NAMES, st.booleans())
@example(list(TRICKS), "\n---\n", True)
def test_names_are_shown_as_they_are_and_break_nothing(names, other, several):
    test = SEVERAL_TEST if several else TEST
    per_class = dict.fromkeys(names, TEST["per_class"]["bad"])
    results = RESULTS | {"label_counts": dict.fromkeys(names, 7), "test": test | {"per_class": per_class}}
    transfer = {"name": "copy", "source": {"name": other}}
    results |= {"data": other, "transfer": transfer, "command": f"finetune '{other}'"}
    base = LOCAL | {"name": other}
    card = model_card(record_of(base=base, labels=names, multi_label=several, results=results), examples=[other, "x"])
    told = ModelCard(card).data
    assert [widget["text"] for widget in told.widget] == [f"This is {visible(name)}." for name in names[:5]]
    assert {result.dataset_name for result in told.eval_results} == {visible(other)}
    assert metadata(card) == told.to_dict()
    assert headings(card) == [*headings(model_card(record_of())), "Examples"]
    rows = [[visible(name).strip(), "7"] for name in names]
    assert [[cell.strip() for cell in row] for row in table(card, "Labels")] == rows
    lines = [shown(token) for token in tokens_of(card) if token.type == "inline"]
    for words in ("learned from the data {}.", "from {}, a local folder", "the source {} by the transfer"):
        assert any(words.format(visible(other)) in line for line in lines)
    assert table(card, "Examples") == [[visible(other).strip()], ["x"]]
    assert code_blocks(card)[-1] == f"finetune '{visible(other)}'\n"


# The lines that open a classifier


HOSTILE = ["<b>", 'a|"b"', "né\nw"]
TEXT = "word1 word7 word3"


@dataclass(frozen=True)
class Saved:
    """A classifier as it lies on the hub, in the cache of this machine."""

    repo_id: str
    classifier: Classifier

    @property
    def record(self) -> dict[str, Any]:
        return dict(read_json(snapshot(self.repo_id) / "nlptransfer.json"))

    @property
    def expected(self) -> dict[str, float]:
        (row,) = self.classifier.probabilities([TEXT]).tolist()
        return dict(zip(self.classifier.labels.names, row, strict=True))


def snapshot(repo_id: str) -> Path:
    """Where the hub's cache has a commit of a repository; a fresh one is there as if it had been fetched."""
    root = Path(constants.HF_HUB_CACHE) / f"models--{repo_id.replace('/', '--')}"
    (root / "refs").mkdir(parents=True, exist_ok=True)
    (root / "refs" / "main").write_text(COMMIT)
    return root / "snapshots" / COMMIT


def rows_of(several: bool) -> tuple[list[str], list[Any]]:
    texts = [f"word{row % 3} word{3 + row % 7}" for row in range(36)]
    labels = [HOSTILE[row % 3] for row in range(36)]
    return texts, [[label] * (row % 4 > 0) for row, label in enumerate(labels)] if several else labels


def train(name: str, route: Route, base: str | Path, several: bool, folder: Path, **more: Any) -> Saved:
    quick = {"num_train_epochs": 1, "per_device_train_batch_size": 4, "learning_rate": 1e-2}
    finetune(rows_of(several), route=route, base=base, output_dir=folder / name, **quick, **more)
    repo_id = f"acme/card-{name}"
    snapshot(repo_id).parent.mkdir(parents=True)
    (folder / name / "model").rename(snapshot(repo_id))
    return Saved(repo_id, Classifier.load(snapshot(repo_id)))


@pytest.fixture(scope="module")
def saved(tmp_path_factory) -> dict[str, Saved]:
    """Tiny classifiers of every kind that opens without nlptransfer, and one of word vectors."""
    base, folder = "acme/tiny-bert", tmp_path_factory.mktemp("runs")
    make_base(snapshot(base), "bert", SHAPES["bert"] | {"num_hidden_layers": 2})
    on = {"base": base, "revision": COMMIT, "folder": folder}
    # Digits are words of their own.
    vectors = folder / "vectors.txt"
    vectors.write_text("".join(f"{number} {number % 3 - 1} {number % 5} 1\n" for number in range(10)))
    return {
        "full": train("full", Full(max_length=4), several=False, **on),
        "full, several labels": train("full-several", Full(max_length=4), several=True, **on),
        "lora": train("lora", Lora(max_length=4), several=False, **on),
        "lora, several labels": train("lora-several", Lora(max_length=4), several=True, **on),
        "merged lora": train("merged", Lora(max_length=4, merge=True), several=False, **on),
        "word2vec": train("words", Word2Vec(head_type="linear"), vectors, several=False, folder=folder),
    }


RUNNER = """
import json, sys
blocked, free, text = json.load(sys.stdin)
sys.modules["nlptransfer"] = None
try:
    import nlptransfer
except ImportError:
    print("BLOCKED")
def run(code):
    names = {"text": text}
    exec(code, names)
    return names["probabilities"]
found = {name: run(code) for name, code in blocked.items()}
del sys.modules["nlptransfer"]
print("FOUND", json.dumps(found | {name: run(code) for name, code in free.items()}))
"""


@pytest.fixture(scope="module")
def opened(saved, tmp_path_factory) -> dict[str, dict[str, float]]:
    """What the lines of the cards give in another process, where nothing of nlptransfer can be imported."""
    blocked, free = {}, {}
    for name, each in saved.items():
        plain = next(code for code in code_blocks(model_card(each.record, each.repo_id)) if "transformers" in code)
        (free if name == "word2vec" else blocked)[name] = plain
        assert f"{loading_code(each.record, each.repo_id)}\n" == plain
    # Where the base was a folder, and lies here under its name.
    here = tmp_path_factory.mktemp("here")
    (here / "tiny-bert").symlink_to(snapshot("acme/tiny-bert"))
    local = saved["lora"].record
    local["base"] |= {"name": "tiny-bert", "revision": None}
    blocked["lora on a folder"] = loading_code(local, saved["lora"].repo_id)
    done = subprocess.run(
        [sys.executable, "-c", RUNNER],
        input=json.dumps([blocked, free, TEXT]),
        cwd=here,
        env=os.environ | {"HF_HUB_OFFLINE": "1"},
        capture_output=True,
        text=True,
        timeout=120,
    )
    assert done.returncode == 0, done.stderr
    lines = done.stdout.splitlines()
    assert "BLOCKED" in lines
    return dict(json.loads(next(line for line in lines if line.startswith("FOUND ")).removeprefix("FOUND ")))


OPENED = ["full", "full, several labels", "lora", "lora, several labels", "merged lora", "lora on a folder", "word2vec"]


@pytest.mark.parametrize("name", OPENED)
def test_the_lines_of_the_card_give_the_same_probabilities_and_labels(name, saved, opened):
    expected = saved["lora" if name == "lora on a folder" else name].expected
    assert opened[name] == pytest.approx(expected, abs=1e-5)
    assert opened[name].keys() == set(HOSTILE)
    # Labels that were mixed up would show.
    assert np.diff(sorted(expected.values())).min() > 1e-3
    assert ("several" in name) == (abs(sum(expected.values()) - 1) > 1e-3)


def test_texts_of_users_are_shown_only_when_they_are_given(saved):
    texts, _ = rows_of(several=False)
    for each in saved.values():
        card = model_card(each.record, each.repo_id)
        assert "word" in texts[0] and not [text for text in texts if text in card]
        assert texts[5] in body(model_card(each.record, each.repo_id, examples=[texts[5]]))


@pytest.mark.parametrize("kind", ["probe", "word2vec", "word2vec distilled", "onnx", "onnx int8"])
def test_what_needs_nlptransfer_has_no_plain_lines(kind):
    code = loading_code(RECORDS[kind])
    assert ("import nlptransfer.word2vec" in code) == bool(code) == kind.startswith("word2vec")
    assert loading_code(record_of("lora", {}, settings=LORA)) == ""


def test_the_template_is_packaged():
    package = Path(nlptransfer.__file__).parent
    told = tomllib.loads((package.parent / "pyproject.toml").read_text(encoding="utf-8"))
    patterns = told["tool"]["setuptools"]["package-data"]["nlptransfer"]
    packaged = {path for pattern in patterns for path in package.glob(pattern)}
    assert package / "templates" / "model_card.md" in packaged


@pytest.mark.parametrize(
    ("form", "difference", "words"),
    [
        (
            "onnx int8",
            0.0812,
            "differ by at most 0.08 from those of the trained model, as weights in 8 bits are",
        ),
        ("onnx", 3.4e-7, "differ by at most 3e-07 from those of the trained model."),
        ("onnx", 0.0, "are exactly those of the trained model."),
    ],
)
def test_an_export_says_how_far_it_is_from_the_trained_model(form, difference, words):
    record = exported_of("full", {}, form) | {"max_logit_difference": difference}
    # The saved graph gives what the live graph gives.
    record["verified"] = {"opened_by": "onnxruntime", "texts": 4, "max_difference": 0.0}
    assert f"opened anew with onnxruntime: on a few texts the logits {words}" in model_card(record)
