"""The tables as SQLAlchemy Core definitions; `cloud/migrations` creates them, and a test compares the two.

Signed documents and whole records are stored as the bytes that were received or signed. Each row of `counters` increases in the
same transaction as the changes that it counts (`cloud/db/database.py`).
"""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Any

from sqlalchemy import (
    JSON,
    BigInteger,
    Boolean,
    Column,
    DateTime,
    Dialect,
    Float,
    ForeignKey,
    Index,
    Integer,
    LargeBinary,
    MetaData,
    PrimaryKeyConstraint,
    String,
    Table,
    Text,
)
from sqlalchemy.types import TypeDecorator

# Named constraints, so that a later migration can change one on every database.
metadata = MetaData(
    naming_convention={
        "ix": "ix_%(table_name)s_%(column_0_N_name)s",
        "pk": "pk_%(table_name)s",
        "fk": "fk_%(table_name)s_%(column_0_N_name)s",
        "uq": "uq_%(table_name)s_%(column_0_N_name)s",
    }
)


class Instant(TypeDecorator[datetime]):
    """A timezone-aware UTC timestamp; SQLite stores no time zone, so UTC is added when a value is read."""

    impl = DateTime(timezone=True)
    cache_ok = True

    def process_bind_param(self, value: datetime | None, dialect: Dialect) -> datetime | None:
        """Convert to UTC for the database."""
        if value is None:
            return None
        assert value.tzinfo is not None, "a timestamp must be timezone-aware"
        utc = value.astimezone(UTC)
        return utc.replace(tzinfo=None) if dialect.name == "sqlite" else utc

    def process_result_value(self, value: Any | None, dialect: Dialect) -> datetime | None:
        """Return a timezone-aware UTC timestamp."""
        if value is None:
            return None
        instant: datetime = value
        return instant.replace(tzinfo=UTC) if instant.tzinfo is None else instant.astimezone(UTC)


counters = Table(
    "counters",
    metadata,
    Column("name", String(32), primary_key=True),
    Column("number", BigInteger, nullable=False),
)

identity = Table(
    "identity",
    metadata,
    Column("name", String(32), primary_key=True),
    Column("sha256", String(64), nullable=False),
)

enrolment_tokens = Table(
    "enrolment_tokens",
    metadata,
    Column("secret_sha256", String(64), primary_key=True),
    Column("device", String(64)),
    Column("labels", JSON, nullable=False),
    Column("expires_at", Instant, nullable=False),
    Column("used_at", Instant),
)

devices = Table(
    "devices",
    metadata,
    Column("device", String(64), primary_key=True),
    Column("labels", JSON, nullable=False),
    Column("profile", String(64), nullable=False),
    Column("enrolled_at", Instant, nullable=False),
    Column("last_seen_at", Instant),
    Column("reported_offline", Boolean, nullable=False),
    Column("revoked", Boolean, nullable=False),
    Column("telemetry_count", BigInteger, nullable=False),
    Column("boot_ids", JSON),
    Column("identity_shared_at", Instant),
)

certificates = Table(
    "certificates",
    metadata,
    Column("serial", String(64), primary_key=True),
    Column("device", ForeignKey("devices.device"), nullable=False, index=True),
    Column("expires_at", Instant, nullable=False),
    Column("revoked_at", Instant),
)

twins = Table(
    "twins",
    metadata,
    Column("device", ForeignKey("devices.device"), primary_key=True),
    Column("desired_number", Integer, nullable=False),
    Column("desired", LargeBinary),
    Column("desired_envelope", LargeBinary),
    Column("desired_change", BigInteger, nullable=False, index=True),
    Column("reported", LargeBinary),
    Column("reported_boot_id", String(128)),
    Column("reported_sequence", BigInteger, nullable=False),
)

telemetry = Table(
    "telemetry",
    metadata,
    Column("device", String(64), nullable=False),
    Column("queue_id", String(64), nullable=False),
    Column("sequence", BigInteger, nullable=False),
    Column("at", Instant, nullable=False),
    Column("name", String(128), nullable=False),
    Column("value", Float, nullable=False),
    Column("unit", String(32), nullable=False),
    Column("labels", JSON, nullable=False),
    PrimaryKeyConstraint("device", "queue_id", "sequence"),
    Index(None, "device", "at"),
    Index(None, "name", "at"),
)

model_versions = Table(
    "model_versions",
    metadata,
    Column("model", String(64), primary_key=True),
    Column("version", Integer, primary_key=True),
    Column("index_digest", String(71), nullable=False),
    Column("record", LargeBinary, nullable=False),
    Column("deleted", Boolean, nullable=False),
)

model_aliases = Table(
    "model_aliases",
    metadata,
    Column("model", String(64), primary_key=True),
    Column("alias", String(64), primary_key=True),
    Column("version", Integer, nullable=False),
)

repository_blobs = Table(
    "repository_blobs",
    metadata,
    Column("repository", String(64), primary_key=True),
    Column("digest", String(71), primary_key=True),
    Index(None, "digest"),
)

manifests = Table(
    "manifests",
    metadata,
    Column("repository", String(64), primary_key=True),
    Column("digest", String(71), primary_key=True),
    Column("media_type", String(255), nullable=False),
    Column("size", BigInteger, nullable=False),
    Column("subject", String(71)),
    Column("artifact_type", String(255)),
    Column("annotations", JSON, nullable=False),
    Index(None, "repository", "subject"),
)

tags = Table(
    "tags",
    metadata,
    Column("repository", String(64), primary_key=True),
    Column("tag", String(128), primary_key=True),
    Column("digest", String(71), nullable=False),
)

environments = Table(
    "environments",
    metadata,
    Column("name", String(255), primary_key=True),
    Column("version", Integer, primary_key=True),
    Column("digest", String(71), nullable=False),
    Column("definition", LargeBinary, nullable=False),
    Column("created_at", Instant, nullable=False),
)

images = Table(
    "images",
    metadata,
    Column("name", String(64), primary_key=True),
    Column("version", Integer, primary_key=True),
    Column("state", String(16), nullable=False, index=True),
    Column("record", LargeBinary, nullable=False),
    Column("created_at", Instant, nullable=False),
)

rollouts = Table(
    "rollouts",
    metadata,
    Column("rollout", Integer, primary_key=True),
    Column("request", LargeBinary, nullable=False),
    Column("model", String(64), nullable=False),
    Column("version", Integer, nullable=False),
    Column("workload", String(64), nullable=False),
    Column("package_index", LargeBinary, nullable=False),
    Column("state", String(16), nullable=False, index=True),
    Column("reason", Text, nullable=False),
    Column("wave", Integer, nullable=False),
    Column("created_at", Instant, nullable=False),
    Column("changed_at", Instant, nullable=False),
)

rollout_devices = Table(
    "rollout_devices",
    metadata,
    Column("rollout", ForeignKey("rollouts.rollout"), primary_key=True),
    Column("device", ForeignKey("devices.device"), primary_key=True),
    Column("wave", Integer, nullable=False),
    Column("position", Integer, nullable=False),
    Column("desired_number", Integer),
    Column("state", String(16), index=True),
    Column("since", Instant, nullable=False),
    Column("online", Boolean, nullable=False),
    Column("online_since", Instant, nullable=False),
    Column("reason", Text, nullable=False),
    Column("previous", LargeBinary),
)

known_failures = Table(
    "known_failures",
    metadata,
    Column("index_digest", String(71), primary_key=True),
    Column("profile", String(64), primary_key=True),
    Column("reason", Text, nullable=False),
    Column("at", Instant, nullable=False),
)

benchmarks = Table(
    "benchmarks",
    metadata,
    Column("model", String(64), primary_key=True),
    Column("basis", String(71), primary_key=True),
    Column("fingerprint", String(255), nullable=False),
    Column("device", String(64), nullable=False),
    Column("claimed_until", Instant, nullable=False),
    Column("result", LargeBinary),
    Column("envelope", LargeBinary),
    Column("shared", LargeBinary),
    Column("job", Integer),
)

benchmark_jobs = Table(
    "benchmark_jobs",
    metadata,
    Column("job", Integer, primary_key=True),
    Column("request", LargeBinary, nullable=False),
    Column("model", String(64), nullable=False),
    Column("version", Integer, nullable=False),
    Column("package_index", LargeBinary, nullable=False),
    Column("created_at", Instant, nullable=False),
)

benchmark_job_devices = Table(
    "benchmark_job_devices",
    metadata,
    Column("job", ForeignKey("benchmark_jobs.job"), primary_key=True),
    Column("device", ForeignKey("devices.device"), primary_key=True),
    Column("state", String(16), nullable=False, index=True),
    Column("progress", LargeBinary, nullable=False),
    Column("changed_at", Instant, nullable=False),
)

leases = Table(
    "leases",
    metadata,
    Column("name", String(32), primary_key=True),
    Column("holder", String(64), nullable=False),
    Column("until", Instant, nullable=False),
)

endpoints = Table(
    "endpoints",
    metadata,
    Column("endpoint", String(32), primary_key=True),
    Column("owner", String(64), nullable=False),
    Column("deployment", LargeBinary, nullable=False),
    Column("labels", LargeBinary, nullable=False),
    Column("keys", LargeBinary, nullable=False),
    Column("generation", Integer, nullable=False),
    Column("port", Integer, nullable=False),
    Column("state", String(16), nullable=False),
    Column("reason", Text, nullable=False),
    Column("answering", Integer),
    Column("deleting", Boolean, nullable=False),
    Column("created_at", Instant, nullable=False),
    Column("changed_at", Instant, nullable=False),
    Column("deployed_at", Instant, nullable=False),
)

pipelines = Table(
    "pipelines",
    metadata,
    Column("pipeline", String(64), primary_key=True),
    Column("version", Integer, primary_key=True, autoincrement=False),
    Column("description", Text, nullable=False),
    Column("definition", LargeBinary, nullable=False),
    Column("enabled", Boolean, nullable=False),
    Column("created_at", Instant, nullable=False),
)

pipeline_jobs = Table(
    "pipeline_jobs",
    metadata,
    Column("job", Integer, primary_key=True, autoincrement=False),
    Column("owner", String(64), nullable=False),
    Column("pipeline", String(80), nullable=False),
    Column("definition", LargeBinary, nullable=False),
    Column("experiment", String(64), nullable=False),
    Column("parameters", LargeBinary, nullable=False),
    Column("schedule", String(64), nullable=False),
    Column("state", String(16), nullable=False, index=True),
    Column("reason", Text, nullable=False),
    Column("steps", LargeBinary, nullable=False),
    Column("created_at", Instant, nullable=False),
    Column("ended_at", Instant),
)

schedules = Table(
    "schedules",
    metadata,
    Column("schedule", String(64), primary_key=True),
    Column("owner", String(64), nullable=False),
    Column("request", LargeBinary, nullable=False),
    Column("enabled", Boolean, nullable=False),
    Column("next_at", Instant),
    Column("content", LargeBinary, nullable=False),
    Column("last_job", Integer),
    Column("reason", Text, nullable=False),
    Column("created_at", Instant, nullable=False),
)
