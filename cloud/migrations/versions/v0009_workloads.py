"""The workload of a rollout; the rollouts before were of the only one, which is named after its model."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0009"
down_revision = "0008"


def upgrade() -> None:
    """Add the column."""
    op.add_column("rollouts", sa.Column("workload", sa.String(length=64), nullable=False, server_default=""))
    rollouts = sa.table("rollouts", sa.column("workload"), sa.column("model"))
    op.execute(rollouts.update().values(workload=rollouts.c.model))
