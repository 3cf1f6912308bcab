"""The carrier over real HTTP, against a peer that behaves, misbehaves, or is not there at all."""

import asyncio
import logging
import traceback
from collections.abc import AsyncIterator, Awaitable, Callable
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from email.utils import format_datetime
from typing import Any

import pytest
import pytest_asyncio

from outbound.calls import CallSid, Status
from outbound.carriers.twilio import TwilioCarrier
from outbound.carriers.twilio_errors import REFUSALS
from outbound.ports import (
    CarrierAnswerLost,
    CarrierCall,
    CarrierRefused,
    CarrierUnavailable,
    RefusalKind,
)
from tests.carriers.arrange import ACCOUNT, CALL_SID, CALLEE, LINKS, a_call, a_carrier
from tests.carriers.peer import Peer, nobody, raw, whole_request

pytestmark = pytest.mark.asyncio(loop_scope="module")

ACCOUNT_PATH = f"/2010-04-01/Accounts/{ACCOUNT.account_sid}"
SID = CallSid(CALL_SID)
SINCE = datetime(2026, 3, 2, 9, 30, 0, 250_000, tzinfo=UTC)

type Deed = Callable[[TwilioCarrier], Awaitable[object]]

ASKING: dict[str, Deed] = {
    "find": lambda carrier: carrier.find(CALLEE, SINCE),
    "fetch": lambda carrier: carrier.fetch(SID),
    "hang_up": lambda carrier: carrier.hang_up(SID),
    "ping": lambda carrier: carrier.ping(),
}
"""Everything that rings nobody, and so may be asked again."""


def place(carrier: TwilioCarrier) -> Awaitable[CallSid]:
    return carrier.place(a_call(), LINKS)


def resource(**changes: Any) -> dict[str, Any]:
    """A call as Twilio's API shows it, https://www.twilio.com/docs/voice/api/call-resource#call-properties."""
    call = {
        "sid": CALL_SID,
        "account_sid": ACCOUNT.account_sid,
        "to": CALLEE,
        "from": ACCOUNT.phone_number,
        "status": "queued",
        "direction": "outbound-api",
        "duration": None,
        "start_time": None,
        "date_created": "Mon, 02 Mar 2026 09:30:00 +0000",
        "uri": f"{ACCOUNT_PATH}/Calls/{CALL_SID}.json",
    }
    return {**call, **changes}


def listed(*calls: object) -> dict[str, Any]:
    return {"calls": list(calls), "page": 0, "page_size": 50, "next_page_uri": f"{ACCOUNT_PATH}/Calls.json?Page=1"}


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def lasting_peer() -> AsyncIterator[Peer]:
    async with Peer().serve() as peer:
        yield peer


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def carrier(lasting_peer: Peer) -> AsyncIterator[TwilioCarrier]:
    """One for all tests here, as in real life: whatever one of them does to it, the next call goes through."""
    async with a_carrier(lasting_peer.base_url) as carrier:
        yield carrier


@pytest.fixture
def peer(lasting_peer: Peer) -> Peer:
    lasting_peer.forget()
    return lasting_peer


# What is asked for, to the letter.


async def test_a_call_is_asked_for_once_with_all_that_twilio_needs(peer: Peer, carrier: TwilioCarrier) -> None:
    peer.answers(201, resource())
    assert await place(carrier) == CALL_SID
    [knock] = peer.knocks
    assert (knock.method, knock.path, knock.query) == ("POST", f"{ACCOUNT_PATH}/Calls.json", [])
    assert sorted(knock.form) == [
        ("From", "+15005550006"),
        ("Method", "POST"),
        ("StatusCallback", "https://agent.example.com/voice/status/s_1"),
        ("StatusCallbackEvent", "answered"),
        ("StatusCallbackEvent", "completed"),
        ("StatusCallbackEvent", "initiated"),
        ("StatusCallbackEvent", "ringing"),
        ("StatusCallbackMethod", "POST"),
        ("TimeLimit", "330"),
        ("Timeout", "30"),
        ("To", "+14155550123"),
        ("Url", "https://agent.example.com/voice/s_1"),
    ]


async def test_the_verdict_on_who_answered_does_not_hold_up_the_call(peer: Peer) -> None:
    peer.answers(201, resource())
    async with a_carrier(peer.base_url, machine_detection=True) as carrier:
        await place(carrier)
    asked = {name: value for name, value in peer.knocks[0].form if "MachineDetection" in name or "Amd" in name}
    assert asked == {
        "MachineDetection": "Enable",
        "AsyncAmd": "true",
        "AsyncAmdStatusCallback": "https://agent.example.com/voice/machine/s_1",
        "AsyncAmdStatusCallbackMethod": "POST",
    }


async def test_there_is_a_fallback_where_the_operator_gave_one(peer: Peer) -> None:
    peer.answers(201, resource())
    async with a_carrier(peer.base_url, fallback_url="https://static.example.com/sorry.xml") as carrier:
        await place(carrier)
    form = dict(peer.knocks[0].form)
    assert (form["FallbackUrl"], form["FallbackMethod"]) == ("https://static.example.com/sorry.xml", "POST")


async def test_a_base_url_may_have_a_path_of_its_own(peer: Peer) -> None:
    peer.answers(201, resource())
    async with a_carrier(f"{peer.base_url}/sim/") as carrier:
        await place(carrier)
    assert peer.knocks[0].path == f"/sim{ACCOUNT_PATH}/Calls.json"


@pytest.mark.parametrize("url", ["api.twilio.com", "wss://api.twilio.com", "https://", "/sim"])
async def test_a_base_url_is_an_http_address(url: str) -> None:
    with pytest.raises(ValueError, match=r"expected an http\(s\):// address"):
        a_carrier(url)


async def test_the_environment_has_no_say_in_where_requests_go(peer: Peer, monkeypatch: pytest.MonkeyPatch) -> None:
    for name, value in {
        "HTTP_PROXY": nobody(),
        "HTTPS_PROXY": nobody(),
        "ALL_PROXY": nobody(),
        "NO_PROXY": "",
        "TWILIO_REGION": "ie1",
        "TWILIO_EDGE": "dublin",
    }.items():
        monkeypatch.setenv(name, value)
    peer.answers(201, resource())
    async with a_carrier(peer.base_url) as carrier:
        assert await place(carrier) == CALL_SID


# No, for a reason.


@pytest.mark.parametrize("code", sorted(REFUSALS))
async def test_every_code_we_know_has_a_kind_and_a_sentence_of_ours(
    peer: Peer, carrier: TwilioCarrier, code: int
) -> None:
    peer.refuses(400, code, f"The phone number {CALLEE} is not what you think.")
    with pytest.raises(CarrierRefused) as refusal:
        await place(carrier)
    kind, detail = REFUSALS[code]
    assert (refusal.value.kind, refusal.value.detail, refusal.value.carrier_code) == (kind, detail, code)
    assert CALLEE.removeprefix("+") not in "".join(traceback.format_exception(refusal.value))
    assert len(peer.knocks) == 1


@pytest.mark.parametrize(
    ("code", "kind"),
    [
        (20003, RefusalKind.WRONG_CREDENTIALS),
        (20429, RefusalKind.TOO_MANY_REQUESTS),
        (21210, RefusalKind.NOT_YOUR_NUMBER),
        (21211, RefusalKind.INVALID_NUMBER),
        (21215, RefusalKind.COUNTRY_NOT_PERMITTED),
        (21216, RefusalKind.NUMBER_BLOCKED),
        (21219, RefusalKind.UNVERIFIED_NUMBER),
        (573005, RefusalKind.UNVERIFIED_NUMBER),
        (10004, RefusalKind.ACCOUNT_LIMITED),
    ],
)
async def test_the_kinds_are_the_ones_a_caller_acts_on(code: int, kind: RefusalKind) -> None:
    assert REFUSALS[code][0] is kind


async def test_a_code_we_do_not_know_keeps_twilios_sentence_without_the_numbers(
    peer: Peer, carrier: TwilioCarrier
) -> None:
    peer.refuses(400, 29999, f"Call {CALL_SID} from +1 (500) 555-0006 to {CALLEE}: rule 29999 of 2026.")
    with pytest.raises(CarrierRefused) as refusal:
        await place(carrier)
    assert refusal.value.kind is RefusalKind.OTHER
    assert refusal.value.detail == "Twilio refused: Call [id] from [number] to [number]: rule 29999 of 2026."
    assert refusal.value.carrier_code == 29999


async def test_an_error_in_the_newer_format_is_read_as_well(peer: Peer, carrier: TwilioCarrier) -> None:
    body = {"type": "https://www.twilio.com/docs/api/errors/21211", "title": "Invalid", "status": 400, "code": 21211}
    peer.answers(400, {**body, "detail": f"no such number {CALLEE}", "errors": [{"detail": CALLEE, "pointer": "/To"}]})
    with pytest.raises(CarrierRefused) as refusal:
        await place(carrier)
    assert (refusal.value.kind, refusal.value.carrier_code) == (RefusalKind.INVALID_NUMBER, 21211)
    assert CALLEE not in "".join(traceback.format_exception(refusal.value))


@pytest.mark.parametrize(
    ("status", "kind"), [(401, RefusalKind.WRONG_CREDENTIALS), (429, RefusalKind.TOO_MANY_REQUESTS)]
)
async def test_some_refusals_need_no_code(peer: Peer, carrier: TwilioCarrier, status: int, kind: RefusalKind) -> None:
    peer.answers(status, "<h1>no</h1>")
    with pytest.raises(CarrierRefused) as refusal:
        await place(carrier)
    assert (refusal.value.kind, refusal.value.carrier_code) == (kind, None)


@pytest.mark.parametrize("deed", [place, *ASKING.values()], ids=["place", *ASKING])
async def test_wrong_credentials_are_named_by_their_settings(peer: Peer, deed: Deed) -> None:
    async with a_carrier(peer.base_url, account=replace(ACCOUNT, auth_token="wrong" * 6)) as carrier:
        with pytest.raises(CarrierRefused, match="TWILIO_ACCOUNT_SID and TWILIO_AUTH_TOKEN") as refusal:
            await deed(carrier)
    assert (refusal.value.kind, refusal.value.carrier_code) == (RefusalKind.WRONG_CREDENTIALS, 20003)


# No answer, or one that is none. The question is always: may somebody be ringing?


@pytest.mark.parametrize("status", [500, 502, 503, 504, 408])
@pytest.mark.parametrize("with_code", [True, False])
async def test_a_create_that_failed_at_the_carrier_may_have_rung(
    peer: Peer, carrier: TwilioCarrier, status: int, with_code: bool
) -> None:
    if with_code:
        peer.refuses(status, 20500)
    else:
        peer.answers(status, "<h1>sorry</h1>")
    with pytest.raises(CarrierAnswerLost, match=f"HTTP {status}"):
        await place(carrier)
    assert len(peer.knocks) == 1


@pytest.mark.parametrize(
    "body",
    ["", "<h1>It works!</h1>", "null", "[]", '"CA1"', "7", "{}", '{"sid": null}', '{"sid": 7}', '{"sid": ""}', "{"],
)
async def test_a_yes_that_cannot_be_read_may_have_rung(peer: Peer, carrier: TwilioCarrier, body: str) -> None:
    peer.answers(201, body)
    with pytest.raises(CarrierAnswerLost, match="cannot be read"):
        await place(carrier)


async def test_a_yes_with_an_odd_field_may_have_rung(peer: Peer, carrier: TwilioCarrier) -> None:
    peer.answers(201, resource(date_created=7))
    with pytest.raises(CarrierAnswerLost):
        await place(carrier)


async def test_a_carrier_that_hangs_is_waited_for_no_longer_than_allowed(peer: Peer) -> None:
    peer.hangs = True
    async with a_carrier(peer.base_url, timeout_s=0.1) as carrier, asyncio.timeout(2):
        with pytest.raises(CarrierAnswerLost, match=r"within 0\.1 s"):
            await place(carrier)
        for deed in ASKING.values():
            with pytest.raises(CarrierUnavailable, match=r"within 0\.1 s"):
                await deed(carrier)


async def test_an_answer_that_trickles_is_cut_off_as_well() -> None:
    async def trickle(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await whole_request(reader)
        writer.write(b"HTTP/1.1 201 Created\r\nContent-Type: application/json\r\nContent-Length: 100000\r\n\r\n{")
        while not writer.is_closing():
            writer.write(b" ")
            await writer.drain()
            await asyncio.sleep(0.01)

    async with raw(trickle) as base_url, a_carrier(base_url, timeout_s=0.1) as carrier, asyncio.timeout(2):
        with pytest.raises(CarrierAnswerLost):
            await place(carrier)


@pytest.mark.parametrize(
    "answer",
    [
        b"",
        b"HTTP/1.1 201 Created\r\n",
        b'HTTP/1.1 201 Created\r\nContent-Length: 99\r\n\r\n{"sid": "CA',
        b"\x16\x03\x01 what?\r\n\r\n",
        b"HTTP/1.1 201 Created\r\nContent-Encoding: gzip\r\nContent-Length: 2\r\n\r\n{}",
    ],
    ids=["nothing", "half a head", "half a body", "no HTTP", "no gzip"],
)
async def test_a_connection_that_breaks_after_the_request_may_have_rung(answer: bytes) -> None:
    async def break_off(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await whole_request(reader)
        writer.write(answer)

    async with raw(break_off) as base_url, a_carrier(base_url) as carrier:
        with pytest.raises(CarrierAnswerLost, match="the call may exist all the same"):
            await place(carrier)
        for deed in ASKING.values():
            with pytest.raises(CarrierUnavailable):
                await deed(carrier)


@pytest.mark.parametrize("deed", [place, *ASKING.values()], ids=["place", *ASKING])
async def test_where_nobody_listens_nothing_was_rung(deed: Deed) -> None:
    async with a_carrier(nobody()) as carrier:
        with pytest.raises(CarrierUnavailable, match="not possible"):
            await deed(carrier)


async def test_where_no_secret_can_be_kept_nothing_was_rung(peer: Peer) -> None:
    async with a_carrier(peer.base_url.replace("http://", "https://")) as carrier:
        with pytest.raises(CarrierUnavailable, match="SSL"):
            await place(carrier)
    assert peer.knocks == []


async def test_where_a_proxy_gives_no_way_to_twilio_nothing_was_rung(monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[bytes] = []

    async def refuse(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        asked.append(await whole_request(reader))
        writer.write(b"HTTP/1.1 403 Forbidden\r\nContent-Length: 0\r\n\r\n")

    async with raw(refuse) as proxy:
        monkeypatch.setenv("HTTPS_PROXY", proxy)
        monkeypatch.setenv("https_proxy", proxy)
        monkeypatch.setenv("NO_PROXY", "")
        monkeypatch.setenv("no_proxy", "")
        async with a_carrier() as carrier:
            with pytest.raises(CarrierUnavailable):
                await place(carrier)
    assert [request.partition(b" HTTP")[0] for request in asked] == [b"CONNECT api.twilio.com:443"]


@pytest.mark.parametrize("status", [301, 302, 307, 400, 403, 404, 405])
async def test_an_answer_that_is_not_twilios_names_the_setting(peer: Peer, carrier: TwilioCarrier, status: int) -> None:
    peer.answers(status, "<h1>Somebody else</h1>", location=f"{peer.base_url}/elsewhere" if status < 400 else "")
    for deed in (place, *ASKING.values()):
        with pytest.raises(CarrierUnavailable, match="TWILIO_API_BASE_URL"):
            await deed(carrier)
    assert "/elsewhere" not in [knock.path for knock in peer.knocks]


@pytest.mark.parametrize("deed", ASKING.values(), ids=list(ASKING))
@pytest.mark.parametrize("body", ["", "<h1>It works!</h1>", "null", "[]", "7", "{}", '{"calls": 7}', '{"calls": [7]}'])
async def test_what_rings_nobody_is_unavailable_where_it_cannot_be_read(
    peer: Peer, carrier: TwilioCarrier, deed: Deed, body: str
) -> None:
    peer.answers(200, body)
    with pytest.raises(CarrierUnavailable, match="cannot be read"):
        await deed(carrier)


@pytest.mark.parametrize("deed", ASKING.values(), ids=list(ASKING))
@pytest.mark.parametrize("status", [500, 503])
async def test_what_rings_nobody_is_unavailable_where_the_carrier_fails(
    peer: Peer, carrier: TwilioCarrier, deed: Deed, status: int
) -> None:
    peer.refuses(status, 20500)
    with pytest.raises(CarrierUnavailable, match=f"HTTP {status}"):
        await deed(carrier)


async def test_a_crowd_that_times_out_leaves_the_carrier_usable(peer: Peer) -> None:
    peer.hangs = True
    async with a_carrier(peer.base_url, timeout_s=0.5) as carrier:
        outcomes = await asyncio.gather(*(place(carrier) for _ in range(25)), return_exceptions=True)
        kinds = [type(each) for each in outcomes]
        assert set(kinds) <= {CarrierAnswerLost, CarrierUnavailable}
        # Whoever only waited for a place in the pool has sent nothing; everybody else must look before he asks again.
        assert kinds.count(CarrierAnswerLost) >= len(peer.knocks) > 0
        peer.hangs = False
        peer.answers(201, resource())
        assert await place(carrier) == CALL_SID


async def test_no_log_line_holds_a_phone_number(
    peer: Peer, carrier: TwilioCarrier, caplog: pytest.LogCaptureFixture
) -> None:
    peer.answers(200, listed())
    with caplog.at_level(logging.DEBUG):
        await carrier.find(CALLEE, SINCE)
    assert dict(peer.knocks[0].query)["To"] == CALLEE
    ours = "\n".join(each.getMessage() for each in caplog.records if not each.name.startswith("uvicorn"))
    assert f"GET {peer.base_url}{ACCOUNT_PATH}/Calls.json" in ours
    for number in (CALLEE, ACCOUNT.phone_number):
        assert number.removeprefix("+") not in ours


# Looking for a call whose answer was lost.


async def test_a_lost_call_is_looked_for_among_the_newest_to_its_number(peer: Peer, carrier: TwilioCarrier) -> None:
    peer.answers(200, listed(resource(status="ringing")))
    found = await carrier.find(CALLEE, SINCE)
    assert found[0] == CarrierCall(SID, Status.RINGING, datetime(2026, 3, 2, 9, 30, tzinfo=UTC))
    [knock] = peer.knocks
    assert (knock.method, knock.path) == ("GET", f"{ACCOUNT_PATH}/Calls.json")
    assert sorted(knock.query) == [("From", "+15005550006"), ("PageSize", "50"), ("To", "+14155550123")]


@pytest.mark.parametrize(
    "other",
    [
        {"direction": "inbound"},
        {"direction": "outbound-dial"},
        {"from": "+15005550007"},
        {"to": "+14155550199"},
        {"date_created": "Mon, 02 Mar 2026 09:29:59 +0000"},
    ],
)
async def test_a_call_that_cannot_be_the_lost_one_is_not_taken_for_it(
    peer: Peer, carrier: TwilioCarrier, other: dict[str, str]
) -> None:
    peer.answers(200, listed(resource(**other)))
    assert await carrier.find(CALLEE, SINCE) == []


async def test_the_newest_call_is_the_lost_one(peer: Peer, carrier: TwilioCarrier) -> None:
    dates = {f"CA{seconds}": format_datetime(SINCE + timedelta(seconds=seconds)) for seconds in (2, 9, 5)}
    peer.answers(200, listed(*(resource(sid=sid, date_created=date) for sid, date in dates.items())))
    found = await carrier.find(CALLEE, SINCE)
    assert found[0].call_sid == "CA9"


async def test_a_call_twilio_has_not_dated_yet_is_a_new_one(peer: Peer, carrier: TwilioCarrier) -> None:
    peer.answers(200, listed(resource(date_created=None)))
    assert await carrier.find(CALLEE, SINCE) == [CarrierCall(SID, Status.QUEUED, SINCE)]


async def test_a_call_that_is_over_and_was_never_dated_is_an_old_one(peer: Peer, carrier: TwilioCarrier) -> None:
    peer.answers(200, listed(resource(date_created=None, status="canceled")))
    assert await carrier.find(CALLEE, SINCE) == []


async def test_a_list_that_is_refused_says_why(peer: Peer, carrier: TwilioCarrier) -> None:
    peer.refuses(400, 21211, f"Invalid 'To' Phone Number: {CALLEE}")
    with pytest.raises(CarrierRefused) as refusal:
        await carrier.find(CALLEE, SINCE)
    assert (refusal.value.kind, refusal.value.carrier_code) == (RefusalKind.INVALID_NUMBER, 21211)
    assert CALLEE not in "".join(traceback.format_exception(refusal.value))


# One call, and the account.


async def test_a_call_is_fetched_as_the_carrier_has_it(peer: Peer, carrier: TwilioCarrier) -> None:
    peer.answers(200, resource(status="completed", duration="42"))
    assert await carrier.fetch(SID) == CarrierCall(
        SID, Status.COMPLETED, datetime(2026, 3, 2, 9, 30, tzinfo=UTC), duration_s=42
    )
    assert [(knock.method, knock.path) for knock in peer.knocks] == [("GET", f"{ACCOUNT_PATH}/Calls/{CALL_SID}.json")]


@pytest.mark.parametrize("word", ["paused", "refused", "", None, 7, ["ringing"]])
async def test_a_status_nobody_has_heard_of_is_unknown(peer: Peer, carrier: TwilioCarrier, word: object) -> None:
    peer.answers(200, resource(status=word))
    fetched = await carrier.fetch(SID)
    assert fetched is not None
    assert fetched.status is Status.UNKNOWN


async def test_a_call_twilio_does_not_know_is_none(peer: Peer, carrier: TwilioCarrier) -> None:
    peer.refuses(404, 20404)
    assert await carrier.fetch(SID) is None


async def test_a_live_call_is_ended_whatever_state_it_is_in(peer: Peer, carrier: TwilioCarrier) -> None:
    peer.answers(200, resource(status="in-progress"))
    await carrier.hang_up(SID)
    [knock] = peer.knocks
    assert (knock.method, knock.path) == ("POST", f"{ACCOUNT_PATH}/Calls/{CALL_SID}.json")
    assert knock.form == [("Status", "completed")]


@pytest.mark.parametrize(("status", "code"), [(400, 21220), (404, 21220), (404, 20404)])
async def test_a_call_that_is_over_needs_no_hanging_up(
    peer: Peer, carrier: TwilioCarrier, status: int, code: int
) -> None:
    peer.refuses(status, code)
    await carrier.hang_up(SID)
    assert len(peer.knocks) == 1


async def test_a_hang_up_that_is_refused_is_no_secret(peer: Peer, carrier: TwilioCarrier) -> None:
    peer.refuses(429, 20429)
    with pytest.raises(CarrierRefused):
        await carrier.hang_up(SID)


async def test_a_ping_reads_the_account(peer: Peer, carrier: TwilioCarrier) -> None:
    peer.answers(200, {"sid": ACCOUNT.account_sid, "status": "active"})
    await carrier.ping()
    assert [(knock.method, knock.path) for knock in peer.knocks] == [("GET", f"{ACCOUNT_PATH}.json")]


@pytest.mark.parametrize("status", ["suspended", "closed"])
async def test_an_account_that_may_not_call_fails_the_ping(peer: Peer, carrier: TwilioCarrier, status: str) -> None:
    peer.answers(200, {"sid": ACCOUNT.account_sid, "status": status})
    with pytest.raises(CarrierRefused, match=status) as refusal:
        await carrier.ping()
    assert refusal.value.kind is RefusalKind.ACCOUNT_LIMITED
