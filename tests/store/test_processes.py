"""Several processes on one database, and one that is killed."""

import asyncio
import sys
from asyncio.subprocess import PIPE, Process
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import pytest

from outbound.calls import SessionId
from outbound.store import Changes, Database
from tests.store.factory import a_call


@asynccontextmanager
async def other_process(task: str, url: str) -> AsyncIterator[Process]:
    """A task of `other_process.py`, ended with the test whatever happens."""
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, "-W", "error", "-m", "tests.store.other_process", task, url),
        cwd=Path(__file__).parents[2],
        stdin=PIPE,
        stdout=PIPE,
        stderr=PIPE,
    )
    try:
        async with asyncio.timeout(60):
            yield process
    finally:
        if process.returncode is None:
            process.kill()
        await process.communicate()


async def heard(process: Process) -> str:
    """The next line of the process; its errors where it says nothing more."""
    assert process.stdout is not None
    line = (await process.stdout.readline()).decode().strip()
    if not line:
        assert process.stderr is not None
        raise AssertionError((await process.stderr.read()).decode())
    return line


async def ended(process: Process) -> tuple[str, str]:
    """Closes our end; what the process said in the end, and its errors, of which there should be none."""
    out, errors = await process.communicate()
    return out.decode().strip(), errors.decode()


async def test_processes_that_start_at_once_share_one_schema_and_one_key(database_url: str) -> None:
    async with (
        other_process("start", database_url) as first,
        other_process("start", database_url) as second,
        other_process("start", database_url) as third,
    ):
        processes = (first, second, third)
        for process in processes:
            assert await heard(process) == "ready"
        given = await asyncio.gather(*(ended(process) for process in processes))
    assert {errors for _, errors in given} == {""}
    assert len({session_id for session_id, _ in given}) == 1


async def test_a_process_can_open_and_write_while_another_one_writes(database_url: str) -> None:
    async with other_process("write", database_url) as other:
        assert await heard(other) == "writing"
        async with Database.open(database_url) as database:
            for _ in range(20):
                await database.create(a_call())
            count, errors = await ended(other)
            assert errors == ""
            assert len(await database.journal(SessionId("written"))) == int(count)
            assert len((await database.page(status=None, limit=100, cursor=None)).calls) == 21


async def test_a_killed_process_leaves_all_but_the_last_moment(database_url: str) -> None:
    async with other_process("journal", database_url) as other:
        written = [float(await heard(other)) for _ in range(150)]
        other.kill()
        rest, _ = await other.communicate()
    written += [float(line) for line in rest.split()]
    async with Database.open(database_url) as database:
        kept = {entry.data["at"] for entry in await database.journal(SessionId("killed"))}
    lost = [at for at in written if at not in kept]
    assert all(at > written[-1] - 0.2 for at in lost)
    assert len(lost) < len(written)


@pytest.mark.parametrize("engine_name", ["postgresql"])
async def test_what_another_process_writes_is_heard(database_url: str) -> None:
    heard_of: asyncio.Queue[SessionId] = asyncio.Queue()
    async with Database.open(database_url) as database, Changes(database, foreign=heard_of.put_nowait):
        async with other_process("journal", database_url) as other:
            assert await heard(other)
            assert await heard_of.get() == "killed"
