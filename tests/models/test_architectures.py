"""Encoders and classifiers of every family that is known, each as a tiny model with weights of its own."""

import json
import logging
from functools import cache
from typing import Any

import numpy as np
import pytest
import torch
from peft import LoraConfig, get_peft_model
from safetensors.torch import load_file, save_file
from torch import Tensor, nn
from transformers import AutoConfig, AutoModelForSequenceClassification, BartConfig, CanineTokenizer
from transformers.utils import logging as hf_logging

from helpers.corpora import WORDS
from helpers.encoders import (
    DECODER,
    LAYERS,
    SHAPES,
    SIZES,
    SPECIAL,
    STORIES,
    UNKNOWN,
    WIDTH,
    Bases,
    make_base,
    make_tokenizer,
    strip,
)
from helpers.folders import needs_shared
from nlptransfer.data.labels import Labels
from nlptransfer.errors import BaseModelError, SettingError
from nlptransfer.hub.base_models import BaseModel, find_base
from nlptransfer.models.architectures import embeddings_of, head_modules, last_layer, layers_of
from nlptransfer.models.loading import load_encoder, load_model, load_tokenizer, set_dropout
from nlptransfer.models.partial import activations_below, first_token_alone, upper_layers
from nlptransfer.models.tokens import encode
from nlptransfer.routes.base import set_length

TEXTS = ["word1 word2 word3 word4 word5 word6", "word7", "word8 word9 word10"]
LAYERED = [kind for kind in SHAPES if kind != "albert"]
FIRST_READ = ["bert", "camembert", "deberta-v2", "distilbert", "electra", "roberta", "xlm-roberta"]
# What an encoder-only checkpoint lacks, by the source of each.
FRESH = {
    "albert": ["classifier"],
    "bert": ["classifier"],
    "camembert": ["classifier.dense", "classifier.out_proj"],
    "deberta-v2": ["classifier", "pooler.dense"],
    "distilbert": ["classifier", "pre_classifier"],
    "electra": ["classifier.dense", "classifier.out_proj"],
    "modernbert": ["classifier", "head.dense", "head.norm"],
    "roberta": ["classifier.dense", "classifier.out_proj"],
    "xlm-roberta": ["classifier.dense", "classifier.out_proj"],
    "xlnet": ["logits_proj", "sequence_summary.summary"],
}
LABELS = Labels(("bad", "fair", "good"))


@pytest.fixture(scope="session")
def bases(tmp_path_factory: pytest.TempPathFactory) -> Bases:
    """Encoder-only checkpoints by model type, each made once."""
    root = tmp_path_factory.mktemp("bases")
    return cache(lambda kind: make_base(root / kind, kind, (SHAPES | UNKNOWN)[kind]))


def built(base: BaseModel, labels: Labels = LABELS, seed: int = 1, **options: Any) -> Any:
    return load_model(base, labels, load_tokenizer(base), seed, **options)[0]


def batch(base: BaseModel, texts: list[str] = TEXTS) -> dict[str, Tensor]:
    """The texts, padded to the longest."""
    has_types = base.id == "xlnet"
    # Not the base's: transformers 5.23 opens every tokenizer of a qwen2 as that of Qwen2, which knows no such words.
    return dict(make_tokenizer()(texts, padding=True, return_tensors="pt", return_token_type_ids=has_types))


def with_lora(model: Any, **modules: Any) -> Any:
    config = LoraConfig(task_type="SEQ_CLS", target_modules="all-linear", init_lora_weights=False, **modules)
    return get_peft_model(model, config).eval()


def freeze_below(model: nn.Module, cut: int) -> None:
    for module in [*embeddings_of(model), *layers_of(model)[:cut]]:
        module.requires_grad_(False)


def trainable(model: nn.Module) -> dict[str, nn.Parameter]:
    return {name: parameter for name, parameter in model.named_parameters() if parameter.requires_grad}


def logits_and_last_outputs(model: Any, inputs: dict[str, Tensor]) -> tuple[Tensor, Tensor]:
    seen: list[Tensor] = []
    hook = last_layer(model).register_forward_hook(lambda _module, _args, output: seen.append(output))
    with torch.no_grad():
        logits = model(**inputs).logits
    hook.remove()
    return logits, seen[-1]


@pytest.mark.parametrize("kind", SHAPES)
def test_what_is_fresh_in_a_classifier_on_an_encoder(bases, kind):
    model, fresh = load_model(bases(kind), LABELS, load_tokenizer(bases(kind)), seed=1)
    assert fresh == FRESH.get(kind, ["score"])
    assert set(fresh) <= set(head_modules(model))
    # The poolers that a base brings are of the head too.
    poolers = {"bert": {"bert.pooler.dense"}, "albert": {"albert.pooler"}}
    assert set(head_modules(model)) - set(fresh) == poolers.get(kind, set())
    config = model.config
    assert (config.id2label, config.label2id, config.num_labels) == (LABELS.id2label, LABELS.label2id, 3)
    assert (config.problem_type, config.pad_token_id) == ("single_label_classification", 1)
    saved = load_file(bases(kind).path / "model.safetensors")
    taken = model.base_model.state_dict()
    assert all(torch.equal(saved[name], value) for name, value in taken.items())
    assert all("pooler" in name for name in saved.keys() - taken.keys())  # RoBERTa's classifiers do without


@pytest.mark.parametrize("kind", SHAPES)
def test_last_layer_gives_the_logits(bases, kind):
    logits, outputs = logits_and_last_outputs(built(bases(kind)).eval(), batch(bases(kind)))
    assert logits.shape == (3, 3)
    if outputs.ndim == 3:  # a decoder classifies at every token, and takes the last
        ends = batch(bases(kind))["attention_mask"].sum(1) - 1
        outputs = outputs[torch.arange(3), ends]
    assert torch.equal(logits, outputs)


@pytest.mark.parametrize("kind", LAYERED)
def test_layers_and_embeddings(bases, kind):
    model = built(bases(kind), dropout=0.0)
    encoder = load_encoder(bases(kind))
    assert len(layers_of(model)) == len(layers_of(encoder)) == LAYERS
    assert len(embeddings_of(encoder)) == {"electra": 2, "deberta-v2": 4}.get(kind, 1)
    parts = [*embeddings_of(model), *layers_of(model), *(model.get_submodule(name) for name in head_modules(model))]
    owned = [id(parameter) for part in parts for parameter in part.parameters()]
    assert len(owned) == len(set(owned))
    # What is left is the norm after the layers, and what serves pretraining alone.
    rest = {name for name, parameter in model.named_parameters() if id(parameter) not in owned}
    assert {name.split(".")[-2] for name in rest} <= {"norm", "final_norm", "transformer"}
    inputs = batch(bases(kind))
    freeze_below(model, LAYERS)
    model.train()(**inputs).logits.sum().backward()
    assert all(parameter.grad is not None for parameter in trainable(model).values())
    assert torch.allclose(activations_below(encoder, 1, inputs), activations_below(model, 1, inputs))


@pytest.mark.parametrize("kind", LAYERED)
def test_upper_layers_give_what_the_whole_gives(bases, kind):
    base = bases(kind)
    model = built(base, dropout=0.0).eval()
    inputs = batch(base)
    with torch.no_grad():
        expected = model(**inputs).logits
    assert not torch.allclose(expected[0], expected[1], atol=1e-3)
    for cut in range(1, LAYERS + 1):
        hidden = activations_below(model, cut, inputs)
        assert hidden.shape == (*inputs["input_ids"].shape, WIDTH) and not hidden.requires_grad
        upper = upper_layers(model, cut)
        with torch.no_grad():
            assert torch.allclose(upper(activations=hidden, **inputs).logits, expected, atol=1e-5)
            assert torch.allclose(upper(activations=hidden.half(), **inputs).logits, expected, atol=0.05)
        assert upper.config is model.config
        assert set(upper.state_dict()) < set(model.state_dict())


@pytest.mark.parametrize("kind", LAYERED)
@pytest.mark.parametrize("cut", [1, 2])
def test_gradients_of_the_upper_part(bases, kind, cut):
    base = bases(kind)
    model = built(base, dropout=0.0).train()
    inputs = batch(base) | {"labels": torch.tensor([0, 2, 1])}
    upper = upper_layers(model, cut)
    found = trainable(upper)
    hidden = activations_below(model, cut, inputs)
    assert model.training
    upper(activations=hidden, **inputs).loss.backward()
    gradients = {name: parameter.grad.clone() for name, parameter in found.items()}
    model.zero_grad()
    freeze_below(model, cut)
    # The very same parameters learn as in the whole model with its lower part frozen, and by the same gradients.
    whole = trainable(model)
    assert {name: id(parameter) for name, parameter in whole.items()} == {
        name: id(parameter) for name, parameter in found.items()
    }
    model(**inputs).loss.backward()
    for name, parameter in whole.items():
        assert torch.allclose(parameter.grad, gradients[name], atol=1e-5), name
    assert upper_layers(model, cut).state_dict().keys() == upper.state_dict().keys()


@pytest.mark.parametrize("kind", LAYERED)
def test_no_dropout_below_the_cut(bases, kind):
    base = bases(kind)
    model = built(base, dropout=0.9).train()
    inputs = batch(base)
    hidden = activations_below(model, 1, inputs)
    assert torch.equal(hidden, activations_below(model, 1, inputs))
    upper = upper_layers(model, 1).train()
    seen: list[Tensor] = []
    layers_of(upper)[1].register_forward_pre_hook(lambda _module, args: seen.append(args[0]))
    first, second = (upper(activations=hidden, **inputs).logits for _ in range(2))
    assert not torch.equal(first, second)
    for taken in seen:
        assert torch.equal(taken, hidden.transpose(0, 1) if kind == "xlnet" else hidden)


@pytest.mark.parametrize("kind", SHAPES)
def test_without_dropout_training_is_deterministic(bases, kind):
    for dropout in (0.5, 0.0):
        model = built(bases(kind), dropout=dropout).train()
        with torch.no_grad():
            first, second = (model(**batch(bases(kind))).logits for _ in range(2))
        assert torch.equal(first, second) == (dropout == 0)


@pytest.mark.parametrize("kind", FIRST_READ)
@pytest.mark.parametrize("adapted", [False, True])
def test_the_last_layer_makes_only_what_is_read(bases, kind, adapted):
    model = built(bases(kind)).eval()
    last = layers_of(model)[-1]
    if adapted:
        model = with_lora(model, exclude_modules=".*pre_classifier")
    inputs, made = batch(bases(kind)), list[torch.Size]()
    between = last.ffn if kind == "distilbert" else last.intermediate
    between.register_forward_hook(lambda _, given, output: made.append(output.shape[:2]))
    with torch.no_grad():
        whole = model(**inputs).logits
        with first_token_alone(model):
            alone = model(**inputs).logits
        after = model(**inputs).logits
    tokens = inputs["input_ids"].shape[1]
    assert made == [(3, tokens), (3, 1), (3, tokens)]
    torch.testing.assert_close(alone, whole, atol=1e-6, rtol=1e-5)
    assert torch.equal(after, whole)


@pytest.mark.parametrize("kind", sorted(SHAPES.keys() - {*FIRST_READ}))
def test_where_other_tokens_may_be_read_all_are_made(bases, kind):
    model = built(bases(kind)).eval()
    with torch.no_grad(), first_token_alone(model):
        alone = model(**batch(bases(kind))).logits
    with torch.no_grad():
        assert torch.equal(alone, model(**batch(bases(kind))).logits)


def test_which_settings_are_dropout():
    config = BartConfig(encoder_layerdrop=0.1)
    set_dropout(config, 0.3)
    names = ("dropout", "attention_dropout", "activation_dropout", "classifier_dropout")
    assert [getattr(config, name) for name in names] == [0.3] * 4
    assert config.encoder_layerdrop == 0.1
    bert = AutoConfig.for_model("bert")
    set_dropout(bert, 0.2)
    set_dropout(bert, 0.0, "attention.*dropout|attn_pdrop$")
    assert (bert.attention_probs_dropout_prob, bert.hidden_dropout_prob) == (0.0, 0.2)
    assert bert.classifier_dropout is None
    with pytest.raises(SettingError, match=r"dropout=.*a share in \[0, 1\)"):
        set_dropout(bert, 1.0)


@pytest.mark.parametrize("kind", ["bert", "modernbert"])
def test_fresh_weights_depend_on_the_seed_alone(bases, kind):
    base = bases(kind)
    one = built(base, seed=1).state_dict()
    torch.rand(7)
    again, other = built(base, seed=1).state_dict(), built(base, seed=2).state_dict()
    assert all(torch.equal(one[name], again[name]) for name in one)
    differing = {name for name in one if not torch.equal(one[name], other[name])}
    assert {name.rpartition(".")[0] for name in differing} <= set(FRESH[kind]) and "classifier.weight" in differing


@pytest.mark.parametrize(
    "kind, last", [("bert", "classifier"), ("roberta", "classifier.out_proj"), ("llama", "score"), ("xlnet", None)]
)
def test_a_head_stays_only_for_the_same_labels(tmp_path, kind, last):
    last = last or "logits_proj"
    shape = SHAPES[kind] | {"id2label": LABELS.id2label, "label2id": LABELS.label2id}
    base = make_base(tmp_path / kind, kind, shape, AutoModelForSequenceClassification)
    tokenizer = load_tokenizer(base)
    saved = load_file(base.path / "model.safetensors")

    def loaded(*names: str, seed: int = 1) -> tuple[list[str], Tensor]:
        model, fresh = load_model(base, Labels(names), tokenizer, seed)
        kept = {name for name, value in saved.items() if torch.equal(value, model.state_dict().get(name))}
        assert {name.rpartition(".")[0] for name in saved.keys() - kept} <= set(fresh)
        return fresh, last_layer(model).weight.detach()

    fresh, weight = loaded("bad", "fair", "good")
    assert fresh == [] and torch.equal(weight, saved[f"{last}.weight"])
    for names in (("good", "fair", "bad"), ("red", "green", "blue")):
        fresh, weight = loaded(*names)
        assert fresh == [last] and weight.std() < 0.1
        assert torch.equal(weight, loaded(*names)[1]) and not torch.equal(weight, loaded(*names, seed=2)[1])
    fresh, weight = loaded("bad", "good")
    assert fresh == [last] and weight.shape == (2, WIDTH)


def test_generic_names_are_never_the_same(tmp_path):
    names = {0: "LABEL_0", 1: "LABEL_1"}
    shape = SIZES | {"id2label": names, "label2id": {name: index for index, name in names.items()}}
    base = make_base(tmp_path / "generic", "bert", shape, AutoModelForSequenceClassification)
    model, fresh = load_model(base, Labels(("LABEL_0", "LABEL_1"), multi_label=True), load_tokenizer(base), 1)
    assert fresh == ["classifier"]
    assert model.config.problem_type == "multi_label_classification"


def test_loading_is_silent(bases, capfd, caplog):
    shown, verbosity = hf_logging.is_progress_bar_enabled(), hf_logging.get_verbosity()
    with caplog.at_level(logging.WARNING):
        built(bases("bert"))
        load_encoder(bases("bert"))
    assert capfd.readouterr() == ("", "") and not caplog.records
    assert (hf_logging.is_progress_bar_enabled(), hf_logging.get_verbosity()) == (shown, verbosity)


def test_types_of_weights(bases):
    model = built(bases("llama"), dtype=torch.bfloat16)
    assert model.dtype == torch.bfloat16
    inputs = batch(bases("llama"))
    hidden = activations_below(model, 1, inputs)
    assert hidden.dtype == torch.bfloat16
    with torch.no_grad():
        assert torch.equal(
            upper_layers(model, 1)(activations=hidden.float(), **inputs).logits, model.eval()(**inputs).logits
        )


@pytest.mark.parametrize("kind", SHAPES)
def test_encoder(bases, kind):
    encoder = load_encoder(bases(kind))
    assert not encoder.training and not trainable(encoder)
    with torch.no_grad():
        assert encoder(**batch(bases(kind))).last_hidden_state.shape[-1] == WIDTH
    assert all("pooler" in name for name in head_modules(encoder))
    with pytest.raises(BaseModelError, match="found none"):
        last_layer(encoder)


def test_weights_that_are_missing(tmp_path):
    base = make_base(tmp_path / "part", "bert", SIZES)
    file = base.path / "model.safetensors"
    weights = load_file(file)
    weights = {name: value for name, value in weights.items() if not name.startswith("pooler")}
    save_file(weights, file, {"format": "pt"})
    assert load_encoder(base).config.model_type == "bert"
    _, fresh = load_model(base, LABELS, load_tokenizer(base), 1)
    assert fresh == ["bert.pooler.dense", "classifier"]
    del weights["encoder.layer.1.output.dense.weight"]
    save_file(weights, file, {"format": "pt"})
    for load in (load_encoder, built):
        with pytest.raises(BaseModelError, match=r"part: expected every weight .*layer\.1\.output\.dense: fetch"):
            load(base)
    config = json.loads((base.path / "config.json").read_text())
    (base.path / "config.json").write_text(json.dumps(config | {"intermediate_size": 32}))
    for load in (load_encoder, built):
        with pytest.raises(BaseModelError, match=r"in the shape that config\.json says.* and 1 more"):
            load(base)


@pytest.mark.parametrize("kind", UNKNOWN)
def test_architecture_outside_the_table(bases, kind):
    model, fresh = load_model(bases(kind), LABELS, load_tokenizer(bases(kind)), 1, dropout=0.0)
    assert fresh and set(fresh) <= set(head_modules(model))
    logits, outputs = logits_and_last_outputs(model.eval(), batch(bases(kind)))
    assert torch.equal(logits[1], outputs[1] if outputs.ndim == 2 else outputs[1, 2])
    for refused in (layers_of, embeddings_of, lambda model: upper_layers(model, 1)):
        with pytest.raises(BaseModelError, match=f"'{kind}': expected an architecture whose layers are known.*LoRA"):
            refused(model)


def test_albert_has_embeddings_but_no_layers(bases):
    model = built(bases("albert"))
    assert [type(module).__name__ for module in embeddings_of(model)] == ["AlbertEmbeddings", "Linear"]
    for refused in (layers_of, lambda model: upper_layers(model, 1), lambda model: activations_below(model, 1, {})):
        with pytest.raises(BaseModelError, match="'albert': expected separate layers"):
            refused(model)


@pytest.mark.parametrize("cut", [-1, 0, LAYERS + 1])
def test_cuts_that_cannot_be(bases, cut):
    model = built(bases("bert"))
    for refused in (upper_layers, lambda model, cut: activations_below(model, cut, {})):
        with pytest.raises(SettingError, match=f"cut={cut}: expected a number of layers from 1 to 3"):
            refused(model, cut)


def test_modes_and_hooks_are_left_as_they_were(bases):
    model = built(bases("bert")).train()
    layers_of(model)[0].eval()
    before = [module.training for module in model.modules()]
    for cut in (1, LAYERS):
        activations_below(model, cut, batch(bases("bert")))
    with pytest.raises(ValueError, match="input_ids"):
        activations_below(model, 2, {})
    assert [module.training for module in model.modules()] == before
    assert not any(module._forward_pre_hooks for module in model.modules())


def test_convolution_after_the_only_layer(tmp_path):
    base = make_base(tmp_path / "deberta", "deberta-v2", SHAPES["deberta-v2"] | {"num_hidden_layers": 1})
    model, inputs = built(base).eval(), batch(base)
    hidden = activations_below(model, 1, inputs)
    with torch.no_grad():
        expected = model(**inputs).logits
        assert torch.equal(upper_layers(model, 1)(activations=hidden, **inputs).logits, expected)
        with first_token_alone(model):
            assert torch.equal(model(**inputs).logits, expected)


@pytest.mark.parametrize("kind", ["bert", "deberta-v2", "distilbert", "electra", "llama", "modernbert", "xlnet"])
def test_within_peft(bases, kind):
    base = bases(kind)
    model = built(base, dropout=0.0)
    heads = head_modules(model)
    plain_last = last_layer(model)
    # peft adds "classifier" and "score" to what it saves, in the very list that it is given; where a part of
    # "classifier" is named too, it wraps both, and neither learns.
    whole = [name.partition(".")[0] if "pooler" not in name else name for name in heads]
    adapted = with_lora(model, exclude_modules=heads, modules_to_save=whole)
    assert head_modules(adapted) == heads
    assert len(layers_of(adapted)) == LAYERS and embeddings_of(adapted)
    inputs = batch(base)
    last = last_layer(adapted)
    assert last is not plain_last and last.weight.requires_grad
    with torch.no_grad():
        last.weight.add_(1)
    logits, outputs = logits_and_last_outputs(adapted, inputs)
    assert torch.equal(logits[0], outputs[0] if outputs.ndim == 2 else outputs[0, -1])
    with adapted.disable_adapter():
        assert torch.equal(last_layer(adapted).weight, plain_last.weight)
    upper = upper_layers(adapted, 2)
    hidden = activations_below(adapted, 2, inputs)
    with torch.no_grad():
        assert torch.allclose(upper(activations=hidden, **inputs).logits, logits, atol=1e-5)
    learning = trainable(upper)
    assert learning.items() < trainable(adapted).items()
    upper(activations=hidden, **inputs).logits.square().sum().backward()
    assert all(parameter.grad is not None for parameter in learning.values())
    merged: Any = adapted.merge_and_unload()
    assert last_layer(merged).weight is last.weight and head_modules(merged) == heads


@pytest.mark.parametrize("names, pad", [(("unk_token", "eos_token"), "<unk>"), (("eos_token",), "</s>")])
def test_a_token_to_pad_with(tmp_path, names, pad):
    base = strip(make_base(tmp_path / "llama", "llama", DECODER), *names)
    tokenizer = load_tokenizer(base)
    assert (tokenizer.pad_token, len(tokenizer)) == (pad, len(SPECIAL) + len(WORDS))
    model = built(base).eval()
    assert model.config.pad_token_id == tokenizer.pad_token_id
    assert model.get_input_embeddings().num_embeddings == 24
    texts = [text.replace("</s>", "") for text in TEXTS]
    ids = [tokenizer(text, add_special_tokens=False)["input_ids"] for text in texts]
    inputs = tokenizer.pad({"input_ids": ids}, return_tensors="pt")
    with torch.no_grad():
        together = model(**inputs).logits
        alone = torch.cat([model(input_ids=torch.tensor([row])).logits for row in ids])
    assert torch.allclose(together, alone, atol=1e-5)


@pytest.mark.parametrize(("kind", "room"), [("bert", 24), ("distilbert", 24), ("roberta", 22), ("xlnet", 40)])
def test_texts_end_where_the_positions_of_the_model_do(bases, kind, room):
    base = bases(kind)
    tokenizer = set_length(load_tokenizer(base), 40, [])
    assert tokenizer.model_max_length == room  # RoBERTa's positions begin after the padding id
    tokens = encode([" ".join(WORDS[index % len(WORDS)] for index in range(60))], tokenizer, tokenizer.model_max_length)
    assert tokens.lengths.tolist() == [room]
    model, _ = load_model(base, LABELS, tokenizer, 0)
    assert torch.isfinite(model.eval()(**tokens.batch(np.arange(1))).logits).all()


def test_padding_that_cannot_be(tmp_path):
    base = strip(make_base(tmp_path / "llama", "llama", DECODER), "eos_token")
    settings = base.path / "tokenizer_config.json"
    settings.write_text(json.dumps({"tokenizer_class": "PreTrainedTokenizerFast"}))
    with pytest.raises(BaseModelError, match="llama: expected a padding token, or an unknown or end token"):
        load_tokenizer(base)
    settings.write_text(json.dumps({"tokenizer_class": "PreTrainedTokenizerFast", "pad_token": "<new>"}))
    with pytest.raises(BaseModelError, match="among the 24 that have embeddings, found '<new>' with id 24"):
        built(base)


def test_whose_padding_id_counts(tmp_path):
    # A decoder's head looks for the tokenizer's; RoBERTa's positions begin after the one that its config has.
    for kind, expected in (("llama", 1), ("roberta", 0)):
        base = make_base(tmp_path / kind, kind, SHAPES[kind] | {"pad_token_id": 0})
        assert built(base).config.pad_token_id == expected


def test_tokenizers_that_are_refused(tmp_path):
    base = make_base(tmp_path / "canine", "bert", SIZES)
    for file in base.path.glob("tokenizer*"):
        file.unlink()
    CanineTokenizer().save_pretrained(base.path)
    with pytest.raises(BaseModelError, match=r"canine: expected a fast tokenizer .*found CanineTokenizer"):
        load_tokenizer(base)
    (base.path / "tokenizer_config.json").unlink()
    (base.path / "tokenizer.json").write_text("{}")
    with pytest.raises(BaseModelError, match=r"canine: expected what tokenizer_config\.json describes to load"):
        load_tokenizer(base)


def test_configs_that_are_refused(bases, tmp_path):
    tokenizer = load_tokenizer(bases("bert"))
    base = BaseModel(tmp_path, id="odd", revision=None)
    (tmp_path / "config.json").write_text('{"model_type": "clip_text_model"}')
    with pytest.raises(BaseModelError, match=r"odd: expected an architecture with a classifier.*'clip_text_model'"):
        load_model(base, LABELS, tokenizer, 1)
    (tmp_path / "config.json").write_text('{"model_type": "unheard_of"}')
    for load in (load_encoder, lambda base: load_model(base, LABELS, tokenizer, 1)):
        with pytest.raises(
            BaseModelError, match=r"odd: expected what config\.json .* model type `unheard_of`.*: take another encoder"
        ):
            load(base)


@needs_shared
def test_a_real_checkpoint():
    base = find_base(str(STORIES))
    tokenizer = load_tokenizer(base)
    model, fresh = load_model(base, LABELS, tokenizer, 1)
    assert (fresh, len(layers_of(model)), tokenizer.pad_token) == (["score"], 5, tokenizer.unk_token)
    texts = ["Once upon a time there was a little dog.", "The end."]
    inputs = dict(tokenizer(texts, padding=True, return_tensors="pt", return_token_type_ids=False))
    hidden = activations_below(model, 3, inputs)
    with torch.no_grad():
        expected = model.eval()(**inputs).logits
        assert torch.allclose(upper_layers(model, 3)(activations=hidden, **inputs).logits, expected, atol=1e-5)
        alone = model(**tokenizer(texts[1], return_tensors="pt", return_token_type_ids=False)).logits
    assert torch.allclose(expected[1:], alone, atol=1e-5)
