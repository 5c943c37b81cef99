"""A saved classifier gives what the live one gives, or is not there at all."""

import json
from functools import partial
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file

from helpers.classifiers import LABELS, TEXTS, changed, without_hashes
from helpers.corpora import splits_of
from helpers.encoders import base_of
from helpers.runs import finetune, same_weights
from nlptransfer import Classifier, Full, Lora, Probe
from nlptransfer.classifier.push import push_saved
from nlptransfer.classifier.verification import TOLERANCE, check_logits, made_texts, rounding
from nlptransfer.data.labels import Labels
from nlptransfer.errors import RunFolderError, SettingError, VerificationError
from nlptransfer.experiments import fitting
from nlptransfer.hub.base_models import BaseModel


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory) -> BaseModel:
    return base_of("deberta-v2", tmp_path_factory.mktemp("bases") / "deberta-v2")


@pytest.fixture
def lora(base: BaseModel) -> Classifier:
    return changed(Lora(max_length=12, rank=2), base, LABELS)


def files(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in folder.iterdir()}


def test_what_is_fresh_and_not_saved_is_found_out(base, lora, tmp_path, monkeypatch):
    folder = lora.save_pretrained(tmp_path / "out")
    held = files(folder)
    # What peft does by itself: of DeBERTa's fresh pooler nothing is kept.
    monkeypatch.setattr("nlptransfer.routes.lora._whole_heads", lambda model, modules: ["classifier"])
    forgetful = changed(Lora(max_length=12, rank=2), base, LABELS)
    with pytest.raises(VerificationError, match=r"found a difference of .* opening it again with peft: nothing was"):
        forgetful.save_pretrained(folder)
    assert files(folder) == held
    assert [path.name for path in tmp_path.iterdir()] == ["out"], "something temporary is left"


def test_it_is_compared_on_the_examples_too(lora, tmp_path, monkeypatch):
    plain = Lora.reopened_logits
    seen: list[list[str]] = []

    def wrong_on_the_last(self, folder, record, texts):
        seen.append(list(texts))
        found = plain(self, folder, record, texts)
        found[-1] += 2e-4 * (texts[-1] == "word1 word2")
        return found

    monkeypatch.setattr(Lora, "reopened_logits", wrong_on_the_last)
    record = json.loads((lora.save_pretrained(tmp_path / "out") / "nlptransfer.json").read_text())
    assert record["verified"]["max_difference"] < 1e-4 and record["verified"]["opened_by"] == "peft"
    assert record["verified"]["texts"] == seen[0] == made_texts(LABELS, lora.tokenizer)
    with pytest.raises(VerificationError, match=r"a difference of 0\.0002"):
        lora.save_pretrained(tmp_path / "other", ["word1 word2"])
    assert not (tmp_path / "other").exists()


def test_logits_in_16_bits_are_compared_to_their_rounding(base, tmp_path):
    """In another batch the same live model has other logits by then."""
    route = Lora(max_length=24, rank=2, base_precision="bfloat16")
    classifier = changed(route, base, LABELS)
    texts = TEXTS[:4]
    alone = np.concatenate([classifier.logits([text]) for text in texts])
    assert np.abs(classifier.logits(texts) - alone).max() > TOLERANCE
    saved = classifier.save_pretrained(tmp_path / "out", texts)
    verified = json.loads((saved / "nlptransfer.json").read_text())["verified"]
    assert TOLERANCE < verified["max_difference"] <= verified["tolerance"]
    assert np.abs(Classifier.load(saved).logits(texts) - classifier.logits(texts)).max() <= verified["tolerance"]


def test_the_tolerance_belongs_to_the_precision(lora):
    logits = np.array([[0.5, 1.0]])
    assert rounding(lora.model, logits, lambda: logits + 1) == TOLERANCE
    low = torch.nn.Linear(2, 2).to(torch.bfloat16)
    assert rounding(low, logits, lambda: logits + 0.01) == pytest.approx(0.04)
    assert rounding(low, logits, lambda: logits) == TOLERANCE
    saved = {"logits": [[0.5, 1.0]], "tolerance": 0.04}
    check_logits(saved, logits + 0.03, "it")
    with pytest.raises(VerificationError, match=r"to 0\.04\), found a difference of 0\.05"):
        check_logits(saved, logits + 0.05, "it")


def test_a_run_that_cannot_be_verified_goes_on_from_what_it_learned(base, tmp_path, monkeypatch):
    told: list[str] = []

    def trained(*arguments: Any, **options: Any) -> Any:
        told.append("trained")
        return train(*arguments, **options)

    def other(self: Any, folder: Path, record: Any, texts: Any) -> np.ndarray:
        return reopened(self, folder, record, texts) + 1

    train, reopened = fitting.train, Lora.reopened_logits
    monkeypatch.setattr(fitting, "train", trained)
    run = partial(finetune, splits_of(), route=Lora(rank=2), base=base.path, output_dir=tmp_path / "run")
    few = {"num_train_epochs": 2, "per_device_train_batch_size": 16}
    with monkeypatch.context() as patched:
        patched.setattr(Lora, "reopened_logits", other)
        with pytest.raises(VerificationError, match="expected logits as the live model has them"):
            run(**few)
    assert told
    told.clear()
    # Nothing is trained once more, and it ends where one ends that nothing has stopped.
    found = run(**few)
    assert not told
    whole = finetune(splits_of(), route=Lora(rank=2), base=base.path, output_dir=tmp_path / "whole", **few)
    assert same_weights(found, whole) and found.metrics == whole.metrics
    assert {path.name for path in found.folder.iterdir()} == {path.name for path in whole.folder.iterdir()}


def test_examples_are_not_saved(lora, tmp_path):
    folder = lora.save_pretrained(tmp_path / "out", ["word3 my own words"])
    assert not [name for name, content in files(folder).items() if b"my own" in content]


@pytest.mark.parametrize("number", [float("nan"), float("inf")])
def test_logits_that_are_no_numbers_are_no_match(lora, tmp_path, number):
    with torch.no_grad():
        lora.route.head(lora.model).bias.fill_(number)
    with pytest.raises(VerificationError, match="a difference of inf"):
        lora.save_pretrained(tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_weights_that_are_no_numbers_are_not_merged(lora):
    with torch.no_grad():
        next(value for name, value in lora.model.named_parameters() if "lora_B" in name).fill_(float("nan"))
    with pytest.raises(VerificationError, match="merge: expected finite weights"):
        lora.merge()


def test_made_texts():
    class Tokenizer:
        init_kwargs: ClassVar[dict[str, Any]] = {}

        def __len__(self) -> int:
            return 50

        def decode(self, ids: list[int], skip_special_tokens: bool) -> str:
            assert skip_special_tokens
            return " ".join(f"t{number}" for number in ids)

    texts = made_texts(Labels(("no", "yes")), Tokenizer())  # type: ignore[arg-type]
    assert texts == made_texts(Labels(("no", "yes")), Tokenizer())  # type: ignore[arg-type]
    assert [text.split()[0] for text in texts] == ["no", "yes", "no", "yes"] and len(set(texts)) == 4
    assert all({word[0] for word in text.split()[1:]} == {"t"} for text in texts)


@pytest.mark.parametrize("route", [Full(max_length=12), Lora(max_length=12, rank=2)], ids=["full", "lora"])
def test_changed_weights_are_found_out_by_loading_and_by_pushing(base, route, tmp_path, hub):
    folder = without_hashes(changed(route, base, LABELS).save_pretrained(tmp_path / "out"))
    (weights,) = folder.glob("*.safetensors")
    spoilt = {name: value + 0.5 * ("classifier" in name) for name, value in load_file(weights).items()}
    save_file(spoilt, weights, {"format": "pt"})
    with pytest.raises(VerificationError, match="expected the logits that it was saved with"):
        Classifier.load(folder)
    if route.name == "full":
        # Of an adapter would be said first that its base is on this machine alone.
        with pytest.raises(VerificationError, match="expected the logits that it was saved with"):
            push_saved(folder, "me/name", token=hub.token)
    assert hub.requests == []


def test_another_machine_rounds_otherwise_and_no_more():
    saved = {"logits": [[1.0, -30.0]]}
    check_logits(saved, np.array([[1.1, -30.2]]), "it")
    with pytest.raises(VerificationError, match=r"^it: expected the logits .*\(to 0\.3\), found a difference of 0\.4"):
        check_logits(saved, np.array([[1.0, -30.4]]), "it")
    with pytest.raises(VerificationError, match="a difference of inf"):
        check_logits(saved, np.array([[1.0, -30.0, 0.0]]), "it")


def test_what_was_never_verified_is_not_pushed(lora, tmp_path, hub):
    folder = without_hashes(lora.save_pretrained(tmp_path / "out"), verified=None)
    np.testing.assert_allclose(Classifier.load(folder).logits(TEXTS), lora.logits(TEXTS), atol=1e-6)
    with pytest.raises(RunFolderError, match=r"opened again after it was saved, found no sign of it: save it anew"):
        push_saved(folder, "me/name", token=hub.token)
    assert hub.requests == []


@pytest.mark.parametrize("route", [Lora(max_length=12, rank=2), Probe(max_length=12)], ids=["lora", "probe"])
def test_a_base_that_others_cannot_fetch_is_not_pushed(base, route, tmp_path, hub):
    classifier = changed(route, base, LABELS)
    with pytest.raises(RunFolderError, match=r"a base that others can fetch, found a local folder \(deberta-v2\)"):
        classifier.push_to_hub("me/name", token=hub.token)
    assert hub.requests == []


def test_a_whole_model_needs_no_base(base, lora):
    for classifier, options in ((lora, {"merged": True}), (changed(Full(max_length=12), base, LABELS), {})):
        pushed = classifier.push_to_hub("me/name", dry_run=True, **options)
        assert "model.safetensors" in pushed.files and "base_model" not in pushed.card


def test_merging(base, lora, tmp_path):
    wanted, before = lora.logits(TEXTS), {name: value.clone() for name, value in lora.model.state_dict().items()}
    merged = lora.merge()
    np.testing.assert_allclose(merged.logits(TEXTS), wanted, atol=1e-4)
    assert all(torch.equal(value, before[name]) for name, value in lora.model.state_dict().items())
    assert merged.route == Lora(max_length=12, rank=2, merge=True)
    np.testing.assert_allclose(Classifier.load(merged.save_pretrained(tmp_path)).logits(TEXTS), wanted, atol=1e-4)
    with pytest.raises(SettingError, match="found a model that it was added to before"):
        merged.merge()
    with pytest.raises(SettingError, match=r"expected an adapter, found a whole model \(route full\)"):
        changed(Full(max_length=12), base, LABELS).merge()


def test_a_merge_that_gives_another_model_is_refused(lora, monkeypatch):
    right = Lora.merged

    def wrong(self, model):
        found = right(self, model)
        with torch.no_grad():
            self.head(found[1]).weight.mul_(1.01)
        return found

    monkeypatch.setattr(Lora, "merged", wrong)
    with pytest.raises(VerificationError, match="after merging the adapter"):
        lora.merge()


@pytest.mark.parametrize(
    "newer",
    [{"normalization": "emoji"}, {"route": "soft prompts"}, {"settings": {"rank": 2, "long_text": "fold"}}],
    ids=lambda newer: next(iter(newer)),
)
def test_what_a_newer_one_has_saved(lora, tmp_path, newer):
    folder = without_hashes(lora.save_pretrained(tmp_path / "out"), **newer)
    with pytest.raises(RunFolderError, match=r"nlptransfer\.json: .*: upgrade nlptransfer, as a newer one has saved"):
        Classifier.load(folder)
