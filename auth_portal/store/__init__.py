"""The database: engine, transactions, column types and tables. Nothing here decides."""
