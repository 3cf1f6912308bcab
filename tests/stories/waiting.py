"""Waiting for what only HTTP can tell: the one place in the stories that asks more than once."""

import asyncio
from collections.abc import Awaitable, Callable

ASK_EVERY_S = 0.02


async def until[T](ask: Callable[[], Awaitable[T]], fits: Callable[[T], bool], *, within_s: float = 10.0) -> T:
    """Asks until the answer fits, and returns it. Fails with the last answer where none does in time."""
    answer: T | None = None
    try:
        async with asyncio.timeout(within_s):
            while True:
                answer = await ask()
                if fits(answer):
                    return answer
                await asyncio.sleep(ASK_EVERY_S)
    except TimeoutError:
        raise AssertionError(f"no fitting answer within {within_s} s; the last one was {answer!r}") from None
