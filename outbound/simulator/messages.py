"""What the application may say to the carrier over the relay socket, checked field by field.

https://www.twilio.com/docs/voice/conversationrelay/websocket-messages . This is deliberately not the product's own
wire module: what the product writes is judged here by a second reader.
"""

import json
import re
from collections.abc import Mapping
from dataclasses import dataclass
from urllib.parse import urlsplit


class Malformed(ValueError):
    """The carrier does not understand this frame (its error 64107)."""


@dataclass(frozen=True, slots=True)
class Text:
    token: str
    last: bool = False
    lang: str | None = None
    interruptible: bool | None = None
    preemptible: bool | None = None


@dataclass(frozen=True, slots=True)
class Play:
    source: str
    loop: int = 1
    interruptible: bool | None = None
    preemptible: bool | None = None


@dataclass(frozen=True, slots=True)
class SendDigits:
    digits: str


@dataclass(frozen=True, slots=True)
class Language:
    tts: str | None
    transcription: str | None


@dataclass(frozen=True, slots=True)
class End:
    handoff_data: str | None = None


type Message = Text | Play | SendDigits | Language | End

# The layout of `config` and `hints` is not published with an example, so they count as unknown.
_FIELDS: Mapping[str, Mapping[str, type]] = {
    "text": {"token": str, "last": bool, "lang": str, "interruptible": bool, "preemptible": bool},
    "play": {"source": str, "loop": int, "interruptible": bool, "preemptible": bool},
    "sendDigits": {"digits": str},
    "language": {"ttsLanguage": str, "transcriptionLanguage": str},
    "end": {"handoffData": str},
}
_REQUIRED = {"text": "token", "play": "source", "sendDigits": "digits"}
_DIGITS = re.compile(r"[0-9*#w]+")


def parse(frame: str | bytes) -> Message:
    """One frame of the application.

    Raises:
        Malformed: binary, not JSON, an unknown type or field, a missing field, or a field of the wrong type.
    """
    fields = _fields(frame)
    kind = fields.pop("type", None)
    if not isinstance(kind, str) or kind not in _FIELDS:
        raise Malformed(f"unknown type {kind!r}")
    for name, value in fields.items():
        expected = _FIELDS[kind].get(name)
        # type() and not isinstance(): in JSON true is no number.
        if expected is None or type(value) is not expected:
            raise Malformed(f"unexpected {name!r} of type {type(value).__name__} in {kind}")
    if (required := _REQUIRED.get(kind)) is not None and required not in fields:
        raise Malformed(f"{kind} without {required!r}")
    return _build(kind, fields)


def _fields(frame: str | bytes) -> dict[str, object]:
    if isinstance(frame, bytes):
        raise Malformed("binary frame")
    try:
        fields = json.loads(frame)
    except (ValueError, RecursionError) as error:
        raise Malformed("not JSON") from error
    if not isinstance(fields, dict):
        raise Malformed(f"expected a JSON object, got {type(fields).__name__}")
    return fields


def _build(kind: str, fields: dict[str, object]) -> Message:
    """The message itself; the types of the fields have been checked against the table."""
    match kind, fields:
        case "text", _:
            return Text(**fields)  # type: ignore[arg-type]  # checked against _FIELDS
        case "play", {"source": str(source)}:
            if urlsplit(source).scheme not in {"http", "https"} or fields.get("loop", 1) < 0:  # type: ignore[operator]  # an int, by _FIELDS
                raise Malformed("play needs an http(s) source and a loop of 0 or more")
            return Play(**fields)  # type: ignore[arg-type]  # checked against _FIELDS
        case "sendDigits", {"digits": str(digits)} if _DIGITS.fullmatch(digits):
            return SendDigits(digits)
        case "language", {"ttsLanguage": str(tts), **rest}:
            return Language(tts, str(rest["transcriptionLanguage"]) if rest else None)
        case "language", {"transcriptionLanguage": str(transcription)}:
            return Language(None, transcription)
        case "end", {"handoffData": str(handoff_data)}:
            return End(handoff_data)
        case "end", _:
            return End()
        case _:
            raise Malformed(f"{kind} says nothing that can be done")
