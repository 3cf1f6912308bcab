"""The application as processes of its own behind one listening socket, to be killed."""

import asyncio
import socket
import sys
from asyncio.subprocess import Process
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field

import uvicorn

from tests.simulator.application import EVENTS, GREETING, Application, xml

BACK = "I am back, as I was saying."


@dataclass
class House:
    """A place where one process after another answers; while none runs, who knocks waits."""

    listener: socket.socket
    processes: list[Process] = field(default_factory=list)

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.listener.getsockname()[1]}"

    async def start(self) -> None:
        """Another process; it need not be ready before it is knocked at."""
        number = self.listener.fileno()
        self.processes.append(
            await asyncio.create_subprocess_exec(
                sys.executable, "-m", "tests.simulator.processes", str(number), self.url, pass_fds=[number]
            )
        )

    async def kill(self) -> None:
        """All processes, with SIGKILL."""
        while self.processes:
            process = self.processes.pop()
            process.kill()
            await process.wait()

    async def vanish(self) -> None:
        """Nobody will ever answer here again: connections are refused."""
        await self.kill()
        self.listener.close()


@asynccontextmanager
async def house() -> AsyncIterator[House]:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        house = House(listener)
        await house.start()
        try:
            yield house
        finally:
            await house.kill()


if __name__ == "__main__":
    application = Application(url=sys.argv[2])
    application.attributes = {"welcomeGreeting": GREETING, "events": EVENTS}
    application.action = [xml(application.relay(welcomeGreeting=BACK)) for _ in range(10)]
    uvicorn.run(application.asgi(), fd=int(sys.argv[1]), ws="websockets-sansio", lifespan="off", log_config=None)
