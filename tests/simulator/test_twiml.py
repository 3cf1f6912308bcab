import pytest

from outbound.simulator import twiml
from outbound.simulator.speech import Input
from outbound.simulator.twiml import Connect, Hangup, Pause, Redirect, RelaySettings, Say, TwimlError, Unplayed


def relay(attributes: str, inner: str = "") -> RelaySettings | str:
    document = f"<Response><Connect><ConversationRelay {attributes}>{inner}</ConversationRelay></Connect></Response>"
    (verb,) = twiml.parse(document)
    assert isinstance(verb, Connect)
    return verb.relay


def test_verbs_are_read_in_order() -> None:
    assert twiml.parse(
        '<?xml version="1.0" encoding="UTF-8"?><Response><Say>Hi <break/>there</Say><Pause length="2"/>'
        '<Redirect method="get">/next</Redirect><Dial>+12025550100</Dial><Start/><Hangup/></Response>'
    ) == [
        Say("Hi there"),
        Pause(2.0),
        Redirect("/next", "GET"),
        Unplayed("Dial", ends=True),
        Unplayed("Start"),
        Hangup(),
    ]


@pytest.mark.parametrize(
    "document",
    [
        "",
        "<Response>",
        "<html/>",
        "<Response><Connect/></Response>",
        '<!DOCTYPE r [<!ENTITY a "b">]><Response>&a;</Response>',
        '<!DOCTYPE Response SYSTEM "file:///etc/passwd"><Response/>',
        "<Response>&undeclared;</Response>",
        '<Response><Pause length="long"/></Response>',
    ],
)
def test_what_is_no_twiml_is_refused(document: str) -> None:
    with pytest.raises(TwimlError):
        twiml.parse(document)


def test_the_relay_has_the_documented_defaults() -> None:
    assert relay('url="wss://e.org/relay/1"') == RelaySettings(
        url="wss://e.org/relay/1",
        greeting_interruptible=Input.ANY,
        interruptible=Input.ANY,
        report_during_speech=Input.NONE,
        dtmf_detection=False,
        language="en-US",
    )


def test_the_relay_reads_its_attributes_and_children() -> None:
    settings = relay(
        'url="ws://127.0.0.1:1/r" interruptible="dtmf" welcomeGreetingInterruptible="false" dtmfDetection="true" '
        'reportInputDuringAgentSpeech="speech" language="en-GB" transcriptionLanguage="multi" partialPrompts="true" '
        'events="speaker-events" debug="tokens-played" preemptible="true"',
        '<Language code="es-ES"/><Parameter name="a" value="b"/>',
    )
    assert settings == RelaySettings(
        url="ws://127.0.0.1:1/r",
        greeting_interruptible=Input.NONE,
        interruptible=Input.DTMF,
        report_during_speech=Input.SPEECH,
        dtmf_detection=True,
        preemptible=True,
        partial_prompts=True,
        events=frozenset({"speaker-events", "tokens-played"}),
        language="multi",
        parameters={"a": "b"},
    )


@pytest.mark.parametrize(
    "attributes",
    [
        "",
        'url="https://e.org/relay"',
        'url="ws://e.org/relay"',
        'url="wss://e.org/r" interruptible="maybe"',
        'url="wss://e.org/r" dtmfDetection="yes"',
        'url="wss://e.org/r" interruptByDtmf="true"',
    ],
)
def test_invalid_attributes_are_named(attributes: str) -> None:
    assert isinstance(relay(attributes), str)
