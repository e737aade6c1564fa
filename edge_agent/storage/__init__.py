"""Files of the state directory: blobs and slots, SQLite databases, benchmark results, and failpoints for crash tests."""
