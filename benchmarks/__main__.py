"""`uv run python -m benchmarks [turns|memory|model|resume ...] [--quick] [--json FILE]`: measures and prints."""

import argparse
import asyncio
import os
import signal
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

import orjson
import uvloop

from benchmarks import table
from benchmarks.parts import FULL, QUICK, Plan, model, scripted
from benchmarks.processes import Cores, Failed
from benchmarks.resume import takeovers
from benchmarks.servers import starter
from benchmarks.table import Row

PARTS = ("turns", "memory", "model", "resume")
_BEGAN_AT = time.monotonic()


async def _measure(plan: Plan, parts: frozenset[str], cores: Cores) -> dict[str, list[Row]]:
    """The tables by their titles."""
    tables: dict[str, list[Row]] = {}
    with tempfile.TemporaryDirectory(prefix="benchmarks-") as directory:
        async with asyncio.timeout(plan.deadline_s), starter(cores, Path(directory)) as start:
            if parts & {"turns", "memory"}:
                turns, memory = await scripted(plan, start, parts, _progress)
                tables |= {"scripted agent": turns, "memory": memory}
            if "model" in parts:
                tables["model path"] = await model(plan, start, _progress)
            if "resume" in parts:
                tables |= await takeovers(plan, cores, Path(directory), _progress)
    return {title: rows for title, rows in tables.items() if rows}


async def _until_stopped(plan: Plan, parts: frozenset[str], cores: Cores) -> dict[str, list[Row]]:
    """As `_measure`; SIGTERM ends it as Ctrl-C does, with every process stopped."""
    measuring = asyncio.current_task()
    if measuring is not None:
        asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, measuring.cancel)
    return await _measure(plan, parts, cores)


def _progress(message: str) -> None:
    print(f"{time.monotonic() - _BEGAN_AT:5.0f} s  {message}", file=sys.stderr, flush=True)


def _print(plan: Plan, cores: Cores, tables: dict[str, list[Row]]) -> None:
    for title, rows in tables.items():
        print()
        for line in table.lines(title, rows):
            print(line)
    print()
    print(f"Medians of {plan.rounds} rounds, product and floor in turn; ratio of the medians, and of single rounds.")
    print("CPU is of the server's process alone. What is starved or worst, and every gap, is so over all rounds.")
    print(f"{cores}.")
    print(", ".join(f"{name}: {value}" for name, value in table.machine().items()))


def _reasons(error: Exception, plan: Plan) -> Iterator[str]:
    """Why there is no result. Raises what is nobody's fault but ours."""
    match error:
        case ExceptionGroup():
            for each in error.exceptions:
                yield from _reasons(each, plan)
        case Failed():
            yield str(error)
        case TimeoutError():
            yield f"something did not end in time (the whole run has {plan.deadline_s:g} s)"
        case _:
            raise error


def main() -> int:
    """Returns the exit code: 1 where something could not be measured. A target that is missed is only said."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks", description=__doc__)
    parser.add_argument("parts", nargs="*", metavar="part", help=f"of {', '.join(PARTS)}; all if none is named")
    parser.add_argument("--quick", action="store_true", help="seconds instead of minutes: shows that it works")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write every round's numbers there")
    arguments = parser.parse_args()
    if unknown := set(arguments.parts) - set(PARTS):
        parser.error(f"unknown part {', '.join(sorted(unknown))}: expected {', '.join(PARTS)}")
    if sys.platform != "linux":
        parser.error("needs Linux: it reads /proc and ties processes to cores")
    if arguments.json is not None and not arguments.json.absolute().parent.is_dir():
        parser.error(f"there is no directory for {arguments.json}")
    plan = QUICK if arguments.quick else FULL
    cores = Cores.of_this_machine()
    os.sched_setaffinity(0, {cores.load})
    try:
        tables = uvloop.run(_until_stopped(plan, frozenset(arguments.parts or PARTS), cores))
    except (Failed, TimeoutError, ExceptionGroup) as error:
        for reason in _reasons(error, plan):
            print(f"failed: {reason}", file=sys.stderr)
        return 1
    except (KeyboardInterrupt, asyncio.CancelledError):
        print("stopped", file=sys.stderr)
        return 130
    _print(plan, cores, tables)
    if arguments.json is not None:
        result = {
            "machine": table.machine(),
            "cores": str(cores),
            "rounds": plan.rounds,
            "tables": {title: [row.as_json() for row in rows] for title, rows in tables.items()},
        }
        arguments.json.write_bytes(orjson.dumps(result, option=orjson.OPT_INDENT_2))
    return 0


if __name__ == "__main__":
    sys.exit(main())
