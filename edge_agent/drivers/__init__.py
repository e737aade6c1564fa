"""Ways to run a slot. There is one today: a process of its own."""
