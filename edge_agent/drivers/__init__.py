"""Ways to run a slot: today as a process of its own."""
