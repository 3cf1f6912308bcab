"""Bring a database to the schema of this version; safe when several processes start at once."""

import asyncio
import threading
from pathlib import Path

from alembic import command
from alembic.config import Config
from alembic.util import CommandError
from sqlalchemy import URL, Connection, text

from outbound.ports import StoreUnavailable
from outbound.store.engine import as_writer, open_engine, prepare_file, sentence, translated

_MIGRATIONS = Path(__file__).parent / "migrations"
_POSTGRES_LOCK = 0x6F7574626F756E64
"""Any number, the same in every process: `outbound` in ASCII."""

_one_at_a_time = threading.Lock()


async def migrate(url: URL) -> None:
    """Applies every migration the database does not have yet, in one transaction; none is no work.

    Raises StoreUnavailable where that is not possible, for example because a newer version has been here.
    """
    # In a thread with a loop of its own: reading the migrations and running them would hold up the loop of the caller.
    await asyncio.to_thread(_migrate, url)


def config(connection: Connection) -> Config:
    """Alembic's configuration, without its ini file; the connection is in a transaction of the caller."""
    found = Config()
    found.set_main_option("script_location", str(_MIGRATIONS).replace("%", "%%"))
    found.attributes["connection"] = connection
    return found


def _migrate(url: URL) -> None:
    # Alembic keeps the migration that is running in a global of its module.
    with _one_at_a_time, translated(url):
        if url.get_backend_name() == "sqlite":
            prepare_file(url)
        try:
            asyncio.run(_to_head(url))
        except TypeError as error:
            # The options of the address become arguments of the driver.
            raise StoreUnavailable(sentence(url, error)) from error


async def _to_head(url: URL) -> None:
    engine = open_engine(url, migrating=True)
    try:
        # On SQLite the write lock that the transaction begins with keeps other processes out, on PostgreSQL this one.
        async with as_writer(engine).begin() as connection:
            if engine.dialect.name == "postgresql":
                await connection.execute(text("SET LOCAL lock_timeout = '60s'"))
                await connection.execute(text("SELECT pg_advisory_xact_lock(:key)"), {"key": _POSTGRES_LOCK})
            await connection.run_sync(_upgrade)
            if engine.dialect.name == "sqlite":
                broken = (await connection.execute(text("PRAGMA foreign_key_check"))).all()
                if broken:
                    raise StoreUnavailable(f"a migration would leave {len(broken)} rows that refer to nothing")
    finally:
        await engine.dispose()


def _upgrade(connection: Connection) -> None:
    try:
        command.upgrade(config(connection), "head")
    except CommandError as error:
        raise StoreUnavailable(f"the database has the schema of another version: {error}") from error
