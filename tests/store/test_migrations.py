"""The migrations lead to the tables the queries speak of."""

import asyncio
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest
from alembic import command
from alembic.autogenerate import compare_metadata
from alembic.migration import MigrationContext
from alembic.script import ScriptDirectory
from sqlalchemy import Connection, inspect, text
from sqlalchemy.engine.interfaces import ReflectedIndex
from sqlalchemy.ext.asyncio import AsyncEngine

from outbound.calls import SessionId
from outbound.ports import StoreUnavailable
from outbound.store import Database
from outbound.store.__main__ import draft
from outbound.store.engine import as_writer, open_engine, prepare_file, read_url
from outbound.store.migrate import config, migrate
from outbound.store.tables import metadata
from tests.store.factory import a_call


@pytest.fixture
async def writer(database_url: str) -> AsyncIterator[AsyncEngine]:
    """A plain way into the database of the test; nothing is migrated yet."""
    engine = open_engine(read_url(database_url), migrating=True)
    yield as_writer(engine)
    await engine.dispose()


def _differences(connection: Connection) -> list[Any]:
    context = MigrationContext.configure(connection, opts={"compare_type": True, "compare_server_default": True})
    return list(compare_metadata(context, metadata))


def _comparable(index: ReflectedIndex) -> str:
    options = {name: str(option) for name, option in index.get("dialect_options", {}).items()}
    return str({**index, "dialect_options": options})


def _schema(connection: Connection) -> dict[str, Any]:
    found = inspect(connection)
    return {
        name: (
            [{**column, "type": str(column["type"])} for column in found.get_columns(name)],
            found.get_pk_constraint(name),
            found.get_foreign_keys(name),
            sorted(found.get_unique_constraints(name), key=str),
            sorted(_comparable(index) for index in found.get_indexes(name)),
        )
        for name in metadata.tables
    }


async def test_the_migrated_schema_is_the_one_of_the_tables(database_url: str, writer: AsyncEngine) -> None:
    await migrate(read_url(database_url))
    async with writer.begin() as connection:
        assert await connection.run_sync(_differences) == []
        migrated = await connection.run_sync(_schema)
        await connection.run_sync(metadata.drop_all)
        await connection.run_sync(metadata.create_all)
        assert await connection.run_sync(_schema) == migrated


async def test_migrating_twice_is_no_work(database_url: str, writer: AsyncEngine) -> None:
    url = read_url(database_url)
    await migrate(url)
    async with Database.open(database_url) as database:
        call = await database.create(a_call())
    await migrate(url)
    async with Database.open(database_url) as database:
        assert await database.get(call.session_id) == call


async def test_migrating_at_once_is_migrating_one_after_the_other(database_url: str, writer: AsyncEngine) -> None:
    await asyncio.gather(*(migrate(read_url(database_url)) for _ in range(6)))
    async with writer.begin() as connection:
        assert await connection.run_sync(_differences) == []


async def test_the_calls_of_a_version_before_are_kept(database_url: str, writer: AsyncEngine) -> None:
    url = read_url(database_url)
    if url.get_backend_name() == "sqlite":
        prepare_file(url)
    async with writer.begin() as connection:
        await connection.run_sync(lambda sync: command.upgrade(config(sync), "0001"))
        for statement in (
            """INSERT INTO calls (session_id, phone_number, created_at, greeting, max_duration_s, variables, metadata,
            status, opted_out, call_sid) VALUES
            ('kept', '+12025550123', '2026-03-01 12:00:00', 'Hello.', 600, '{}', '{}', 'completed', false, 'CA1')""",
            """INSERT INTO journal (session_id, at, kind, data) VALUES
            ('kept', '2026-03-01 12:00:01', 'turn', '{"turn":1}')""",
        ):
            await connection.exec_driver_sql(statement)
    async with Database.open(database_url) as database:
        call = await database.get(SessionId("kept"))
        assert (call.call_sid, call.owner, call.epoch) == ("CA1", None, 0)
        assert [entry.data for entry in await database.journal(call.session_id)] == [{"turn": 1}]
        assert await database.turns([call.session_id]) == {"kept": 1}


async def test_a_database_of_a_newer_version_is_refused(database_url: str, writer: AsyncEngine) -> None:
    await migrate(read_url(database_url))
    async with writer.begin() as connection:
        await connection.execute(text("UPDATE alembic_version SET version_num = '9999'"))
    with pytest.raises(StoreUnavailable, match=r"another version.*9999"):
        async with Database.open(database_url):
            pass


async def test_a_migration_that_fails_leaves_nothing_behind(database_url: str, writer: AsyncEngine) -> None:
    async with writer.begin() as connection:
        await connection.execute(text("CREATE TABLE journal (mine INTEGER)"))
    with pytest.raises(StoreUnavailable, match="already exists"):
        await migrate(read_url(database_url))
    async with writer.begin() as connection:
        assert await connection.run_sync(lambda sync: inspect(sync).get_table_names()) == ["journal"]


async def test_every_migration_can_be_taken_back(database_url: str, writer: AsyncEngine) -> None:
    await migrate(read_url(database_url))
    async with writer.begin() as connection:
        await connection.run_sync(lambda sync: command.downgrade(config(sync), "base"))
        assert await connection.run_sync(lambda sync: inspect(sync).get_table_names()) == ["alembic_version"]


async def test_there_is_nothing_to_draft(
    writer: AsyncEngine, database_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A draft is named with the next number; with the tables unchanged it would change nothing."""
    await migrate(read_url(database_url))
    drafted: list[tuple[str, str, bool]] = []

    def revision(found: object, message: str, *, autogenerate: bool, rev_id: str) -> None:
        drafted.append((message, rev_id, autogenerate))

    monkeypatch.setattr(command, "revision", revision)
    async with writer.begin() as connection:
        await connection.run_sync(draft, "words")
        heads = await connection.run_sync(lambda sync: ScriptDirectory.from_config(config(sync)).get_heads())
    assert len(heads) == 1
    assert drafted == [("words", f"{int(heads[0]) + 1:04}", True)]


def test_migrations_are_numbered_without_gaps() -> None:
    versions = Path(__file__).parents[2] / "outbound" / "store" / "migrations" / "versions"
    numbers = sorted(int(path.name[:4]) for path in versions.glob("*.py"))
    assert numbers == list(range(1, len(numbers) + 1))
