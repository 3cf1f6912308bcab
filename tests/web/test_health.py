"""Readiness: one check answers many who ask, and a failure is not remembered for long."""

import asyncio
from types import SimpleNamespace

import pytest

from outbound.web import health
from outbound.web.health import REMEMBER_FAILURE_FOR_S, REMEMBER_FOR_S, Readiness


class Part:
    """A part of the house that takes a moment to answer, and may be broken."""

    def __init__(self) -> None:
        self.is_broken = False
        self.checks = 0

    async def check(self) -> None:
        self.checks += 1
        await asyncio.sleep(0.01)
        if self.is_broken:
            raise RuntimeError("broken")


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> SimpleNamespace:
    """The clock of readiness alone; `now` moves it."""
    clock = SimpleNamespace(now=1000.0)
    clock.monotonic = lambda: clock.now
    monkeypatch.setattr(health, "time", clock)
    return clock


@pytest.mark.parametrize("is_broken", [False, True])
async def test_parallel_requests_cause_one_check_of_each_part(is_broken: bool) -> None:
    database, carrier = Part(), Part()
    carrier.is_broken = is_broken
    readiness = Readiness({"database": database.check, "carrier": carrier.check})
    reports = await asyncio.gather(*(readiness.report() for _ in range(50)))
    assert reports == [{"database": True, "carrier": not is_broken}] * 50
    assert (database.checks, carrier.checks) == (1, 1)


@pytest.mark.parametrize(("is_broken", "good_for"), [(False, REMEMBER_FOR_S), (True, REMEMBER_FAILURE_FOR_S)])
async def test_an_answer_is_good_for_its_time(clock: SimpleNamespace, is_broken: bool, good_for: float) -> None:
    part = Part()
    part.is_broken = is_broken
    readiness = Readiness({"part": part.check})
    for later, checks in ((0.0, 1), (good_for - 0.1, 1), (0.2, 2)):
        clock.now += later
        assert await readiness.report() == {"part": not is_broken}
        assert part.checks == checks


async def test_recovery_is_seen_after_two_seconds(clock: SimpleNamespace) -> None:
    part = Part()
    part.is_broken = True
    readiness = Readiness({"part": part.check})
    assert await readiness.report() == {"part": False}
    part.is_broken = False
    assert await readiness.report() == {"part": False}
    clock.now += 2.0
    assert await readiness.report() == {"part": True}


async def test_a_part_that_hangs_is_not_fit_for_all_who_wait(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(health, "CHECK_WITHIN_S", 0.05)

    async def hang() -> None:
        await asyncio.Event().wait()

    readiness = Readiness({"part": hang})
    async with asyncio.timeout(5):
        reports = await asyncio.gather(*(readiness.report() for _ in range(2)))
    assert reports == [{"part": False}] * 2


async def test_who_gives_up_waiting_does_not_block_the_next() -> None:
    part = Part()
    readiness = Readiness({"part": part.check})
    asking = asyncio.create_task(readiness.report())
    await asyncio.sleep(0)
    asking.cancel()
    await asyncio.wait({asking})
    assert await readiness.report() == {"part": True}
