import asyncio
from datetime import UTC, datetime, timedelta
from email.utils import parsedate_to_datetime

import httpx
import pytest

from outbound.simulator import Network
from outbound.simulator.faults import CreateFault
from outbound.simulator.line import Line
from outbound.simulator.rest import UNVERIFIED_NUMBER
from tests.simulator.application import ACCOUNT_SID, AUTH_TOKEN
from tests.simulator.conftest import CALLS, SOMEBODY, Stage, ended

ACCOUNT = f"/2010-04-01/Accounts/{ACCOUNT_SID}"


async def hold(line: Line) -> None:
    await line.hold()


def one(sid: str) -> str:
    return f"{ACCOUNT}/Calls/{sid}.json"


async def refused(stage: Stage, to: str = SOMEBODY, **params: str) -> int:
    response = await stage.api.post(CALLS, data=stage.order(to, **params))
    body = response.json()
    assert body["status"] == response.status_code
    assert body["more_info"].endswith(str(body["code"]))
    assert body["message"]
    assert not stage.network.calls
    code: int = body["code"]
    return code


async def test_a_created_call_has_the_fields_of_the_real_resource(stage: Stage) -> None:
    response = await stage.api.post(CALLS, data=stage.order())
    call = response.json()
    assert response.status_code == 201
    assert call["sid"].startswith("CA")
    assert (call["status"], call["direction"], call["to"]) == ("queued", "outbound-api", SOMEBODY)
    assert call["uri"] == one(call["sid"])
    assert call["start_time"] is call["duration"] is call["answered_by"] is None
    await ended(stage.network.calls[call["sid"]])


@pytest.mark.parametrize(
    ("to", "code"),
    [
        ("", 21201),
        ("+1234567890", 21211),
        ("hello", 21211),
        ("+15005550001", 21217),
        ("+15005550002", 21214),
        ("+15005550003", 21215),
        ("+15005550004", 21216),
        (UNVERIFIED_NUMBER, 21219),
    ],
)
async def test_a_number_that_cannot_be_called_is_refused(stage: Stage, to: str, code: int) -> None:
    assert await refused(stage, to) == code


@pytest.mark.parametrize(
    ("params", "code"),
    [
        ({"From": ""}, 21213),
        ({"From": "+15005550001"}, 21212),
        ({"From": "12"}, 21212),
        ({"From": "+12025550100"}, 21210),
        ({"Url": ""}, 21205),
        ({"Url": "agent.example.com/voice"}, 21205),
        ({"Timeout": "soon"}, 21208),
        ({"StatusCallback": "https://my_agent.example.com/status"}, 21609),
    ],
)
async def test_a_wrong_parameter_is_refused(stage: Stage, params: dict[str, str], code: int) -> None:
    assert await refused(stage, **params) == code


async def test_other_credentials_are_refused(stage: Stage) -> None:
    for auth in (None, (ACCOUNT_SID, "wrong"), ("AC" + "1" * 32, AUTH_TOKEN)):
        async with httpx.AsyncClient(base_url=stage.api.base_url, auth=auth) as stranger:
            response = await stranger.post(CALLS, data=stage.order())
        assert (response.status_code, response.json()["code"]) == (401, 20003)
        assert response.headers["www-authenticate"].startswith("Basic")


async def test_the_account_can_be_read_and_unknown_things_cannot(stage: Stage) -> None:
    assert (await stage.api.get(f"{ACCOUNT}.json")).json()["status"] == "active"
    for path in (one("CA" + "0" * 32), "/2010-04-01/Accounts/AC1.json", "/v2/Services"):
        response = await stage.api.get(path)
        assert (response.status_code, response.json()["code"]) == (404, 20404)


async def test_a_finished_call_tells_its_dates_and_its_duration(stage: Stage) -> None:
    call = await stage.story()
    read = (await stage.api.get(one(call.sid))).json()
    assert read["status"] == "completed"
    assert int(read["duration"]) > 5
    assert parsedate_to_datetime(read["start_time"]) <= parsedate_to_datetime(read["end_time"])


async def test_calls_are_listed_newest_first_and_filtered(stage: Stage) -> None:
    older = await stage.ring("+12025550107")
    newer = await stage.ring("+12025550101")
    await ended(newer)

    async def listed(**query: str) -> list[str]:
        page = (await stage.api.get(CALLS, params=query)).json()
        return [call["sid"] for call in page["calls"]]

    soon, past = (datetime.now(UTC) + timedelta(seconds=sign * 60) for sign in (1, -1))
    assert await listed() == [newer.sid, older.sid]
    assert await listed(To="+12025550107") == [older.sid]
    assert await listed(Status="busy") == [newer.sid]
    assert await listed(From="+12025550107") == []
    assert await listed(**{"StartTime>": past.strftime("%Y-%m-%dT%H:%M:%SZ")}) == [newer.sid, older.sid]
    assert await listed(**{"StartTime>": soon.strftime("%Y-%m-%dT%H:%M:%SZ")}) == []
    assert await listed(**{"StartTime<": soon.date().isoformat()}) == [newer.sid, older.sid]


async def test_a_list_is_paged(stage: Stage) -> None:
    for _ in range(3):
        await ended(await stage.ring("+12025550101"))
    first = (await stage.api.get(CALLS, params={"PageSize": "2"})).json()
    second = (await stage.api.get(first["next_page_uri"])).json()
    assert (len(first["calls"]), first["start"], first["end"], first["previous_page_uri"]) == (2, 0, 1, None)
    assert (len(second["calls"]), second["start"], second["page"], second["next_page_uri"]) == (1, 2, 1, None)


async def test_a_ringing_call_can_be_canceled_and_an_ended_one_cannot(stage: Stage) -> None:
    call = await stage.ring("+12025550102", Timeout="600")
    await call.until(lambda call: call.status == "ringing")
    assert (await stage.api.post(one(call.sid), data={"Status": "canceled"})).status_code == 200
    await ended(call)
    assert call.status == "canceled"
    response = await stage.api.post(one(call.sid), data={"Status": "completed"})
    assert (response.status_code, response.json()["code"]) == (400, 21220)


async def test_completing_by_rest_is_like_a_hang_up(stage: Stage) -> None:
    call = await stage.ring(talk=hold)
    await call.until(lambda call: bool(call.sent("setup")))
    await stage.api.post(one(call.sid), data={"Status": "completed"})
    await ended(call)
    assert call.status == "completed"
    assert stage.app.params("/action")[0]["SessionStatus"] == "completed"
    assert stage.app.closed == [1000]


async def test_new_instructions_end_the_relay_and_are_followed(stage: Stage) -> None:
    call = await stage.ring(talk=hold)
    await call.until(lambda call: bool(call.sent("setup")))
    await stage.api.post(one(call.sid), data={"Twiml": "<Response><Say>We call again.</Say></Response>"})
    await ended(call)
    assert call.said("agent")[-1] == "We call again."
    assert stage.app.params("/action") == []


@pytest.mark.parametrize(("fault", "status"), [("500", 500), ("503", 503), ("429", 429), ("garbage", 200)])
async def test_a_faulty_create_makes_no_call(stage: Stage, fault: CreateFault, status: int) -> None:
    stage.network.faults.creates = [fault]
    response = await stage.api.post(CALLS, data=stage.order())
    assert response.status_code == status
    assert not stage.network.calls
    assert (await stage.story()).status == "completed"


async def test_the_answer_to_a_create_may_be_lost_while_the_call_rings(stage: Stage) -> None:
    stage.network.faults.creates = ["lost"]
    with pytest.raises(httpx.RemoteProtocolError):
        await stage.api.post(CALLS, data=stage.order())
    call = await stage.network.next_call()
    await ended(call)
    assert call.status == "completed"


@pytest.mark.parametrize(("fault", "calls"), [("hang", 0), ("lost_hang", 1)])
async def test_a_create_may_never_be_answered(stage: Stage, fault: CreateFault, calls: int) -> None:
    stage.network.faults.creates = [fault]
    with pytest.raises(httpx.ReadTimeout):
        await stage.api.post(CALLS, data=stage.order(), timeout=0.3)
    assert len(stage.network.calls) == calls


async def test_calls_beyond_the_rate_wait_in_the_queue() -> None:
    network = Network(account_sid=ACCOUNT_SID, auth_token=AUTH_TOKEN, speed=10, calls_per_second=1)
    order = {"To": "+12025550101", "From": "+15005550006", "Twiml": "<Response/>"}
    async with network.serve() as url, httpx.AsyncClient(base_url=url, auth=(ACCOUNT_SID, AUTH_TOKEN)) as api:
        await asyncio.gather(*(api.post(CALLS, data=order) for _ in range(3)))
        calls = [await network.next_call() for _ in range(3)]
        await asyncio.gather(*map(ended, calls))
    waits = [call.queue_time_ms for call in calls]
    assert waits[0] == 0
    assert waits[1] < waits[2] <= 2000
