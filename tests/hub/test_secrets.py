"""What must not be pushed is found, wherever it stands; what may be pushed is left in peace."""

import gzip
import json
import os
import pickle
import string
import time
import zipfile
from itertools import islice
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from safetensors.numpy import save_file

from helpers.folders import SHARED, needs_shared
from nlptransfer.errors import RunFolderError
from nlptransfer.hub import secrets
from nlptransfer.hub.secrets import check_links, find_leaks
from nlptransfer.models.ngrams import Ngrams

LETTERS = (string.ascii_letters + string.digits) * 3
# Put together here, so that no scanner takes them for real ones.
TOKENS = {
    "hub": "hf_" + LETTERS[:34],
    "hub, by a login": "hf_" + "oauth_" + LETTERS[:34],
    "GitHub": "ghp_" + LETTERS[:36],
    "GitHub, of an app": "ghs_" + LETTERS[:36],
    "GitHub, fine-grained": "github_" + "pat_" + LETTERS[:22] + "_" + LETTERS[:59],
    "AWS": "AKIA" + "ABCDEFGH23456789",
    "OpenAI": "sk-" + LETTERS[:48],
    "OpenAI, of a project": "sk-" + "proj-" + "a_b-" * 20,
    "OpenRouter": "sk-" + "or-v1-" + LETTERS[:48],
    "Anthropic": "sk-" + "ant-api03-" + LETTERS[:60],
    "Slack": "xoxb-" + "1234567890-1234567890-abc",
    "Slack, of an app": "xapp-" + "1-A0123456789-1234567890-abc",
    "Slack, a hook": "https://hooks." + "slack.com/services/T01234567/B01234567/abc",
    "AWS, for a while": "ASIA" + "ABCDEFGH23456789",
    "Google": "AIza" + LETTERS[:35],
    "Google, of a client": "GOCSPX-" + LETTERS[:28],
    "Google, for a while": "ya29." + LETTERS[:60],
    "JWT": "eyJ" + LETTERS[:33] + ".eyJ" + LETTERS[:40] + "." + LETTERS[:43],
}
HOMES = [
    "/home/alice/models/base",
    "file:///home/alice/x",
    "/Users/alice/models/base",
    "/mnt/c/Users/alice/x",
    "/root/models",
    r"C:\Users\Alice Smith\models",
    r"C:\\Users\\alice\\models",
    r"c:\\\\users\\\\alice\\\\models",
    "C:/Users/alice/models",
]


@pytest.fixture(autouse=True)
def machine(monkeypatch: pytest.MonkeyPatch) -> None:
    """A machine that nobody is logged in on, whose user lives where no other path of these tests does."""
    monkeypatch.setenv("HOME", "/srv/people/zoë")
    monkeypatch.setenv("USERPROFILE", "/srv/people/zoë")
    monkeypatch.setattr(secrets, "tempfile", SimpleNamespace(gettempdir=lambda: "/scratch/tmp"))
    monkeypatch.setattr(secrets, "get_token", lambda: None)


def found(folder: Path, **options: object) -> list[tuple[str, int | None, str]]:
    return [(leak.file, leak.line, leak.what) for leak in find_leaks(folder, **options)]  # type: ignore[arg-type]


def test_a_clean_folder(tmp_path):
    (tmp_path / "config.json").write_text(json.dumps({"base": "sentence-transformers/all-MiniLM-L6-v2", "x": [1, 2]}))
    (tmp_path / "onnx").mkdir()
    (tmp_path / "onnx" / "model.onnx").write_bytes(b"\x08\x08\xff\xfe")
    save_file({"a": np.zeros(3, np.float32)}, tmp_path / "model.safetensors", {"format": "pt"})
    harmless = "hf_ sk- /home /home/ home/x/ AKIA xoxb- ghp_ /Users sk-learn-and-a-few-words\n"
    (tmp_path / "vocab.txt").write_text(harmless)
    harmless = "See https://example.com/home/page/1, api/Users/me/x and a.b/root/c. risk-free\n"
    (tmp_path / "README.md").write_text(harmless)
    assert found(tmp_path, extra={"card.md": "A card"}) == []


KEYS = [f"-----BEGIN {kind}PRIVATE KEY-----" for kind in ("", "RSA ", "OPENSSH ", "ENCRYPTED ")]
SECRETS = dict.fromkeys(TOKENS.values(), "access token") | dict.fromkeys(KEYS, "private key")
SECRETS |= dict.fromkeys(HOMES, "home path")
SECRETS |= dict.fromkeys([r"\\fileserver\shared docs\models", r"\\\\nas-1.local\\home$\\alice"], "path of the network")


@pytest.mark.parametrize("secret", SECRETS)
def test_secrets_are_named_by_file_and_line_but_never_shown(tmp_path, secret):
    (tmp_path / "config.json").write_text(f'{{\n  "a": 1,\n  "b": "{secret}"\n}}')
    assert found(tmp_path) == [("config.json", 3, SECRETS[secret])]
    assert secret not in str(find_leaks(tmp_path)[0])


def test_the_machines_own_token_and_given_ones_whatever_they_look_like(tmp_path, monkeypatch):
    monkeypatch.setattr(secrets, "get_token", lambda: "not.like+others")
    (tmp_path / "a.txt").write_text("x\nnot.like+others\nnotXlike+others\n(given)\n")
    assert found(tmp_path) == [("a.txt", 2, "access token")]
    assert found(tmp_path, secrets=["(given)", ""]) == [("a.txt", 2, "access token"), ("a.txt", 4, "access token")]


@pytest.mark.parametrize("path", ["/srv/people/zoë/x", "/scratch/tmp/run-1/model"])
@pytest.mark.parametrize("dump", [str, json.dumps])
def test_this_users_own_folders(tmp_path, path, dump):
    (tmp_path / "a.json").write_text(f"{dump(path)}\n/backup{path} /srv/people/zoëlle/x\n", encoding="utf-8")
    what = "home path" if "people" in path else "path of temporary files"
    assert found(tmp_path) == [("a.json", 1, what)]


def test_a_user_who_lives_at_the_root_has_no_home_path(tmp_path, monkeypatch):
    monkeypatch.setenv("HOME", "/")
    (tmp_path / "a.txt").write_text("/usr/lib/x\n")
    assert found(tmp_path) == []


def test_where_a_linked_home_really_lies(tmp_path, monkeypatch):
    (tmp_path / "real").mkdir()
    (tmp_path / "home").symlink_to(tmp_path / "real")
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    (tmp_path / "f").mkdir()
    (tmp_path / "f" / "a.txt").write_text(f"{tmp_path / 'home'}/x\n{tmp_path / 'real'}/x\n")
    assert [line for _, line, what in found(tmp_path / "f") if what == "home path"] == [1, 2]


def test_metadata_of_safetensors_are_searched_and_weights_are_not(tmp_path):
    weights = np.frombuffer(TOKENS["hub"].encode(), np.uint8)
    save_file({"a": weights}, tmp_path / "model.safetensors", {"path": "/home/alice/x"})
    assert found(tmp_path) == [("model.safetensors", None, "home path")]


def ngrams(*words: str) -> Ngrams:
    return Ngrams.of([f"{word} is a word" for word in words for _ in range(3)], labels=2)


def test_words_of_training_texts_in_ngrams_are_searched(tmp_path):
    ngrams("zebra", "and so on").save(tmp_path)
    assert found(tmp_path) == []
    for name in ("hub", "GitHub", "AWS", "Google"):
        # A word, which is in lower case there, right behind another.
        ngrams("zebra", TOKENS[name]).save(tmp_path)
        assert found(tmp_path) == [("ngrams.safetensors", None, "access token")]


def test_onnx_is_searched_for_paths_and_other_binaries_for_secrets(tmp_path):
    content = b"\xff\x00/home/alice/venv/lib/x.py\x00" + TOKENS["hub"].encode() + b"\xfe"
    for name in ("model.onnx", "spiece.model"):
        (tmp_path / name).write_bytes(content)
    assert found(tmp_path) == [
        ("model.onnx", None, "home path"),
        ("model.onnx", None, "access token"),
        ("spiece.model", None, "access token"),
    ]


@pytest.mark.parametrize("name", ["a.bin", "a.pt", "a.PTH", "a.pkl", "a.pickle", "a.ckpt", "a.joblib"])
def test_pickles_by_name(tmp_path, name):
    (tmp_path / name).write_bytes(b"")
    assert found(tmp_path) == [(name, None, "pickle")]


@pytest.mark.parametrize("protocol", [2, 3, 4, 5])
@pytest.mark.parametrize("name", ["vectors.model", "model.safetensors", "weights"])
def test_pickles_by_their_first_bytes(tmp_path, protocol, name):
    (tmp_path / name).write_bytes(pickle.dumps({"a": [1]}, protocol))
    assert found(tmp_path) == [(name, None, "pickle")]


@pytest.mark.parametrize("new", [True, False])
def test_what_torch_saves(tmp_path, new):
    torch.save({"a": torch.zeros(3)}, tmp_path / "weights.dat", _use_new_zipfile_serialization=new)
    assert found(tmp_path) == [("weights.dat", None, "pickle")]


def test_what_only_starts_like_a_pickle_or_an_archive(tmp_path):
    # 640 = 0x280 is a common length of a header: the file starts with the two bytes of a pickle of protocol 2.
    for length in (640, 0x280280):
        header = json.dumps({"__metadata__": {}}).encode().ljust(length)
        (tmp_path / f"{length}.safetensors").write_bytes(length.to_bytes(8, "little") + header)
    (tmp_path / "PK.txt").write_text("PK is a name\n")
    with zipfile.ZipFile(tmp_path / "texts.zip", "w") as archive:
        archive.writestr("a.txt", "text")
    assert found(tmp_path) == []


def test_leftovers_of_training(tmp_path):
    names = ["optimizer.pt", "scheduler.pt", "random_states_0.pkl", "rng_state.pth", "training_args.bin"]
    names += ["__0_0.distcp", "events.out.tfevents.1.host"]
    for name in names:
        (tmp_path / name).write_bytes(b"x")
    (tmp_path / "checkpoint-500").mkdir()
    (tmp_path / "checkpoint-500" / "model.pt").write_bytes(b"x")
    assert found(tmp_path) == [(name, None, "leftover of training") for name in sorted([*names, "checkpoint-500"])]


def test_hidden_files_at_any_depth_and_pipes(tmp_path):
    (tmp_path / ".git").mkdir()
    (tmp_path / ".git" / "config").write_text(TOKENS["hub"])
    (tmp_path / "sub").mkdir()
    (tmp_path / "sub" / ".env").write_text("")
    os.mkfifo(tmp_path / "pipe")
    what = {".git": "hidden file", "pipe": "neither a file nor a folder", "sub/.env": "hidden file"}
    assert found(tmp_path) == [(name, None, kind) for name, kind in what.items()]


def test_links(tmp_path):
    folder = tmp_path / "model"
    (folder / "sub").mkdir(parents=True)
    (tmp_path / "secret.txt").write_text("x")
    (folder / "config.json").write_text("{}")
    out, gone = "link that leads out of the folder", "link to nothing"
    links = {"../secret.txt": out, "..": out, "nothing": gone, "sub": "link to a folder", "config.json": "", "5": gone}
    for number, target in enumerate(links):
        (folder / str(number)).symlink_to(target)
    assert found(folder) == [(str(number), None, what) for number, what in enumerate(links.values()) if what]


def test_further_texts_take_the_place_of_files(tmp_path):
    (tmp_path / "README.md").write_text(f"{TOKENS['hub']} /home/alice/x\n")
    assert found(tmp_path, extra={"README.md": "clean"}) == []
    leaks = found(tmp_path, extra={"README.md": f"# A card\n\n{TOKENS['hub']} and /home/alice/x\n"})
    assert leaks == [("README.md", 3, "access token"), ("README.md", 3, "home path")]


def test_no_folder(tmp_path):
    with pytest.raises(RunFolderError, match=r"gone: expected the folder of a saved classifier, found none"):
        find_leaks(tmp_path / "gone")


PIECES = ("hf_", "sk-", "sk-proj-", "eyJ", "-eyJ", "AIza", "\\", "\\\\abc", "/home/", "c:\\Users\\", "/", "a", "xoxb-1")


@pytest.mark.parametrize("piece", ["-----BEGIN RSA ", *PIECES])
def test_one_long_line_takes_no_time(tmp_path, piece):
    (tmp_path / "tokenizer.json").write_text(piece * (4 * 2**20 // len(piece)))
    start = time.perf_counter()
    find_leaks(tmp_path)
    assert time.perf_counter() - start < 5


@needs_shared
def test_ordinary_texts_raise_no_alarm(tmp_path):
    lines = []
    for file in sorted((SHARED / "data").glob("*/*.jsonl.gz")):
        with gzip.open(file, "rt", encoding="utf-8") as stream:
            lines += islice(stream, 500)
    assert len(lines) >= 10_000
    (tmp_path / "texts.txt").write_text("".join(lines), encoding="utf-8")
    (tmp_path / "tokenizer.json").write_text(json.dumps({"vocab": lines}), encoding="utf-8")
    Ngrams.of(lines[:2000], labels=2).save(tmp_path)
    assert found(tmp_path) == []


def test_a_link_out_of_a_folder_is_refused_by_name(tmp_path):
    folder = tmp_path / "run"
    (folder / "model").mkdir(parents=True)
    (folder / "model" / "config.json").write_text("{}")
    (folder / "inside").symlink_to("model/config.json")
    check_links(folder)
    (folder / "model" / "weights").symlink_to(tmp_path / "secret.txt")
    with pytest.raises(
        RunFolderError, match=r"run/model/weights: expected a file of the folder, found a link out of it"
    ):
        check_links(folder)
