"""May we ring this number, and if not, why. Pure: the rules and the number come in by argument."""

import re
from dataclasses import dataclass
from datetime import datetime

import phonenumbers
from phonenumbers import NumberParseException, PhoneNumberType

_E164 = re.compile(r"\+[1-9][0-9]{6,14}")
"""ITU-T E.164: a plus sign, a country code, at most fifteen digits. Seven is the least any country assigns."""


@dataclass(frozen=True, slots=True)
class Rules:
    """What the operator allows. `countries` are ISO 3166 codes such as `US`; `*` allows every country."""

    countries: frozenset[str]
    allow_premium: bool = False


@dataclass(frozen=True, slots=True)
class Refusal:
    """A named reason not to ring: the rule, a sentence for people, and when it would be allowed, if time helps."""

    rule: str
    message: str
    until: datetime | None = None


def is_e164(number: str) -> bool:
    """Whether the text has the shape of a phone number; the carrier judges whether anybody has it."""
    return _E164.fullmatch(number) is not None


def is_country(code: str) -> bool:
    """Whether telephone numbers exist for this ISO 3166 code."""
    return code in phonenumbers.SUPPORTED_REGIONS


def country_of(number: str) -> str | None:
    """The ISO 3166 code of an E.164 number, or None if no country has its calling code.

    A number in no assigned range counts to the main country of its calling code, so that +1 500 is `US`.
    """
    try:
        parsed = phonenumbers.parse(number)
    except NumberParseException:
        return None
    assigned = phonenumbers.region_code_for_number(parsed)
    region = assigned or phonenumbers.region_code_for_country_code(parsed.country_code or 0)
    return region if region not in ("ZZ", "001") else None


def judge(number: str, rules: Rules) -> Refusal | None:
    """Decides whether `number` (E.164) may be rung. None means yes."""
    return _destination(number, rules)


def _destination(number: str, rules: Rules) -> Refusal | None:
    """Toll fraud is what happens to open dialers: only named countries, and no number that bills the caller extra."""
    country = country_of(number)
    if "*" not in rules.countries and country not in rules.countries:
        allowed = ", ".join(sorted(rules.countries)) or "none"
        return Refusal(
            "destination_country",
            f"numbers in {country or 'an unknown country'} are not allowed (allowed: {allowed}); "
            "add the country to ALLOWED_COUNTRIES to ring it",
        )
    if not rules.allow_premium and _is_premium(number):
        return Refusal("premium_number", "premium-rate numbers are not allowed")
    return None


def _is_premium(number: str) -> bool:
    try:
        kind = phonenumbers.number_type(phonenumbers.parse(number))
    except NumberParseException:
        return False
    return kind == PhoneNumberType.PREMIUM_RATE
