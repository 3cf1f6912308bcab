"""A call's record: statuses, journal, transcript, greeting."""

from dataclasses import replace
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from outbound.calls import (
    ACTIVE,
    MOVES,
    Call,
    CallSid,
    EndReason,
    Entry,
    Failure,
    Kind,
    SessionId,
    Spoken,
    Status,
    UnknownVariableError,
    disclosed,
    fill,
    transcript,
)

NOON = datetime(2026, 11, 20, 12, tzinfo=UTC)
FAILURE = Failure("number_invalid", "the carrier says that this is not a number", 21211)


def a_call(status: Status = Status.QUEUED) -> Call:
    call = Call(
        session_id=SessionId("s1"), phone_number="+12025550100", created_at=NOON, greeting="Hello.", max_duration_s=600
    )
    return replace(call, status=status)


def seconds(count: float) -> datetime:
    return NOON + timedelta(seconds=count)


def followed(call: Call, *statuses: Status) -> Call:
    for count, status in enumerate(statuses, 1):
        call = call.follow(status, seconds(count))
    return call


def test_every_status_has_its_moves() -> None:
    assert set(MOVES) == set(Status)


@pytest.mark.parametrize(
    "status",
    [Status.COMPLETED, Status.BUSY, Status.NO_ANSWER, Status.FAILED, Status.CANCELED, Status.REFUSED],
)
def test_nothing_follows_a_final_status(status: Status) -> None:
    assert status.is_final
    assert not status.is_active
    assert all(a_call(status).follow(other, NOON) == a_call(status) for other in Status)


@pytest.mark.parametrize(
    ("status", "following"),
    [
        (Status.QUEUED, "initiated ringing in-progress completed busy no-answer failed canceled refused unknown"),
        (Status.INITIATED, "ringing in-progress completed busy no-answer failed canceled"),
        (Status.RINGING, "in-progress completed busy no-answer failed canceled"),
        (Status.IN_PROGRESS, "completed failed"),
        (Status.UNKNOWN, "initiated ringing in-progress completed busy no-answer failed canceled"),
    ],
)
def test_from_an_open_status_exactly_these_follow(status: Status, following: str) -> None:
    moved = {other for other in Status if a_call(status).follow(other, NOON).status is not status}
    assert moved == {Status(word) for word in following.split()}


def test_an_unknown_call_is_neither_over_nor_active() -> None:
    assert not Status.UNKNOWN.is_final
    assert Status.UNKNOWN not in ACTIVE


def test_a_call_answered_and_ended_knows_when() -> None:
    call = followed(a_call(), Status.INITIATED, Status.RINGING, Status.IN_PROGRESS, Status.COMPLETED)
    assert (call.answered_at, call.ended_at) == (seconds(3), seconds(4))


def test_callbacks_that_come_late_or_twice_change_nothing() -> None:
    call = followed(a_call(), Status.RINGING, Status.INITIATED, Status.IN_PROGRESS, Status.RINGING, Status.IN_PROGRESS)
    assert (call.status, call.answered_at, call.ended_at) == (Status.IN_PROGRESS, seconds(3), None)
    call = followed(call, Status.COMPLETED, Status.IN_PROGRESS, Status.BUSY, Status.COMPLETED)
    assert (call.status, call.ended_at) == (Status.COMPLETED, seconds(1))


@settings(deadline=None, max_examples=150)
@given(st.lists(st.sampled_from(Status), max_size=12))
def test_whatever_the_callbacks_a_status_moves_along_the_table_only(statuses: list[Status]) -> None:
    call = a_call()
    for count, status in enumerate(statuses):
        before, call = call, call.follow(status, seconds(count))
        assert call is before or call.status in MOVES[before.status]
        assert before is call or not before.status.is_final
        assert (call.ended_at is not None) == call.status.is_final
        assert before.answered_at in (None, call.answered_at)


def test_the_first_carrier_id_counts() -> None:
    call = a_call().identified(CallSid("CA1")).identified(CallSid("CA2"))
    assert call.call_sid == "CA1"


def test_the_first_end_reason_stands() -> None:
    call = a_call().ended_for(EndReason.OPTED_OUT).ended_for(EndReason.CALLEE_HUNG_UP)
    assert call.end_reason is EndReason.OPTED_OUT


@pytest.mark.parametrize("status", [Status.FAILED, Status.REFUSED, Status.UNKNOWN])
def test_a_call_that_could_not_be_placed_says_why(status: Status) -> None:
    call = a_call().failed_with(FAILURE, status, NOON)
    assert (call.status, call.failure) == (status, FAILURE)


def test_a_failure_can_be_explained_after_the_callback_told_of_it() -> None:
    call = a_call(Status.FAILED).failed_with(FAILURE, Status.FAILED, NOON)
    assert call.failure == FAILURE


@pytest.mark.parametrize("status", [Status.FAILED, Status.UNKNOWN, Status.REFUSED])
def test_a_call_that_has_ended_well_did_not_fail_to_be_placed(status: Status) -> None:
    call = a_call(Status.COMPLETED)
    assert call.failed_with(FAILURE, status, NOON) == call


def test_a_call_that_somebody_talks_on_is_not_unknown() -> None:
    call = a_call(Status.IN_PROGRESS)
    assert call.failed_with(FAILURE, Status.UNKNOWN, NOON) == call


def journal(*entries: tuple[Kind, dict[str, Any]]) -> list[Entry]:
    return [Entry(SessionId("s1"), seconds(at), kind, data, at) for at, (kind, data) in enumerate(entries)]


def test_the_transcript_is_what_both_sides_heard_in_the_order_the_lines_began() -> None:
    entries = journal(
        (Kind.RELAY_OPENED, {}),
        (Kind.AGENT_BEGAN, {"line": 1, "turn": None}),
        (Kind.CALLEE_PARTIAL, {"text": "Sto"}),
        (Kind.CALLEE_SAID, {"line": 2, "text": "Stop", "lang": "en-US"}),
        (Kind.AGENT_SAID, {"line": 1, "text": "Hello, this", "interrupted": True}),
        (Kind.CALLEE_PRESSED, {"line": 3, "digits": "12#"}),
        (Kind.AGENT_SAID, {"line": 4, "text": "Thanks.", "interrupted": False}),
    )
    assert transcript(entries) == [
        Spoken("agent", "Hello, this", seconds(1), interrupted=True),
        Spoken("callee", "Stop", seconds(3)),
        Spoken("callee", "12#", seconds(5), keypad=True),
        Spoken("agent", "Thanks.", seconds(6)),
    ]


def test_words_nobody_heard_are_not_in_the_transcript() -> None:
    entries = journal(
        (Kind.AGENT_BEGAN, {"line": 1, "turn": None}),
        (Kind.AGENT_SENT, {"line": 1, "text": "Hello."}),
        (Kind.AGENT_SAID, {"line": 1, "text": "", "interrupted": True}),
        (Kind.AGENT_BEGAN, {"line": 2, "turn": 1}),
    )
    assert transcript(entries) == []


@pytest.mark.parametrize(
    ("text", "filled"),
    [
        ("Hello {name}.", "Hello Ada."),
        ("{ name }, {name}!", "Ada, Ada!"),
        ("Nothing here", "Nothing here"),
        ("", ""),
        ("{} {1} {a b} {name!r} {name.x} {", "{} {1} {a b} {name!r} {name.x} {"),
        ("%s $name {{name}}", "%s $name {Ada}"),
        ("{braces}", "{name}"),
        ("{back}", r"\1 \g<0>"),
    ],
)
def test_variables_are_put_into_their_places_and_nothing_else_has_a_meaning(text: str, filled: str) -> None:
    assert fill(text, {"name": "Ada", "braces": "{name}", "back": r"\1 \g<0>"}) == filled


def test_a_variable_that_was_not_given_is_named() -> None:
    with pytest.raises(UnknownVariableError, match=r"\{company\}") as raised:
        fill("{name} of {company}", {"name": "Ada"})
    assert raised.value.name == "company"


@settings(deadline=None, max_examples=50)
@given(st.text(max_size=20))
def test_no_value_is_read_again(value: str) -> None:
    assert fill("<{name}>", {"name": value}) == f"<{value}>"


DISCLOSURE = "This is an automated call by an AI."


@pytest.mark.parametrize(
    "greeting",
    [
        "Hello, this is the AI assistant calling. Do you have a moment?",
        "Hi, I'm an A.I. calling for Acme.",
        "hi, i am an ai calling for acme",
        "Good morning, a robot speaking.",
        "Hi, Acme's friendly bot here!",
        "I am an artificial intelligence.",
        "No, don't hang up: I'm an AI.",
        "I'm not a person. I'm an AI.",
        "I'm an AI, not a robot.",
        "Hola, soy una IA de Acme.",
        "Hola, le llama una inteligencia artificial.",
        "No soy una persona, soy una IA.",
        "Guten Tag, hier spricht eine KI.",
    ],
)
def test_a_greeting_that_says_that_an_ai_is_calling_stays_as_it_is(greeting: str) -> None:
    assert disclosed(greeting, DISCLOSURE) == greeting


@pytest.mark.parametrize(
    "greeting",
    [
        "Hello, this is Anna. Do you have a moment?",
        "Hi, this is Ai from Sunrise Dental.",
        "J'ai une question.",
        "Parlo ai clienti.",
        "Maintaining your chair is what we do.",
        "We repair robots.",
        "Hello, do you own a robot vacuum?",
        "Hi, I'm calling from AI Systems Inc.",
        "I'm not an AI.",
        "Don't worry, I'm not a robot!",
        "This isn't a robot.",
        "This isn’t a robot.",  # noqa: RUF001  # the apostrophe that word processors write
        "You are not talking to an AI.",
        "I am a real person and no AI.",
        "No soy un robot.",
        "Usted no está hablando con una IA.",
        "Ich bin keine KI.",
        "",
    ],
)
def test_a_greeting_that_does_not_say_so_is_led_by_the_disclosure(greeting: str) -> None:
    assert disclosed(greeting, DISCLOSURE) == f"{DISCLOSURE} {greeting}".strip()


def test_only_an_empty_disclosure_leaves_a_greeting_undisclosed() -> None:
    assert disclosed("Hello, this is Anna.", "") == "Hello, this is Anna."


def test_a_disclosed_greeting_is_not_disclosed_twice() -> None:
    once = disclosed("Hello, this is Anna.", DISCLOSURE)
    assert disclosed(once, DISCLOSURE) == once
