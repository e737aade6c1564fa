"""Routes of what runs without a client that waits: pipelines, jobs and schedules."""
