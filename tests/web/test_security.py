"""Closed by default: who may come in, what the carrier has to prove, and what never leaks."""

import asyncio
import base64
import json
import os
import socket
import subprocess
import sys
from collections.abc import AsyncIterator, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any
from urllib.parse import urlencode

import httpx
import pytest
import pytest_asyncio
from fastapi.routing import APIRoute
from starlette.requests import Request
from starlette.routing import BaseRoute, Route
from websockets.asyncio.client import connect
from websockets.exceptions import InvalidStatus

from main import build
from outbound.simulator.webhooks import sign
from outbound.web.security import FORWARDING_HEADERS, is_local
from tests.server import ACCOUNT_SID, AUTH_TOKEN, FRIENDLY, OWN_NUMBER, Running, running, serve, settings_for
from tests.web.asking import (
    BUSY,
    NEVER_ANSWERS,
    WITHIN_S,
    Json,
    answer,
    initiate,
    lasting,
    phone_rang,
    problem,
    until,
    until_over,
)

ROOT = Path(__file__).parents[2]
ANA, BEA = "ana-3kf9XPl0sd8f", "bea-77dkPQ2ms9x1"
OPEN = {"/health", "/ready", "/openapi.json"}
"""What anybody may ask: it tells nothing of anybody's."""
HOOKS = ("/voice", "/voice/status", "/voice/ended", "/voice/amd", "/voice/fallback")

in_module_loop = pytest.mark.asyncio(loop_scope="module")


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def guarded(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[Running]:
    """A server with two API keys."""
    async with lasting(tmp_path_factory.mktemp("guarded"), ring_timeout=600, api_keys=f"{ANA}, {BEA}") as house:
        yield house


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def unguarded(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[Running]:
    """A server without any."""
    async with lasting(tmp_path_factory.mktemp("unguarded"), ring_timeout=600) as house:
        yield house


def routes(found: list[Any]) -> Iterator[BaseRoute]:
    """Every route, those of included routers too."""
    for route in found:
        included = getattr(route, "original_router", None)
        if included is not None:
            yield from routes(included.routes)
        else:
            yield route


def protected() -> list[tuple[str, str]]:
    """Every method and path of the application that is not for everybody or for the carrier."""
    app = build(settings_for(Path("unused.db"), carrier="simulator"))
    found = [route for route in routes(list(app.routes)) if isinstance(route, Route | APIRoute)]
    return sorted(
        (method, route.path)
        for route in found
        if route.path not in OPEN and route.path not in HOOKS
        for method in route.methods or ()
    )


def test_the_routes_are_found() -> None:
    assert {("POST", "/call/initiate"), ("GET", "/calls/{session_id}")} <= set(protected())
    assert len(protected()) >= 5


# API keys.


@pytest.mark.parametrize(("method", "path"), protected())
@pytest.mark.parametrize("headers", [{}, {"X-API-Key": "wrong"}], ids=["without", "wrong"])
@in_module_loop
async def test_no_route_answers_without_a_key(
    guarded: Running, method: str, path: str, headers: dict[str, str]
) -> None:
    response = await guarded.client.request(method, path.replace("{session_id}", "s"), headers=headers)
    told = problem(response, 401, "wrong_api_key" if headers else "api_key_required")
    assert "X-API-Key" in told["detail"]
    assert "Bearer" in told["detail"]
    assert response.headers["www-authenticate"] == "Bearer"


@pytest.mark.parametrize(
    "headers",
    [
        {"Authorization": f"Bearer {ANA}"},
        {"Authorization": f"bearer {BEA}"},
        {"Authorization": f"BEARER   {BEA}"},
        {"X-API-Key": ANA},
        {"x-api-key": BEA},
        {"X-API-Key": ANA, "Authorization": "Basic eDp5"},
        {"X-API-Key": ANA, "Host": "agent.example.com", "X-Forwarded-For": "203.0.113.5"},
    ],
)
@in_module_loop
async def test_either_key_opens_in_either_header(guarded: Running, headers: dict[str, str]) -> None:
    assert answer(await guarded.client.get("/calls/active", headers=headers))["count"] == 0


@pytest.mark.parametrize(
    "headers",
    [
        {"Authorization": ANA},
        {"Authorization": "Bearer"},
        {"Authorization": f"Bearer {ANA}x"},
        {"Authorization": f"Bearer {ANA[:-1]}"},
        {"Authorization": f"Bearer {ANA.upper()}"},
        {"Authorization": f"Bearer {ANA},{BEA}"},
        {"Authorization": f"Bearer {ANA}, {BEA}"},
        {"Authorization": f"Basic {base64.b64encode(f'{ANA}:'.encode()).decode()}"},
        {"X-API-Key": ""},
        {"X-API-Key": f"Bearer {ANA}"},
        {"X-API-Key": "ä"},
        {"X-API-Key": ANA, "Authorization": "Bearer wrong"},
        {"Cookie": f"X-API-Key={ANA}"},
    ],
)
@in_module_loop
async def test_what_is_not_a_key_does_not_open(guarded: Running, headers: dict[str, str]) -> None:
    encoded = [(name.encode(), value.encode()) for name, value in headers.items()]
    response = await guarded.client.get("/calls/active", headers=encoded)
    problem(response, 401, response.json()["code"])
    assert ANA not in response.text


@in_module_loop
async def test_a_key_in_the_address_does_not_open(guarded: Running) -> None:
    for name in ("api_key", "key", "X-API-Key", "token"):
        problem(await guarded.client.get("/calls/active", params={name: ANA}), 401, "api_key_required")


@in_module_loop
async def test_a_local_client_needs_a_key_where_there_are_some(guarded: Running) -> None:
    problem(await initiate(guarded.client, FRIENDLY), 401, "api_key_required")
    assert phone_rang(guarded, FRIENDLY) == 0


@pytest.mark.parametrize("path", sorted(OPEN))
@pytest.mark.parametrize("headers", [{}, {"Host": "agent.example.com", "X-Forwarded-For": "203.0.113.5"}])
@in_module_loop
async def test_health_and_readiness_are_open_to_everybody(
    guarded: Running, unguarded: Running, path: str, headers: dict[str, str]
) -> None:
    for house in (guarded, unguarded):
        assert (await house.client.get(path, headers=headers)).status_code == 200


# No keys: this machine only.


@pytest.mark.parametrize("host", ["localhost", "LOCALHOST:8000", "127.0.0.1", "127.0.0.1:1", "[::1]", "[::1]:8000"])
@in_module_loop
async def test_without_keys_a_client_on_this_machine_may_come_in(unguarded: Running, host: str) -> None:
    answer(await unguarded.client.get("/calls", headers={"Host": host}))


@pytest.mark.parametrize(("method", "path"), protected())
@pytest.mark.parametrize(
    "headers", [{"Host": "agent.example.com"}, {"X-Forwarded-For": "127.0.0.1"}], ids=["host", "forwarded"]
)
@in_module_loop
async def test_without_keys_no_route_answers_anybody_else(
    unguarded: Running, method: str, path: str, headers: dict[str, str]
) -> None:
    response = await unguarded.client.request(method, path.replace("{session_id}", "s"), headers=headers)
    told = problem(response, 401, "api_key_required")
    assert "API_KEYS" in told["detail"], "it says what to set"


@pytest.mark.parametrize(
    "headers",
    [
        *({name: "127.0.0.1"} for name in sorted(FORWARDING_HEADERS)),
        {"X-Forwarded-For": "127.0.0.1"},
        {"X-Forwarded-Host": "localhost"},
        {"X-Forwarded-Proto": "https"},
        {"x-forwarded-anything-new": "1"},
        {"X-Forwarded-For": ""},
        {"X-Forwarded": "for=127.0.0.1"},
        {"X-ForwardedFor": "127.0.0.1"},
        {"X-Cluster-Client-Ip": "127.0.0.1"},
        {"Fly-Client-Ip": "127.0.0.1"},
        {"X-Original-Forwarded-For": "127.0.0.1"},
        {"X-Envoy-External-Address": "127.0.0.1"},
        {"X-Original-Url": "/call/initiate"},
        {"Ngrok-Skip-Browser-Warning": "1"},
        {"ngrok-anything-new": "1"},
        {"Forwarded": "for=127.0.0.1;host=localhost"},
        {"Cf-Connecting-Ip": "127.0.0.1"},
        {"Host": "evil.example.com"},
        {"Host": "localhost.evil.example.com"},
        {"Host": "127.0.0.1.nip.io"},
        {"Host": "192.168.1.10:8000"},
        {"Host": "0.0.0.0:8000"},
        {"Host": "[::ffff:203.0.113.5]"},
        {"Host": "localhost@evil.example.com"},
        {"Host": "[::1"},
        {"Host": ""},
        {"Origin": "https://evil.example.com"},
        {"Origin": "http://localhost.evil.example.com"},
        {"Origin": "null"},
        {"Origin": "file://"},
    ],
    ids=lambda headers: "-".join(*headers.items()),
)
@in_module_loop
async def test_without_keys_tunnels_proxies_and_web_pages_are_turned_away(
    unguarded: Running, headers: dict[str, str]
) -> None:
    response = await unguarded.client.post("/call/initiate", json={"to": FRIENDLY}, headers=headers)
    assert "API_KEYS" in problem(response, 401, "api_key_required")["detail"]
    assert phone_rang(unguarded, FRIENDLY) == 0


@pytest.mark.parametrize("origin", ["http://localhost:3000", "http://127.0.0.1:8000", "http://[::1]:8000"])
@in_module_loop
async def test_without_keys_a_page_of_this_machine_may_come_in(unguarded: Running, origin: str) -> None:
    answer(await unguarded.client.get("/calls", headers={"Origin": origin}))


@pytest.mark.parametrize(
    ("peer", "local"),
    [
        (("127.0.0.1", 5), True),
        (("::1", 5), True),
        (("::ffff:127.0.0.1", 5), True),
        (("203.0.113.5", 5), False),
        (("::ffff:203.0.113.5", 5), False),
        (("192.168.1.10", 5), False),
        (("localhost", 5), False),
        (("", 0), False),
        (None, False),
    ],
)
def test_the_peer_itself_has_to_be_on_this_machine(peer: tuple[str, int] | None, local: bool) -> None:
    scope: Json = {"type": "http", "client": peer, "headers": [(b"host", b"localhost:8000")]}
    assert is_local(Request(scope)) is local


async def test_a_client_that_comes_over_ipv6_on_this_machine_may_come_in(tmp_path: Path) -> None:
    try:
        listener = socket.create_server(("::1", 0), family=socket.AF_INET6)
    except OSError:
        pytest.skip("this machine has no IPv6")
    with listener:
        url = f"http://[::1]:{listener.getsockname()[1]}"
        settings = settings_for(tmp_path / "calls.db", carrier="simulator", host="::1", port=listener.getsockname()[1])
        async with serve(settings, listener), httpx.AsyncClient(base_url=url, trust_env=False) as client:
            answer(await client.get("/calls"))
            problem(await client.get("/calls", headers={"Host": "evil.example.com"}), 401, "api_key_required")
            assert (await settled(client, BUSY))["status"] == "busy"


# How often.


async def test_each_key_has_its_own_rate_of_calls(tmp_path: Path) -> None:
    async with running(tmp_path, api_keys=f"{ANA},{BEA}", rate_limit="2/minute") as house:
        ana, bea = {"X-API-Key": ANA}, {"Authorization": f"Bearer {BEA}"}

        async def ring(headers: Mapping[str, str]) -> httpx.Response:
            return await house.client.post("/call/initiate", json={"to": BUSY}, headers=headers)

        for _ in range(2):
            answer(await ring(ana))
        refused = await ring(ana)
        told = problem(refused, 429, "too_many_requests")
        assert "2 per minute" in told["detail"]
        assert 1 <= int(refused.headers["retry-after"]) <= 60
        problem(await ring({"Authorization": f"Bearer {ANA}"}), 429, "too_many_requests")
        answer(await ring(bea))
        assert answer(await house.client.get("/calls", headers=ana))["count"] == 3, "looking is not counted"
        assert phone_rang(house, BUSY) == 3


async def test_without_keys_this_machine_has_one_rate(tmp_path: Path) -> None:
    async with running(tmp_path, rate_limit="1/hour") as house:
        answer(await initiate(house.client, BUSY))
        refused = await initiate(house.client, BUSY)
        problem(refused, 429, "too_many_requests")
        assert 60 < int(refused.headers["retry-after"]) <= 3600


# What the carrier has to prove.


def form_of(call_sid: str, **more: str) -> dict[str, str]:
    return {"AccountSid": ACCOUNT_SID, "CallSid": call_sid, "CallStatus": "completed", "From": OWN_NUMBER, **more}


async def deliver(
    house: Running, address: str, form: Mapping[str, str], signature: str | None, **headers: str
) -> httpx.Response:
    sent = {"Content-Type": "application/x-www-form-urlencoded", **headers}
    if signature is not None:
        sent["X-Twilio-Signature"] = signature
    return await house.client.post(address, content=urlencode(form), headers=sent)


@pytest.mark.parametrize("path", HOOKS)
@in_module_loop
async def test_a_webhook_that_is_not_signed_for_exactly_this_is_refused_and_changes_nothing(
    unguarded: Running, path: str
) -> None:
    house = unguarded
    session_id, call = await house.ring(NEVER_ANSWERS)
    other, _ = await house.ring(NEVER_ANSWERS)
    address = f"{path}?session_id={session_id}"
    form = form_of(call.sid, SessionStatus="failed", AnsweredBy="machine_start")
    good = sign(AUTH_TOKEN, house.base_url + address, form)
    evil_base = "http://evil.example.com"
    # The last genuine callback there will be while nobody answers.
    before = await until(
        house,
        session_id,
        lambda call: call["status"] == "ringing" and "ringing" in [e["data"].get("reported") for e in call["journal"]],
    )

    refusals = {
        "no signature": await deliver(house, address, form, None),
        "an empty one": await deliver(house, address, form, ""),
        "another token": await deliver(house, address, form, sign("other-token", house.base_url + address, form)),
        "an empty token": await deliver(house, address, form, sign("", house.base_url + address, form)),
        "a changed value": await deliver(house, address, form | {"CallStatus": "busy"}, good),
        "an added field": await deliver(house, address, form | {"Extra": "1"}, good),
        "a field less": await deliver(house, address, {"CallSid": call.sid}, good),
        "another call": await deliver(house, f"{path}?session_id={other}", form, good),
        "an added parameter": await deliver(house, f"{address}&x=1", form, good),
        "no query": await deliver(house, path, form, good),
        "the path alone": await deliver(house, address, form, sign(AUTH_TOKEN, address, form)),
        "another host": await deliver(
            house, address, form, sign(AUTH_TOKEN, evil_base + address, form), Host="evil.example.com"
        ),
        "a forwarded host": await deliver(
            house,
            address,
            form,
            sign(AUTH_TOKEN, evil_base + address, form),
            **{"X-Forwarded-Host": "evil.example.com", "X-Forwarded-Proto": "http"},
        ),
        "a shared key": await deliver(
            house, address, form, good, **{"X-Twilio-Webhooks-Signature-Settings": "algorithm=HMAC-SHA1"}
        ),
        "JSON": await house.client.post(address, json=form, headers={"X-Twilio-Signature": good}),
    }
    for response in refusals.values():
        problem(response, 403, "not_signed")
    elsewhere = next(each for each in HOOKS if each != path)
    problem(await deliver(house, f"{elsewhere}?session_id={session_id}", form, good), 403, "not_signed")
    assert await house.whole(session_id) == before
    assert (await deliver(house, address, form, good)).is_success, "the good one would have been taken"


@pytest.mark.parametrize("path", HOOKS)
@pytest.mark.parametrize("method", ["GET", "HEAD", "PUT", "DELETE"])
@in_module_loop
async def test_a_webhook_is_a_post(guarded: Running, path: str, method: str) -> None:
    response = await guarded.client.request(method, path, headers={"X-Twilio-Signature": "x"})
    assert (response.status_code, response.headers["allow"]) == (405, "POST")
    if method != "HEAD":
        problem(response, 405, "method_not_allowed")


@pytest.mark.parametrize("headers", [{"X-API-Key": ANA}, {"Authorization": f"Bearer {ANA}"}])
@in_module_loop
async def test_an_api_key_does_not_stand_for_a_signature(guarded: Running, headers: dict[str, str]) -> None:
    problem(await guarded.client.post("/voice", data={"CallSid": "CA1"}, headers=headers), 403, "not_signed")


async def knock_at_socket(house: Running, path: str, signature: str | None) -> int:
    """Tries to open a relay socket; returns the status of the refused handshake, or 101."""
    url = "ws" + house.base_url.removeprefix("http") + path
    headers = {} if signature is None else {"X-Twilio-Signature": signature}
    try:
        async with connect(url, additional_headers=headers, proxy=None):
            return 101
    except InvalidStatus as refused:
        return refused.response.status_code


@in_module_loop
async def test_a_socket_is_refused_before_it_is_accepted_unless_it_is_signed_and_its_call_is_live(
    unguarded: Running,
) -> None:
    house = unguarded
    over, busy = await house.ring(BUSY)
    await busy.ended.wait()
    await until_over(house, over)
    session_id, _ = await house.ring(NEVER_ANSWERS)
    base = "ws" + house.base_url.removeprefix("http")
    path = f"/ws/{session_id}"
    good = sign(AUTH_TOKEN, base + path)

    assert await knock_at_socket(house, path, None) == 403
    assert await knock_at_socket(house, path, "x") == 403
    assert await knock_at_socket(house, path, sign("other-token", base + path)) == 403
    assert await knock_at_socket(house, path, sign(AUTH_TOKEN, house.base_url + path)) == 403
    assert await knock_at_socket(house, f"/ws/{over}", good) == 403
    assert await knock_at_socket(house, f"{path}?x=1", good) == 403
    assert await knock_at_socket(house, f"/ws/{over}", sign(AUTH_TOKEN, f"{base}/ws/{over}")) == 403
    assert await knock_at_socket(house, "/ws/nobody", sign(AUTH_TOKEN, f"{base}/ws/nobody")) == 403
    assert await knock_at_socket(house, path, good) == 101


# What never leaks.

SECRETS = {
    "API_KEYS": "leak-canary-api-key-1,leak-canary-api-key-2",
    "TWILIO_AUTH_TOKEN": "leak-canary-twilio-token",
    "OPENAI_API_KEY": "leak-canary-openai-key",
    "ANTHROPIC_API_KEY": "leak-canary-anthropic-key",
    "DATABASE_URL": "postgresql://user:leak-canary-password@localhost/calls",
}


def test_settings_show_no_secret() -> None:
    settings = settings_for(Path("x.db"), carrier="simulator", **{name.lower(): each for name, each in SECRETS.items()})
    for shown in (repr(settings), str(settings), settings.model_dump_json(), str(settings.model_dump())):
        assert "leak-canary" not in shown


async def test_answers_show_no_secret(tmp_path: Path) -> None:
    keys: Json = {"openai_api_key": SECRETS["OPENAI_API_KEY"], "api_keys": SECRETS["API_KEYS"]}
    async with running(tmp_path, **keys) as house:
        house.client.headers["X-API-Key"] = SECRETS["API_KEYS"].split(",")[0]
        session_id, call = await house.ring(BUSY)
        await call.ended.wait()
        house.network.auth_token = "changed"
        asked = [
            await house.client.get("/openapi.json"),
            await house.client.get("/ready"),
            await house.client.get(f"/calls/{session_id}"),
            await house.client.get("/calls"),
            await initiate(house.client, FRIENDLY),
            await house.client.get("/calls", headers={"X-API-Key": "wrong"}),
        ]
        for response in asked:
            assert "leak-canary" not in response.text + str(response.headers)
            assert AUTH_TOKEN not in response.text


@pytest.fixture
def port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        return int(listener.getsockname()[1])


@contextmanager
def served(port: int, log: Path, **settings: str) -> Iterator[subprocess.Popen[bytes]]:
    """`main.py` as operators start it, its log in a file; stopped at the end as they stop it."""
    environment = {
        "PATH": os.environ["PATH"],
        "HOST": "127.0.0.1",
        "PORT": str(port),
        "CARRIER": "simulator",
        "LLM_MODEL": "scripted",
        "SIMULATOR_SPEED": "50",
        "DIGITS_TIMEOUT": "0.2",
        **settings,
    }
    with log.open("wb") as stderr:
        server = subprocess.Popen([sys.executable, "main.py"], cwd=ROOT, env=environment, stderr=stderr)
        try:
            yield server
        finally:
            server.terminate()
            try:
                server.wait(WITHIN_S)
            finally:
                server.kill()
    assert server.returncode == 0, log.read_text()


async def until_ready(client: httpx.AsyncClient) -> None:
    async with asyncio.timeout(WITHIN_S):
        while True:
            try:
                if (await client.get("/ready")).is_success:
                    return
            except httpx.TransportError:
                pass
            await asyncio.sleep(0.05)


async def settled(client: httpx.AsyncClient, to: str, **body: Any) -> Json:
    """Places a call and waits until it is over."""
    session_id = answer(await initiate(client, to, **body))["session_id"]
    async with asyncio.timeout(WITHIN_S):
        while True:
            call = answer(await client.get(f"/calls/{session_id}"))
            if call["ended_at"] is not None and (call["end_reason"] or not call["transcript"]):
                return call
            await asyncio.sleep(0.02)


async def test_the_log_of_a_server_is_json_and_holds_no_secret_no_number_and_nothing_said(
    tmp_path: Path, port: int
) -> None:
    canaries = {name: value for name, value in SECRETS.items() if name != "DATABASE_URL"}
    canaries |= {"TWILIO_ACCOUNT_SID": ACCOUNT_SID, "TWILIO_PHONE_NUMBER": "+15005550006"}
    database = f"sqlite:///{tmp_path / 'calls.db'}"
    log = tmp_path / "server.log"
    key = SECRETS["API_KEYS"].split(",")[0]
    async with httpx.AsyncClient(
        base_url=f"http://127.0.0.1:{port}", headers={"X-API-Key": key}, trust_env=False, timeout=30
    ) as client:
        with served(port, log, **canaries, DATABASE_URL=database, LOG_LEVEL="debug"):
            await until_ready(client)
            call = await settled(client, "+12025550106", greeting="Hello {name}, AI here.", variables={"name": "Zyxa"})
            keys = await settled(client, "+12025550109")
            refused = await initiate(client, "+493012345678")
            await client.get("/calls", headers={"X-API-Key": "leak-canary-wrong-key"})
            await client.post("/voice", data={"To": "+12025550177"})
            await client.get(f"/calls/{call['session_id']}?number=%2B12025550106")
    lines = [json.loads(line) for line in log.read_text().splitlines()]

    assert {"event", "level", "timestamp", "logger"} <= set.intersection(*(set(line) for line in lines))
    said = {line["text"] for each in (call, keys) for line in each["transcript"] if not line["keypad"]}
    assert len(said) > 5
    words = said | {clause for text in said for clause in text.split(". ") if len(clause) > 8}
    numbers = {"2025550106", "2025550109", "493012345678", "2025550177"}
    for secret in (*words, *numbers, "leak-canary", "Zyxa"):
        assert secret not in log.read_text()
    assert any(line.get("phone_number") == "…06" for line in lines), "a number is masked, not left out"
    for each in (call, keys):
        own = [line for line in lines if line.get("session_id") == each["session_id"]]
        assert {"call is placed", "talk begins", "talk is over", "call status"} <= {line["event"] for line in own}
    about_calls = ("outbound.dialer", "outbound.session", "outbound.conversation")
    assert [line for line in lines if line["logger"] in about_calls and "session_id" not in line] == []
    assert problem(refused, 403, "refused_by_policy")["session_id"] in {line.get("session_id") for line in lines}


@pytest.mark.parametrize(("show", "number"), [(True, BUSY), (False, "…01")])
def test_the_operator_may_have_numbers_in_the_log(show: bool, number: str) -> None:
    code = (
        "import structlog; from outbound import logs; "
        f"logs.configure(level='info', show_personal={show}); "
        f"structlog.get_logger('outbound.x').info('it rings', phone_number='{BUSY}')"
    )
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True)
    assert json.loads(done.stderr)["phone_number"] == number
