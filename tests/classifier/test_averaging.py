"""The average of adapters, beside the average of the whole models that they make."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from helpers.classifiers import FIVE, LABELS, TEXTS, changed
from helpers.encoders import base_of
from nlptransfer import Classifier, Full, Lora, average
from nlptransfer.cli.app import main
from nlptransfer.data.labels import Labels
from nlptransfer.errors import SettingError
from nlptransfer.hub.base_models import BaseModel


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory) -> BaseModel:
    return base_of("distilbert", tmp_path_factory.mktemp("bases") / "distilbert")


@pytest.fixture(scope="module")
def parts(base: BaseModel) -> list[Classifier]:
    """Three adapters of other ranks and scales, with other weights."""
    routes = (
        Lora(max_length=12, rank=2, lora_alpha=2),
        Lora(max_length=12, rank=3, lora_alpha=5),
        Lora(max_length=12, rank=4, lora_alpha=1, use_rslora=True),
    )
    found = [changed(route, base, LABELS) for route in routes]
    with torch.no_grad():
        for number, one in enumerate(found):
            one.route.head(one.model).weight.add_(number)
    return found


def whole(classifier: Classifier) -> dict[str, torch.Tensor]:
    return classifier.merge().model.state_dict()


@settings(max_examples=10, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(weights=st.lists(st.floats(0, 5), min_size=3, max_size=3).filter(lambda values: sum(values) > 0.1))
def test_it_is_the_average_of_the_merged_weights(parts, weights):
    mixed = average(parts, weights)
    wholes, shares = [whole(part) for part in parts], np.array(weights) / sum(weights)
    for name, found in whole(mixed).items():
        wanted = sum(share * each[name].double() for share, each in zip(shares, wholes, strict=True))
        torch.testing.assert_close(found.double(), wanted, atol=1e-5, rtol=1e-5)
    assert mixed.record["average"]["weights"] == pytest.approx(shares.tolist())


def test_one_alone_and_all_alike(parts):
    np.testing.assert_allclose(average(parts[:2], [1, 0]).logits(TEXTS), parts[0].logits(TEXTS), atol=1e-5)
    np.testing.assert_allclose(average(parts).logits(TEXTS), average(parts, [2, 2, 2]).logits(TEXTS), atol=1e-6)


def test_it_is_saved_and_averaged_further(parts, tmp_path):
    mixed = average(parts)
    assert mixed.route.rank == 9
    loaded = Classifier.load(mixed.save_pretrained(tmp_path / "out"))
    np.testing.assert_allclose(loaded.logits(TEXTS), mixed.logits(TEXTS), atol=1e-6)
    np.testing.assert_allclose(average([loaded, *parts[:1]], [3, 0]).logits(TEXTS), mixed.logits(TEXTS), atol=1e-5)


def test_thresholds_of_the_parts_are_gone(base):
    several = Labels(FIVE[:3], multi_label=True)
    part = replace(changed(Lora(max_length=12, rank=2), base, several), thresholds=(0.1, 0.2, 0.3))
    assert average([part, part]).thresholds is None


@pytest.mark.parametrize(
    ("weights", "message"),
    [
        ([1], "expected one for each of 3, from 0"),
        ([1, -1, 1], "expected one for each of 3, from 0"),
        ([0, 0, 0], "not all of them 0"),
        ([1, float("nan"), 1], "expected one for each of 3, from 0"),
    ],
)
def test_weights_that_make_no_sense(parts, weights, message):
    with pytest.raises(SettingError, match=message):
        average(parts, weights)


def test_what_does_not_go_together(parts, base, tmp_path):
    with pytest.raises(SettingError, match="expected at least 2 to average"):
        average(parts[:1])
    others = {
        r"classifier 2: expected an adapter, found a whole model": changed(Full(max_length=12), base, LABELS),
        r"classifier 2: expected the same labels as the first one has, \('bad', 'good'\), found \('awful'": changed(
            Lora(max_length=12, rank=2), base, Labels(FIVE)
        ),
        "expected the same several labels as": changed(
            Lora(max_length=12, rank=2), base, Labels(LABELS.names, multi_label=True)
        ),
        "expected the same base as": changed(Lora(max_length=12, rank=2), base_of("bert", tmp_path / "bert"), LABELS),
        "expected the same adapted layers as": changed(
            Lora(max_length=12, rank=2, target_modules=("q_lin",)), base, LABELS
        ),
        "expected the same max_length as": changed(Lora(max_length=11, rank=2), base, LABELS),
        "expected the same long_text as": changed(Lora(max_length=12, rank=2, long_text="windows"), base, LABELS),
    }
    for message, other in others.items():
        with pytest.raises(SettingError, match=message):
            average([parts[0], other])


def test_on_the_command_line(parts, tmp_path, command_line):
    for number, part in enumerate(parts[:2]):
        part.save_pretrained(tmp_path / str(number))
    rows = tmp_path / "rows.csv"
    rows.write_text("text,label\nword1 word2,bad\nword7,good\nword3,bad\nword8 word9,good\n")
    places = [tmp_path / "0", tmp_path / "1"]
    given = ["--weights", "3,1", "--data", rows, "--output-dir", tmp_path / "out"]
    ended = command_line(main, "average", *places, *given)
    assert ended.code == 0, ended.err
    lines = ended.out.splitlines()
    assert [line.split()[-1] for line in lines[:3]] == [*map(str, places), "average"]
    wanted = average(parts[:2], [3, 1])
    found = Classifier.load(tmp_path / "out")
    np.testing.assert_allclose(found.logits(TEXTS), wanted.logits(TEXTS), atol=1e-6)
    assert lines[2].startswith(f"accuracy {found.evaluate(rows)['accuracy']:.4f} [")
    assert command_line(main, "average", places[0], "--output-dir", tmp_path / "no").code == 2
    assert not (tmp_path / "no").exists()
