"""The wire: every ConversationRelay message, in and out, as closed unions of typed values.

Source: Twilio, "ConversationRelay WebSocket messages",
https://www.twilio.com/docs/voice/conversationrelay/websocket-messages. Incoming frames are read tolerantly (unknown
fields are ignored, an unknown type becomes `Unrecognised`); outgoing frames are strict, so that a frame the carrier
would answer with error 64107 cannot be built. `config` and `hints` (October 2026) are not here: their JSON layout is
not published, and a wrong layout costs a 64107.
"""

from typing import Annotated, Any, Literal

from pydantic import (
    AfterValidator,
    AnyHttpUrl,
    BaseModel,
    ConfigDict,
    Field,
    TypeAdapter,
    ValidationError,
    ValidatorFunctionWrapHandler,
    WrapValidator,
    model_validator,
)
from pydantic.alias_generators import to_camel


def _or_else(default: object) -> WrapValidator:
    """Reads a field nothing depends on: a strange value must not cost us the frame it came in."""

    def read(value: Any, handler: ValidatorFunctionWrapHandler) -> Any:
        try:
            return handler(value)
        except ValidationError:
            return default

    return WrapValidator(read)


def _without_nul(text: str) -> str:
    return text.replace("\0", "") if "\0" in text else text


type _Speech = Annotated[str, AfterValidator(_without_nul)]
"""Text that a database can keep: JSON can say NUL, and a lost line would be the price."""

type _Word = Annotated[_Speech, _or_else("")]


class _Incoming(BaseModel):
    model_config = ConfigDict(frozen=True, extra="ignore", alias_generator=to_camel, populate_by_name=True)


class Setup(_Incoming):
    """First frame of a relay session. On an outbound call the person is `to`, and `from_number` is ours."""

    type: Literal["setup"] = "setup"
    session_id: str
    """The carrier's id of this relay session (`VX…`): a new one for every socket, also on the same call."""
    call_sid: str
    from_number: _Word = Field(default="", alias="from")
    to: _Word = ""
    direction: _Word = ""
    call_status: _Word = ""


class Prompt(_Incoming):
    """What the callee said. Partial prompts (`last` false) are cumulative and may still be rewritten."""

    type: Literal["prompt"] = "prompt"
    voice_prompt: _Speech
    lang: _Word = ""
    last: bool = True


class Dtmf(_Incoming):
    """One key of the callee's keypad: `0`-`9`, `*` or `#`."""

    type: Literal["dtmf"] = "dtmf"
    digit: str


class Interrupt(_Incoming):
    """The callee barged in; the carrier has dropped everything it had not yet played.

    `utterance_until_interrupt` holds what was heard of the clause that was playing, not of the whole talk cycle, and
    may be empty. The duration is a number on the wire and a string in an older page: both are read.
    """

    type: Literal["interrupt"] = "interrupt"
    utterance_until_interrupt: _Word = ""
    duration_until_interrupt_ms: Annotated[float, Field(allow_inf_nan=False), _or_else(0.0)] = 0.0


class ErrorReport(_Incoming):
    """The carrier could not use something we sent (64107), or a speech provider failed. The session goes on."""

    type: Literal["error"] = "error"
    description: _Word = ""


class Info(_Incoming):
    """An event asked for by the TwiML attribute `events`; `value` is always a string.

    `agentSpeaking` on/off: our words begin or cease to be audible. `clientSpeaking` on/off: the callee makes sound.
    `tokensPlayed`: the text that has just finished playing, about a clause at a time, white space at the joints
    unreliable; also the digits of a `sendDigits`. Other names exist and appear without notice.
    """

    type: Literal["info"] = "info"
    name: str
    value: _Word = ""


class Unrecognised(_Incoming):
    """Stands for a frame that is not JSON, has an unknown type or lacks what its type requires. Never on the wire."""

    type: Literal["unrecognised"] = "unrecognised"
    problem: str
    """What was wrong, without the frame's content: `not json`, `unknown type`, `bad prompt.voicePrompt: missing`."""


type Inbound = Setup | Prompt | Dtmf | Interrupt | ErrorReport | Info | Unrecognised

_inbound: TypeAdapter[Setup | Prompt | Dtmf | Interrupt | ErrorReport | Info] = TypeAdapter(
    Annotated[Setup | Prompt | Dtmf | Interrupt | ErrorReport | Info, Field(discriminator="type")]
)


def _encodable(text: str) -> str:
    try:
        text.encode()
    except UnicodeEncodeError:
        raise ValueError("expected text, got half a character") from None
    return text


type _Words = Annotated[str, AfterValidator(_encodable)]
"""Text that can be written as UTF-8: a broken stream may leave a lone surrogate, which no frame can hold."""


class _Outgoing(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid", strict=True, alias_generator=to_camel, populate_by_name=True)


class Text(_Outgoing):
    """A piece of speech. `last` closes the talk cycle; an empty token may do that.

    `preemptible` marks this text as one that later text may cut (a filler), not as one that cuts.
    """

    type: Literal["text"] = "text"
    token: _Words
    last: bool = False
    lang: _Words | None = None
    interruptible: bool | None = None
    preemptible: bool | None = None


class Play(_Outgoing):
    """Plays an audio file, queued with speech. `loop` 0 means a thousand times."""

    type: Literal["play"] = "play"
    source: Annotated[AnyHttpUrl, Field(strict=False)]
    loop: Annotated[int, Field(ge=0)] | None = None
    interruptible: bool | None = None
    preemptible: bool | None = None


class SendDigits(_Outgoing):
    """Sends keypad tones, queued with speech; `w` pauses half a second."""

    type: Literal["sendDigits"] = "sendDigits"
    digits: Annotated[str, Field(pattern=r"^[0-9*#w]+$")]


class Language(_Outgoing):
    """Switches the voice's language, the recogniser's, or both (BCP 47)."""

    type: Literal["language"] = "language"
    tts_language: _Words | None = None
    transcription_language: _Words | None = None

    @model_validator(mode="after")
    def _names_a_language(self) -> "Language":
        if self.tts_language is None and self.transcription_language is None:
            raise ValueError("expected ttsLanguage, transcriptionLanguage or both, got neither")
        return self


class End(_Outgoing):
    """Ends the relay session; `handoff_data` reaches the action URL verbatim as `HandoffData`."""

    type: Literal["end"] = "end"
    handoff_data: _Words | None = None


type Outbound = Text | Play | SendDigits | Language | End


def parse(frame: str) -> Inbound:
    """Reads one incoming frame. Never raises: what cannot be read comes back as `Unrecognised`."""
    try:
        return _inbound.validate_json(frame)
    except ValidationError as error:
        return Unrecognised(problem=_problem(error))


def _problem(error: ValidationError) -> str:
    """Names the first thing wrong with a frame, never its content: that is somebody's speech."""
    first = error.errors(include_url=False, include_input=False, include_context=False)[0]
    match first["type"]:
        case "json_invalid" | "string_unicode":
            return "not json"
        case "union_tag_invalid":
            return "unknown type"
        case "union_tag_not_found" | "model_attributes_type" | "model_type" | "dict_type":
            return "no type"
        case kind:
            return f"bad {'.'.join(map(str, first['loc']))}: {kind}"


def dump(message: Outbound) -> str:
    """Writes one outgoing frame as the carrier expects it, leaving out what was not set."""
    return message.model_dump_json(by_alias=True, exclude_none=True)
