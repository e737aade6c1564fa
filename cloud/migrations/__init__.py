"""The steps of the schema, oldest first; they are applied when the database is opened."""
