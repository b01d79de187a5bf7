"""What differential privacy has spent, by round and by site."""

import sqlalchemy as sa
from alembic import op

revision = "0002"
down_revision = "0001"
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.add_column("round", sa.Column("epsilon", sa.Double(), nullable=True))
    op.add_column("site_record", sa.Column("epsilon", sa.Double(), nullable=True))


def downgrade() -> None:
    op.drop_column("site_record", "epsilon")
    op.drop_column("round", "epsilon")
