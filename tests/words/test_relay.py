"""The wire: what is read, what is written, and what cannot be built."""

import json
from collections.abc import Callable
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pydantic import ValidationError

from outbound.relay import (
    Dtmf,
    End,
    ErrorReport,
    Inbound,
    Info,
    Interrupt,
    Language,
    Outbound,
    Play,
    Prompt,
    SendDigits,
    Setup,
    Text,
    Unrecognised,
    dump,
    parse,
)

SETUP = {
    "type": "setup",
    "sessionId": "VX00000000000000000000000000000001",
    "accountSid": "AC00000000000000000000000000000001",
    "parentCallSid": "",
    "callSid": "CA00000000000000000000000000000001",
    "from": "+14155550100",
    "to": "+14155550123",
    "forwardedFrom": "",
    "callType": "PSTN",
    "callerName": "",
    "direction": "outbound-api",
    "callStatus": "IN_PROGRESS",
    "customParameters": {"session": "s_123"},
}


@pytest.mark.parametrize(
    ("frame", "message"),
    [
        (
            SETUP,
            Setup(
                session_id="VX00000000000000000000000000000001",
                call_sid="CA00000000000000000000000000000001",
                from_number="+14155550100",
                to="+14155550123",
                direction="outbound-api",
                call_status="IN_PROGRESS",
            ),
        ),
        ({"type": "setup", "sessionId": "VX1", "callSid": "CA1"}, Setup(session_id="VX1", call_sid="CA1")),
        (
            {"type": "setup", "sessionId": "VX1", "callSid": "CA1", "from": None, "to": 5, "direction": {}},
            Setup(session_id="VX1", call_sid="CA1"),
        ),
        (
            {"type": "prompt", "voicePrompt": "Yes, speaking.", "lang": "en-US", "last": True},
            Prompt(voice_prompt="Yes, speaking.", lang="en-US"),
        ),
        ({"type": "prompt", "voicePrompt": "Yes"}, Prompt(voice_prompt="Yes", last=True)),
        ({"type": "prompt", "voicePrompt": "Ye", "last": False}, Prompt(voice_prompt="Ye", last=False)),
        ({"type": "prompt", "voicePrompt": "Yes", "lang": None}, Prompt(voice_prompt="Yes")),
        ({"type": "prompt", "voicePrompt": "Yes", "confidence": 0.9, "speaker": 1}, Prompt(voice_prompt="Yes")),
        ({"type": "prompt", "voicePrompt": ""}, Prompt(voice_prompt="")),
        ({"type": "dtmf", "digit": "#"}, Dtmf(digit="#")),
        (
            {"type": "interrupt", "utteranceUntilInterrupt": "Sentence 2 of", "durationUntilInterruptMs": 684},
            Interrupt(utterance_until_interrupt="Sentence 2 of", duration_until_interrupt_ms=684),
        ),
        (
            {"type": "interrupt", "utteranceUntilInterrupt": "", "durationUntilInterruptMs": "460"},
            Interrupt(duration_until_interrupt_ms=460),
        ),
        ({"type": "interrupt"}, Interrupt()),
        ({"type": "interrupt", "utteranceUntilInterrupt": None, "durationUntilInterruptMs": "soon"}, Interrupt()),
        ({"type": "interrupt", "durationUntilInterruptMs": float("nan")}, Interrupt()),
        ({"type": "interrupt", "durationUntilInterruptMs": "Infinity"}, Interrupt()),
        ({"type": "error", "description": "Invalid message"}, ErrorReport(description="Invalid message")),
        ({"type": "error"}, ErrorReport()),
        ({"type": "info", "name": "agentSpeaking", "value": "on"}, Info(name="agentSpeaking", value="on")),
        ({"type": "info", "name": "roundTripDelayMs", "value": 148}, Info(name="roundTripDelayMs")),
        ({"type": "info", "name": "somethingNew"}, Info(name="somethingNew")),
    ],
)
def test_a_frame_is_read_as_the_message_it_is(frame: dict[str, Any], message: Inbound) -> None:
    assert parse(json.dumps(frame)) == message


@pytest.mark.parametrize(
    ("frame", "problem"),
    [
        ("", "not json"),
        ("hello", "not json"),
        ('{"type":"prompt"', "not json"),
        ("[" * 100_000, "not json"),
        ("\ud800", "not json"),
        ('{"type":"prompt","voicePrompt":"\\ud800"}', "not json"),
        ("null", "no type"),
        ("[]", "no type"),
        ('"setup"', "no type"),
        ("{}", "no type"),
        ('{"type":null}', "unknown type"),
        ('{"type":["setup"]}', "unknown type"),
        ('{"type":"ping"}', "unknown type"),
        ('{"type":"unrecognised","problem":"mine"}', "unknown type"),
        ('{"type":"setup","sessionId":"VX1"}', "bad setup.callSid: missing"),
        ('{"type":"prompt","last":true}', "bad prompt.voicePrompt: missing"),
        ('{"type":"prompt","voicePrompt":5}', "bad prompt.voicePrompt: string_type"),
        ('{"type":"prompt","voicePrompt":"secret","last":"perhaps"}', "bad prompt.last: bool_parsing"),
        ('{"type":"dtmf","digit":5}', "bad dtmf.digit: string_type"),
        ('{"type":"info"}', "bad info.name: missing"),
    ],
)
def test_a_frame_that_cannot_be_read_is_named_and_not_quoted(frame: str, problem: str) -> None:
    assert parse(frame) == Unrecognised(problem=problem)


@settings(deadline=None, max_examples=100)
@given(st.text(st.characters()))
def test_no_text_makes_reading_raise(frame: str) -> None:
    assert parse(frame).type


_json = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner, max_size=3),
    max_leaves=5,
)
_keys = ("sessionId", "callSid", "from", "voicePrompt", "last", "digit", "durationUntilInterruptMs", "name", "value")
_types = st.sampled_from(["setup", "prompt", "dtmf", "interrupt", "error", "info"])


@settings(deadline=None, max_examples=150)
@given(st.dictionaries(st.sampled_from(_keys), _json), _types)
def test_no_json_makes_reading_raise_and_what_is_read_can_be_kept(fields: dict[str, Any], kind: str) -> None:
    message = parse(json.dumps(fields | {"type": kind}))
    assert message.type in (kind, "unrecognised")
    json.dumps(message.model_dump(mode="json"), allow_nan=False)


@settings(deadline=None, max_examples=50)
@given(_json)
def test_json_that_is_no_message_is_unrecognised(value: Any) -> None:
    assert isinstance(parse(json.dumps(value)), Unrecognised)


@pytest.mark.parametrize(
    ("message", "frame"),
    [
        (Text(token="Hello"), '{"type":"text","token":"Hello","last":false}'),
        (Text(token="", last=True), '{"type":"text","token":"","last":true}'),
        (Text(token=' "é" 😀\n'), '{"type":"text","token":" \\"é\\" 😀\\n","last":false}'),
        (
            Text(token="Un momento.", last=True, lang="es-MX", interruptible=False, preemptible=True),
            '{"type":"text","token":"Un momento.","last":true,"lang":"es-MX","interruptible":false,"preemptible":true}',
        ),
        (
            Play.model_validate({"source": "https://a.example/b.mp3"}),
            '{"type":"play","source":"https://a.example/b.mp3"}',
        ),
        (
            Play.model_validate({"source": "https://a.example/b.mp3", "loop": 0, "preemptible": True}),
            '{"type":"play","source":"https://a.example/b.mp3","loop":0,"preemptible":true}',
        ),
        (SendDigits(digits="1w2#*"), '{"type":"sendDigits","digits":"1w2#*"}'),
        (Language(tts_language="es-MX"), '{"type":"language","ttsLanguage":"es-MX"}'),
        (
            Language(tts_language="es-MX", transcription_language="es-ES"),
            '{"type":"language","ttsLanguage":"es-MX","transcriptionLanguage":"es-ES"}',
        ),
        (End(), '{"type":"end"}'),
        (End(handoff_data='{"reason":"silence"}'), '{"type":"end","handoffData":"{\\"reason\\":\\"silence\\"}"}'),
    ],
)
def test_a_message_is_written_exactly_so(message: Outbound, frame: str) -> None:
    assert dump(message) == frame


@pytest.mark.parametrize(
    ("build", "fields"),
    [
        (Text, {}),
        (Text, {"token": None}),
        (Text, {"token": 5}),
        (Text, {"token": b"Hello"}),
        (Text, {"token": "\ud83d"}),
        (Text, {"token": "Hello", "last": "true"}),
        (Text, {"token": "Hello", "last": None}),
        (Text, {"token": "Hello", "interruptible": "any"}),
        (Text, {"token": "Hello", "turn": 1}),
        (Text, {"token": "Hello", "type": "speak"}),
        (Play, {}),
        (Play, {"source": "hold.mp3"}),
        (Play, {"source": "ftp://a.example/b.mp3"}),
        (Play, {"source": "https://a.example/b.mp3", "loop": -1}),
        (Play, {"source": "https://a.example/b.mp3", "loop": 1.5}),
        (Play, {"source": "https://a.example/b.mp3", "loop": True}),
        (SendDigits, {}),
        (SendDigits, {"digits": ""}),
        (SendDigits, {"digits": "12 34"}),
        (SendDigits, {"digits": "1W"}),
        (SendDigits, {"digits": "1\n"}),
        (SendDigits, {"digits": "٣"}),
        (SendDigits, {"digits": 12}),
        (Language, {}),
        (Language, {"language": "es-MX"}),
        (End, {"reason": "bye"}),
        (End, {"handoff_data": {"reason": "bye"}}),
        (End, {"handoff_data": "\udc00"}),
    ],
)
def test_what_the_carrier_would_refuse_cannot_be_built(build: Callable[..., Outbound], fields: dict[str, Any]) -> None:
    with pytest.raises(ValidationError):
        build(**fields)


@settings(deadline=None, max_examples=50)
@given(st.text(st.characters()))
def test_what_can_be_built_can_be_written(token: str) -> None:
    try:
        message = Text(token=token)
    except ValidationError:
        assert any("\ud800" <= character <= "\udfff" for character in token)
    else:
        assert json.loads(dump(message))["token"] == token


def test_a_message_is_not_changed_after_it_was_checked() -> None:
    message = Text(token="Hello")
    with pytest.raises(ValidationError):
        message.token = None  # type: ignore[assignment, misc]  # what must fail
