"""The way to the database: what an address means, how connections are set up, what errors are called."""

import json
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from sqlalchemy import URL, Connection, NullPool, event, make_url
from sqlalchemy.exc import ArgumentError, DBAPIError, SQLAlchemyError, StatementError
from sqlalchemy.ext.asyncio import AsyncEngine, create_async_engine

from outbound.ports import NotStorable, StoreUnavailable

_DRIVERS = {
    "sqlite": "sqlite+aiosqlite",
    "sqlite+aiosqlite": "sqlite+aiosqlite",
    "postgres": "postgresql+asyncpg",
    "postgresql": "postgresql+asyncpg",
    "postgresql+asyncpg": "postgresql+asyncpg",
    "postgresql+psycopg": "postgresql+psycopg",
}
_REMEDIES = {"asyncpg": "uv sync --extra postgres", "psycopg": "uv pip install 'psycopg[binary]'"}

_SQLITE_BUSY_S = 30.0
"""How long a connection waits for another process to finish writing."""
_POSTGRES_CONNECT_S = 10
_POSTGRES_COMMAND_S = 30


def read_url(text: str) -> URL:
    """The address of a database as the operator wrote it, with the asynchronous driver it means.

    Raises StoreUnavailable, without the password, for an address that is not one or names no database of ours.
    """
    try:
        url = make_url(text)
    except (ArgumentError, ValueError):
        raise StoreUnavailable("the database url cannot be read; expected sqlite:///path or postgresql://…") from None
    if url.drivername not in _DRIVERS:
        expected = ", ".join(f"{name}://" for name in _DRIVERS)
        raise StoreUnavailable(f"the database url begins with {url.drivername}://; expected one of {expected}")
    url = url.set(drivername=_DRIVERS[url.drivername])
    if url.get_backend_name() == "sqlite" and url.database in (None, "", ":memory:"):
        raise StoreUnavailable("an SQLite database needs a file, for example sqlite:///calls.db")
    if url.get_driver_name() == "asyncpg" and "sslmode" in url.query:
        # libpq's word for it, which hosted databases print in their addresses; asyncpg takes the same values as `ssl`.
        url = url.difference_update_query(["sslmode"]).update_query_dict({"ssl": url.query["sslmode"]})
    return url


def open_engine(url: URL, *, migrating: bool = False) -> AsyncEngine:
    """An engine for an address from `read_url`; nothing is connected yet. The caller disposes of it.

    On SQLite a transaction is opened only through `writing` engines (see `as_writer`): plain connections read in
    autocommit, where each statement sees one state of the file. Raises StoreUnavailable for a missing driver.
    """
    is_sqlite = url.get_backend_name() == "sqlite"
    options: dict[str, Any] = {"poolclass": NullPool} if migrating else {"pool_size": 10, "max_overflow": 0}
    if is_sqlite:
        options["connect_args"] = {"timeout": _SQLITE_BUSY_S, "isolation_level": None}
    elif url.get_driver_name() == "asyncpg":
        command_timeout = None if migrating else _POSTGRES_COMMAND_S
        options["connect_args"] = {"timeout": _POSTGRES_CONNECT_S, "command_timeout": command_timeout}
    else:
        options["connect_args"] = {"connect_timeout": _POSTGRES_CONNECT_S}
    if not is_sqlite:
        options["pool_pre_ping"] = True
    try:
        # Parameters are numbers of people and what they said: they stay out of error messages.
        engine = create_async_engine(url, hide_parameters=True, json_serializer=_dump_json, **options)
    except ModuleNotFoundError as error:
        remedy = _REMEDIES.get(error.name or "", "uv sync")
        raise StoreUnavailable(f"the package {error.name} is not installed: run `{remedy}`") from error
    if is_sqlite:
        event.listen(engine.sync_engine, "begin", _begin_writing)
        event.listen(engine.sync_engine, "connect", _set_up_for_migrating if migrating else _set_up)
    return engine


def as_writer(engine: AsyncEngine) -> AsyncEngine:
    """The same engine and pool, for transactions that write."""
    return engine.execution_options(writing=True)


def prepare_file(url: URL) -> None:
    """Creates an SQLite file that does not exist yet, readable by its owner only: it holds what people said.

    SQLite gives its other files the mode of this one. Raises StoreUnavailable.
    """
    path = Path(url.database or "")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        os.close(os.open(path, os.O_RDWR | os.O_CREAT, 0o600))
    except OSError as error:
        raise StoreUnavailable(f"cannot open the database file {path}: {error.strerror}") from error


@contextmanager
def translated(url: URL) -> Iterator[None]:
    """Gives the library's errors our names: NotStorable for the value, StoreUnavailable for everything else."""
    try:
        yield
    except DBAPIError as error:
        raise StoreUnavailable(sentence(url, error.orig or error)) from error
    except StatementError as error:
        raise NotStorable(str(error.orig)) from error
    except (SQLAlchemyError, OSError) as error:
        # A refused connection and a driver's timeout come as OSError.
        raise StoreUnavailable(sentence(url, error)) from error


def sentence(url: URL, cause: BaseException) -> str:
    """What is wrong with the database at `url`, without its password."""
    reason = str(cause) or type(cause).__name__
    if url.password:
        reason = reason.replace(url.password, "***")
    # Options of the address may hold a password as well.
    place = url.set(query={}).render_as_string(hide_password=True)
    return f"the database {place} cannot be used: {reason}"


def _begin_writing(connection: Connection) -> None:
    """Takes the write lock at once.

    A transaction that reads first and then writes fails without waiting if another one wrote in between.
    """
    if connection.get_execution_options().get("writing"):
        connection.exec_driver_sql("BEGIN IMMEDIATE")


def _set_up(connection: Any, _: object) -> None:
    _run(connection, "PRAGMA journal_mode=WAL", "PRAGMA synchronous=NORMAL", "PRAGMA foreign_keys=ON")


def _set_up_for_migrating(connection: Any, _: object) -> None:
    """Without foreign keys: to rebuild a table, SQLite drops the old one, which would delete the rows it refers to."""
    _run(connection, "PRAGMA journal_mode=WAL", "PRAGMA foreign_keys=OFF")


def _run(connection: Any, *statements: str) -> None:
    cursor = connection.cursor()
    try:
        for statement in statements:
            cursor.execute(statement)
    finally:
        cursor.close()


def _dump_json(value: object) -> str:
    """ASCII JSON: escapes carry what text cannot, and `str` what JSON cannot, so that no line of a journal is lost."""
    return json.dumps(value, allow_nan=False, default=str, separators=(",", ":"))
