"""What a light import must not drag in, and doors that only one file has; pyproject.toml has who imports whom."""

import ast
import re
import subprocess
import sys
from collections.abc import Iterator

import pytest

from helpers.folders import ROOT

PACKAGE = ROOT / "nlptransfer"
FILES = {path.relative_to(PACKAGE).as_posix(): path for path in sorted(PACKAGE.rglob("*.py"))}


def imports(name: str) -> Iterator[tuple[int, str]]:
    """Line and module of every import in a file, those in functions and for type checkers too."""
    for node in ast.walk(ast.parse(FILES[name].read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            yield from ((node.lineno, alias.name) for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert not node.level, f"{name}:{node.lineno}: write imports of this package in full, not with a dot"
            yield node.lineno, str(node.module)


def users_of(pattern: str) -> set[str]:
    """The files in which a regular expression is found."""
    return {name for name, path in FILES.items() if re.search(pattern, path.read_text(encoding="utf-8"))}


def test_accelerate_has_two_doors() -> None:
    found = {name for name in FILES for _, module in imports(name) if module.partition(".")[0] == "accelerate"}
    assert found == {"distributed.py", "training/loop.py"}


def test_private_names_of_others_have_one_door() -> None:
    # What transformers, torch, peft, accelerate and the hub's client keep to themselves may change with any release.
    private = r"\.__class__ = |torch\.ops\.mkldnn|mallopt|_reset_state\(|\._init_weights\(|\.(base_)?model\._[a-z]"
    private += r"|_forward_hooks"
    assert users_of(private) <= {"models/patches.py"}


def test_nobody_computes_what_it_imports() -> None:
    # What import_module gets is hidden from the contracts; lazy_loader does it for the faces.
    assert users_of(r"\b(import_module|__import__)\b") == set()


@pytest.mark.parametrize("name", FILES)
def test_runs_nobody_elses_code(name: str) -> None:
    trusting = [
        node.value.lineno
        for node in ast.walk(ast.parse(FILES[name].read_text(encoding="utf-8")))
        if isinstance(node, ast.keyword)
        and node.arg in ("trust_remote_code", "allow_pickle")
        and isinstance(node.value, ast.Constant)
        and node.value.value is True
    ]
    assert not trusting, f"{name}: lines {trusting} trust code of others; pass on what the user allowed"
    modules = {module.partition(".")[0] for _, module in imports(name)}
    assert not modules & {"pickle", "cloudpickle", "dill", "joblib", "shelve", "marshal"}


def test_models_have_one_door() -> None:
    # Without trust_remote_code=False transformers asks on standard input whether to run code of the folder's.
    for name, path in FILES.items():
        tree = ast.parse(path.read_text(encoding="utf-8"))
        distrusting = {
            node.func
            for node in ast.walk(tree)
            if isinstance(node, ast.Call)
            for keyword in node.keywords
            if keyword.arg == "trust_remote_code" and ast.literal_eval(keyword.value) is False
        }
        for node in ast.walk(tree):
            if not isinstance(node, ast.Attribute) or node.attr not in ("from_pretrained", "from_config"):
                continue
            loader = ast.unparse(node)
            known = (
                node in distrusting and (name == "hub/pretrained.py" or node.attr == "from_config"),
                name == "hub/pretrained.py" and loader.partition(".")[0] in ("LoraConfig", "PeftModel"),
                (name, loader) == ("routes/word2vec_model.py", "super().from_pretrained"),
            )
            assert any(known), f"{name}:{node.lineno}: load by nlptransfer.hub.pretrained, in place of {loader}"


def test_one_file_reads_pickles() -> None:
    # These unpickle whatever they are given; formats.py asks for allow_pickle first.
    assert users_of(r"\btorch\.load\(|\bSaveLoad\b|\bread_pickle\(|\bKeyedVectors\.load\(") == {"vectors/formats.py"}


def test_packages_that_take_long_are_imported_where_all_need_them() -> None:
    slow = {"datasets", "evaluate", "gensim", "matplotlib", "pandas", "peft", "sklearn"}
    found = {
        name
        for name, path in FILES.items()
        for node in ast.parse(path.read_text(encoding="utf-8")).body
        for module in ([one.name for one in node.names] if isinstance(node, ast.Import) else [])
        + ([str(node.module)] if isinstance(node, ast.ImportFrom) else [])
        if module.partition(".")[0] in slow
    }
    assert found == {
        "classifier/onnx_export.py", "evaluation/further.py", "experiments/estimators.py", "models/mixing.py",
        "routes/lora.py",
    }  # fmt: skip


LIGHT = {
    "nlptransfer": "torch transformers numpy pandas datasets gensim accelerate sklearn typer",
    "nlptransfer.data.labels": "torch transformers datasets",
    "nlptransfer.data.dataset": "torch transformers datasets pandas",
    "nlptransfer.vectors.store": "torch transformers datasets gensim",
    "nlptransfer.hub.base_models": "torch transformers",
    "nlptransfer.vectors.training": "torch transformers gensim",
}
"""What the import of a module, after those before it, does not import."""


def test_imports_are_light() -> None:
    checks = [
        f"import {name}; print({name!r}, *{{*{heavy.split()}}} & {{*sys.modules}})" for name, heavy in LIGHT.items()
    ]
    script = "\n".join(["import sys", *checks])
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, timeout=120, cwd=ROOT)
    assert done.returncode == 0, done.stderr
    assert done.stdout.splitlines() == [*LIGHT]
