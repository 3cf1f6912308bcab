"""What Twilio sends us: signed by it or by somebody else, and in words we know or not."""

import base64
import hmac
from collections.abc import Mapping

import pytest
from hypothesis import given
from hypothesis import strategies as st

from outbound.calls import CallSid, Status
from outbound.carriers.twiml import RelayOptions
from outbound.ports import EndedReport, Form, MachineReport, SessionOutcome, StatusReport
from tests.carriers.arrange import ACCOUNT, CALL_SID, LINKS, a_call, a_carrier

CARRIER = a_carrier(relay=RelayOptions(language="de-DE", dtmf_detection=True))

STATUS_URL = "https://agent.example.com/twilio/status?tenant=7"
STATUS_FORM: Form = [
    ("CallSid", CALL_SID),
    ("CallStatus", "completed"),
    ("From", "+15005550006"),
    ("SequenceNumber", "3"),
    ("To", "+14155550123"),
]
STATUS_SIGNATURE = "eqn6Je9+xjyvEbMOu3bNwv2CDng="
RELAY_URL = "wss://agent.example.com/relay/tok_abc123"
RELAY_SIGNATURE = "jYBR/iYcYx7W34sW8Edt32VOqRY="


def signed(signature: str, **more: str) -> Mapping[str, str]:
    return {"x-twilio-signature": signature, **more}


def sign(text: str, algorithm: str = "sha1", secret: str = ACCOUNT.auth_token) -> str:
    return base64.b64encode(hmac.new(secret.encode(), text.encode(), algorithm).digest()).decode()


def test_a_signed_form_is_genuine_in_any_order_of_its_fields() -> None:
    assert CARRIER.is_genuine(STATUS_URL, STATUS_FORM, signed(STATUS_SIGNATURE))
    assert CARRIER.is_genuine(STATUS_URL, list(reversed(STATUS_FORM)), signed(STATUS_SIGNATURE))


def test_a_signed_handshake_is_genuine() -> None:
    assert CARRIER.is_genuine(RELAY_URL, [], signed(RELAY_SIGNATURE))


def test_the_overrides_in_a_fragment_are_not_signed() -> None:
    assert CARRIER.is_genuine(f"{STATUS_URL}#rc=2&rt=4000", STATUS_FORM, signed(STATUS_SIGNATURE))


def test_a_port_may_be_signed_or_left_out() -> None:
    for url in ("https://h.example/x", "https://h.example:443/x"):
        assert CARRIER.is_genuine("https://h.example:443/x", [], signed(sign(url)))
    assert CARRIER.is_genuine("ws://127.0.0.1:8000/ws/s_1", [], signed(sign("ws://127.0.0.1:8000/ws/s_1")))


@pytest.mark.parametrize(
    ("form", "text"),
    [
        ([("a", ""), ("b", "2")], "ab2"),
        ([("b", "2"), ("a", "1"), ("b", "1")], "a1b1b2"),
        ([("b", "2"), ("b", "2")], "b2"),
        ([("B", "1"), ("a", "é 👋")], "B1aé 👋"),
    ],
    ids=["blank", "repeated", "the same twice", "not ascii"],
)
def test_blank_and_repeated_fields_are_signed_too(form: Form, text: str) -> None:
    assert CARRIER.is_genuine("https://h.example/x", form, signed(sign("https://h.example/x" + text)))


@pytest.mark.parametrize(
    ("url", "form", "signature"),
    [
        (STATUS_URL.replace("tenant=7", "tenant=8"), STATUS_FORM, STATUS_SIGNATURE),
        (STATUS_URL.replace("https", "http"), STATUS_FORM, STATUS_SIGNATURE),
        (STATUS_URL.replace("agent", "other"), STATUS_FORM, STATUS_SIGNATURE),
        (STATUS_URL + "&x=1", STATUS_FORM, STATUS_SIGNATURE),
        (STATUS_URL, STATUS_FORM[:-1], STATUS_SIGNATURE),
        (STATUS_URL, [*STATUS_FORM, ("Extra", "")], STATUS_SIGNATURE),
        (STATUS_URL, [*STATUS_FORM, ("CallStatus", "busy")], STATUS_SIGNATURE),
        (STATUS_URL, [*STATUS_FORM[:1], ("CallStatus", "busy"), *STATUS_FORM[2:]], STATUS_SIGNATURE),
        (STATUS_URL, [], STATUS_SIGNATURE),
        (STATUS_URL, STATUS_FORM, STATUS_SIGNATURE.lower()),
        (STATUS_URL, STATUS_FORM, STATUS_SIGNATURE[:-1]),
        (STATUS_URL, STATUS_FORM, STATUS_SIGNATURE + "="),
        (STATUS_URL, STATUS_FORM, RELAY_SIGNATURE),
        (RELAY_URL, [("CallSid", CALL_SID)], RELAY_SIGNATURE),
        (RELAY_URL.replace("wss", "https"), [], RELAY_SIGNATURE),
        (RELAY_URL + "4", [], RELAY_SIGNATURE),
        (RELAY_URL, [], sign(RELAY_URL, secret="f" * 32)),
        ("https://[h/x", [], STATUS_SIGNATURE),
        ("https://h.example:port/x", [], STATUS_SIGNATURE),
        ("", [], STATUS_SIGNATURE),
        (STATUS_URL, [("a", "\ud800")], STATUS_SIGNATURE),
    ],
)
def test_whatever_was_changed_on_the_way_is_not_genuine(url: str, form: Form, signature: str) -> None:
    assert not CARRIER.is_genuine(url, form, signed(signature))


@pytest.mark.parametrize("headers", [{}, {"x-twilio-signature": ""}, {"X-Other": STATUS_SIGNATURE}])
def test_nothing_is_genuine_without_a_signature(headers: Mapping[str, str]) -> None:
    assert not CARRIER.is_genuine(STATUS_URL, STATUS_FORM, headers)


@pytest.mark.parametrize("settings", ["key=SK1,algorithm=HMAC_SHA256", "key=SK1,algorithm=HMAC_SHA1", "nonsense", ""])
@pytest.mark.parametrize("algorithm", ["sha1", "sha256"])
def test_a_request_under_a_shared_key_is_refused_as_there_is_none(settings: str, algorithm: str) -> None:
    headers = signed(sign(RELAY_URL, algorithm), **{"x-twilio-webhooks-signature-settings": settings})
    assert not CARRIER.is_genuine(RELAY_URL, [], headers)


def test_a_longer_hash_is_no_signature_either() -> None:
    assert not CARRIER.is_genuine(RELAY_URL, [], signed(sign(RELAY_URL, "sha256")))


_anything = st.text(st.characters(exclude_categories=()), max_size=20)


@given(_anything, st.lists(st.tuples(_anything, _anything), max_size=3), _anything)
def test_no_request_makes_the_check_fail(url: str, form: Form, signature: str) -> None:
    assert not CARRIER.is_genuine(url, form, signed(signature))


@given(st.lists(st.tuples(st.sampled_from(["a", "b", "B", "é"]), st.text(max_size=5)), max_size=6))
def test_every_form_we_sign_by_the_book_is_genuine(form: Form) -> None:
    text = "".join(name + value for name, value in sorted(set(form)))
    assert CARRIER.is_genuine("https://h.example/x", form, signed(sign("https://h.example/x" + text)))


@pytest.mark.parametrize(
    ("word", "status"),
    [
        ("queued", Status.QUEUED),
        ("initiated", Status.INITIATED),
        ("ringing", Status.RINGING),
        ("in-progress", Status.IN_PROGRESS),
        ("completed", Status.COMPLETED),
        ("busy", Status.BUSY),
        ("no-answer", Status.NO_ANSWER),
        ("failed", Status.FAILED),
        ("canceled", Status.CANCELED),
        ("refused", None),
        ("unknown", None),
        ("paused", None),
        ("", None),
    ],
)
def test_a_status_is_one_of_twilios_words_or_none(word: str, status: Status | None) -> None:
    assert CARRIER.read_status([("CallSid", CALL_SID), ("CallStatus", word)]).status is status


def test_a_last_status_tells_how_long_it_took_in_seconds() -> None:
    form = [
        *STATUS_FORM,
        ("Duration", "1"),
        ("CallDuration", "42"),
        ("SipResponseCode", "200"),
        ("AnsweredBy", "machine_start"),
        ("SomethingNew", "x"),
    ]
    assert CARRIER.read_status(form) == StatusReport(
        call_sid=CallSid(CALL_SID),
        status=Status.COMPLETED,
        sequence=3,
        duration_s=42,
        sip_code=200,
        answered_by="machine_start",
    )


@pytest.mark.parametrize("odd", ["", "-1", "1.5", "12a", "²", "٣", " 3", "9" * 5000])
def test_an_odd_number_is_none(odd: str) -> None:
    report = CARRIER.read_status([("SequenceNumber", odd), ("CallDuration", odd), ("SipResponseCode", odd)])
    assert (report.sequence, report.duration_s, report.sip_code) == (None, None, None)


def test_an_empty_form_is_an_empty_report() -> None:
    assert CARRIER.read_status([]) == StatusReport(CallSid(""), None)
    assert CARRIER.read_ended([]) == EndedReport(CallSid(""), None, call_is_live=False, may_be_retried=True)
    assert CARRIER.read_machine([]) == MachineReport(CallSid(""), "unknown", is_machine=False)


@pytest.mark.parametrize(
    ("form", "report"),
    [
        (
            [("SessionStatus", "completed"), ("CallStatus", "completed"), ("SessionDuration", "12")],
            EndedReport(CallSid(CALL_SID), SessionOutcome.COMPLETED, call_is_live=False, may_be_retried=True),
        ),
        (
            [("SessionStatus", "ended"), ("CallStatus", "in-progress"), ("HandoffData", '{"reason": "bye"}')],
            EndedReport(
                CallSid(CALL_SID), SessionOutcome.ENDED, True, handoff='{"reason": "bye"}', may_be_retried=True
            ),
        ),
        (
            [
                ("SessionStatus", "failed"),
                ("CallStatus", "in-progress"),
                ("ErrorCode", "64105"),
                ("ErrorMessage", "Websocket ended"),
                ("SessionId", "VX1"),
            ],
            EndedReport(
                CallSid(CALL_SID),
                SessionOutcome.FAILED,
                call_is_live=True,
                error_code=64105,
                error_message="Websocket ended",
                relay_session_id="VX1",
                may_be_retried=True,
            ),
        ),
        (
            [("SessionStatus", "paused"), ("CallStatus", "in-progress"), ("ErrorCode", "?")],
            EndedReport(CallSid(CALL_SID), None, call_is_live=True, may_be_retried=True),
        ),
    ],
    ids=["hung up", "ended by us", "failed", "unheard of"],
)
def test_a_session_ends_in_one_of_three_ways(form: Form, report: EndedReport) -> None:
    assert CARRIER.read_ended([("CallSid", CALL_SID), *form]) == report


@pytest.mark.parametrize(
    ("code", "may_be_retried"), [(64102, True), (64105, True), (64101, False), (64106, False), (64110, False)]
)
def test_a_session_is_opened_again_unless_its_settings_are_wrong(code: int, may_be_retried: bool) -> None:
    form = [("CallSid", CALL_SID), ("SessionStatus", "failed"), ("ErrorCode", str(code))]
    assert CARRIER.read_ended(form).may_be_retried is may_be_retried


@pytest.mark.parametrize(
    ("word", "is_machine"),
    [
        ("human", False),
        ("unknown", False),
        ("something_new", False),
        ("machine_start", True),
        ("machine_end_beep", True),
        ("machine_end_silence", True),
        ("machine_end_other", True),
        ("fax", True),
    ],
)
def test_only_what_is_surely_a_machine_is_one(word: str, is_machine: bool) -> None:
    form = [("CallSid", CALL_SID), ("AnsweredBy", word), ("MachineDetectionDuration", "3200")]
    assert CARRIER.read_machine(form) == MachineReport(CallSid(CALL_SID), word, is_machine)


def test_an_answered_call_is_connected_to_its_own_links_and_greeted() -> None:
    assert CARRIER.answer(a_call(), LINKS) == (
        '<?xml version="1.0" encoding="UTF-8"?><Response>'
        '<Connect action="https://agent.example.com/voice/ended/s_1">'
        '<ConversationRelay dtmfDetection="true" language="de-DE" url="wss://agent.example.com/ws/s_1"'
        ' welcomeGreeting="Hello, this is an AI assistant." /></Connect></Response>'
    )


def test_a_call_without_a_greeting_is_connected_in_silence() -> None:
    assert "welcomeGreeting" not in CARRIER.answer(a_call(greeting=""), LINKS)


def test_a_farewell_is_spoken_in_the_language_of_the_call() -> None:
    assert '<Say language="de-DE">Tschüß.</Say><Hangup />' in CARRIER.farewell("Tschüß.")
    assert CARRIER.farewell().endswith("<Response><Hangup /></Response>")


def test_the_token_is_in_no_description_of_the_carrier() -> None:
    assert ACCOUNT.auth_token not in f"{CARRIER!r} {CARRIER} {ACCOUNT!r}"
