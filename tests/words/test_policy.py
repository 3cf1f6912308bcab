"""Numbers and rules: who may be rung."""

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from outbound.policy import Rules, country_of, is_country, is_e164, judge

US = Rules(frozenset({"US"}))
EVERYWHERE = Rules(frozenset({"*"}))


@pytest.mark.parametrize("number", ["+15005550006", "+12025550100", "+442079460000", "+1234567", "+123456789012345"])
def test_a_number_in_international_form_is_taken(number: str) -> None:
    assert is_e164(number)


@pytest.mark.parametrize(
    "number",
    [
        "",
        "+",
        "12025550100",
        "+02025550100",
        "+123456",
        "+1234567890123456",
        "+1 202 555 0100",
        "+1-202-555-0100",
        "+1202555010x",
        "+12025550100\n",
        "＋12025550100",  # noqa: RUF001  # a full-width plus sign
        "+١٢٠٢٥٥٥٠١٠٠",
        "sip:ada@example.com",
        "tel:+12025550100",
    ],
)
def test_anything_else_is_no_number(number: str) -> None:
    assert not is_e164(number)


@pytest.mark.parametrize(
    ("number", "country"),
    [
        ("+12025550100", "US"),
        ("+15005550006", "US"),
        ("+14165550100", "CA"),
        ("+18765550100", "JM"),
        ("+18095550100", "DO"),
        ("+442079460000", "GB"),
        ("+34912345678", "ES"),
        ("+77012345678", "KZ"),
        ("+80012345678", None),
        ("+9991234567", None),
        ("12025550100", None),
        ("nonsense", None),
    ],
)
def test_a_number_belongs_to_a_country(number: str, country: str | None) -> None:
    assert country_of(number) == country


PREMIUM_IN_CASE = Rules(frozenset({"US"}), allow_premium=True)


@pytest.mark.parametrize(
    ("number", "rules", "rule"),
    [
        ("+12025550100", US, None),
        ("+15005550006", US, None),
        ("+442079460000", US, "destination_country"),
        ("+18765550100", US, "destination_country"),
        ("+80012345678", US, "destination_country"),
        ("+12025550100", Rules(frozenset()), "destination_country"),
        ("+442079460000", Rules(frozenset({"US", "GB"})), None),
        ("+442079460000", EVERYWHERE, None),
        ("+80012345678", EVERYWHERE, None),
        ("+19002345678", US, "premium_number"),
        ("+19002345678", EVERYWHERE, "premium_number"),
        ("+19002345678", PREMIUM_IN_CASE, None),
        ("+449012345678", EVERYWHERE, "premium_number"),
        ("+449012345678", PREMIUM_IN_CASE, "destination_country"),
        ("+18002345678", US, None),
    ],
)
def test_a_number_is_judged_by_the_rules(number: str, rules: Rules, rule: str | None) -> None:
    refusal = judge(number, rules)
    assert (refusal.rule if refusal else None) == rule


def test_a_refusal_says_what_is_allowed_and_how_to_allow_more() -> None:
    refusal = judge("+442079460000", Rules(frozenset({"US", "CA"})))
    assert refusal is not None
    assert "GB" in refusal.message
    assert "CA, US" in refusal.message
    assert "ALLOWED_COUNTRIES" in refusal.message


def test_a_refusal_does_not_repeat_the_number() -> None:
    refusal = judge("+442079460000", US)
    assert refusal is not None
    assert "442079460000" not in refusal.message


@settings(deadline=None, max_examples=50)
@given(st.text(max_size=20) | st.from_regex(r"\+[0-9]{1,16}", fullmatch=True))
def test_no_text_makes_judging_raise(number: str) -> None:
    refusal = judge(number, US)
    assert refusal is None or refusal.rule in ("destination_country", "premium_number")
    if refusal is None:
        assert country_of(number) == "US"


@pytest.mark.parametrize(("code", "known"), [("US", True), ("GB", True), ("USA", False), ("us", False), ("XX", False)])
def test_a_country_is_one_with_telephone_numbers(code: str, known: bool) -> None:
    assert is_country(code) is known
