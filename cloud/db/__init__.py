"""The database: connections and transactions, the tables, and how waiting requests learn of a change."""
