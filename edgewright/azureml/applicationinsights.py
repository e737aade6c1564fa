"""Names of the package applicationinsights."""

from edgewright.sdk.workspace.telemetry import TelemetryClient

__all__ = ["TelemetryClient"]
