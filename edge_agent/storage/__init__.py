"""Files of the state directory: slots and blobs, the SQLite database, measured latencies, and failpoints for crash tests."""
