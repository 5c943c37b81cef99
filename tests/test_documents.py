"""README and docs/: their code runs, their links lead somewhere, and the site needs nothing from outside."""

import html
import re
import subprocess
import sys

import pytest

from helpers.documents import blocks_of, run_page, write_files
from helpers.encoders import make_film_base
from helpers.folders import ROOT
from helpers.packages import stand_in_for_both
from nlptransfer import finetune
from nlptransfer.cli import main
from nlptransfer.cli.settings import settings_classes
from nlptransfer.settings import described

PAGES = sorted([*ROOT.glob("README*.md"), *(ROOT / "docs").rglob("*.md")])
NEWCOMER = {"README.md", "README.zh.md", "quickstart.md"}
"""Run by .ci/newcomer, with real encoders."""
QUICK = {
    "routes.encoder.MOST_EPOCHS": 1,
    "experiments.environment.SPEED_SECONDS": 0.0,
    "experiments.source_gain.SEEDS": 1,
    "experiments.finetuning.SEEDS": 1,
    "experiments.finetuning.report_once": lambda *_: None,
    "experiments.comparison.report_once": lambda *_: None,
    "experiments.comparison_run.FOLDS": 2,
    "training.linear_head.FOLDS": 2,
    "transfer.domain_shift.FOLDS": 2,
}
"""What is long or not looked at here, by the name in nlptransfer."""
HERE = [page for page in PAGES if page.name not in NEWCOMER and blocks_of(page)]


@pytest.fixture(scope="module")
def files(tmp_path_factory):
    """A folder with the files, encoders and classifiers that pages speak of; the default encoders are tiny."""
    folder = tmp_path_factory.mktemp("pages")
    with pytest.MonkeyPatch.context() as patch:
        for name, value in QUICK.items():
            patch.setattr(f"nlptransfer.{name}", value)
        stand_in_for_both(tmp_path_factory.mktemp("site"), patch)
        patch.chdir(folder)
        write_files(folder)
        make_film_base(folder / "encoder")
        make_film_base(folder / "other-encoder", seed=1)
        (folder / "vectors.txt").write_text("film 1 0 0\nplot 0 1 0\ngood 0 0 1\nbad 0 0 -1\n")
        for name in ("reviews", "topics"):
            finetune("reviews.csv", route="lora", num_train_epochs=1, output_dir=f"runs/{name}", report=False)
        yield folder


@pytest.mark.parametrize("page", HERE, ids=lambda page: page.stem)
def test_the_code_of_a_page_runs_and_prints_what_it_shows(page, files, command_line):
    def command(arguments: list[str]) -> str:
        ended = command_line(main, *arguments)
        assert ended.code == 0, f"nlptransfer {' '.join(arguments)}: {ended.err}"
        return ended.out

    run_page(page, command)


def test_few_blocks_are_not_run():
    not_run = [f"{block.page.name}: {block.why_not}" for page in PAGES for block in blocks_of(page) if block.why_not]
    assert len(not_run) <= 10
    assert not_run == [
        "README.md: needs a hub and a token",
        "README.zh.md: needs a hub and a token",
        "scale.md: starts several processes",
        "scale.md: rows of yours, in several processes",
        "shipping.md: needs a hub and a token",
    ]


def test_the_readme_is_short_and_its_links_lead_somewhere():
    for page in ROOT.glob("README*.md"):
        text = page.read_text(encoding="utf-8")
        assert len(text) <= 8000
        for link in re.findall(r"\]\((?!http)([^)#]+)", text):
            assert (ROOT / link).exists(), f"{page.name}: {link}"


@pytest.fixture(scope="module")
def site(tmp_path_factory):
    """The site, built strictly: a link that leads nowhere is an error."""
    folder = tmp_path_factory.mktemp("docs") / "site"
    command = [sys.executable, "-m", "mkdocs", "build", "--quiet", "--strict", "--site-dir", str(folder)]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, encoding="utf-8")
    assert done.returncode == 0, done.stderr
    return folder


def test_the_site_fetches_nothing_from_outside(site):
    pages = list(site.rglob("*.html"))
    assert len(pages) > len(PAGES) - 3
    for page in pages:
        text = page.read_text(encoding="utf-8")
        assert re.findall(r"<(?:script|img|iframe|source)[^>]+src=\"?(?:https?:)?//|@import", text) == [], page
        links = re.findall(r"<link[^>]+>", text)
        assert [link for link in links if "//" in link and 'rel="canonical"' not in link] == [], page
    for style in site.rglob("*.css"):
        assert not re.search(r"@import|url\([\"']?(https?:)?//", style.read_text(encoding="utf-8")), style


def test_the_site_shows_the_settings_that_the_command_line_prints(site, command_line):
    page = (site / "settings/index.html").read_text(encoding="utf-8")
    shown = html.unescape(re.sub("<[^>]+>", "", page))
    marks = str.maketrans("", "", "`")
    # Wrapped in its cells.
    printed = set(re.findall(r"\w+", command_line(main, "settings").out))
    for one in [one for kind in settings_classes().values() for one in described(kind)]:
        for words in (one.name, one.meaning, one.values, one.default):
            assert words.translate(marks) in shown
        assert set(re.findall(r"\w+", f"{one.name} {one.meaning}")) <= printed


def test_every_public_name_is_on_the_page_of_the_api(site):
    page = (site / "api/index.html").read_text(encoding="utf-8")
    public = re.findall(r" as (\w+)$", (ROOT / "nlptransfer/__init__.pyi").read_text(), re.MULTILINE)
    assert [name for name in public if f'id="nlptransfer.{name}"' not in page] == []
