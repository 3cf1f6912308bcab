"""Draft a migration from a change of `tables.py`: `uv run python -m outbound.store "what the migration does"`."""

import asyncio
import sys
import tempfile
from pathlib import Path

from alembic import command
from alembic.script import ScriptDirectory
from sqlalchemy import Connection

from outbound.store.engine import as_writer, open_engine, read_url
from outbound.store.migrate import config, migrate


def draft(connection: Connection, message: str) -> None:
    """Writes the next numbered file in `migrations/versions`: what `tables.py` has and the database does not."""
    found = config(connection)
    last = ScriptDirectory.from_config(found).get_current_head() or "0"
    command.revision(found, message, autogenerate=True, rev_id=f"{int(last) + 1:04}")


async def _main(message: str) -> None:
    with tempfile.TemporaryDirectory() as directory:
        url = read_url(f"sqlite:///{Path(directory) / 'draft.db'}")
        await migrate(url)
        engine = open_engine(url, migrating=True)
        try:
            async with as_writer(engine).begin() as connection:
                await connection.run_sync(draft, message)
        finally:
            await engine.dispose()


if __name__ == "__main__":
    if len(sys.argv) != 2:
        sys.exit(__doc__)
    asyncio.run(_main(sys.argv[1]))
