"""Everything that matters, in a database: calls and their journals, on SQLite or PostgreSQL with the same queries."""

from outbound.store.database import Database
from outbound.store.journal_writer import JournalWriter

__all__ = ["Database", "JournalWriter"]
