"""The database: connections and transactions, the tables, and notification of waiting requests."""
