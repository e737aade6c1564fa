"""Benchmarks that devices share, and the claims to measure."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

from cloud.db.schema import Instant

revision = "0010"
down_revision = "0009"


def upgrade() -> None:
    """Create the table."""
    op.create_table(
        "benchmarks",
        sa.Column("model", sa.String(length=64), nullable=False),
        sa.Column("basis", sa.String(length=71), nullable=False),
        sa.Column("fingerprint", sa.String(length=255), nullable=False),
        sa.Column("device", sa.String(length=64), nullable=False),
        sa.Column("claimed_until", Instant(), nullable=False),
        sa.Column("result", sa.LargeBinary(), nullable=True),
        sa.Column("envelope", sa.LargeBinary(), nullable=True),
        sa.Column("shared", sa.LargeBinary(), nullable=True),
        sa.PrimaryKeyConstraint("model", "basis", name="pk_benchmarks"),
    )
