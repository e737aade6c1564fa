"""The first tables: tokens, devices, twins, telemetry, the registry, and change counters."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

from cloud.db.schema import Instant

revision = "0001"
down_revision = None


def upgrade() -> None:
    """Create the tables."""
    _counters()
    _devices()
    _telemetry()
    _registry()


def _counters() -> None:
    counters = op.create_table(
        "counters", sa.Column("name", sa.String(32), primary_key=True), sa.Column("number", sa.BigInteger, nullable=False)
    )
    op.bulk_insert(counters, [{"name": "changes", "number": 0}, {"name": "desired", "number": 0}])


def _devices() -> None:
    op.create_table(
        "devices",
        sa.Column("device", sa.String(length=64), nullable=False),
        sa.Column("labels", sa.JSON(), nullable=False),
        sa.Column("profile", sa.String(length=64), nullable=False),
        sa.Column("enrolled_at", Instant, nullable=False),
        sa.Column("last_seen_at", Instant, nullable=True),
        sa.Column("reported_offline", sa.Boolean(), nullable=False),
        sa.Column("revoked", sa.Boolean(), nullable=False),
        sa.Column("telemetry_count", sa.BigInteger(), nullable=False),
        sa.PrimaryKeyConstraint("device", name="pk_devices"),
    )
    op.create_table(
        "enrolment_tokens",
        sa.Column("secret_sha256", sa.String(length=64), nullable=False),
        sa.Column("device", sa.String(length=64), nullable=True),
        sa.Column("labels", sa.JSON(), nullable=False),
        sa.Column("expires_at", Instant, nullable=False),
        sa.Column("used_at", Instant, nullable=True),
        sa.PrimaryKeyConstraint("secret_sha256", name="pk_enrolment_tokens"),
    )
    op.create_table(
        "certificates",
        sa.Column("serial", sa.String(length=64), nullable=False),
        sa.Column("device", sa.String(length=64), nullable=False),
        sa.Column("expires_at", Instant, nullable=False),
        sa.Column("revoked_at", Instant, nullable=True),
        sa.ForeignKeyConstraint(["device"], ["devices.device"], name="fk_certificates_device"),
        sa.PrimaryKeyConstraint("serial", name="pk_certificates"),
    )
    op.create_index("ix_certificates_device", "certificates", ["device"], unique=False)
    op.create_table(
        "twins",
        sa.Column("device", sa.String(length=64), nullable=False),
        sa.Column("desired_number", sa.Integer(), nullable=False),
        sa.Column("desired", sa.LargeBinary(), nullable=True),
        sa.Column("desired_envelope", sa.LargeBinary(), nullable=True),
        sa.Column("desired_change", sa.BigInteger(), nullable=False),
        sa.Column("reported", sa.LargeBinary(), nullable=True),
        sa.Column("reported_boot_id", sa.String(length=128), nullable=True),
        sa.Column("reported_sequence", sa.BigInteger(), nullable=False),
        sa.ForeignKeyConstraint(["device"], ["devices.device"], name="fk_twins_device"),
        sa.PrimaryKeyConstraint("device", name="pk_twins"),
    )
    op.create_index("ix_twins_desired_change", "twins", ["desired_change"], unique=False)


def _telemetry() -> None:
    op.create_table(
        "telemetry",
        sa.Column("device", sa.String(length=64), nullable=False),
        sa.Column("queue_id", sa.String(length=64), nullable=False),
        sa.Column("sequence", sa.BigInteger(), nullable=False),
        sa.Column("at", Instant, nullable=False),
        sa.Column("name", sa.String(length=128), nullable=False),
        sa.Column("value", sa.Float(), nullable=False),
        sa.Column("unit", sa.String(length=32), nullable=False),
        sa.Column("labels", sa.JSON(), nullable=False),
        sa.PrimaryKeyConstraint("device", "queue_id", "sequence", name="pk_telemetry"),
    )
    op.create_index("ix_telemetry_device_at", "telemetry", ["device", "at"], unique=False)
    op.create_index("ix_telemetry_name_at", "telemetry", ["name", "at"], unique=False)


def _registry() -> None:
    op.create_table(
        "manifests",
        sa.Column("repository", sa.String(length=64), nullable=False),
        sa.Column("digest", sa.String(length=71), nullable=False),
        sa.Column("media_type", sa.String(length=255), nullable=False),
        sa.Column("size", sa.BigInteger(), nullable=False),
        sa.Column("subject", sa.String(length=71), nullable=True),
        sa.Column("artifact_type", sa.String(length=255), nullable=True),
        sa.Column("annotations", sa.JSON(), nullable=False),
        sa.PrimaryKeyConstraint("repository", "digest", name="pk_manifests"),
    )
    op.create_index("ix_manifests_repository_subject", "manifests", ["repository", "subject"], unique=False)
    op.create_table(
        "model_versions",
        sa.Column("model", sa.String(length=64), nullable=False),
        sa.Column("version", sa.Integer(), nullable=False),
        sa.Column("index_digest", sa.String(length=71), nullable=False),
        sa.Column("record", sa.LargeBinary(), nullable=False),
        sa.PrimaryKeyConstraint("model", "version", name="pk_model_versions"),
    )
    op.create_table(
        "repository_blobs",
        sa.Column("repository", sa.String(length=64), nullable=False),
        sa.Column("digest", sa.String(length=71), nullable=False),
        sa.PrimaryKeyConstraint("repository", "digest", name="pk_repository_blobs"),
    )
    op.create_index("ix_repository_blobs_digest", "repository_blobs", ["digest"], unique=False)
    op.create_table(
        "tags",
        sa.Column("repository", sa.String(length=64), nullable=False),
        sa.Column("tag", sa.String(length=128), nullable=False),
        sa.Column("digest", sa.String(length=71), nullable=False),
        sa.PrimaryKeyConstraint("repository", "tag", name="pk_tags"),
    )
