"""Everything that matters, in a database: calls and their journals, on SQLite or PostgreSQL with the same queries."""

from outbound.store.changes import Changes
from outbound.store.database import Database
from outbound.store.journal_writer import JournalWriter

__all__ = ["Changes", "Database", "JournalWriter"]
