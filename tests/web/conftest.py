"""Fixtures of this room."""

from collections.abc import Iterator

import pytest
import structlog


@pytest.fixture(autouse=True, scope="module")
def plain_log() -> Iterator[None]:
    """Nothing configures the log of a server inside a test: unasked, structlog would paint tracebacks for seconds."""
    structlog.configure(processors=[structlog.processors.format_exc_info, structlog.processors.JSONRenderer()])
    yield
    structlog.reset_defaults()
