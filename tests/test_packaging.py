"""What is built for others to install: a wheel with all that the package needs, and the version in one place."""

import shutil
import subprocess
import sys
import zipfile
from email import message_from_bytes

import pytest

from helpers.folders import ROOT
from nlptransfer import __version__


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> zipfile.ZipFile:
    """The wheel, built of a copy, as a build leaves folders beside what it builds."""
    copy = tmp_path_factory.mktemp("source")
    for name in ("pyproject.toml", "README.md", "LICENSE"):
        shutil.copy(ROOT / name, copy)
    shutil.copytree(ROOT / "nlptransfer", copy / "nlptransfer", ignore=shutil.ignore_patterns("__pycache__"))
    command = [sys.executable, "-m", "build", "--wheel", "--no-isolation", "--outdir", copy / "dist", copy]
    built = subprocess.run(command, capture_output=True, text=True, timeout=120)
    assert built.returncode == 0, built.stdout + built.stderr
    (path,) = (copy / "dist").iterdir()
    assert path.name == f"nlptransfer-{__version__}-py3-none-any.whl"
    return zipfile.ZipFile(path)


def test_the_wheel_has_every_file_of_the_package(wheel: zipfile.ZipFile) -> None:
    expected = {
        path.relative_to(ROOT).as_posix()
        for path in (ROOT / "nlptransfer").rglob("*")
        if path.is_file() and "__pycache__" not in path.parts
    }
    assert {"nlptransfer/py.typed", "nlptransfer/__init__.pyi", "nlptransfer/templates/report.html"} <= expected
    assert {name for name in wheel.namelist() if name.startswith("nlptransfer/")} == expected


def test_the_wheel_says_what_it_is(wheel: zipfile.ZipFile) -> None:
    metadata = wheel.read(f"nlptransfer-{__version__}.dist-info/METADATA")
    said = message_from_bytes(metadata)
    # A version of Python is named once the tests have been run with it.
    assert f"Programming Language :: Python :: 3.{sys.version_info.minor}" in said.get_all("Classifier", [])
    assert said["License-Expression"] == "Apache-2.0" and said["Keywords"]
    assert metadata.endswith((ROOT / "README.md").read_bytes())


@pytest.mark.parametrize(("name", "line"), [("CITATION.cff", "version: {}"), ("CHANGELOG.md", "## [{}]")])
def test_the_version_is_the_same_wherever_it_is_written(name: str, line: str) -> None:
    lines = (ROOT / name).read_text(encoding="utf-8").splitlines()
    assert any(found.startswith(line.format(__version__)) for found in lines)
