"""Enrolled devices, their twins, certificate renewal, and telemetry."""
