"""The score on the validation rows, which choose a run's final round."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0004"
down_revision = "0003"


def upgrade() -> None:
    op.add_column("round", sa.Column("validation_score", sa.Double(), nullable=True))


def downgrade() -> None:
    op.drop_column("round", "validation_score")
