"""Customers from a file: staged, looked at, switched in one transaction, taken back."""
