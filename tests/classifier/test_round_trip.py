"""Saved, and loaded under another seed, a classifier of any architecture is the same, here and in plain libraries."""

import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch

from helpers.classifiers import FIVE, TEXTS, changed, plain_logits, plain_model
from helpers.encoders import DECODERS, SHAPES
from helpers.folders import ADAPTER_FILES, MODEL_FILES
from helpers.runs import finetune
from nlptransfer import Classifier, Full, Lora, Probe
from nlptransfer.data.labels import Labels

KINDS = sorted(SHAPES.keys() - {"camembert", *DECODERS} | {"llama"})
ROUTES = {
    "full": Full(max_length=12),
    "lora": Lora(max_length=12, rank=2),
    "merged": Lora(max_length=12, rank=2, merge=True),
}
LABELS = {"two labels": Labels(FIVE[1::2]), "five labels": Labels(FIVE), "several": Labels(FIVE[:3], multi_label=True)}


@pytest.mark.parametrize("labels", LABELS.values(), ids=LABELS)
@pytest.mark.parametrize("way", ROUTES)
@pytest.mark.parametrize("kind", KINDS)
def test_every_architecture_comes_back(bases, kind, way, labels, tmp_path):
    live = changed(ROUTES[way], bases(kind), labels)
    wanted = live.logits(TEXTS)
    folder = live.save_pretrained(tmp_path / "out")
    assert {path.name for path in folder.iterdir()} == (ADAPTER_FILES if way == "lora" else MODEL_FILES)
    torch.manual_seed(99)
    loaded = Classifier.load(folder)
    assert loaded.labels == labels
    np.testing.assert_allclose(loaded.logits(TEXTS), wanted, atol=1e-4, rtol=0)
    plain = plain_model(folder, bases(kind), seed=100)
    np.testing.assert_allclose(plain_logits(plain, folder), wanted, atol=1e-4, rtol=0)
    assert {int(number): name for number, name in plain.config.id2label.items()} == labels.id2label


LOADS = """
import json, os, sys
import torch
from nlptransfer import Classifier

texts, *folders = sys.argv[1:]
for folder in folders:
    # By a fork, as the imports take longest: no classifier has been loaded in this process.
    child = os.fork()
    if not child:
        torch.manual_seed(7)
        print(json.dumps(Classifier.load(folder).logits(json.loads(texts)).tolist()), flush=True)
        os._exit(0)
    assert os.waitpid(child, 0)[1] == 0
"""


def test_each_route_comes_back_in_a_process_of_its_own(bases, remarks, vectors_file, tmp_path, monkeypatch):
    base = str(bases("bert").path)
    few = {"num_train_epochs": 1, "max_train_rows": 40}
    texts = [*TEXTS, *remarks[0][:3]]
    wanted, folders = {}, []
    for route in (Full(max_length=12), Lora(max_length=12, rank=2), Probe(max_length=12), "word2vec"):
        name = route if isinstance(route, str) else route.name
        own = str(vectors_file) if name == "word2vec" else base
        run = finetune(remarks, route=route, base=own, output_dir=tmp_path / name, **few)
        wanted[name] = run.classifier.logits(texts)
        folders.append(str(run.folder))
    command = [sys.executable, "-c", LOADS, json.dumps(texts), *folders]
    done = subprocess.run(command, capture_output=True, cwd=Path(tmp_path), text=True, timeout=120)
    assert done.returncode == 0, done.stderr
    for (name, expected), found in zip(wanted.items(), done.stdout.splitlines(), strict=True):
        np.testing.assert_allclose(json.loads(found), expected, atol=1e-4, rtol=0, err_msg=name)
