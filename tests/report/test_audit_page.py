"""The report of an audit: every question with its answer, and no text or label becomes a part of the page."""

import re
from dataclasses import replace
from html import unescape
from pathlib import Path

from helpers.audits import made_audit
from nlptransfer.report import write_report
from nlptransfer.results import QUESTIONS, Finding

HOSTILE = '<script>alert("1")</script>\x1b[2J\u202e<b id=x>'


def test_every_question_has_its_answer(tmp_path: Path) -> None:
    made_audit(tmp_path).save()
    page = write_report(tmp_path).read_text(encoding="utf-8")
    places = [page.index(f'<section id="{name}"><h2>{question}') for name, question in QUESTIONS.items()]
    assert places == sorted(places) and page.count("Nothing was found.") == len(QUESTIONS) - 1
    overview, section = page[: places[0]], page[places[0] : places[1]]
    assert all(f'href="#{name}"' in overview for name in QUESTIONS) and "7 rows repeat a film" in overview
    assert "7 rows repeat a film" in section and "For example: a film" in section
    assert "Drop them, drop=copies: a film" in section
    assert 'href="#rows-copies"' in section and 'id="rows-copies"' in section and 'id="rows-paraphrases"' in section
    # The first row that is dropped, and what has no share.
    assert re.search(r"train row 13, label <b>bad</b>, share <b>1</b>, <b[^>]*>dropped</b>", section)
    assert re.search(r"train row 12, label <b>bad</b></p>", section) and "0.123" in section and "0.500" in section


def test_it_begins_with_how_many_questions_found_something_and_what_to_do(tmp_path: Path) -> None:
    replace(made_audit(tmp_path), repeat="nlptransfer audit 'my rows.csv' --base tfidf --set separator=;").save()
    page = unescape(write_report(tmp_path).read_text(encoding="utf-8"))
    first = page[: page.index("<section")]
    assert "For 1 of 8 questions something was found: copies." in first
    read = "'my rows.csv' --set 'separator=;'"
    assert f"nlptransfer audit {read} --clean-to cleaned --drop copies" in first
    assert f"nlptransfer finetune {read}" in first
    assert "nlptransfer audit 'my rows.csv' --base tfidf --set separator=;" in page


def test_only_what_findings_advise_to_leave_out_is_left_out(tmp_path: Path) -> None:
    audit = replace(made_audit(tmp_path), repeat="nlptransfer audit rows.csv")
    errors = Finding("label_errors", 3, "3 labels are likely wrong", "a film", "Do not leave them out.")
    gained = replace(errors, advice="Leave them out, drop=label_errors.")
    for finding, dropped in ((errors, "copies"), (gained, "copies,label_errors")):
        section = replace(audit.sections["label_errors"], findings=(finding,))
        replace(audit, sections={**audit.sections, "label_errors": section}).save()
        page = unescape(write_report(tmp_path).read_text(encoding="utf-8"))
        assert f"nlptransfer audit rows.csv --clean-to cleaned --drop {dropped}<" in page


def test_texts_and_labels_stay_text(tmp_path: Path) -> None:
    made_audit(tmp_path, HOSTILE, (HOSTILE, "good")).save()
    page = write_report(tmp_path).read_text(encoding="utf-8")
    assert "<script" not in page and "<b id" not in page and not re.search("[\x1b\u202e]", page)
    assert "&lt;script&gt;" in page
