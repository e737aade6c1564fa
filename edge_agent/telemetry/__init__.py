"""State reports, metrics, and the outbox that stores measurements until the cloud has acknowledged them."""
