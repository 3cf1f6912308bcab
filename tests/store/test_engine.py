"""Addresses of databases, and what the operator reads when one cannot be used."""

import sys
from pathlib import Path

import pytest
from sqlalchemy import make_url, text

from outbound.ports import StoreUnavailable
from outbound.store import Database
from outbound.store.engine import read_url


@pytest.mark.parametrize(
    ("written", "meant"),
    [
        ("sqlite:///calls.db", "sqlite+aiosqlite:///calls.db"),
        ("sqlite:////var/calls.db", "sqlite+aiosqlite:////var/calls.db"),
        ("sqlite+aiosqlite:///calls.db", "sqlite+aiosqlite:///calls.db"),
        ("postgres://u:p@h/d", "postgresql+asyncpg://u:p@h/d"),
        ("postgresql://u:p@h:5433/d", "postgresql+asyncpg://u:p@h:5433/d"),
        ("postgresql+asyncpg://h/d", "postgresql+asyncpg://h/d"),
        ("postgresql+psycopg://h/d", "postgresql+psycopg://h/d"),
        ("postgresql:///d?host=/run/postgresql", "postgresql+asyncpg:///d?host=/run/postgresql"),
        ("postgres://u@h/d?sslmode=require", "postgresql+asyncpg://u@h/d?ssl=require"),
        ("postgresql+psycopg://u@h/d?sslmode=require", "postgresql+psycopg://u@h/d?sslmode=require"),
    ],
)
def test_an_address_means_the_asynchronous_driver(written: str, meant: str) -> None:
    assert read_url(written) == make_url(meant)


@pytest.mark.parametrize(
    "written",
    ["", "calls.db", "mysql://u:secret@h/d", "postgresql+psycopg2://u:secret@h/d", "postgresql://u:secret@h:port/d"],
)
def test_any_other_address_is_refused_without_its_password(written: str) -> None:
    with pytest.raises(StoreUnavailable, match="url") as caught:
        read_url(written)
    assert "secret" not in str(caught.value)


@pytest.mark.parametrize("written", ["sqlite://", "sqlite:///", "sqlite:///:memory:"])
def test_sqlite_needs_a_file(written: str) -> None:
    with pytest.raises(StoreUnavailable, match="needs a file"):
        read_url(written)


@pytest.mark.parametrize(
    ("url", "package", "remedy"),
    [
        ("postgresql://h/d", "asyncpg", "uv sync --extra postgres"),
        ("postgresql+psycopg://h/d", "psycopg", r"psycopg\[binary\]"),
    ],
)
async def test_a_missing_driver_is_named_with_the_command_that_brings_it(
    url: str, package: str, remedy: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, package, None)
    with pytest.raises(StoreUnavailable, match=remedy):
        async with Database.open(url):
            pass


@pytest.mark.parametrize(
    "url",
    [
        "postgresql://u:secret@127.0.0.1:1/d",
        "postgresql://u:secret@127.0.0.1:1/d?password=secret",
        "postgresql://u@127.0.0.1:1/d?unknown_option=secret",
    ],
    ids=["nobody listens", "password as an option", "option the driver does not know"],
)
async def test_an_unusable_server_is_named_without_a_secret(url: str) -> None:
    with pytest.raises(StoreUnavailable, match=r"127\.0\.0\.1:1/d cannot be used: .") as caught:
        async with Database.open(url):
            pass
    assert "secret" not in str(caught.value)


async def test_a_database_that_does_not_exist_is_named(postgresql_server: str) -> None:
    url = make_url(postgresql_server).set(database="nowhere").render_as_string(hide_password=False)
    with pytest.raises(StoreUnavailable, match='"nowhere" does not exist'):
        async with Database.open(url):
            pass


async def test_a_directory_that_cannot_be_made_is_named(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(StoreUnavailable, match=r"file/calls\.db"):
        async with Database.open(f"sqlite:///{tmp_path / 'file' / 'calls.db'}"):
            pass


async def test_a_file_that_is_no_database_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "calls.db"
    path.write_text("these are not the calls you are looking for " * 100)
    with pytest.raises(StoreUnavailable, match="not a database"):
        async with Database.open(f"sqlite:///{path}"):
            pass


async def test_sqlite_files_are_made_where_missing_and_kept_from_others(tmp_path: Path) -> None:
    path = tmp_path / "not" / "yet" / "calls.db"
    async with Database.open(f"sqlite:///{path}"):
        modes = {file.name: file.stat().st_mode & 0o777 for file in path.parent.iterdir()}
    assert modes == {"calls.db": 0o600, "calls.db-wal": 0o600, "calls.db-shm": 0o600}
    assert [file.name for file in path.parent.iterdir()] == ["calls.db"]


async def test_sqlite_connections_are_set_up(tmp_path: Path) -> None:
    async with Database.open(f"sqlite:///{tmp_path / 'calls.db'}") as database, database._reading() as connection:
        found = [
            (await connection.execute(text(f"PRAGMA {name}"))).scalar_one()
            for name in ("journal_mode", "synchronous", "foreign_keys", "busy_timeout")
        ]
    assert found == ["wal", 1, 1, 30_000]


async def test_an_error_does_not_tell_what_was_to_be_stored(database: Database) -> None:
    with pytest.raises(StoreUnavailable) as caught:
        async with database._writing() as connection:
            await connection.execute(text("SELECT :said FROM nowhere"), {"said": "my pin is 1234"})
    assert "1234" not in f"{caught.value} {caught.value.__cause__}"
