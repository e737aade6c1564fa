"""Versions of images, and the state of their builds."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

from cloud.db.schema import Instant

revision = "0008"
down_revision = "0007"


def upgrade() -> None:
    """Create the table."""
    op.create_table(
        "images",
        sa.Column("name", sa.String(length=64), nullable=False),
        sa.Column("version", sa.Integer(), nullable=False),
        sa.Column("state", sa.String(length=16), nullable=False),
        sa.Column("record", sa.LargeBinary(), nullable=False),
        sa.Column("created_at", Instant(), nullable=False),
        sa.PrimaryKeyConstraint("name", "version", name="pk_images"),
    )
    op.create_index("ix_images_state", "images", ["state"], unique=False)
