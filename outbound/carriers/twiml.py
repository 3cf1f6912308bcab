"""TwiML as pure functions: the documents that connect an answered call to our socket, or end it.

Sources: Twilio, "TwiML: <ConversationRelay>", https://www.twilio.com/docs/voice/twiml/connect/conversationrelay;
"<Connect>", https://www.twilio.com/docs/voice/twiml/connect; "<Say>", https://www.twilio.com/docs/voice/twiml/say.
"""

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field, fields

from twilio.twiml.voice_response import Connect, VoiceResponse

type _Value = str | bool | None

_ATTRIBUTE_NAME = re.compile(r"[A-Za-z_][A-Za-z0-9_.-]*")
_NOT_XML = re.compile("[^\t\n\r\x20-\ud7ff\ue000-\ufffd\U00010000-\U0010ffff]")
_NOT_ATTRIBUTES = frozenset({"action", "parameters", "extra"})
_GIVEN_BY_THE_CALL = frozenset({"url", "action", "welcomeGreeting"})


@dataclass(frozen=True, slots=True, kw_only=True)
class RelayOptions:
    """Everything `connect` writes. What is None, or an empty text, is left out, and Twilio's own default applies.

    As a template for many calls it stands without `url`, `action` and `welcome_greeting`; these differ for each call.
    Raises ValueError for a name in `extra` that is no XML attribute name, is set by a field of its own, or belongs to
    the single call.
    """

    url: str = ""
    """`wss://…`, the address of our socket; Twilio signs it exactly as it is written here."""
    action: str | None = None
    """Absolute `https://…`, requested when the relay session is over; without it the call ends there."""
    welcome_greeting: str | None = None
    """Spoken when the session opens. It would be spoken again on every reconnection: leave it out there."""
    welcome_greeting_interruptible: str | None = None
    """`none`, `dtmf`, `speech` or `any`, as in `interruptible` and `report_input_during_agent_speech`."""
    language: str | None = None
    """BCP 47, or `multi`; for the voice and the recogniser together."""
    tts_language: str | None = None
    tts_provider: str | None = None
    voice: str | None = None
    transcription_language: str | None = None
    transcription_provider: str | None = None
    speech_model: str | None = None
    interruptible: str | None = None
    report_input_during_agent_speech: str | None = None
    dtmf_detection: bool | None = None
    """No key of the callee is reported unless this is true."""
    partial_prompts: bool | None = None
    application_reconnect: bool | None = None
    """Twilio opens a broken socket again by itself and repeats what it could not deliver; without it, it asks
    `action` what to do."""
    events: str | None = None
    """Separated by spaces: `speaker-events tokens-played`. Without them nobody knows what was heard."""
    hints: str | None = None
    """Phrases for the recogniser, separated by commas. No personal data belongs here."""
    parameters: Mapping[str, str] = field(default_factory=dict)
    """Custom parameters; they come back in the `setup` message."""
    extra: Mapping[str, str] = field(default_factory=dict)
    """More attributes, named as Twilio writes them (`eotThreshold`), so that new ones need no code."""

    def __post_init__(self) -> None:
        taken = {name for name, _ in self._own_attributes()} | _GIVEN_BY_THE_CALL
        for name in self.extra:
            if not _ATTRIBUTE_NAME.fullmatch(name):
                raise ValueError(f"expected the name of an XML attribute, such as eotThreshold, got {name!r}")
            if name in taken:
                raise ValueError(f"{name} is set already; it cannot be an extra attribute as well")

    def attributes(self) -> Iterator[tuple[str, str | bool]]:
        """The attributes of `<ConversationRelay>` that are set, by Twilio's names."""
        yield from self._own_attributes()
        for name, text in self.extra.items():
            yield name, _clean(text)

    def _own_attributes(self) -> Iterator[tuple[str, str | bool]]:
        for each in fields(self):
            value: _Value = None if each.name in _NOT_ATTRIBUTES else getattr(self, each.name)
            if value is not None and value != "":
                yield _attribute(each.name), value if isinstance(value, bool) else _clean(value)


def connect(options: RelayOptions) -> str:
    """The document that opens our socket on an answered call. Serve it as `application/xml`.

    Raises ValueError where `url` is no socket address: Twilio would accept the document and end the call.
    """
    if not options.url.startswith(("wss://", "ws://")):
        raise ValueError(f"expected a wss:// address for the relay, got {options.url!r}")
    response = VoiceResponse()
    verb = Connect(action=options.action)
    response.append(verb)
    relay = verb.conversation_relay()
    # Written past the builder's keywords, which would rename whatever has an underscore in it.
    relay.attrs.update(options.attributes())
    for name, value in options.parameters.items():
        relay.parameter(name=_clean(name), value=_clean(value))
    return str(response)


def farewell(sentence: str | None = None, language: str | None = None) -> str:
    """The document that says `sentence`, if there is one, and hangs up.

    `language` is BCP 47. The relay's `multi` is left out: `<Say>` speaks one language at a time.
    """
    response = VoiceResponse()
    if sentence:
        response.say(_clean(sentence), language=None if language == "multi" else language)
    response.hangup()
    return str(response)


def _attribute(field_name: str) -> str:
    first, *rest = field_name.split("_")
    return first + "".join(map(str.title, rest))


def _clean(text: str) -> str:
    """Drops what XML 1.0 cannot hold even when escaped (https://www.w3.org/TR/xml/#charsets).

    One control character in a greeting would make the whole document unreadable to Twilio, and the callee would hear
    that an application error has occurred.
    """
    return _NOT_XML.sub("", text)
