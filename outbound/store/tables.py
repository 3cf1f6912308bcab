"""What the database holds: one row for each call, one for each line of its journal, one for each process."""

from datetime import UTC, datetime

from sqlalchemy import (
    JSON,
    BigInteger,
    Boolean,
    Column,
    DateTime,
    Dialect,
    ForeignKey,
    Index,
    Integer,
    MetaData,
    Table,
    Text,
    TypeDecorator,
    text,
)


class Utc(TypeDecorator[datetime]):
    """An instant: aware on the way in and UTC on the way out. Raises ValueError for a time without a zone.

    PostgreSQL keeps instants. SQLite keeps a string, which orders correctly only if all of them are in one zone.
    """

    impl = DateTime(timezone=True)
    cache_ok = True

    def process_bind_param(self, value: datetime | None, dialect: Dialect) -> datetime | None:
        if value is None:
            return None
        if value.tzinfo is None:
            raise ValueError("a stored time needs a time zone")
        value = value.astimezone(UTC)
        return value.replace(tzinfo=None) if dialect.name == "sqlite" else value

    def process_result_value(self, value: datetime | None, dialect: Dialect) -> datetime | None:
        if value is None:
            return None
        return value.replace(tzinfo=UTC) if value.tzinfo is None else value.astimezone(UTC)


class Words(TypeDecorator[str]):
    """Text that both engines can hold. Raises ValueError for any other.

    PostgreSQL has no NUL in text, SQLite cuts at it in places, and neither can encode half of a surrogate pair.
    """

    impl = Text
    cache_ok = True

    def process_bind_param(self, value: str | None, dialect: Dialect) -> str | None:
        if value is not None:
            if "\x00" in value:
                raise ValueError("stored text cannot contain NUL")
            value.encode()
        return value


metadata = MetaData(
    naming_convention={
        "pk": "pk_%(table_name)s",
        "fk": "fk_%(table_name)s_%(column_0_N_name)s_%(referred_table_name)s",
        "uq": "uq_%(table_name)s_%(column_0_N_name)s",
        "ix": "ix_%(table_name)s_%(column_0_N_name)s",
        "ck": "ck_%(table_name)s_%(constraint_name)s",
    }
)

# JSON and not JSONB: it keeps the order of keys, and accepts every escape that JSON allows inside a string.
calls = Table(
    "calls",
    metadata,
    Column("session_id", Words, primary_key=True),
    Column("phone_number", Words, nullable=False),
    Column("created_at", Utc, nullable=False),
    Column("greeting", Words, nullable=False),
    Column("max_duration_s", Integer, nullable=False),
    Column("variables", JSON, nullable=False),
    Column("metadata", JSON, nullable=False),
    Column("idempotency_key", Words, unique=True),
    Column("request_digest", Words),
    Column("status", Words, nullable=False),
    Column("call_sid", Words),
    Column("answered_at", Utc),
    Column("ended_at", Utc),
    Column("duration_s", Integer),
    Column("answered_by", Words),
    Column("end_reason", Words),
    Column("opted_out", Boolean, nullable=False),
    Column("failure_code", Words),
    Column("failure_detail", Words),
    Column("failure_carrier_code", Integer),
    Column("owner", Words),
    # With a default: processes of the version before write calls while a deploy is under way.
    Column("epoch", Integer, nullable=False, server_default=text("0")),
    Index(None, "created_at", "session_id"),
    Index(None, "status", "created_at", "session_id"),
    Index(None, "call_sid"),
)

IS_TURN = "kind = 'turn'"
"""In these words in the index and in the query: no engine recognises it with a parameter in it."""

journal = Table(
    "journal",
    metadata,
    # SQLite numbers rows by itself only where the key is spelled INTEGER, and re-uses numbers without AUTOINCREMENT.
    Column("seq", BigInteger().with_variant(Integer, "sqlite"), primary_key=True, autoincrement=True),
    Column("session_id", Words, ForeignKey("calls.session_id"), nullable=False),
    Column("at", Utc, nullable=False),
    Column("kind", Words, nullable=False),
    Column("data", JSON, nullable=False),
    Index(None, "session_id", "seq"),
    # Few entries are turns: replies are counted without reading the rest.
    Index("ix_journal_turns", "session_id", sqlite_where=text(IS_TURN), postgresql_where=text(IS_TURN)),
    sqlite_autoincrement=True,
)

processes = Table(
    "processes",
    metadata,
    Column("id", Words, primary_key=True),
    Column("seen_at", Utc, nullable=False),
)
