"""Calls and their journals."""

import sqlalchemy as sa
from alembic import op

revision = "0001"
down_revision = None
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.create_table(
        "calls",
        sa.Column("session_id", sa.Text(), nullable=False),
        sa.Column("phone_number", sa.Text(), nullable=False),
        sa.Column("created_at", sa.DateTime(timezone=True), nullable=False),
        sa.Column("greeting", sa.Text(), nullable=False),
        sa.Column("max_duration_s", sa.Integer(), nullable=False),
        sa.Column("variables", sa.JSON(), nullable=False),
        sa.Column("metadata", sa.JSON(), nullable=False),
        sa.Column("idempotency_key", sa.Text()),
        sa.Column("request_digest", sa.Text()),
        sa.Column("status", sa.Text(), nullable=False),
        sa.Column("call_sid", sa.Text()),
        sa.Column("answered_at", sa.DateTime(timezone=True)),
        sa.Column("ended_at", sa.DateTime(timezone=True)),
        sa.Column("duration_s", sa.Integer()),
        sa.Column("answered_by", sa.Text()),
        sa.Column("end_reason", sa.Text()),
        sa.Column("opted_out", sa.Boolean(), nullable=False),
        sa.Column("failure_code", sa.Text()),
        sa.Column("failure_detail", sa.Text()),
        sa.Column("failure_carrier_code", sa.Integer()),
        sa.PrimaryKeyConstraint("session_id", name="pk_calls"),
        sa.UniqueConstraint("idempotency_key", name="uq_calls_idempotency_key"),
    )
    op.create_index("ix_calls_created_at_session_id", "calls", ["created_at", "session_id"])
    op.create_index("ix_calls_status_created_at_session_id", "calls", ["status", "created_at", "session_id"])
    op.create_index("ix_calls_call_sid", "calls", ["call_sid"])
    op.create_table(
        "journal",
        sa.Column("seq", sa.BigInteger().with_variant(sa.Integer(), "sqlite"), autoincrement=True, nullable=False),
        sa.Column("session_id", sa.Text(), nullable=False),
        sa.Column("at", sa.DateTime(timezone=True), nullable=False),
        sa.Column("kind", sa.Text(), nullable=False),
        sa.Column("data", sa.JSON(), nullable=False),
        sa.PrimaryKeyConstraint("seq", name="pk_journal"),
        sa.ForeignKeyConstraint(["session_id"], ["calls.session_id"], name="fk_journal_session_id_calls"),
        sqlite_autoincrement=True,
    )
    op.create_index("ix_journal_session_id_seq", "journal", ["session_id", "seq"])


def downgrade() -> None:
    op.drop_table("journal")
    op.drop_table("calls")
