"""Model output made speakable, whole and in pieces."""

import re
from itertools import pairwise

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from outbound.speakable import Cleaner, clean


@pytest.mark.parametrize(
    ("written", "spoken"),
    [
        ("**Great!** See you *soon*.", "Great! See you soon."),
        ("***Really*** __sure__ _yes_", "Really sure yes"),
        ("# Heading\nText", "Heading\nText"),
        ("- apples\n- pears\n* plums\n  + figs", "apples\npears\nplums\nfigs"),
        ("> quoted", "quoted"),
        ("> - nested", "nested"),
        ("`code` and ~~gone~~", "code and gone"),
        ("```python\nprint(1)\n```\nDone", "print(1)\nDone"),
        ("[our site](https://example.com/a_b) is up", "our site is up"),
        ("see [1] and [note]", "see 1 and note"),
        ("👍 Great 👩‍👩‍👧 family ❤️!", "Great family !"),
        ("A → B", "A B"),
        ("AT&T & Sons", "AT and T and Sons"),
        ("AT&amp;T", "AT and T"),
        ("5 < 6", "5 less than 6"),
        ("x &lt; y", "x less than y"),
        ('<speak>Hi <break time="3s"/>there</speak>', "Hi there"),
        ("1 &#42; 2 &nbsp;", "1 * 2 \xa0"),
        ("2 * 3 is 6, snake_case, a#b, press #5, -5 degrees", "2 * 3 is 6, snake_case, a#b, press #5, -5 degrees"),
        ("", ""),
    ],
)
def test_markup_is_not_spoken(written: str, spoken: str) -> None:
    assert clean(written) == spoken


def test_signs_are_spoken_in_the_language_of_the_talk() -> None:
    assert clean("Pérez & Hijos", language="es-MX") == "Pérez y Hijos"
    assert clean("Smith & Söhne", language="de-DE") == "Smith and Söhne"


def test_ssml_passes_when_it_is_wanted_and_markdown_does_not() -> None:
    assert clean('**Hi** <break time="1s"/>AT&amp;T 👍', ssml=True) == 'Hi <break time="1s"/>AT&amp;T '


def test_a_tag_is_never_split() -> None:
    cleaner = Cleaner(ssml=True)
    said = [cleaner.feed(part) for part in ("Hi <bre", 'ak time="1', 's"/> you')]
    assert said == ["Hi ", "", '<break time="1s"/> you']


@pytest.mark.parametrize(
    "token", ["Hello", " there", ", how are", " you?", " It's 5-6.", "\xa1Hola!", "3.5 (three)", "a #1"]
)
def test_a_word_is_not_held_back(token: str) -> None:
    cleaner = Cleaner()
    cleaner.feed("So")
    assert cleaner.feed(token) == token


def test_only_the_undecided_end_is_held_back() -> None:
    cleaner = Cleaner()
    assert [cleaner.feed(part) for part in ("It is **", "bo", "ld** a", " & b <", " c")] == [
        "It is ",
        "bo",
        "ld a",
        " and b ",
        "less than c",
    ]
    assert cleaner.feed("", last=True) == ""


def test_nothing_is_held_back_for_ever() -> None:
    cleaner = Cleaner()
    assert "word" in cleaner.feed("a <b" + " word" * 60)
    assert "word" in cleaner.feed("](" + "word " * 120)


MARKUP = st.sampled_from(
    [*"*_~`#<>&[]()!/-+•;\n aA1 ", "**", "```", "](", "&amp;", "<b>", "</b>", "👍", "\u200d", "\ufe0f", "- "]
)
TEXT = st.lists(st.one_of(MARKUP, st.text(max_size=3)), max_size=40).map("".join)


@settings(max_examples=600, deadline=None)
@given(TEXT, st.lists(st.integers(0, 80), max_size=12), st.booleans())
def test_every_split_of_a_text_is_spoken_alike(text: str, cuts: list[int], ssml: bool) -> None:
    cleaner = Cleaner(ssml=ssml)
    edges = sorted({0, len(text), *(cut for cut in cuts if cut < len(text))})
    parts = [text[start:end] for start, end in pairwise(edges)]
    assert "".join(map(cleaner.feed, parts)) + cleaner.feed("", last=True) == clean(text, ssml=ssml)


@settings(deadline=None)
@given(TEXT)
def test_what_is_spoken_holds_nothing_that_the_carrier_reads_as_ssml(text: str) -> None:
    assert not re.search("[<&]", clean(text))


@settings(deadline=None)
@given(st.from_regex(r"[A-Za-zÀ-ž0-9 .,;:?!'\"()/%$€-]*", fullmatch=True).filter(lambda s: not re.match(r"\s*[-+]", s)))
def test_plain_text_passes_unchanged(text: str) -> None:
    assert clean(text) == text
