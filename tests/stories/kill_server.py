"""`python kill_server.py --workers N`: the product as its operator starts it, with one tool more.

The tool acts on the world: it appends a line to the file named in the environment, after a while.
"""

import asyncio
import functools
import os
import sys

sys.path.insert(0, os.environ["CHECKOUT"])

import agents
import config
import main

config.Settings.model_config["env_file"] = None


def _write_down(reference: str) -> None:
    with open(os.environ["BOOKINGS"], "a", encoding="utf-8") as bookings:
        bookings.write(f"{reference}\n")


async def book(reference: str) -> str:
    """Books a table. `reference` is what they gave you."""
    _write_down(reference)
    await asyncio.sleep(float(os.environ["BOOKING_TAKES_S"]))
    return "booked"


vars(agents)["build_agent"] = functools.partial(agents.build_agent, tools=(*agents.TOOLS, book))

if __name__ == "__main__":
    sys.exit(main.main())
