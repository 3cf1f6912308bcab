"""Who holds the socket of a call, which processes live, and an index to count replies by."""

import sqlalchemy as sa
from alembic import op

revision = "0002"
down_revision = "0001"
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.add_column("calls", sa.Column("owner", sa.Text()))
    op.add_column("calls", sa.Column("epoch", sa.Integer(), nullable=False, server_default=sa.text("0")))
    op.create_table(
        "processes",
        sa.Column("id", sa.Text(), nullable=False),
        sa.Column("seen_at", sa.DateTime(timezone=True), nullable=False),
        sa.PrimaryKeyConstraint("id", name="pk_processes"),
    )
    is_turn = sa.text("kind = 'turn'")
    op.create_index("ix_journal_turns", "journal", ["session_id"], sqlite_where=is_turn, postgresql_where=is_turn)


def downgrade() -> None:
    op.drop_index("ix_journal_turns", "journal")
    op.drop_table("processes")
    op.drop_column("calls", "epoch")
    op.drop_column("calls", "owner")
