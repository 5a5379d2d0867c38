"""Customers from a file: checked, staged, switched in one transaction, and undone if need be."""
