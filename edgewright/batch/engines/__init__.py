"""Places where the tasks of a job run: each yields the outcomes as they come."""
