"""TwiML documents as values: the verbs that an outbound relay call needs, parsed without trusting the document.

https://www.twilio.com/docs/voice/twiml and https://www.twilio.com/docs/voice/twiml/connect/conversationrelay
"""

import ipaddress
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from urllib.parse import urlsplit
from xml.etree.ElementTree import Element, ParseError, TreeBuilder, XMLParser

from outbound.simulator.speech import Input


class TwimlError(ValueError):
    """The document is no TwiML (Twilio's error 12100)."""


class RelayAttributeError(ValueError):
    """An attribute of `<ConversationRelay>` has an invalid value (Twilio's error 64101)."""


@dataclass(frozen=True, slots=True)
class RelaySettings:
    """What `<ConversationRelay>` asks for, with Twilio's defaults."""

    url: str
    welcome_greeting: str = ""
    greeting_interruptible: Input = Input.ANY
    interruptible: Input = Input.ANY
    report_during_speech: Input = Input.NONE
    dtmf_detection: bool = False
    preemptible: bool = False
    partial_prompts: bool = False
    application_reconnect: bool = False
    events: frozenset[str] = frozenset()
    language: str = "en-US"  # what speech recognition listens for
    parameters: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Connect:
    """`relay` is an error text when the attributes are invalid: the session then fails with 64101."""

    relay: RelaySettings | str
    action: str | None = None
    method: str = "POST"


@dataclass(frozen=True, slots=True)
class Say:
    text: str


@dataclass(frozen=True, slots=True)
class Pause:
    seconds: float = 1.0


@dataclass(frozen=True, slots=True)
class Hangup:
    """Also `<Reject>`: an outbound call that was answered can only be hung up."""


@dataclass(frozen=True, slots=True)
class Redirect:
    url: str
    method: str = "POST"


@dataclass(frozen=True, slots=True)
class Unplayed:
    """A verb that the simulator knows of and does not perform; `ends` tells whether the call ends there."""

    name: str
    ends: bool = False


type Verb = Connect | Say | Pause | Hangup | Redirect | Unplayed

_BOOLEANS = {"true": True, "false": False}
_INPUTS = {
    "none": Input.NONE,
    "false": Input.NONE,
    "dtmf": Input.DTMF,
    "speech": Input.SPEECH,
    "any": Input.ANY,
    "true": Input.ANY,
}

RELAY_ATTRIBUTES = frozenset(
    """
    url welcomeGreeting welcomeGreetingInterruptible language ttsLanguage transcriptionLanguage ttsProvider voice
    transcriptionProvider speechModel interruptible interruptSensitivity reportInputDuringAgentSpeech preemptible
    dtmfDetection hints profanityFilter partialPrompts partialPromptOnHangup speechTimeout eotThreshold
    eagerEotThreshold turnDetection ignoreBackchannel echoPromptFiltering backgroundNoiseReduction
    deepgramSmartFormat asrSmartFormat elevenlabsTextNormalization ttsTextNormalization
    ttsLanguageTextNormalization elevenlabsLanguageTextNormalization includeInPrompt events debug
    intelligenceService conversationConfiguration conversationId customerName applicationReconnect
    """.split()
)


class _WithoutDoctype(TreeBuilder):
    """Entities can only be declared in a document type, and TwiML has none."""

    def doctype(self, name: str, pubid: str | None, system: str | None) -> None:
        raise TwimlError("a document type declaration is not allowed in TwiML")


def parse(document: str) -> list[Verb]:
    """The verbs of a `<Response>`, in order.

    Raises:
        TwimlError: when it is not well-formed XML, declares a document type, or is no `<Response>`.
    """
    parser = XMLParser(target=_WithoutDoctype())  # noqa: S314 - document types, and so entities, are refused
    try:
        # Bytes, because an encoding declaration may stand in text that is already decoded.
        parser.feed(document.encode())
        root = parser.close()
    except ParseError as error:
        raise TwimlError(f"expected an XML document, got: {error}") from error
    if root.tag != "Response":
        raise TwimlError(f"expected a <Response>, got a <{root.tag}>")
    return list(_verbs(root))


def _verbs(response: Element) -> Iterator[Verb]:
    for element in response:
        match element.tag:
            case "Connect":
                yield _connect(element)
            case "Say":
                yield Say("".join(element.itertext()).strip())
            case "Pause":
                yield Pause(_length(element))
            case "Hangup" | "Reject":
                yield Hangup()
            case "Redirect":
                yield Redirect((element.text or "").strip(), _method(element))
            case "Dial" | "Enqueue" | "Refer":
                yield Unplayed(element.tag, ends=True)
            case other:
                yield Unplayed(other)


def _connect(element: Element) -> Connect | Unplayed:
    nouns = list(element)
    if len(nouns) != 1:
        raise TwimlError(f"expected exactly one noun in <Connect>, got {len(nouns)}")
    if nouns[0].tag != "ConversationRelay":
        return Unplayed(f"Connect/{nouns[0].tag}", ends=True)
    relay: RelaySettings | str
    try:
        relay = _relay(nouns[0])
    except RelayAttributeError as error:
        relay = str(error)
    return Connect(relay, element.get("action") or None, _method(element))


def _length(element: Element) -> float:
    length = element.get("length", "1")
    if not length.isdecimal():
        raise TwimlError(f"expected the length of <Pause> in seconds, got {length!r}")
    return float(length)


def _method(element: Element) -> str:
    return "GET" if element.get("method", "POST").upper() == "GET" else "POST"


def _relay(element: Element) -> RelaySettings:
    if unknown := set(element.attrib) - RELAY_ATTRIBUTES:
        raise RelayAttributeError(f"unknown attributes of <ConversationRelay>: {', '.join(sorted(unknown))}")
    url = element.get("url", "")
    if not _may_be_relayed_to(url):
        raise RelayAttributeError(f"expected a wss:// url, or ws:// to a loopback host, got {url!r}")
    language = element.get("language", "en-US")
    return RelaySettings(
        url=url,
        welcome_greeting=element.get("welcomeGreeting", ""),
        greeting_interruptible=_input(element, "welcomeGreetingInterruptible", "any"),
        interruptible=_input(element, "interruptible", "any"),
        report_during_speech=_input(element, "reportInputDuringAgentSpeech", "none"),
        dtmf_detection=_boolean(element, "dtmfDetection"),
        preemptible=_boolean(element, "preemptible"),
        partial_prompts=_boolean(element, "partialPrompts"),
        application_reconnect=_boolean(element, "applicationReconnect"),
        # The older spelling of `events` is `debug`.
        events=frozenset(f"{element.get('events', '')} {element.get('debug', '')}".split()),
        language=element.get("transcriptionLanguage", language),
        parameters=_parameters(element),
    )


def _may_be_relayed_to(url: str) -> bool:
    parts = urlsplit(url)
    if parts.scheme == "wss":
        return bool(parts.hostname)
    return parts.scheme == "ws" and is_loopback(parts.hostname or "")


def is_loopback(host: str) -> bool:
    """Whether a host name or address means this very machine."""
    if host == "localhost":
        return True
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False


def _input(element: Element, name: str, default: str) -> Input:
    value = element.get(name, default)
    if value not in _INPUTS:
        raise RelayAttributeError(f"expected {name} to be one of {', '.join(_INPUTS)}, got {value!r}")
    return _INPUTS[value]


def _boolean(element: Element, name: str) -> bool:
    value = element.get(name, "false")
    if value not in _BOOLEANS:
        raise RelayAttributeError(f"expected {name} to be true or false, got {value!r}")
    return _BOOLEANS[value]


def _parameters(element: Element) -> dict[str, str]:
    parameters: dict[str, str] = {}
    for child in element:
        match child.tag:
            case "Parameter":
                parameters[child.get("name", "")] = child.get("value", "")
            case "Language":
                if not child.get("code"):
                    raise RelayAttributeError("expected <Language> to have a code")
            case "Failover":
                pass
            case other:
                raise RelayAttributeError(f"unknown element <{other}> in <ConversationRelay>")
    return parameters
