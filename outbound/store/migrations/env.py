"""Run by Alembic for every command; the connection comes from `outbound.store.migrate`."""

from typing import Any, Literal

from alembic import context
from sqlalchemy import TypeDecorator

from outbound.store.tables import metadata


def _render(kind: str, item: Any, _: object) -> str | Literal[False]:
    """Spells our types as the library's own in a drafted migration, which has to stay true when ours change."""
    return f"sa.{item.impl!r}" if kind == "type" and isinstance(item, TypeDecorator) else False


context.configure(
    connection=context.config.attributes["connection"],
    target_metadata=metadata,
    # SQLite cannot alter a column: tables are rebuilt there.
    render_as_batch=True,
    render_item=_render,
)
with context.begin_transaction():
    context.run_migrations()
