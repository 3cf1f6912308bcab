"""What the operator sets: every setting, read once from the environment and `.env`. Nothing else reads either.

`Settings()` is the whole of it; `from config import TWILIO_ACCOUNT_SID` gives a single value by the name it has in the
environment. Importing this module reads nothing.
"""

import json
from functools import cache
from pathlib import Path
from typing import Annotated, Any, Literal, Self
from urllib.parse import urlsplit

from pydantic import (
    AfterValidator,
    BeforeValidator,
    Field,
    NonNegativeFloat,
    PositiveFloat,
    PositiveInt,
    SecretStr,
    ValidationError,
    model_validator,
)
from pydantic_settings import BaseSettings, NoDecode, SettingsConfigDict

from outbound.policy import country_of, is_country, is_e164

CHECKOUT = Path(__file__).resolve().parent
LOOPBACK_HOSTS = frozenset({"localhost", "127.0.0.1", "::1"})
SIMULATED_NUMBER = "+15005550006"
"""Our own number on the simulated phone network, whatever TWILIO_PHONE_NUMBER says."""


def _split(value: object) -> object:
    """Reads `a, b,c` as a list; what is a list already stays one."""
    return [part.strip() for part in value.split(",") if part.strip()] if isinstance(value, str) else value


def _e164(value: str) -> str:
    if value and not is_e164(value):
        raise ValueError("expected an E.164 number such as +12025550100")
    return value


def _base_url(value: str) -> str:
    if not value:
        return value
    try:
        parts = urlsplit(value)
        is_address = parts.scheme in ("http", "https") and bool(parts.hostname) and parts.port != 0
    except ValueError:  # of the port or an IPv6 address
        is_address = False
    if not is_address or parts.query or parts.fragment or " " in value:
        raise ValueError("expected a URL such as https://agent.example.com")
    return value.rstrip("/")


def _off(value: object) -> object:
    return "" if value == "off" else value


def _scripted(value: object) -> object:
    return "" if value == "scripted" else value


def _json(value: object) -> object:
    try:
        return json.loads(value) if isinstance(value, str) else value
    except ValueError:
        raise ValueError('expected a JSON object such as {"ignoreBackchannel": "true"}') from None


def _countries(value: tuple[str, ...]) -> tuple[str, ...]:
    codes = tuple(code.upper() for code in value)
    if not all(code == "*" or is_country(code) for code in codes):
        raise ValueError("expected ISO 3166 codes of two letters, as US,CA, or * for all")
    return codes


type Csv[T] = Annotated[tuple[T, ...], NoDecode, BeforeValidator(_split)]
type Texts = Annotated[dict[str, str], NoDecode, BeforeValidator(_json)]
type BaseUrl = Annotated[str, AfterValidator(_base_url)]


class Values(BaseSettings):
    """Each setting by itself: the names below, in capitals, are the names in the environment.

    `.env.example` describes them one by one. Whether they fit together is for `Settings` to say.
    """

    model_config = SettingsConfigDict(
        env_file=CHECKOUT / ".env", env_ignore_empty=True, extra="ignore", frozen=True, hide_input_in_errors=True
    )

    # The carrier.
    carrier: Literal["auto", "twilio", "simulator"] = "auto"
    twilio_account_sid: str = ""
    twilio_auth_token: SecretStr = SecretStr("")
    twilio_phone_number: Annotated[str, AfterValidator(_e164)] = ""
    twilio_api_base_url: BaseUrl = ""
    carrier_timeout: PositiveFloat = 10.0
    ring_timeout: Annotated[int, Field(ge=5, le=600)] = 30
    machine_detection: Literal["off", "hang_up"] = "off"
    fallback_url: BaseUrl = ""
    simulator_speed: PositiveFloat = 1.0

    # This server.
    host: str = "0.0.0.0"  # noqa: S104 - behind a tunnel or a proxy it must be reachable; the API is closed by default
    port: Annotated[int, Field(ge=1, le=65535)] = 8000
    server_base_url: BaseUrl = ""
    database_url: SecretStr = SecretStr(f"sqlite:///{CHECKOUT / 'calls.db'}")
    api_keys: Csv[SecretStr] = ()
    rate_limit: str = "60/minute"
    frames_per_second: PositiveFloat = 100.0
    log_level: Literal["debug", "info", "warning", "error"] = "info"
    log_pii: bool = False

    # Whom we may ring.
    allowed_countries: Annotated[Csv[str], AfterValidator(_countries)] = ()
    allow_premium_numbers: bool = False

    # What the agent says.
    agent_greeting: str = "Hello, this is the AI assistant calling. Do you have a moment?"
    agent_instructions: str = ""
    ai_disclosure: Annotated[str, BeforeValidator(_off)] = "This is an AI assistant calling."
    llm_model: Annotated[str, BeforeValidator(_scripted)] = ""
    openai_base_url: BaseUrl = ""
    openai_api_key: SecretStr = SecretStr("")
    anthropic_api_key: SecretStr = SecretStr("")
    llm_api_key: SecretStr = SecretStr("")
    llm_first_token_timeout: PositiveFloat = 4.0
    llm_timeout: PositiveFloat = 15.0

    # How long we wait, in seconds.
    silence_timeout: PositiveFloat = 10.0
    max_call_duration: PositiveInt = 600
    digits_timeout: PositiveFloat = 3.0
    setup_timeout: PositiveFloat = 10.0
    drain_timeout: NonNegativeFloat = 30.0

    # A call whose socket broke.
    resume_attempts: Annotated[int, Field(ge=0, le=20)] = 3

    # How the carrier listens and speaks: attributes of <ConversationRelay>.
    relay_language: str = "en-US"
    relay_tts_provider: str = "Google"
    relay_voice: str = ""
    relay_transcription_provider: str = "Deepgram"
    relay_speech_model: str = "nova-3-general"
    relay_interruptible: Literal["none", "dtmf", "speech", "any"] = "any"
    relay_welcome_greeting_interruptible: Literal["none", "dtmf", "speech", "any"] = "any"
    relay_dtmf_detection: bool = True
    relay_partial_prompts: bool = False
    relay_events: str = "speaker-events tokens-played"
    relay_hints: str = ""
    relay_reconnect: bool = False
    relay_attributes: Texts = {}


class Settings(Values):
    """All settings together: enough is set to ring, or to simulate it, and what follows from them."""

    @model_validator(mode="after")
    def _is_complete(self) -> Self:
        given = {
            "TWILIO_ACCOUNT_SID": bool(self.twilio_account_sid),
            "TWILIO_AUTH_TOKEN": bool(self.twilio_auth_token.get_secret_value()),
            "TWILIO_PHONE_NUMBER": bool(self.twilio_phone_number),
        }
        missing = [name for name, is_set in given.items() if not is_set]
        if missing and (self.carrier == "twilio" or (self.carrier == "auto" and len(missing) < len(given))):
            raise ValueError(
                f"{', '.join(missing)} missing: set all of {', '.join(given)} to ring real phones, "
                "or none of them to use the simulated phone network"
            )
        if not self.simulated:
            self._is_reachable()
        return self

    def _is_reachable(self) -> None:
        """The carrier has to reach us: by https and wss from outside, by http only on this machine."""
        parts = urlsplit(self.server_base_url)
        if not self.server_base_url:
            raise ValueError(
                "SERVER_BASE_URL missing: set it to the public https:// address of this server "
                "(with ngrok: run `ngrok http 8000` and copy its Forwarding address)"
            )
        if parts.scheme != "https" and parts.hostname not in LOOPBACK_HOSTS:
            raise ValueError("SERVER_BASE_URL must begin with https://: the carrier opens wss:// sockets only")

    @property
    def simulated(self) -> bool:
        """Whether calls go to the phone network on this machine, where nobody real is rung."""
        return self.carrier == "simulator" or (self.carrier == "auto" and not self.twilio_account_sid)

    @property
    def countries(self) -> frozenset[str]:
        """ISO 3166 codes we may ring: those that were set, else the country of our own number."""
        if self.allowed_countries:
            return frozenset(self.allowed_countries)
        own = country_of(SIMULATED_NUMBER if self.simulated else self.twilio_phone_number)
        return frozenset({own} if own else ())


class SettingsError(Exception):
    """The settings cannot be used; the message has a line for each problem, in the operator's words."""


def load() -> Settings:
    """Reads the settings. Raises SettingsError with what to set."""
    return _read(Settings)


def _read[V: Values](kind: type[V]) -> V:
    try:
        return kind()
    except ValidationError as error:
        raise SettingsError("\n".join(_in_words(problem) for problem in error.errors())) from None


def _in_words(problem: Any) -> str:
    message = str(problem["msg"]).removeprefix("Value error, ")
    name = "_".join(str(part) for part in problem["loc"]).upper()
    return f"{name}: {message}" if name else message


@cache
def _loaded() -> Settings:
    return load()


@cache
def _values() -> Values:
    return _read(Values)


def __getattr__(name: str) -> Any:
    """`from config import TWILIO_ACCOUNT_SID`: a setting by its name in the environment, secrets as plain text.

    The settings as a whole may be incomplete: who asks for one value gets it.
    """
    if name == "settings":
        return _loaded()
    if not name.isupper() or name.lower() not in Values.model_fields:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return _plain(getattr(_values(), name.lower()))


def _plain(value: Any) -> Any:
    if isinstance(value, tuple):
        return tuple(_plain(item) for item in value)
    return value.get_secret_value() if isinstance(value, SecretStr) else value
