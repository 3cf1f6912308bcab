"""A tool that acts on the world runs once: what is written down around it, and what a model may not do again."""

import asyncio
import json
from collections.abc import Mapping
from contextlib import aclosing
from datetime import timedelta

import pytest

from agents import TOOLS, repeatable
from outbound.conversation import EndCall, Filler
from outbound.ports import StoreUnavailable
from outbound.recall import Deed
from tests.agents.models import a_model, reply
from tests.agents.openai_server import Behaviour, OpenAIServer
from tests.agents.talks import talk, words

BOOK = Behaviour(calls=[("book", {"day": "Monday"})])
SAY_SO = Behaviour(("I see.",))


class World:
    """A ledger, and a tool that acts; `events` is what happened, in order."""

    def __init__(self) -> None:
        self.events: list[str] = []
        self.is_running = asyncio.Event()

    async def intend(self, tool: str, arguments: Mapping[str, object]) -> str:
        await asyncio.sleep(0)
        self.events.append(f"intended {tool} {json.dumps(arguments)}")
        return f"intent of {tool}"

    def done(self, intent: str, outcome: str, *, in_doubt: bool = False) -> None:
        self.events.append(f"{intent}: {outcome}{' (in doubt)' * in_doubt}")

    async def book(self, day: str) -> str:
        """Book an appointment."""
        self.events.append(f"booked {day}")
        return "it is booked"

    async def book_for_ever(self, day: str) -> str:
        """Book an appointment, but never come back."""
        self.is_running.set()
        await asyncio.Event().wait()
        return "never"


async def told(server: OpenAIServer, number: int = 1) -> list[str]:
    """What the model was told of its tools in the request of that number."""
    return (await server.request(number)).said("tool")


async def test_an_intent_is_written_before_a_tool_runs_and_the_outcome_after_it(server: OpenAIServer) -> None:
    world = World()
    server.behave(BOOK, SAY_SO)
    async with a_model(server, world.book) as model:
        assert words(await reply(model, "book it", ledger=world)) == "I see."
    assert world.events == ['intended book {"day": "Monday"}', "booked Monday", "intent of book: it is booked"]
    assert await told(server) == ["it is booked"]


async def test_what_only_reads_or_makes_pieces_is_not_written_down(server: OpenAIServer) -> None:
    @repeatable
    def opening_hours() -> str:
        """When the shop is open."""
        return "nine to five"

    world = World()
    server.behave(Behaviour(calls=[("opening_hours", {})]), Behaviour(("Bye!",), calls=[("end_call", {})]))
    async with a_model(server, opening_hours, *TOOLS) as model:
        assert (await reply(model, "when?", ledger=world))[-1] == EndCall()
    assert world.events == []
    assert await told(server) == ["nine to five"]


@pytest.mark.parametrize("is_closed", [True, False], ids=["closed", "cancelled"])
async def test_a_tool_that_is_cut_off_leaves_an_intent_without_an_outcome(
    server: OpenAIServer, is_closed: bool
) -> None:
    world = World()
    server.behave(Behaviour(calls=[("book_for_ever", {"day": "Monday"})]))
    async with a_model(server, world.book_for_ever, filler_after=timedelta(0)) as model:
        if is_closed:
            async with aclosing(model.reply(talk("book it"), world)) as pieces:
                assert isinstance(await anext(pieces), Filler)
                await world.is_running.wait()
        else:
            speaking = asyncio.create_task(reply(model, "book it", ledger=world))
            await world.is_running.wait()
            speaking.cancel()
            await asyncio.wait([speaking])
    assert world.events == ['intended book_for_ever {"day": "Monday"}']


async def test_a_doubtful_tool_is_not_run_and_the_model_knows_why(server: OpenAIServer) -> None:
    world = World()
    server.behave(BOOK, SAY_SO)
    async with a_model(server, world.book) as model:
        assert words(await reply(model, "did it work?", ledger=world, resumed=True, doubtful=("book",))) == "I see."
    assert world.events == []
    [system] = (await server.request(0)).said("system")
    assert "Before you were cut off you called book; nobody knows whether it was done" in system
    [refusal] = await told(server)
    assert refusal.startswith("error: it was called before; nobody knows whether it was done")


async def test_a_doubtful_tool_does_not_stand_in_the_way_of_others(server: OpenAIServer) -> None:
    world = World()
    server.behave(BOOK, SAY_SO)
    async with a_model(server, world.book) as model:
        await reply(model, "book it", ledger=world, doubtful=("pay",))
    assert "booked Monday" in world.events


async def test_a_tool_that_cannot_be_written_down_is_not_run(server: OpenAIServer) -> None:
    class Unkept(World):
        async def intend(self, tool: str, arguments: Mapping[str, object]) -> str:
            raise StoreUnavailable("the database is away")

    world = Unkept()
    server.behave(BOOK, SAY_SO)
    async with a_model(server, world.book) as model:
        assert words(await reply(model, "book it", ledger=world)) == "I see."
    assert world.events == []
    [refusal] = await told(server)
    assert refusal.startswith("error: it was not done, because it could not be written down first")


async def test_writing_it_down_does_not_take_for_ever(server: OpenAIServer) -> None:
    class Slow(World):
        async def intend(self, tool: str, arguments: Mapping[str, object]) -> str:
            await asyncio.Event().wait()
            raise AssertionError

    world = Slow()
    server.behave(BOOK, SAY_SO)
    async with a_model(server, world.book, tool_within=timedelta(seconds=0.1)) as model:
        assert words(await reply(model, "book it", ledger=world)) == "I see."
    assert world.events == []
    assert (await told(server))[0].startswith("error: it was not done")


async def test_a_tool_that_takes_too_long_may_have_acted_and_is_not_run_again(server: OpenAIServer) -> None:
    world = World()
    call = Behaviour(calls=[("book_for_ever", {"day": "Monday"})])
    server.behave(call, call, SAY_SO)
    async with a_model(server, world.book_for_ever, tool_within=timedelta(seconds=0.1)) as model:
        await reply(model, "book it", ledger=world)
    assert world.events == [
        'intended book_for_ever {"day": "Monday"}',
        "intent of book_for_ever: error: it took too long (in doubt)",
    ]
    first, second = await told(server, 2)
    assert first.startswith("error: it took too long; nobody knows whether it was done")
    assert second.startswith("error: it was called before; nobody knows whether it was done")


@pytest.mark.parametrize("error", [RuntimeError("oh"), json.JSONDecodeError("no JSON", "<html>", 0)])
async def test_a_tool_that_breaks_may_have_acted_and_is_not_run_again(server: OpenAIServer, error: Exception) -> None:
    world = World()

    def book(day: str) -> str:
        """Book an appointment."""
        world.events.append(f"booked {day}")
        raise error

    server.behave(BOOK, BOOK, SAY_SO)
    async with a_model(server, book) as model:
        await reply(model, "book it", ledger=world)
    assert world.events == [
        'intended book {"day": "Monday"}',
        "booked Monday",
        "intent of book: error: it failed (in doubt)",
    ]
    assert (await told(server))[0].startswith("error: it failed; nobody knows whether it was done")


async def test_a_tool_that_says_what_to_do_differently_may_be_called_so(server: OpenAIServer) -> None:
    world = World()

    async def book(day: str) -> str:
        """Book an appointment."""
        if day == "Sunday":
            raise ValueError("we are closed on Sundays")
        return await world.book(day)

    server.behave(Behaviour(calls=[("book", {"day": "Sunday"})]), BOOK, SAY_SO)
    async with a_model(server, book) as model:
        await reply(model, "book it", ledger=world)
    assert world.events == [
        'intended book {"day": "Sunday"}',
        "intent of book: error: it was refused",
        'intended book {"day": "Monday"}',
        "booked Monday",
        "intent of book: it is booked",
    ]
    assert await told(server) == ["error: we are closed on Sundays"]


async def test_arguments_that_do_not_fit_are_no_intent(server: OpenAIServer) -> None:
    world = World()
    server.behave(Behaviour(calls=[("book", {"when": 1})]), BOOK, SAY_SO)
    async with a_model(server, world.book) as model:
        await reply(model, "book it", ledger=world)
    assert world.events == ['intended book {"day": "Monday"}', "booked Monday", "intent of book: it is booked"]
    [refusal] = await told(server)
    assert "day" in refusal


async def test_a_tool_that_has_done_its_work_for_the_reply_that_was_cut_is_not_run_again(server: OpenAIServer) -> None:
    world = World()
    server.behave(BOOK, SAY_SO)
    async with a_model(server, world.book) as model:
        done = (Deed("book", {"day": "Monday"}, "it is booked for Monday"),)
        assert words(await reply(model, "book it", ledger=world, resumed=True, done=done)) == "I see."
    assert world.events == []
    assert await told(server) == ["it is booked for Monday"]
    [system] = (await server.request(0)).said("system")
    assert "you called book with {'day': 'Monday'}. It said: it is booked for Monday" in system


async def test_a_tool_may_be_called_with_other_arguments(server: OpenAIServer) -> None:
    world = World()
    server.behave(BOOK, SAY_SO)
    async with a_model(server, world.book) as model:
        deed = Deed("book", {"day": "Tuesday"}, "it is booked for Tuesday")
        await reply(model, "and on Monday", ledger=world, resumed=True, done=(deed,))
    assert world.events[1] == "booked Monday"
