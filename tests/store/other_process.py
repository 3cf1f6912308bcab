"""What the tests run as another process: `python -m tests.store.other_process TASK URL`."""

import asyncio
import sys
import time

from outbound.store import Database, JournalWriter
from outbound.store.engine import open_engine, read_url
from tests.store.factory import a_call, an_entry


def say(words: object) -> None:
    """One line to the test."""
    sys.stdout.write(f"{words}\n")
    sys.stdout.flush()


async def listen() -> str:
    """One line from the test; nothing once it has closed its end."""
    return await asyncio.to_thread(sys.stdin.readline)


async def start(url: str) -> None:
    """Opens the database when told to and places a call under a key that others use as well."""
    # The driver is imported first: what is left to do takes every process the same time.
    await open_engine(read_url(url)).dispose()
    say("ready")
    await listen()
    async with Database.open(url) as database:
        say((await database.create(a_call(idempotency_key="key"))).session_id)


async def write(url: str) -> None:
    """Appends without a pause until the test closes its end, then says how much."""
    call = a_call("written")
    async with Database.open(url) as database:
        await database.create(call)
        told = asyncio.create_task(listen())
        count = 0
        while not told.done():
            await database.append([an_entry(call, n=count)])
            count += 1
            if count == 1:
                say("writing")
        say(count)


async def journal(url: str) -> None:
    """Writes to the journal every 5 ms and says when, on the clock of the machine, until it is killed."""
    call = a_call("killed")
    async with Database.open(url) as database:
        await database.create(call)
        async with JournalWriter(database.append) as journal:
            while True:
                journal.write(an_entry(call, at=(now := time.monotonic())))
                say(now)
                await asyncio.sleep(0.005)


if __name__ == "__main__":
    asyncio.run({"start": start, "write": write, "journal": journal}[sys.argv[1]](sys.argv[2]))
