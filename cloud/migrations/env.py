"""Alembic's environment: run the migrations on the connection of `cloud/db/database.py`."""

from __future__ import annotations

from alembic import context

from cloud.db.schema import metadata

context.configure(connection=context.config.attributes["connection"], target_metadata=metadata)
with context.begin_transaction():
    context.run_migrations()
