"""The functions for a Python shell."""

import asyncio
import subprocess
import sys
from collections.abc import AsyncGenerator, Iterator
from pathlib import Path

import pytest

from agents import ScriptedAgent, configure, generate_dummy_response, get_agent_response
from outbound.conversation import Filler, Piece, PressKeys, Say, Talk
from outbound.ports import Ledger


class Echo:
    """An agent that says what it was told."""

    async def reply(self, talk: Talk, ledger: Ledger) -> AsyncGenerator[Piece]:
        yield Say(f"{len(talk.lines)} {talk.greeting}: ")
        yield Filler("hm")
        yield PressKeys("1")
        yield Say(talk.lines[-1].text)

    async def warm_up(self) -> None: ...

    async def aclose(self) -> None: ...


@pytest.fixture
def configured() -> Iterator[None]:
    configure(Echo())
    yield
    configure(ScriptedAgent())


HISTORY = [
    {"role": "assistant", "content": "Hello."},
    {"role": "user", "content": "Yes?"},
    {"role": "agent", "content": "I am calling."},
    {"role": "callee", "content": "I see."},
]


def test_without_a_model_the_scripted_agent_answers() -> None:
    assert get_agent_response("are you a robot?") == generate_dummy_response("are you a robot?")
    assert "AI assistant" in get_agent_response("are you a robot?", [])


def test_the_history_is_heard() -> None:
    assert generate_dummy_response("what?", HISTORY) == "I said: I am calling."


def test_a_transcript_is_a_history_too() -> None:
    transcript = [{"role": "agent", "text": "Hello."}, {"role": "callee", "text": "Yes?"}]
    assert generate_dummy_response("what?", transcript) == "I said: Hello."


def test_what_the_system_says_is_left_out() -> None:
    told = [{"role": "system", "content": "Be kind."}]
    assert get_agent_response("hello", [*told, *HISTORY], agent=Echo()) == "5 Hello.: hello"


@pytest.mark.usefixtures("configured")
def test_a_configured_agent_answers() -> None:
    assert get_agent_response("hello", HISTORY) == "5 Hello.: hello"


def test_an_agent_can_be_given() -> None:
    assert get_agent_response("hello", agent=Echo()) == "1 : hello"


def test_an_unknown_role_is_an_error() -> None:
    with pytest.raises(ValueError, match="role"):
        get_agent_response("hello", [{"role": "robot", "content": "hi"}])


async def test_it_works_inside_a_running_loop() -> None:
    assert asyncio.get_running_loop().is_running()
    assert get_agent_response("goodbye").endswith("Goodbye.")


def test_importing_it_needs_no_environment_and_no_provider() -> None:
    script = (
        "import agents, sys; "
        "loaded = [m for m in sys.modules if m.startswith(('langchain_openai', 'openai', 'anthropic', 'ollama'))]; "
        "assert not loaded, loaded; "
        "sys.stdout.write(agents.get_agent_response('goodbye'))"
    )
    root = Path(__file__).parents[2]
    ran = subprocess.run(
        [sys.executable, "-W", "error", "-c", script], cwd=root, env={}, capture_output=True, text=True
    )
    assert ran.stderr == ""
    assert ran.stdout.endswith("Goodbye.")
