"""The documents, letter by letter."""

from xml.etree import ElementTree

import pytest

from outbound.carriers.twiml import RelayOptions, connect, farewell

_XML = '<?xml version="1.0" encoding="UTF-8"?>'
URL = "wss://agent.example.com/ws/s_1"


def relay_attributes(document: str) -> dict[str, str]:
    relay = ElementTree.fromstring(document).find("Connect/ConversationRelay")  # noqa: S314  # our own document
    assert relay is not None
    return dict(relay.attrib)


def test_a_relay_needs_nothing_but_its_address() -> None:
    assert connect(RelayOptions(url=URL)) == (
        f'{_XML}<Response><Connect><ConversationRelay url="{URL}" /></Connect></Response>'
    )


def test_every_option_has_its_attribute() -> None:
    options = RelayOptions(
        url=URL,
        action="https://agent.example.com/voice/ended/s_1",
        welcome_greeting="Hello, this is an AI assistant.",
        welcome_greeting_interruptible="none",
        language="en-US",
        tts_language="es-ES",
        tts_provider="ElevenLabs",
        voice="UgBBYS2sOqTuMpoF3BR0",
        transcription_language="multi",
        transcription_provider="Deepgram",
        speech_model="nova-3-general",
        interruptible="speech",
        report_input_during_agent_speech="any",
        dtmf_detection=True,
        partial_prompts=False,
        events="speaker-events tokens-played",
        hints="Twilio,Acme",
        parameters={"tenant": "7"},
        extra={"eotThreshold": "0.8"},
    )
    assert connect(options) == (
        f"{_XML}<Response>"
        '<Connect action="https://agent.example.com/voice/ended/s_1">'
        "<ConversationRelay"
        ' dtmfDetection="true"'
        ' eotThreshold="0.8"'
        ' events="speaker-events tokens-played"'
        ' hints="Twilio,Acme"'
        ' interruptible="speech"'
        ' language="en-US"'
        ' partialPrompts="false"'
        ' reportInputDuringAgentSpeech="any"'
        ' speechModel="nova-3-general"'
        ' transcriptionLanguage="multi"'
        ' transcriptionProvider="Deepgram"'
        ' ttsLanguage="es-ES"'
        ' ttsProvider="ElevenLabs"'
        f' url="{URL}"'
        ' voice="UgBBYS2sOqTuMpoF3BR0"'
        ' welcomeGreeting="Hello, this is an AI assistant."'
        ' welcomeGreetingInterruptible="none">'
        '<Parameter name="tenant" value="7" />'
        "</ConversationRelay></Connect></Response>"
    )


def test_an_empty_text_is_as_good_as_none() -> None:
    assert connect(RelayOptions(url=URL, hints="", welcome_greeting="")) == connect(RelayOptions(url=URL))


def test_everything_is_escaped() -> None:
    nasty = """<Say>"&'</Say>\n"""
    options = RelayOptions(
        url=URL,
        action=f"https://h/?a=1&b={nasty}",
        welcome_greeting=nasty,
        parameters={nasty: nasty},
        extra={"x": nasty},
    )
    escaped = "&lt;Say&gt;&quot;&amp;'&lt;/Say&gt;&#10;"
    assert connect(options) == (
        f'{_XML}<Response><Connect action="https://h/?a=1&amp;b={escaped}">'
        f'<ConversationRelay url="{URL}" welcomeGreeting="{escaped}" x="{escaped}">'
        f'<Parameter name="{escaped}" value="{escaped}" /></ConversationRelay></Connect></Response>'
    )


def test_a_character_xml_cannot_hold_does_not_spoil_the_document() -> None:
    document = connect(RelayOptions(url=URL, welcome_greeting="Hi\x00 \x08B\ud800ob\ufffe 👋", extra={"x": "\x1b1"}))
    attributes = relay_attributes(document)
    assert (attributes["welcomeGreeting"], attributes["x"]) == ("Hi Bob 👋", "1")
    assert "<Say>Bye.</Say>" in farewell("B\x0by\x1fe.")


def test_an_extra_attribute_keeps_its_name_as_it_was_written() -> None:
    attributes = relay_attributes(
        connect(RelayOptions(url=URL, extra={"turnDetection": "on", "some_thing-New.1": "x"}))
    )
    assert attributes == {"url": URL, "turnDetection": "on", "some_thing-New.1": "x"}


@pytest.mark.parametrize("name", ["", "1st", "a b", 'a="', "a>", "{ns}a", "é", "a\n"])
def test_an_extra_attribute_has_an_xml_name(name: str) -> None:
    with pytest.raises(ValueError, match="name of an XML attribute"):
        RelayOptions(extra={name: "x"})


@pytest.mark.parametrize("name", ["url", "action", "welcomeGreeting", "voice", "dtmfDetection"])
def test_an_extra_attribute_takes_the_place_of_no_other(name: str) -> None:
    with pytest.raises(ValueError, match=f"{name} is set already"):
        RelayOptions(voice="Joanna-Neural", dtmf_detection=False, extra={name: "x"})


def test_an_extra_attribute_may_set_what_nobody_else_did() -> None:
    options = RelayOptions(url=URL, voice="", extra={"ttsLanguage": "es-ES", "voice": "Joanna-Neural"})
    assert relay_attributes(connect(options)) == {"url": URL, "ttsLanguage": "es-ES", "voice": "Joanna-Neural"}


@pytest.mark.parametrize("url", ["", "https://agent.example.com/ws/s_1", "agent.example.com"])
def test_a_relay_is_a_socket(url: str) -> None:
    with pytest.raises(ValueError, match="expected a wss:// address"):
        connect(RelayOptions(url=url))


@pytest.mark.parametrize(
    ("sentence", "language", "document"),
    [
        (None, None, "<Response><Hangup /></Response>"),
        ("", "en-US", "<Response><Hangup /></Response>"),
        ("Goodbye.", None, "<Response><Say>Goodbye.</Say><Hangup /></Response>"),
        ("Tschüß & <b>", "de-DE", '<Response><Say language="de-DE">Tschüß &amp; &lt;b&gt;</Say><Hangup /></Response>'),
        ("Goodbye.", "multi", "<Response><Say>Goodbye.</Say><Hangup /></Response>"),
    ],
)
def test_a_farewell_says_what_there_is_to_say_and_hangs_up(
    sentence: str | None, language: str | None, document: str
) -> None:
    assert farewell(sentence, language) == _XML + document
