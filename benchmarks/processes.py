"""The processes of a run: each on its core, each measured by the kernel, none outlives the run."""

import asyncio
import ctypes
import os
import signal
import socket
import sys
import time
from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

CHECKOUT = Path(__file__).resolve().parent.parent
HOST = "127.0.0.1"

_START_WITHIN_S = 60.0
_STOP_WITHIN_S = 8.0
_PR_SET_PDEATHSIG = 1
_CPUCLOCK_SCHED = 2

_libc = ctypes.CDLL(None, use_errno=True) if sys.platform == "linux" else None


class Failed(Exception):
    """The run cannot go on; the message says why, with the end of a process's log where there is one."""


@dataclass(frozen=True, slots=True)
class Cores:
    """Which core carries what: everything that is measured on one, everything that measures on the other."""

    server: int
    load: int

    @classmethod
    def of_this_machine(cls) -> "Cores":
        """The first and the last core this process may use; the same one twice where there is only one."""
        usable = sorted(os.sched_getaffinity(0))
        return cls(server=usable[0], load=usable[-1])

    def __str__(self) -> str:
        if self.server == self.load:
            return f"server and load share core {self.server}: there is no other, read nothing but ratios"
        return f"server on core {self.server}; load and stand-ins on core {self.load}"


@dataclass(frozen=True, slots=True)
class Process:
    """A process that runs, as the kernel sees it."""

    pid: int

    def cpu_s(self) -> float:
        """CPU seconds it has used so far, with all its threads.

        Its CPU clock has nanoseconds where /proc counts ticks of 10 ms; the id is the kernel's MAKE_PROCESS_CPUCLOCK.
        """
        return time.clock_gettime((~self.pid << 3) | _CPUCLOCK_SCHED)

    def resident_kib(self) -> int:
        """Memory it has in RAM now, VmRSS."""
        status = Path(f"/proc/{self.pid}/status").read_text(encoding="ascii", errors="replace")
        return next(int(line.split()[1]) for line in status.splitlines() if line.startswith("VmRSS:"))


def free_port() -> int:
    """A TCP port nobody listens on. Somebody may take it before it is used: then the process does not start."""
    with socket.create_server((HOST, 0)) as listener:
        return int(listener.getsockname()[1])


@asynccontextmanager
async def running(
    command: Sequence[str], *, port: int, core: int, log: Path, settings: Mapping[str, str] | None = None
) -> AsyncIterator[Process]:
    """Runs a Python program of the checkout until the block is left, and enters it once `port` takes connections.

    Its environment holds `settings` and nothing else of ours. Raises Failed if it does not start.
    """

    def in_child() -> None:
        os.sched_setaffinity(0, {core})
        if _libc is not None:
            # Nobody is left to stop it where this process is killed outright.
            _libc.prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)

    with log.open("wb") as output:
        process = await asyncio.create_subprocess_exec(
            sys.executable,
            *command,
            cwd=CHECKOUT,
            env={"PATH": os.environ.get("PATH", os.defpath), "PYTHONPATH": str(CHECKOUT), **(settings or {})},
            stdin=asyncio.subprocess.DEVNULL,
            stdout=output,
            stderr=output,
            preexec_fn=in_child,
            # Ctrl-C in the terminal is for us; we stop the others.
            start_new_session=True,
        )
    try:
        await _listening(process, port, log)
        yield Process(process.pid)
        if process.returncode is not None:
            raise Failed(f"{command[0]} ended during the run with {process.returncode}:\n{_tail(log)}")
    finally:
        await asyncio.shield(_stop(process))


async def _listening(process: asyncio.subprocess.Process, port: int, log: Path) -> None:
    ends_at = time.monotonic() + _START_WITHIN_S
    while time.monotonic() < ends_at and process.returncode is None:
        try:
            _, writer = await asyncio.open_connection(HOST, port)
        except OSError:
            await asyncio.sleep(0.05)  # another process's port: there is no event to wait for
            continue
        writer.close()
        return
    raise Failed(f"a server did not start (exit code {process.returncode}):\n{_tail(log)}")


async def _stop(process: asyncio.subprocess.Process) -> None:
    with suppress(ProcessLookupError):
        process.terminate()
        try:
            await asyncio.wait_for(process.wait(), _STOP_WITHIN_S)
        except TimeoutError:
            process.kill()
            await process.wait()


def _tail(log: Path) -> str:
    return "\n".join(log.read_text(encoding="utf-8", errors="replace").splitlines()[-15:])
