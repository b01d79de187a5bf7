"""Alembic environment: runs on the connection that ``upgrade`` passes in."""

from alembic import context

from fl_server.leaderboard.migrations import VERSION_TABLE
from fl_server.leaderboard.tables import Table

context.configure(
    connection=context.config.attributes["connection"],
    target_metadata=Table.metadata,
    version_table=VERSION_TABLE,
    render_as_batch=True,
)
with context.begin_transaction():
    context.run_migrations()
