"""The carrier against the simulated phone network: each understands what the other means."""

from collections.abc import AsyncIterator
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime, timedelta

import pytest
import pytest_asyncio
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from outbound.calls import CallSid, Status
from outbound.carriers.twilio import TwilioCarrier
from outbound.carriers.twiml import RelayOptions
from outbound.ports import (
    CarrierAnswerLost,
    CarrierRefused,
    CarrierUnavailable,
    Form,
    Links,
    MachineReport,
    RefusalKind,
    StatusReport,
)
from outbound.simulator import Network
from outbound.simulator.faults import CreateFault
from outbound.simulator.speech import Input
from outbound.simulator.twiml import Connect, Hangup, RelaySettings, Say, parse
from tests.carriers.arrange import ACCOUNT, CALLEE, LINKS, a_call, a_carrier
from tests.carriers.peer import serving

pytestmark = pytest.mark.asyncio(loop_scope="module")

NEVER_ANSWERS = "+12025550102"
VOICEMAIL = "+12025550104"


@dataclass
class Office:
    """Where the network's webhooks arrive: it checks each one, notes it, and answers every call with a goodbye."""

    carrier: TwilioCarrier
    base_url: str = ""
    stays: bool = False
    """Whether it stays on the line a while instead."""
    heard: list[tuple[str, Form]] = field(default_factory=list)
    forged: list[str] = field(default_factory=list)

    @property
    def links(self) -> Links:
        paths = ("voice", "status", "ended", "machine")
        voice, status, ended, machine = (f"{self.base_url}/{path}/s_1?x=a%20b" for path in paths)
        return Links(voice, status, ended, machine, LINKS.relay)

    async def hear(self, request: Request) -> Response:
        async with request.form() as read:
            form = [(name, str(value)) for name, value in read.multi_items()]
        url = f"{self.base_url}{request.url.path}?{request.url.query}"
        if not self.carrier.is_genuine(url, form, dict(request.headers)):
            self.forged.append(url)
        self.heard.append((request.url.path.split("/")[1], form))
        document = '<Response><Pause length="15"/></Response>' if self.stays else self.carrier.farewell("Goodbye.")
        return Response(document, media_type="text/xml")

    def statuses(self) -> list[StatusReport]:
        return [self.carrier.read_status(form) for path, form in self.heard if path == "status"]


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def lasting_network() -> AsyncIterator[tuple[Network, str]]:
    network = Network(account_sid=ACCOUNT.account_sid, auth_token=ACCOUNT.auth_token, speed=50)
    async with network.serve() as base_url:
        yield network, base_url


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def carrier(lasting_network: tuple[Network, str]) -> AsyncIterator[TwilioCarrier]:
    async with a_carrier(lasting_network[1], machine_detection=True) as carrier:
        yield carrier


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def lasting_office(carrier: TwilioCarrier) -> AsyncIterator[Office]:
    office = Office(carrier)
    routes = [Route("/{path:path}", office.hear, methods=["POST"])]
    async with serving(Starlette(routes=routes)) as office.base_url:
        yield office


@pytest.fixture
def network(lasting_network: tuple[Network, str]) -> Network:
    lasting_network[0].calls.clear()
    return lasting_network[0]


@pytest.fixture
def office(lasting_office: Office) -> Office:
    lasting_office.heard.clear()
    lasting_office.forged.clear()
    lasting_office.stays = False
    return lasting_office


async def test_a_call_is_placed_answered_and_reported_to_its_end(
    network: Network, carrier: TwilioCarrier, office: Office
) -> None:
    sid = await carrier.place(a_call(), office.links)
    call = network.calls[sid]
    await call.ended.wait()
    assert (call.request.to, call.request.from_) == (CALLEE, carrier.own_number)
    assert (call.request.ring_limit, call.request.time_limit) == (30, 330)
    assert office.forged == []
    statuses = office.statuses()
    assert [each.status for each in sorted(statuses, key=lambda each: each.sequence or 0)] == [
        Status.INITIATED,
        Status.RINGING,
        Status.IN_PROGRESS,
        Status.COMPLETED,
    ]
    assert {each.call_sid for each in statuses} == {sid}
    fetched = await carrier.fetch(sid)
    assert fetched is not None
    assert (fetched.call_sid, fetched.status) == (sid, Status.COMPLETED)
    assert fetched.duration_s is not None


async def test_a_machine_that_answers_is_told_apart(network: Network, carrier: TwilioCarrier, office: Office) -> None:
    office.stays = True
    sid = await carrier.place(a_call(phone_number=VOICEMAIL), office.links)
    await network.calls[sid].ended.wait()
    [verdict] = [carrier.read_machine(form) for path, form in office.heard if path == "machine"]
    assert verdict == MachineReport(sid, "machine_start", is_machine=True)
    assert office.forged == []


@pytest.mark.parametrize(
    ("number", "kind", "code"),
    [
        ("+15005550001", RefusalKind.INVALID_NUMBER, 21217),
        ("+15005550002", RefusalKind.INVALID_NUMBER, 21214),
        ("+15005550003", RefusalKind.COUNTRY_NOT_PERMITTED, 21215),
        ("+15005550004", RefusalKind.NUMBER_BLOCKED, 21216),
        ("+15005550019", RefusalKind.UNVERIFIED_NUMBER, 21219),
        ("+1234567890", RefusalKind.INVALID_NUMBER, 21211),
        ("", RefusalKind.INVALID_NUMBER, 21201),
    ],
)
async def test_a_number_that_cannot_be_called_is_refused_for_its_reason(
    network: Network, carrier: TwilioCarrier, number: str, kind: RefusalKind, code: int
) -> None:
    with pytest.raises(CarrierRefused) as refusal:
        await carrier.place(a_call(phone_number=number), LINKS)
    assert (refusal.value.kind, refusal.value.carrier_code) == (kind, code)
    assert network.calls == {}


@pytest.mark.parametrize(("number", "code"), [("+15005550001", 21212), ("+15005550099", 21210), ("", 21213)])
async def test_a_number_that_is_not_ours_cannot_be_called_from(
    lasting_network: tuple[Network, str], number: str, code: int
) -> None:
    async with a_carrier(lasting_network[1], account=replace(ACCOUNT, phone_number=number)) as carrier:
        with pytest.raises(CarrierRefused, match="TWILIO_PHONE_NUMBER") as refusal:
            await carrier.place(a_call(), LINKS)
    assert (refusal.value.kind, refusal.value.carrier_code) == (RefusalKind.NOT_YOUR_NUMBER, code)


async def test_a_server_without_a_public_address_is_told_so(carrier: TwilioCarrier) -> None:
    with pytest.raises(CarrierRefused, match="https:// URL") as refusal:
        await carrier.place(a_call(), replace(LINKS, voice="/voice/s_1"))
    assert refusal.value.carrier_code == 21205


@pytest.mark.parametrize("fault", ["lost", "lost_hang"])
async def test_a_call_whose_answer_was_lost_is_found_again(
    lasting_network: tuple[Network, str], network: Network, office: Office, fault: CreateFault
) -> None:
    since = datetime.now(UTC)
    network.faults.creates.append(fault)
    async with a_carrier(lasting_network[1], timeout_s=0.5) as carrier:
        with pytest.raises(CarrierAnswerLost):
            await carrier.place(a_call(phone_number=NEVER_ANSWERS), office.links)
        [sid] = network.calls
        [found] = await carrier.find(NEVER_ANSWERS, since)
        assert found.call_sid == sid
        assert found.status in (Status.QUEUED, Status.RINGING)
        assert await carrier.find(CALLEE, since) == []
        await carrier.hang_up(found.call_sid)


@pytest.mark.parametrize("fault", ["500", "503", "garbage"])
async def test_a_call_that_was_never_made_is_not_found(
    network: Network, carrier: TwilioCarrier, fault: CreateFault
) -> None:
    network.faults.creates.append(fault)
    with pytest.raises(CarrierAnswerLost):
        await carrier.place(a_call(), LINKS)
    assert await carrier.find(CALLEE, datetime.now(UTC) - timedelta(hours=1)) == []


async def test_a_carrier_that_wants_a_pause_is_understood(network: Network, carrier: TwilioCarrier) -> None:
    network.faults.creates.append("429")
    with pytest.raises(CarrierRefused) as refusal:
        await carrier.place(a_call(), LINKS)
    assert refusal.value.kind is RefusalKind.TOO_MANY_REQUESTS


async def test_a_ringing_call_can_be_hung_up_and_hung_up_again(
    network: Network, carrier: TwilioCarrier, office: Office
) -> None:
    sid = await carrier.place(a_call(phone_number=NEVER_ANSWERS), office.links)
    await network.calls[sid].announced.wait()
    await carrier.hang_up(sid)
    await network.calls[sid].ended.wait()
    await carrier.hang_up(sid)
    fetched = await carrier.fetch(sid)
    assert fetched is not None
    assert fetched.status.is_final


async def test_a_call_nobody_made_is_unknown_and_over(carrier: TwilioCarrier) -> None:
    nobodys = CallSid("CA" + "f" * 32)
    assert await carrier.fetch(nobodys) is None
    await carrier.hang_up(nobodys)


async def test_a_ping_tells_right_credentials_from_wrong_ones(
    lasting_network: tuple[Network, str], carrier: TwilioCarrier
) -> None:
    await carrier.ping()
    for wrong in (replace(ACCOUNT, auth_token="f" * 32), replace(ACCOUNT, account_sid="AC" + "f" * 32)):
        async with a_carrier(lasting_network[1], account=wrong) as stranger:
            with pytest.raises(CarrierRefused) as refusal:
                await stranger.ping()
        assert refusal.value.kind is RefusalKind.WRONG_CREDENTIALS


async def test_a_network_that_is_gone_is_unavailable() -> None:
    network = Network(account_sid=ACCOUNT.account_sid, auth_token=ACCOUNT.auth_token)
    async with network.serve() as base_url:
        pass
    async with a_carrier(base_url) as carrier:
        with pytest.raises(CarrierUnavailable):
            await carrier.ping()


async def test_our_documents_mean_to_the_network_what_we_mean() -> None:
    template = RelayOptions(
        language="de-DE",
        welcome_greeting_interruptible="none",
        interruptible="speech",
        report_input_during_agent_speech="any",
        dtmf_detection=True,
        partial_prompts=True,
        events="speaker-events tokens-played",
        parameters={"tenant": "7 & <8>"},
    )
    async with a_carrier(relay=template) as carrier:
        [connect] = parse(carrier.answer(a_call(greeting='Grüß "Gott" & <hallo>'), LINKS))
        goodbye = parse(carrier.farewell("Tschüß & <auf Wiederhören>."))
    assert connect == Connect(
        action=LINKS.ended,
        relay=RelaySettings(
            url=LINKS.relay,
            welcome_greeting='Grüß "Gott" & <hallo>',
            greeting_interruptible=Input.NONE,
            interruptible=Input.SPEECH,
            report_during_speech=Input.ANY,
            dtmf_detection=True,
            partial_prompts=True,
            events=frozenset({"speaker-events", "tokens-played"}),
            language="de-DE",
            parameters={"tenant": "7 & <8>"},
        ),
    )
    assert goodbye == [Say("Tschüß & <auf Wiederhören>."), Hangup()]
