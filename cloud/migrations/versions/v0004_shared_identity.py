"""Boot IDs of a device's agent, and the time at which two agents were seen to use its identity."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

from cloud.db.schema import Instant

revision = "0004"
down_revision = "0003"


def upgrade() -> None:
    """Add the columns."""
    op.add_column("devices", sa.Column("boot_ids", sa.JSON(), nullable=True))
    op.add_column("devices", sa.Column("identity_shared_at", Instant(), nullable=True))
