"""Rollouts: their plans, the progress of each device, known failures by hardware profile, and the lease of the driver."""

from __future__ import annotations

from datetime import UTC, datetime

import sqlalchemy as sa
from alembic import op

from cloud.db.schema import Instant

revision = "0002"
down_revision = "0001"


def upgrade() -> None:
    """Create the tables."""
    _rollouts()
    _devices()
    op.create_table(
        "known_failures",
        sa.Column("index_digest", sa.String(length=71), nullable=False),
        sa.Column("profile", sa.String(length=64), nullable=False),
        sa.Column("reason", sa.Text(), nullable=False),
        sa.Column("at", Instant, nullable=False),
        sa.PrimaryKeyConstraint("index_digest", "profile", name="pk_known_failures"),
    )
    leases = op.create_table(
        "leases",
        sa.Column("name", sa.String(length=32), nullable=False),
        sa.Column("holder", sa.String(length=64), nullable=False),
        sa.Column("until", Instant, nullable=False),
        sa.PrimaryKeyConstraint("name", name="pk_leases"),
    )
    op.bulk_insert(leases, [{"name": "rollouts", "holder": "", "until": datetime(1970, 1, 1, tzinfo=UTC)}])


def _rollouts() -> None:
    op.create_table(
        "rollouts",
        sa.Column("rollout", sa.Integer(), nullable=False),
        sa.Column("request", sa.LargeBinary(), nullable=False),
        sa.Column("model", sa.String(length=64), nullable=False),
        sa.Column("version", sa.Integer(), nullable=False),
        sa.Column("package_index", sa.LargeBinary(), nullable=False),
        sa.Column("state", sa.String(length=16), nullable=False),
        sa.Column("reason", sa.Text(), nullable=False),
        sa.Column("wave", sa.Integer(), nullable=False),
        sa.Column("created_at", Instant, nullable=False),
        sa.Column("changed_at", Instant, nullable=False),
        sa.PrimaryKeyConstraint("rollout", name="pk_rollouts"),
    )
    op.create_index("ix_rollouts_state", "rollouts", ["state"], unique=False)


def _devices() -> None:
    op.create_table(
        "rollout_devices",
        sa.Column("rollout", sa.Integer(), nullable=False),
        sa.Column("device", sa.String(length=64), nullable=False),
        sa.Column("wave", sa.Integer(), nullable=False),
        sa.Column("position", sa.Integer(), nullable=False),
        sa.Column("desired_number", sa.Integer(), nullable=True),
        sa.Column("state", sa.String(length=16), nullable=True),
        sa.Column("since", Instant, nullable=False),
        sa.Column("online", sa.Boolean(), nullable=False),
        sa.Column("online_since", Instant, nullable=False),
        sa.Column("reason", sa.Text(), nullable=False),
        sa.Column("previous", sa.LargeBinary(), nullable=True),
        sa.ForeignKeyConstraint(["device"], ["devices.device"], name="fk_rollout_devices_device"),
        sa.ForeignKeyConstraint(["rollout"], ["rollouts.rollout"], name="fk_rollout_devices_rollout"),
        sa.PrimaryKeyConstraint("rollout", "device", name="pk_rollout_devices"),
    )
    op.create_index("ix_rollout_devices_state", "rollout_devices", ["state"], unique=False)
