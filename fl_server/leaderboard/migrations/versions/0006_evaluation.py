"""What a run's scores are measured on; only runs with the same are ranked together.

Earlier runs have none: they stay ranked among themselves.
"""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0006"
down_revision = "0005"


def upgrade() -> None:
    # Each with a default, for the rows that are there.
    op.add_column("usecase", sa.Column("evaluation", sa.JSON(), nullable=True))
    op.add_column("run", sa.Column("evaluation", sa.JSON(), nullable=True))
    op.add_column("run", sa.Column("evaluation_fingerprint", sa.Text(), nullable=True))
    op.add_column("run", sa.Column("custom", sa.JSON(), nullable=False, server_default="[]"))
    op.add_column(
        "run", sa.Column("score_direction", sa.Text(), nullable=False, server_default="max")
    )
    op.execute(
        "UPDATE run SET score_direction = (SELECT usecase.score_direction FROM usecase "
        "WHERE usecase.id = run.usecase_id)"
    )


def downgrade() -> None:
    for name in ("score_direction", "custom", "evaluation_fingerprint", "evaluation"):
        op.drop_column("run", name)
    op.drop_column("usecase", "evaluation")
