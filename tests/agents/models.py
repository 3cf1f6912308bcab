"""Model agents to test with."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

from agents import TOOLS, ModelAgent, NoLedger, Tool, build_agent
from outbound.conversation import Piece
from outbound.ports import Ledger
from tests.agents.openai_server import OpenAIServer
from tests.agents.talks import talk


async def reply(model: ModelAgent, *lines: Any, ledger: Ledger | None = None, **about: Any) -> list[Piece]:
    """All that it answers to a talk of these lines."""
    return [piece async for piece in model.reply(talk(*lines, **about), ledger or NoLedger())]


@asynccontextmanager
async def a_model(server: OpenAIServer, *tools: Tool, **settings: Any) -> AsyncIterator[ModelAgent]:
    """An agent with tools of its own, closed at the end of the block."""
    model = build_agent("openai:stand-in", base_url=server.base_url, tools=tools or TOOLS, **settings)
    assert isinstance(model, ModelAgent)
    yield model
    await model.aclose()
