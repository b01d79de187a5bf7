"""Runs give signs of life; ``stopped`` is a person's word, and nothing fails without a reason."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0005"
down_revision = "0004"


def upgrade() -> None:
    # With a default that no row keeps: to forbid NULL later, SQLite would have to drop the table,
    # and every round with it.
    when = sa.DateTime(timezone=True)
    default = "2026-01-01 00:00:00.000000"
    op.add_column("run", sa.Column("last_sign_at", when, nullable=False, server_default=default))
    op.execute("UPDATE run SET last_sign_at = updated_at")
    op.execute(
        "UPDATE run SET status = 'finished', reason = 'stopped early' "
        "WHERE status = 'stopped' AND reason = ''"
    )
    op.execute(
        "UPDATE run SET status = 'stopped', reason = 'interrupted' "
        "WHERE status = 'failed' AND reason = ''"
    )


def downgrade() -> None:
    op.execute("UPDATE run SET status = 'stopped' WHERE reason LIKE 'stopped early%'")
    op.drop_column("run", "last_sign_at")
