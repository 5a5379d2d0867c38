"""The directory: customers and their credentials. No other room writes their tables."""
