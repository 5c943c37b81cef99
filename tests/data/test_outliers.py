"""Texts that are unlike the others: each kind is named, and sound texts are not."""

import base64
import random

import pytest

from helpers.corpora import FILM_WORDS
from nlptransfer.data.outliers import (
    CODE,
    DAMAGE,
    DAMAGED,
    EMPTY,
    LANGUAGE,
    LEFT_OVER,
    MARKUP,
    SCRIPT,
    unlike_others,
)

COMMON = ["the", "a", "of", "and", "to", "in", "it", "is", "that", "this", "with", "for", "was", "as", "but", "not"]


def english(count: int) -> list[str]:
    draw = random.Random(0)
    return [" ".join(draw.choices(COMMON, k=8) + draw.choices(FILM_WORDS, k=6)) for _ in range(count)]


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("...!?", EMPTY),
        ("@someone https://example.org/a", EMPTY),
        ("<br /><br />&nbsp;", EMPTY),
        ("<div class='x'><span></span></div><a href='http://example.org'>film</a>", MARKUP),
        ("ok http://example.org/" + "path/" * 20, MARKUP),
        (base64.b64encode(random.Random(0).randbytes(90)).decode(), CODE),
        ("d41d8cd98f00b204e9800998ecf8427e", CODE),
        ("très été déjà".encode().decode("cp1252"), DAMAGE),
        ("Привет как дела".encode().decode("latin-1"), DAMAGE),
        ("\ufffd\ufffd\ufffd a \ufffd\ufffd", DAMAGE),
        ("a film of the month, the café".encode().decode("cp1252"), DAMAGED),
        ("a film that is \x00 not sound", DAMAGED),
        ("a film &amp; a book of the month", LEFT_OVER),
        ("it #39;s a film", LEFT_OVER),
        ("a film\\nand a book", ""),
        ("a film\\n\\nA book", LEFT_OVER),
        ("Очень хороший фильм", SCRIPT),
        ("这部电影非常好看", SCRIPT),
        ("la película es muy larga y no tiene ningún sentido para los que esperan algo mejor", LANGUAGE),
        ("der Film war leider viel zu lang und die Schauspieler haben mich nicht überzeugt", LANGUAGE),
        ("la película es", ""),
        ("a film of the café, naïve – “and” … it’s £5", ""),
        ("I ❤ it", ""),
        ("👍👍👍", ""),
        ("a film of the month, and a book: see http://example.org", ""),
        ("NÃO, the film by São Paulo's Müller & Søn is not that", ""),
        ("", EMPTY),
    ],
)
def test_reasons(text, reason):
    *others, found = unlike_others([*english(300), text])
    assert {*others} == {""} and found == reason


def test_a_script_that_others_have_too_is_no_outlier():
    texts = ["这部电影非常好看"] * 50 + ["a film of the month"] * 50
    assert {*unlike_others(texts)} == {""}
    mixed = ["iPhone6SPLUS现在还值不值得买" for _ in range(2)]
    assert {*unlike_others(["这部电影非常好看"] * 500 + mixed)} == {""}


def test_no_texts():
    assert unlike_others([]) == []
    assert unlike_others(["a", "b"]) == ["", ""]
