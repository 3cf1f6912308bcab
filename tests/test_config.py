"""What the operator sets: the example file and the code name the same things, and mistakes are told in plain words."""

import importlib
import itertools
import os
import re
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from dotenv import dotenv_values
from pydantic import SecretStr

import config
from config import Settings, SettingsError, Values, load

ROOT = Path(__file__).parent.parent
EXAMPLE = ROOT / ".env.example"
NAMES = {name.upper() for name in Settings.model_fields}

TWILIO = {
    "TWILIO_ACCOUNT_SID": "AC" + "1" * 32,
    "TWILIO_AUTH_TOKEN": "canary-token",
    "TWILIO_PHONE_NUMBER": "+12025550100",
}
REACHABLE = {"SERVER_BASE_URL": "https://agent.example.com"}

type Load = Callable[..., Settings]


@pytest.fixture(autouse=True)
def nothing_set(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """An environment without any setting of ours, and no `.env`."""
    for name in os.environ:
        if name.upper() in NAMES:
            monkeypatch.delenv(name)
    for kind in (Values, Settings):
        monkeypatch.setitem(kind.model_config, "env_file", None)
    for read in (config._loaded, config._values):
        read.cache_clear()
    yield
    for read in (config._loaded, config._values):
        read.cache_clear()


@pytest.fixture
def loaded(monkeypatch: pytest.MonkeyPatch) -> Load:
    """Loads the settings from an environment of these values."""

    def from_environment(**values: str) -> Settings:
        for name, value in values.items():
            monkeypatch.setenv(name, value)
        return load()

    return from_environment


def problems(loaded: Load, **values: str) -> list[str]:
    """The lines an operator reads about these values."""
    with pytest.raises(SettingsError) as told:
        loaded(**values)
    return str(told.value).splitlines()


# The example file.


def test_the_example_names_exactly_the_settings_there_are() -> None:
    assert set(dotenv_values(EXAMPLE)) == NAMES
    written = re.findall(r"^#? ?([A-Z][A-Z0-9_]+)=", EXAMPLE.read_text(), re.MULTILINE)
    assert sorted(written) == sorted(NAMES), "each once"


def test_the_example_copied_as_it_is_gives_the_defaults(tmp_path: Path) -> None:
    copy = tmp_path / ".env"
    copy.write_text(EXAMPLE.read_text())
    assert Settings(_env_file=copy) == Settings(_env_file=None)


@pytest.mark.parametrize("name", sorted(NAMES - {"DATABASE_URL"}))
def test_the_example_shows_the_default(name: str) -> None:
    shown = dotenv_values(EXAMPLE)[name]
    default = Settings.model_fields[name.lower()].default
    is_empty = default in ("", (), SecretStr(""))
    assert bool(shown) != is_empty, f"{name} is {default!r} by default, and {shown!r} in the example"


def test_every_setting_is_described() -> None:
    for paragraph in EXAMPLE.read_text().split("\n\n"):
        lines = paragraph.splitlines()
        if any("=" in line and not line.startswith("#") for line in lines):
            words = [line for line in lines if line.startswith("# ") and not line.startswith("# ---")]
            assert words, f"nothing is said about {paragraph!r}"
            assert lines[0].startswith("#"), f"say it first: {paragraph!r}"


def test_every_setting_of_the_file_can_be_set_by_it(tmp_path: Path) -> None:
    env = tmp_path / ".env"
    env.write_text("PORT=9000\nAPI_KEYS=a,b\nAGENT_GREETING=Hi there, an AI = me\nSOMEBODY_ELSES=1\n")
    settings = Settings(_env_file=env)
    assert (settings.port, len(settings.api_keys), settings.agent_greeting) == (9000, 2, "Hi there, an AI = me")


def test_the_environment_goes_before_the_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    env = tmp_path / ".env"
    env.write_text("PORT=9000\nHOST=127.0.0.1\n")
    monkeypatch.setenv("PORT", "9001")
    settings = Settings(_env_file=env)
    assert (settings.port, settings.host) == (9001, "127.0.0.1")


def test_an_empty_value_means_the_default(loaded: Load) -> None:
    assert loaded(**dict.fromkeys(NAMES, "")) == Settings(_env_file=None)


# Which carrier.


def test_without_credentials_the_phone_network_is_simulated(loaded: Load) -> None:
    assert loaded().simulated


def test_with_all_credentials_real_phones_are_rung(loaded: Load) -> None:
    assert not loaded(**TWILIO, **REACHABLE).simulated


@pytest.mark.parametrize("count", [1, 2])
def test_half_configured_is_an_error_that_names_exactly_what_is_missing(
    loaded: Load, monkeypatch: pytest.MonkeyPatch, count: int
) -> None:
    for given in itertools.combinations(TWILIO, count):
        for name in TWILIO:
            monkeypatch.delenv(name, raising=False)
        (line,) = problems(loaded, **REACHABLE, **{name: TWILIO[name] for name in given})
        missing = [name for name in TWILIO if name not in given]
        assert line.startswith(f"{', '.join(missing)} missing: set all of")


def test_twilio_may_be_insisted_on(loaded: Load) -> None:
    (line,) = problems(loaded, CARRIER="twilio", **REACHABLE)
    assert line.startswith("TWILIO_ACCOUNT_SID, TWILIO_AUTH_TOKEN, TWILIO_PHONE_NUMBER missing")


@pytest.mark.parametrize("given", [{}, TWILIO, {"TWILIO_ACCOUNT_SID": "AC1"}])
def test_the_simulated_network_may_be_insisted_on(loaded: Load, given: dict[str, str]) -> None:
    assert loaded(CARRIER="simulator", **given).simulated


# How we are reached.


def test_real_phones_need_an_address_of_this_server(loaded: Load) -> None:
    (line,) = problems(loaded, **TWILIO)
    assert line.startswith("SERVER_BASE_URL missing")
    assert "ngrok" in line


@pytest.mark.parametrize(
    ("given", "kept"),
    [
        ("https://agent.example.com", "https://agent.example.com"),
        ("https://agent.example.com/", "https://agent.example.com"),
        ("https://agent.example.com/phone/", "https://agent.example.com/phone"),
        ("https://agent.example.com:8443", "https://agent.example.com:8443"),
        ("http://localhost:8000", "http://localhost:8000"),
        ("http://127.0.0.1:8000", "http://127.0.0.1:8000"),
        ("http://[::1]:8000", "http://[::1]:8000"),
    ],
)
def test_an_address_is_kept_without_a_slash_at_its_end(loaded: Load, given: str, kept: str) -> None:
    assert loaded(**TWILIO, SERVER_BASE_URL=given).server_base_url == kept


@pytest.mark.parametrize(
    "given",
    [
        "agent.example.com",
        "https://",
        "https:///path",
        "wss://agent.example.com",
        "ftp://agent.example.com",
        "https://agent.example.com?a=b",
        "https://agent.example.com#here",
        "https://agent.example.com:port",
        "https://[agent",
        "https://agent example.com",
    ],
)
def test_what_is_no_address_is_refused_with_an_example_of_one(loaded: Load, given: str) -> None:
    (line,) = problems(loaded, **TWILIO, SERVER_BASE_URL=given)
    assert line == "SERVER_BASE_URL: expected a URL such as https://agent.example.com"


def test_the_carrier_does_not_come_by_http_from_outside(loaded: Load) -> None:
    (line,) = problems(loaded, **TWILIO, SERVER_BASE_URL="http://agent.example.com")
    assert line.startswith("SERVER_BASE_URL must begin with https://")


# Lists.


@pytest.mark.parametrize("given", ["a,b", " a , b ", "a,,b,", ",a,b"])
def test_keys_are_separated_by_commas_and_secret(loaded: Load, given: str) -> None:
    keys = loaded(API_KEYS=given).api_keys
    assert [key.get_secret_value() for key in keys] == ["a", "b"]
    assert all(isinstance(key, SecretStr) for key in keys)


@pytest.mark.parametrize(
    ("values", "countries"),
    [
        ({}, {"US"}),
        ({"ALLOWED_COUNTRIES": "us, ca"}, {"US", "CA"}),
        ({"ALLOWED_COUNTRIES": "*"}, {"*"}),
        ({**TWILIO, **REACHABLE, "TWILIO_PHONE_NUMBER": "+493012345678"}, {"DE"}),
        ({**TWILIO, **REACHABLE, "TWILIO_PHONE_NUMBER": "+493012345678", "ALLOWED_COUNTRIES": "AT"}, {"AT"}),
        ({**TWILIO, "CARRIER": "simulator", "TWILIO_PHONE_NUMBER": "+442071838750"}, {"US"}),
        ({"CARRIER": "simulator", "TWILIO_PHONE_NUMBER": "+442071838750", "ALLOWED_COUNTRIES": "GB"}, {"GB"}),
    ],
)
def test_we_may_ring_the_countries_that_were_set_or_else_our_own(
    loaded: Load, values: dict[str, str], countries: set[str]
) -> None:
    assert loaded(**values).countries == countries


# Single values.


@pytest.mark.parametrize(
    ("name", "given", "value"),
    [
        ("LLM_MODEL", "scripted", ""),
        ("LLM_MODEL", "openai:gpt-4.1-mini", "openai:gpt-4.1-mini"),
        ("AI_DISCLOSURE", "off", ""),
        ("AI_DISCLOSURE", "I am an AI.", "I am an AI."),
        ("OPENAI_BASE_URL", "http://10.0.0.5:11434/v1/", "http://10.0.0.5:11434/v1"),
        ("TWILIO_API_BASE_URL", "http://127.0.0.1:9000", "http://127.0.0.1:9000"),
        ("RELAY_ATTRIBUTES", '{"ignoreBackchannel": "true"}', {"ignoreBackchannel": "true"}),
        ("RELAY_DTMF_DETECTION", "false", False),
        ("LOG_PII", "1", True),
        ("CARRIER_TIMEOUT", "2.5", 2.5),
        ("DRAIN_TIMEOUT", "0", 0.0),
    ],
)
def test_a_value_is_read(loaded: Load, name: str, given: str, value: object) -> None:
    assert getattr(loaded(**{name: given}), name.lower()) == value


@pytest.mark.parametrize(
    ("name", "given"),
    [
        ("CARRIER", "telnyx-canary"),
        ("TWILIO_PHONE_NUMBER", "canary 2025550100"),
        ("TWILIO_API_BASE_URL", "canary.example.com"),
        ("PORT", "canary"),
        ("PORT", "0"),
        ("PORT", "65536"),
        ("RING_TIMEOUT", "4"),
        ("RING_TIMEOUT", "601"),
        ("CARRIER_TIMEOUT", "0"),
        ("CARRIER_TIMEOUT", "-1"),
        ("MAX_CALL_DURATION", "1.5"),
        ("LOG_LEVEL", "canary"),
        ("ALLOWED_COUNTRIES", "US,canary"),
        ("LOG_PII", "canary"),
        ("MACHINE_DETECTION", "canary"),
        ("RELAY_INTERRUPTIBLE", "canary"),
        ("RELAY_ATTRIBUTES", "canary"),
        ("RELAY_ATTRIBUTES", "{canary"),
        ("RELAY_ATTRIBUTES", '["canary"]'),
        ("RELAY_ATTRIBUTES", '{"a": ["canary"]}'),
    ],
)
def test_a_wrong_value_is_one_line_that_names_the_setting_and_not_the_value(
    loaded: Load, name: str, given: str
) -> None:
    (line,) = problems(loaded, **{name: given})
    assert line.startswith(name)
    assert "canary" not in line


def test_every_problem_has_its_line(loaded: Load) -> None:
    lines = problems(loaded, PORT="no", RING_TIMEOUT="1", LOG_LEVEL="loud", **TWILIO, SERVER_BASE_URL="canary-token")
    assert [line.partition(":")[0] for line in lines] == ["RING_TIMEOUT", "PORT", "SERVER_BASE_URL", "LOG_LEVEL"]
    assert "canary" not in "\n".join(lines)


# By name.


def test_a_setting_can_be_imported_by_its_name(monkeypatch: pytest.MonkeyPatch) -> None:
    for name, value in (TWILIO | REACHABLE).items():
        monkeypatch.setenv(name, value)
    monkeypatch.setenv("API_KEYS", "one,two")
    from config import API_KEYS, HOST, PORT, TWILIO_ACCOUNT_SID, TWILIO_AUTH_TOKEN

    assert API_KEYS == ("one", "two")

    assert TWILIO["TWILIO_ACCOUNT_SID"] == TWILIO_ACCOUNT_SID
    assert TWILIO["TWILIO_AUTH_TOKEN"] == TWILIO_AUTH_TOKEN
    assert (HOST, PORT) == ("0.0.0.0", 8000)  # noqa: S104 - compared, not bound


@pytest.mark.parametrize(
    "given",
    [
        {"TWILIO_ACCOUNT_SID": TWILIO["TWILIO_ACCOUNT_SID"]},
        TWILIO,
        {**TWILIO, "CARRIER": "twilio", "SERVER_BASE_URL": "http://agent.example.com"},
    ],
    ids=["alone", "no-address", "http-address"],
)
def test_a_setting_can_be_imported_where_the_settings_as_a_whole_are_incomplete(
    monkeypatch: pytest.MonkeyPatch, given: dict[str, str]
) -> None:
    for name, value in given.items():
        monkeypatch.setenv(name, value)
    from config import PORT, TWILIO_ACCOUNT_SID

    assert (TWILIO["TWILIO_ACCOUNT_SID"], 8000) == (TWILIO_ACCOUNT_SID, PORT)
    with pytest.raises(SettingsError):
        config.settings  # noqa: B018 - reading it reads the whole


def test_a_wrong_value_cannot_be_imported_and_is_told_in_plain_words(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PORT", "canary")
    with pytest.raises(SettingsError, match=r"^PORT: (?!.*canary)"):
        config.PORT  # noqa: B018 - reading it is the test


@pytest.mark.parametrize("name", sorted(NAMES))
def test_every_setting_has_its_name(name: str) -> None:
    value = getattr(config, name)
    default = getattr(Settings(_env_file=None), name.lower())
    assert value == (default.get_secret_value() if isinstance(default, SecretStr) else default)


@pytest.mark.parametrize("name", ["port", "NOTHING_OF_OURS", "MODEL_CONFIG"])
def test_there_is_nothing_else_to_import(name: str) -> None:
    with pytest.raises(AttributeError):
        getattr(importlib.import_module("config"), name)


# At the start.


@pytest.mark.parametrize(
    ("values", "words"),
    [
        ({"TWILIO_ACCOUNT_SID": "AC1", "TWILIO_AUTH_TOKEN": "canary"}, "TWILIO_PHONE_NUMBER missing"),
        ({"CARRIER": "simulator", "RATE_LIMIT": "often"}, "RATE_LIMIT"),
    ],
)
def test_the_server_does_not_start_and_says_what_to_change(tmp_path: Path, values: dict[str, str], words: str) -> None:
    environment: dict[str, Any] = {"PATH": os.environ["PATH"], "DATABASE_URL": f"sqlite:///{tmp_path / 'calls.db'}"}
    command = "import sys, config, main; config.Settings.model_config['env_file'] = None; sys.exit(main.main())"
    done = subprocess.run(
        [sys.executable, "-c", command],
        cwd=ROOT,
        env=environment | values,
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert done.returncode == 2
    assert words in done.stderr
    assert "Traceback" not in done.stderr
    assert "canary" not in done.stderr + done.stdout
