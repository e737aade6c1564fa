"""Enrolled devices, their twins, the renewal of their certificates, and their telemetry."""
