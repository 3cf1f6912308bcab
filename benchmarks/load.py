"""The load: people who speak every few seconds, or as many turns in flight as keep a core busy."""

import asyncio
import random
import time
from collections.abc import Coroutine, Sequence
from dataclasses import dataclass, field
from statistics import quantiles

from benchmarks.line import PACE_S, Line, Turn
from benchmarks.processes import Failed
from benchmarks.servers import Server

QUESTIONS = ("Who is this?", "Why are you calling me?", "Are you a robot?", "How are you today?")
"""What callees say, in turn. None of it makes the scripted agent say goodbye, however often it is asked."""

ANSWER_WITHIN_S = 20.0
"""A prompt without a whole answer by then has starved."""


@dataclass(slots=True)
class Round:
    """What one server did in one round."""

    turns: list[Turn] = field(default_factory=list)
    starved: int = 0
    seconds: float = 0.0
    cpu_s: float = 0.0

    def take(self, turn: Turn | None) -> None:
        """Counts a turn; None is one that starved."""
        if turn is None:
            self.starved += 1
        else:
            self.turns.append(turn)

    def first_ms(self, percent: int) -> float:
        """From the prompt to the first frame with words."""
        return percentile([turn.first_ms for turn in self.turns], percent)

    def last_ms(self, percent: int) -> float:
        """From the prompt to the frame that closes the reply; 100 per cent is the worst."""
        return percentile([turn.last_ms for turn in self.turns], percent)

    @property
    def cpu_ms_per_turn(self) -> float:
        return self.cpu_s * 1000 / len(self.turns)

    @property
    def turns_per_s(self) -> float:
        return len(self.turns) / self.seconds

    @property
    def busy_percent(self) -> float:
        """How much of its core the server used."""
        return 100 * self.cpu_s / self.seconds


def percentile(values: Sequence[float], percent: int) -> float:
    """The value that `percent` of the values do not exceed."""
    if percent == 100 or len(values) == 1:
        return max(values)
    return quantiles(values, n=100, method="inclusive")[percent - 1]


async def recorded(line: Line, turns: int, apart_s: float) -> list[list[str]]:
    """The frames of the answers to the first questions of a call, with a pause after each."""
    replies = []
    for _ in range(turns):
        turn = await _converse(line)
        if turn is None:
            raise Failed("the product did not answer while its replies were recorded")
        replies.append(turn.frames)
        await asyncio.sleep(apart_s)
    return replies


async def people(server: Server, lines: Sequence[Line], *, every_s: float, seconds: float) -> Round:
    """Open loop: on each call somebody speaks about every `every_s`, whenever the last answer came.

    They begin one after another, so that the load is even. Ends when all have been answered or have starved.
    """
    result = Round()
    loop = asyncio.get_running_loop()
    begins_at = loop.time()
    ends_at = begins_at + seconds

    async def one(line: Line, at: float) -> None:
        while at < ends_at:
            await asyncio.sleep(at - loop.time())
            result.take(await _converse(line))
            at = max(at + every_s * random.uniform(0.85, 1.15), loop.time())

    apart_s = every_s / len(lines)
    await _measure(server, result, [one(line, begins_at + index * apart_s) for index, line in enumerate(lines)])
    return result


async def saturation(server: Server, lines: Sequence[Line], *, in_flight: int, seconds: float) -> Round:
    """Closed loop: always `in_flight` turns under way, each on the call that has been quiet for longest.

    Playback is reported meanwhile, as in life; a call is asked again when that is over.
    """
    result = Round()
    loop = asyncio.get_running_loop()
    ends_at = loop.time() + seconds
    quiet: asyncio.Queue[Line] = asyncio.Queue()
    for line in lines:
        quiet.put_nowait(line)

    async def listen(line: Line, turn: Turn) -> None:
        await line.play(turn.text)
        await asyncio.sleep(turn.asked_at + server.prompts_apart_s - time.perf_counter())
        quiet.put_nowait(line)

    async def asker(listeners: asyncio.TaskGroup) -> None:
        while loop.time() < ends_at:
            line = await quiet.get()
            line.begin_speaking()
            turn = await line.ask(_next_question(line), ANSWER_WITHIN_S)
            result.take(turn)
            if turn is not None:
                listeners.create_task(listen(line, turn))

    async with asyncio.TaskGroup() as listeners:
        await _measure(server, result, [asker(listeners) for _ in range(min(in_flight, len(lines)))])
    return result


async def _converse(line: Line) -> Turn | None:
    """One turn from the callee's first sound to the end of the answer's playback; None if it starved."""
    line.begin_speaking()
    await asyncio.sleep(PACE_S)
    turn = await line.ask(_next_question(line), ANSWER_WITHIN_S)
    if turn is not None:
        await line.play(turn.text)
    return turn


def _next_question(line: Line) -> str:
    return QUESTIONS[line.asked % len(QUESTIONS)]


async def _measure(server: Server, result: Round, work: Sequence[Coroutine[None, None, None]]) -> None:
    cpu_s, began_at = server.process.cpu_s(), time.perf_counter()
    async with asyncio.TaskGroup() as tasks:
        for each in work:
            tasks.create_task(each)
    result.seconds = time.perf_counter() - began_at
    result.cpu_s = server.process.cpu_s() - cpu_s
    if not result.turns:
        raise Failed(f"not one of {result.starved} prompts was answered within {ANSWER_WITHIN_S:g} s")
