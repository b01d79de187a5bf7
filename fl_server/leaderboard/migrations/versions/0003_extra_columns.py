"""One name from YAML to API: the use case's further columns are called extra_columns."""

from __future__ import annotations

from alembic import op

revision = "0003"
down_revision = "0002"


def upgrade() -> None:
    op.alter_column("usecase", "subgroup_columns", new_column_name="extra_columns")


def downgrade() -> None:
    op.alter_column("usecase", "extra_columns", new_column_name="subgroup_columns")
