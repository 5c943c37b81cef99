"""The floors of the house: who imports whom, and what a light import must not drag in."""

import ast
import re
import subprocess
import sys
from collections.abc import Iterator

import pytest

from helpers.folders import ROOT

PACKAGE = ROOT / "nlptransfer"
FILES = {path.stem: path for path in sorted(PACKAGE.glob("*.py"))}
MOST_LINES = 520


def readme_map(text: str) -> list[str]:
    """The files of the README's map, from the ground up: what is indented under the line ``nlptransfer/``."""
    lines = iter(text.splitlines())
    start = next((line for line in lines if line.strip() == "nlptransfer/"), None)
    assert start is not None, "the README has no file map: expected a line 'nlptransfer/' with the files under it"
    found = []
    for line in lines:
        entry = re.match(r"^(\s+)(\w+)\.py\s", line)
        if entry is None or len(entry[1]) <= len(start) - len(start.lstrip()):
            break
        found.append(entry[2])
    return found


FLOORS = readme_map((ROOT / "README.md").read_text(encoding="utf-8"))


def imports(name: str) -> Iterator[tuple[int, str]]:
    """Line and module of every import in a file, those in functions and for type checkers too."""
    for node in ast.walk(ast.parse(FILES[name].read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            yield from ((node.lineno, alias.name) for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert not node.level, f"{name}.py:{node.lineno}: write imports of this package in full, not with a dot"
            for alias in node.names:
                is_file = node.module == "nlptransfer" and alias.name in FILES
                yield node.lineno, f"nlptransfer.{alias.name}" if is_file else str(node.module)


def own_file(module: str) -> str | None:
    """The file of this package that an import goes to, ``__init__`` for the package itself."""
    package, _, rest = module.partition(".")
    return (rest.partition(".")[0] or "__init__") if package == "nlptransfer" else None


def test_map_is_read() -> None:
    text = "#\n\n```\nnlptransfer/\n  a.py   one\n  b_c.py   two\nrecipes/\n  d.py   three\n```\n"
    assert readme_map(text) == ["a", "b_c"]


def test_every_file_is_in_the_map() -> None:
    missing = [f"{name}.py" for name in FILES if name not in FLOORS]
    assert not missing, (
        f"{', '.join(missing)}: not in the README's file map; add '  name.py   what it is for' under 'nlptransfer/', "
        "below all files that it imports and above all that import it"
    )
    gone = [f"{name}.py" for name in FLOORS if name not in FILES]
    assert not gone, f"{', '.join(gone)}: in the README's file map, but not in nlptransfer/"
    assert len(FLOORS) == len(set(FLOORS))


@pytest.mark.parametrize("name", FILES)
def test_imports_only_from_floors_above_it_in_the_map(name: str) -> None:
    if name not in FLOORS:
        pytest.skip("not in the map: another test says so")
    below = {*FLOORS[FLOORS.index(name) :]}
    wrong = [
        f"{name}.py:{line} imports {file}.py"
        for line, module in imports(name)
        if (file := own_file(module)) is not None and file in below
    ]
    assert not wrong, f"{'; '.join(wrong)}: a file imports only from files above it in the README's map"


def test_accelerate_has_two_doors() -> None:
    found = {name for name in FILES for _, module in imports(name) if module.partition(".")[0] == "accelerate"}
    assert found == {"processes", "training"}


def test_only_the_lazy_package_computes_what_it_imports() -> None:
    # What import_module gets is hidden from the tests above: __init__ needs it, and nobody else.
    computed = re.compile(r"\b(import_module|__import__)\b")
    users = {name for name, path in FILES.items() if computed.search(path.read_text(encoding="utf-8"))}
    assert users == {"__init__"}


@pytest.mark.parametrize("name", FILES)
def test_files_stay_short(name: str) -> None:
    lines = len(FILES[name].read_text(encoding="utf-8").splitlines())
    assert lines <= MOST_LINES, f"{name}.py has {lines} lines: split it"


@pytest.mark.parametrize("name", FILES)
def test_runs_nobody_elses_code(name: str) -> None:
    tree = ast.parse(FILES[name].read_text(encoding="utf-8"))
    trusting = [
        node.value.lineno
        for node in ast.walk(tree)
        if isinstance(node, ast.keyword)
        and node.arg in ("trust_remote_code", "allow_pickle")
        and isinstance(node.value, ast.Constant)
        and node.value.value is True
    ]
    assert not trusting, f"{name}.py: lines {trusting} trust code of others; pass on what the user allowed"
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
                node in distrusting and (name == "loading" or node.attr == "from_config"),
                name == "loading" and loader.partition(".")[0] in ("LoraConfig", "PeftModel"),
                (name, loader) == ("word2vec", "super().from_pretrained"),
            )
            assert any(known), f"{name}.py:{node.lineno}: load by nlptransfer.hub.pretrained, in place of {loader}"


def test_one_file_reads_pickles() -> None:
    # These unpickle whatever they are given; vector_formats asks for allow_pickle first.
    door = re.compile(r"\btorch\.load\(|\bSaveLoad\b|\bread_pickle\(|\bKeyedVectors\.load\(")
    found = {name for name, path in FILES.items() if door.search(path.read_text(encoding="utf-8"))}
    assert found == {"vector_formats"}


def loaded_after(code: str, *candidates: str) -> list[str]:
    """Which of the candidates a fresh Python has imported after running the code."""
    script = f"{code}\nimport sys\nprint('LOADED', *[name for name in {candidates!r} if name in sys.modules])"
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, timeout=120, cwd=ROOT)
    assert done.returncode == 0, done.stderr
    return done.stdout.splitlines()[-1].split()[1:]


def test_importing_the_package_is_light() -> None:
    heavy = ("torch", "transformers", "numpy", "pandas", "datasets", "gensim", "accelerate", "sklearn", "typer")
    assert loaded_after("import nlptransfer", *heavy) == []


@pytest.mark.parametrize("verb", [[], ["finetune"], ["predict"], ["vectors", "train"]], ids=" ".join)
def test_help_is_light(verb: list[str]) -> None:
    code = (
        f"import sys\nsys.argv = ['nlptransfer', *{verb!r}, '--help']\nfrom nlptransfer.cli.app import main\n"
        "try:\n    main()\nexcept SystemExit as end:\n    assert not end.code, end.code"
    )
    assert loaded_after(code, "torch", "transformers", "datasets", "gensim", "pandas", "numpy") == []


@pytest.mark.parametrize(
    ("name", "heavy"),
    [
        ("labels", ("torch", "transformers", "datasets")),
        ("data", ("torch", "transformers", "datasets", "pandas")),
        ("vectors", ("torch", "transformers", "datasets", "gensim")),
        ("encoders", ("torch", "transformers")),
        ("vector_making", ("torch", "transformers", "gensim")),
    ],
)
def test_lower_floors_are_light(name: str, heavy: tuple[str, ...]) -> None:
    assert loaded_after(f"import nlptransfer.{name}", *heavy) == []
