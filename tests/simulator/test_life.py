"""The life of a call on the carrier's side: statuses, instructions, detection, and what faults make of them."""

import pytest
from starlette.responses import Response

from outbound.simulator.line import Line
from tests.simulator.application import xml
from tests.simulator.conftest import Stage

GEO = [f"{end}{part}" for end in ("From", "To", "Caller", "Called") for part in ("City", "State", "Zip", "Country")]


async def brief(line: Line) -> None:
    await line.hear_words(2)


async def hold(line: Line) -> None:
    await line.hold()


async def test_statuses_come_in_order_and_the_last_tells_the_duration(stage: Stage) -> None:
    call = await stage.story(talk=brief)
    assert stage.app.statuses() == ["initiated", "ringing", "in-progress", "completed"]
    last = stage.app.params("/status")[-1]
    assert [params["SequenceNumber"] for params in stage.app.params("/status")] == ["0", "1", "2", "3"]
    assert last["CallbackSource"] == "call-progress-events"
    assert (last["SipResponseCode"], last["Duration"]) == ("200", "1")
    assert int(last["CallDuration"]) == call.duration
    assert set(GEO) <= set(last)
    assert (last["ToCity"], last["ToCountry"]) == ("", "US")


async def test_only_the_final_status_is_told_unless_more_is_asked_for(stage: Stage) -> None:
    await stage.story(talk=brief, StatusCallbackEvent="")
    assert stage.app.statuses() == ["completed"]


@pytest.mark.parametrize(
    ("to", "statuses", "sip"),
    [
        ("+12025550101", ["initiated", "busy"], "486"),
        ("+12025550102", ["initiated", "ringing", "no-answer"], "487"),
        ("+12025550103", ["initiated", "failed"], "404"),
    ],
)
async def test_a_call_that_nobody_answers(stage: Stage, to: str, statuses: list[str], sip: str) -> None:
    call = await stage.story(to, Timeout="5")
    assert stage.app.statuses() == statuses
    assert stage.app.params("/status")[-1]["SipResponseCode"] == sip
    assert stage.app.params("/status")[-1]["CallDuration"] == "0"
    assert stage.app.params("/voice") == []
    assert call.status == statuses[-1]


async def test_the_time_limit_ends_the_call(stage: Stage) -> None:
    call = await stage.story(talk=hold, TimeLimit="5")
    assert call.duration is not None
    assert call.duration >= 5
    assert call.notes == ["32015 the call reached its time limit"]
    assert stage.app.params("/action")[0]["SessionStatus"] == "completed"


async def test_inline_instructions_need_no_request(stage: Stage) -> None:
    call = await stage.story(talk=hold, Url="", Twiml='<Response><Say>Hello.</Say><Pause length="1"/></Response>')
    assert call.said("agent") == ["Hello."]
    assert stage.app.params("/voice") == []
    assert call.status == "completed"


@pytest.mark.parametrize(
    ("answer", "code"),
    [
        (xml("", status=500), "11200"),
        (Response("<Response/>", media_type="text/plain"), "12300"),
        (Response("<Response>", media_type="text/xml"), "12100"),
        (Response(status_code=204), "12300"),
    ],
)
async def test_a_bad_answer_leads_to_the_fallback(stage: Stage, answer: Response, code: str) -> None:
    stage.app.voice = answer
    call = await stage.story(talk=hold, FallbackUrl=f"{stage.app.url}/fallback")
    params = stage.app.params("/fallback")[0]
    assert (params["ErrorCode"], params["ErrorUrl"]) == (code, f"{stage.app.url}/voice")
    assert call.said("agent") == ["Please call again later."]


async def test_without_a_fallback_the_callee_hears_of_an_application_error(stage: Stage) -> None:
    stage.app.voice = xml("", status=500)
    call = await stage.story(talk=hold)
    assert "application error" in call.said("agent")[0]
    assert call.status == "completed"


async def test_an_application_that_is_not_there_is_an_error_too(stage: Stage) -> None:
    call = await stage.story(talk=hold, Url="http://127.0.0.1:1/voice")
    assert "application error" in call.said("agent")[0]
    assert call.notes == ["11200 http://127.0.0.1:1/voice"]


async def test_a_redirect_is_relative_to_its_document(stage: Stage) -> None:
    stage.app.voice = xml("<Redirect>fallback?from=voice</Redirect>")
    call = await stage.story(talk=hold)
    assert call.said("agent") == ["Please call again later."]


async def test_detection_tells_its_verdict_while_the_call_goes_on(stage: Stage) -> None:
    call = await stage.story(
        "+12025550104",
        MachineDetection="Enable",
        AsyncAmd="true",
        AsyncAmdStatusCallback=f"{stage.app.url}/amd",
        StatusCallbackEvent="completed",
    )
    assert stage.app.params("/amd") == [
        {
            "CallSid": call.sid,
            "AccountSid": call.account_sid,
            "AnsweredBy": "machine_start",
            "MachineDetectionDuration": "3500",
        }
    ]
    assert "AnsweredBy" not in stage.app.params("/voice")[0]
    assert stage.app.params("/status")[-1]["AnsweredBy"] == "machine_start"


async def test_synchronous_detection_holds_the_instructions(stage: Stage) -> None:
    await stage.story(talk=brief, MachineDetection="DetectMessageEnd")
    assert stage.app.params("/voice")[0]["AnsweredBy"] == "human"


async def test_callbacks_may_come_twice(stage: Stage) -> None:
    stage.network.faults.double_callbacks = True
    await stage.story("+12025550101")
    assert stage.app.statuses() == ["initiated", "initiated", "busy", "busy"]


async def test_callbacks_may_be_swapped(stage: Stage) -> None:
    stage.network.faults.swap_callbacks = True
    await stage.story("+12025550102", Timeout="5")
    assert stage.app.statuses() == ["ringing", "initiated", "no-answer"]


async def test_callbacks_may_be_lost(stage: Stage) -> None:
    stage.network.faults.lost_callbacks = frozenset({"completed"})
    call = await stage.story(talk=brief)
    assert stage.app.statuses() == ["initiated", "ringing", "in-progress"]
    assert call.status == "completed"


async def test_webhooks_may_come_before_the_answer_to_the_create(stage: Stage) -> None:
    stage.network.faults.early_webhooks = True
    call = await stage.ring(talk=brief)
    # The answer to the create has just been read.
    assert stage.app.statuses()[:2] == ["initiated", "ringing"]
    await call.until(lambda call: call.status == "completed")


async def test_a_callee_that_fails_does_not_take_the_network_along(stage: Stage) -> None:
    async def stumbles(line: Line) -> None:
        raise ZeroDivisionError

    assert (await stage.story(talk=stumbles)).status == "failed"
    assert (await stage.story(talk=brief)).status == "completed"
