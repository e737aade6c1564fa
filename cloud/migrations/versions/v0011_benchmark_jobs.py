"""Benchmark jobs: devices that measure because an operator asks for it."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

from cloud.db.schema import Instant

revision = "0011"
down_revision = "0010"


def upgrade() -> None:
    """Create the tables, and let a benchmark name the job that asked for it."""
    op.create_table(
        "benchmark_jobs",
        sa.Column("job", sa.Integer(), nullable=False),
        sa.Column("request", sa.LargeBinary(), nullable=False),
        sa.Column("model", sa.String(length=64), nullable=False),
        sa.Column("version", sa.Integer(), nullable=False),
        sa.Column("package_index", sa.LargeBinary(), nullable=False),
        sa.Column("created_at", Instant(), nullable=False),
        sa.PrimaryKeyConstraint("job", name="pk_benchmark_jobs"),
    )
    op.create_table(
        "benchmark_job_devices",
        sa.Column("job", sa.Integer(), nullable=False),
        sa.Column("device", sa.String(length=64), nullable=False),
        sa.Column("state", sa.String(length=16), nullable=False),
        sa.Column("progress", sa.LargeBinary(), nullable=False),
        sa.Column("changed_at", Instant(), nullable=False),
        sa.ForeignKeyConstraint(["job"], ["benchmark_jobs.job"], name="fk_benchmark_job_devices_job"),
        sa.ForeignKeyConstraint(["device"], ["devices.device"], name="fk_benchmark_job_devices_device"),
        sa.PrimaryKeyConstraint("job", "device", name="pk_benchmark_job_devices"),
    )
    op.create_index("ix_benchmark_job_devices_state", "benchmark_job_devices", ["state"], unique=False)
    op.add_column("benchmarks", sa.Column("job", sa.Integer(), nullable=True))
