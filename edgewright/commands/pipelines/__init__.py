"""Commands for pipelines, their jobs and schedules."""
