"""Talks to test with."""

from collections.abc import Mapping

from outbound.calls import SessionId
from outbound.conversation import Line, Piece, Say, Talk
from outbound.recall import Deed

VARIABLES = {"agent_name": "Ana", "company": "Acme", "purpose": "your appointment on Monday"}
GREETING = "Hello, this is Ana, an AI assistant from Acme. Is now a good time?"


def agent(text: str, *, interrupted: bool = False) -> Line:
    return Line("agent", text, interrupted=interrupted)


def callee(text: str, *, keypad: bool = False) -> Line:
    return Line("callee", text, keypad=keypad)


def talk(
    *lines: Line | str,
    language: str = "en-US",
    variables: Mapping[str, str] | None = None,
    resumed: bool = False,
    doubtful: tuple[str, ...] = (),
    done: tuple[Deed, ...] = (),
) -> Talk:
    """A talk of these lines; a bare string is the callee's. It opens with the greeting, or a line of the agent."""
    given = [callee(line) if isinstance(line, str) else line for line in lines]
    if not given or given[0].role != "agent":
        given.insert(0, agent(GREETING))
    about = VARIABLES if variables is None else variables
    return Talk(SessionId("session"), GREETING, dict(about), tuple(given), language, resumed, doubtful, done)


def words(pieces: list[Piece]) -> str:
    """What of the pieces is spoken."""
    return "".join(piece.text for piece in pieces if isinstance(piece, Say))
