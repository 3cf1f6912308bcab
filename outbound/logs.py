"""How the log looks: lines for people in a terminal, JSON elsewhere; numbers and speech masked unless asked for."""

import logging
import sys

import structlog
from structlog.typing import EventDict, Processor, WrappedLogger

PERSONAL_KEYS = frozenset({"phone_number", "to", "from_number", "text", "digits", "name", "fragment", "description"})
"""The only keys that may hold a number, a name or something said. Messages are static and hold none."""

OURS = ("outbound", "agents", "main", "__main__")
"""The loggers whose words are chosen here; `level` is theirs."""


def _mask(_: WrappedLogger, __: str, event: EventDict) -> EventDict:
    for key in PERSONAL_KEYS & event.keys():
        value = str(event[key])
        event[key] = f"…{value[-2:]}" if key in ("phone_number", "to", "from_number") else f"({len(value)} characters)"
    return event


def configure(*, level: str, show_personal: bool) -> None:
    """Routes structlog and the standard library's loggers to standard error, in one format."""
    shared: list[Processor] = [
        structlog.contextvars.merge_contextvars,
        structlog.stdlib.add_log_level,
        structlog.stdlib.add_logger_name,
        structlog.processors.TimeStamper(fmt="iso", utc=True),
    ]
    if not show_personal:
        shared.append(_mask)
    structlog.configure(
        processors=[
            structlog.stdlib.filter_by_level,
            *shared,
            structlog.stdlib.ProcessorFormatter.wrap_for_formatter,
        ],
        logger_factory=structlog.stdlib.LoggerFactory(),
        wrapper_class=structlog.stdlib.BoundLogger,
        cache_logger_on_first_use=False,
    )
    in_terminal = sys.stderr.isatty()
    last: list[Processor] = (
        # Plain tracebacks: the pretty ones show local variables, and those hold numbers and keys.
        [structlog.dev.ConsoleRenderer(exception_formatter=structlog.dev.plain_traceback)]
        if in_terminal
        else [structlog.processors.format_exc_info, structlog.processors.JSONRenderer()]
    )
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(
        structlog.stdlib.ProcessorFormatter(
            foreign_pre_chain=shared,
            processors=[structlog.stdlib.ProcessorFormatter.remove_processors_meta, *last],
        )
    )
    root = logging.getLogger()
    root.handlers = [handler]
    # What others tell below a warning holds addresses, queries and their parameters: numbers, and what was said.
    root.setLevel(max(logging.WARNING, logging.getLevelNamesMapping()[level.upper()]))
    for name in OURS:
        logging.getLogger(name).setLevel(level.upper())
