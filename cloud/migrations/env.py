"""What Alembic runs: the steps, on the connection that `cloud/db/database.py` gives."""

from __future__ import annotations

from alembic import context

from cloud.db.schema import metadata

context.configure(connection=context.config.attributes["connection"], target_metadata=metadata)
with context.begin_transaction():
    context.run_migrations()
